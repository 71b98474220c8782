"""Constants of which all entries are one number, as far as the code says so."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop import _compat
from relprop._core import registry
from relprop._core.graph import Atom, Equation, Literal

# Larger arrays are not looked at.
_LARGEST = 1 << 16


# So many equations are gone back.
_DEEPEST = 8


class Numbers:
    """The constants of one graph of which all entries are one number.

    Args:
        makers: what makes each value of the graph.
        constants: arrays that it closes over.
        varies: whether a value is computed from what changes, and so is no number.
    """

    def __init__(
        self,
        makers: Mapping[Any, Equation],
        constants: Mapping[Any, Any],
        varies: Callable[[Atom], bool] = lambda atom: False,
    ):
        self._makers = makers
        self._constants = constants
        self._varies = varies
        self._known: dict[tuple[Atom, int], float | None] = {}

    def __call__(self, atom: Atom, depth: int = _DEEPEST) -> float | None:
        """The number that all entries of a constant are, or None if that cannot be seen.

        Args:
            atom: the constant.
            depth: how many equations to go back.
        """
        if (atom, depth) not in self._known:
            self._known[atom, depth] = self._number(atom, depth)
        return self._known[atom, depth]

    def _number(self, atom: Atom, depth: int) -> float | None:
        if isinstance(atom, Literal):
            return _common(atom.array)
        if atom in self._constants:
            return _common(self._constants[atom])
        equation = self._makers.get(atom)
        if equation is None or depth == 0 or self._varies(atom):
            return None
        if equation.name in _ARITHMETIC:
            known = [self(a, depth - 1) for a in equation.inputs]
            numbers = [n for n in known if n is not None and math.isfinite(n)]
            whole = len(numbers) == len(known) and equation.outputs[0].inexact
            return _computed(equation.name, numbers) if whole else None
        if len(equation.inputs) != 1:
            return None
        kind = registry.lookup(equation.primitive)
        moves = kind.structural and len(equation.outputs) == 1
        if moves or equation.name == "convert_element_type":
            return self(equation.inputs[0], depth - 1)
        return None


_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
}


def _computed(name: str, numbers: Sequence[float]) -> float | None:
    try:
        return float(_ARITHMETIC[name](*numbers))
    except (ArithmeticError, TypeError):
        return None


def _common(array: Any) -> float | None:
    if _compat.is_traced(array) or not 0 < np.size(array) <= _LARGEST:
        return None
    if jnp.issubdtype(jnp.result_type(array), jax.dtypes.prng_key):
        return None
    array = np.asarray(array)
    if array.dtype.kind == "c":
        return None
    first = array.ravel()[0]
    if array.dtype.kind == "f" and np.isnan(first):
        return math.nan if bool(np.isnan(array).all()) else None
    return float(first) if bool((array == first).all()) else None


def is_literal(makers: Mapping[Atom, Equation], atom: Atom) -> bool:
    """Whether a constant is made of numbers in the code and of positions alone.

    So is the matrix of an interpolation, a mask, an identity; what comes from an argument, from an
    array that the function closes over or from random numbers is not.
    """
    queue, seen = [atom], set()
    while queue:
        atom = queue.pop()
        if isinstance(atom, Literal) or atom in seen:
            continue
        seen.add(atom)
        equation = makers.get(atom)
        if (
            equation is None
            or equation.bodies
            or equation.name.startswith(("random", "rng", "threefry"))
        ):
            return False
        queue.extend(equation.inputs)
    return True
