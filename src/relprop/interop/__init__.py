"""Models of other frameworks as JAX functions, unmodified.

Flax, Equinox and Haiku models are JAX functions already. Keras holds its weights in variables, and
PyTorch runs through torchax. ONNX models run by functions for their operators.
`attention_in_chunks` is attention for long texts, in any of them. `from_saelens` reads sparse
autoencoders, for `relprop.splice`.
"""

from relprop.interop._attention import attention_in_chunks as attention_in_chunks
from relprop.interop._keras import from_keras as from_keras
from relprop.interop._onnx import from_onnx as from_onnx
from relprop.interop._saelens import from_saelens as from_saelens
from relprop.interop._torch import from_torch as from_torch

__all__ = ["attention_in_chunks", "from_keras", "from_onnx", "from_saelens", "from_torch"]
