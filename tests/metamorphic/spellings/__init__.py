"""The pieces, by kind: importing the modules enters them in `grammar.PIECES`."""

from . import (
    activations,
    attention,
    conditioned,
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
    "conditioned",
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
