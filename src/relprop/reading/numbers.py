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


def number(
    makers: Mapping[Any, Equation], constants: Mapping[Any, Any], atom: Atom, depth: int = 8
) -> float | None:
    """The number that all entries of a constant are, or None if that cannot be seen.

    Args:
        makers: what makes each value of a graph.
        constants: arrays that it closes over.
        atom: the constant.
        depth: how many equations to go back.
    """
    if isinstance(atom, Literal):
        return _common(atom.array)
    if atom in constants:
        return _common(constants[atom])
    equation = makers.get(atom)
    if equation is None or depth == 0:
        return None
    if equation.name in _ARITHMETIC:
        known = [number(makers, constants, a, depth - 1) for a in equation.inputs]
        numbers = [n for n in known if n is not None and math.isfinite(n)]
        whole = len(numbers) == len(known) and equation.outputs[0].inexact
        return _computed(equation.name, numbers) if whole else None
    if len(equation.inputs) != 1:
        return None
    kind = registry.lookup(equation.primitive)
    if equation.name == "convert_element_type" or (kind.structural and len(equation.outputs) == 1):
        return number(makers, constants, equation.inputs[0], depth - 1)
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
