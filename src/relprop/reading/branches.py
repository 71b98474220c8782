"""A choice between branches that compute the same is none, whoever chooses."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from relprop._core.graph import Atom, Equation, Graph, Literal


def are_equal(equation: Equation) -> bool:
    """Whether all branches of a `cond` or `switch` make the same of the same operands."""
    first, *others = equation.bodies
    operands = equation.inputs[len(equation.inputs) - len(first.inputs) :]
    try:
        form = _form(first, operands)
        return all(_form(body, operands) == form for body in others)
    except (TypeError, ValueError):  # Something in them can't be compared.
        return False


def _form(body: Graph, operands: Sequence[Atom]) -> tuple[Hashable, ...]:
    """What a body does, whatever its values are called: equal where that is the same."""
    names: dict[Atom, Hashable] = dict(zip(body.inputs, map(_name, operands), strict=True))
    names.update((value, ("array", id(array))) for value, array in body.constants.items())

    def name(atom: Atom) -> Hashable:
        return names[atom] if atom in names else _name(atom)

    steps: list[Any] = []
    for position, equation in enumerate(body.equations):
        steps.append((
            equation.primitive,
            equation.scope,
            tuple(sorted(equation.params.items(), key=lambda item: item[0])),
            tuple(map(name, equation.inputs)),
        ))  # fmt: skip
        names.update((out, (position, which)) for which, out in enumerate(equation.outputs))
    return (*steps, tuple(map(name, body.outputs)))


def _name(atom: Atom) -> Hashable:
    """Of what comes from outside."""
    if isinstance(atom, Literal) and atom.shape == ():
        return np.asarray(atom.array).tobytes(), atom.dtype
    return ("array", id(atom.array)) if isinstance(atom, Literal) else atom
