"""Models of other frameworks as JAX functions, unmodified.

Flax, Equinox, Haiku and Keras models are JAX functions already; only PyTorch needs a step.
"""

from relprop.interop.torch import from_torch as from_torch

__all__ = ["from_torch"]
