"""Side by side with what one would run instead: zennit, LXT, Captum and gradients of PyTorch.

The same PyTorch module, weights and input for everyone: JAX runs it through
`relprop.interop.from_torch`. Each contestant is in a process of its own, since LXT and torchax
change what they find, and they run in turns. What is not installed is named and left out.

FLOPs are what each side can tell, and never the same: PyTorch's FlopCounterMode counts products and
convolutions, XLA all operations. So FLOPs are relative to the gradient on the same side, wall time
and memory to the gradient of PyTorch.
"""

from benchmarks.peers.ratios import COLUMNS as COLUMNS
from benchmarks.peers.ratios import results as results
