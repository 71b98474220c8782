"""Models of other frameworks as JAX functions, unmodified.

Flax, Equinox and Haiku models are JAX functions already. Keras holds its weights in variables, and
PyTorch runs through torchax.
"""

from relprop.interop._keras import from_keras as from_keras
from relprop.interop._torch import from_torch as from_torch

__all__ = ["from_keras", "from_torch"]
