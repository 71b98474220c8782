"""The pieces, by kind: importing the modules enters them in `grammar.PIECES`."""

from . import (
    activations,
    attention,
    convolutions,
    gates,
    interpolation,
    layers,
    norms,
    quantised,
    recurrences,
    reductions,
    roots,
    softmax,
)

__all__ = [
    "activations",
    "attention",
    "convolutions",
    "gates",
    "interpolation",
    "layers",
    "norms",
    "quantised",
    "recurrences",
    "reductions",
    "roots",
    "softmax",
]
