"""Along which axes a scale differs, and where these axes are after moves and products."""

from __future__ import annotations

from collections.abc import Sequence, Set

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation
from relprop.propagators.linear import Contraction, Convolution
from relprop.reading.algebra import Algebra
from relprop.reading.terms import Symbol, mentions


def varying(algebra: Algebra, atom: Atom, rank: int) -> frozenset[int]:
    """The axes along which the entries of a factor may differ, counted as in the product."""
    index = algebra.indices(atom.shape)
    term = algebra.of(atom, index)
    found = {
        axis
        for axis, symbol in enumerate(index)
        if isinstance(symbol, Symbol) and any(mentions(product, [symbol]) for product in term)
    }
    return frozenset(axis + rank - len(atom.shape) for axis in found)


def moved_axes(equation: Equation, axes: Set[int]) -> frozenset[int] | None:
    """Where axes are after a move; None if that is not known."""
    params, (out,) = equation.params, equation.outputs
    if not axes:
        return frozenset()
    if equation.name == "transpose":
        return frozenset(n for n, axis in enumerate(params["permutation"]) if axis in axes)
    if equation.name == "broadcast_in_dim":
        return frozenset(params["broadcast_dimensions"][axis] for axis in axes)
    if equation.name == "squeeze":
        kept = [a for a in range(len(equation.inputs[0].shape)) if a not in params["dimensions"]]
        return frozenset(n for n, axis in enumerate(kept) if axis in axes)
    if equation.inputs[0].shape == out.shape:
        return frozenset(axes)
    if equation.name == "slice":
        return frozenset(axes)
    if equation.name != "reshape":
        return None
    # Axes that begin at the same place and are as long are the same.
    before = _strides(equation.inputs[0].shape)
    after = {axis: n for n, axis in enumerate(_strides(out.shape)) if axis[0] > 1}
    found = [after.get(before[axis]) for axis in axes]
    return None if None in found else frozenset(n for n in found if n is not None)


def _strides(shape: Sequence[int]) -> list[tuple[int, int]]:
    """The length of each axis, and how many entries come after one step along it."""
    return [(n, int(np.prod(shape[axis + 1 :], dtype=int))) for axis, n in enumerate(shape)]


def carried(equation: Equation, position: int, axes: Set[int]) -> dict[int, int] | None:
    """Where axes of an operand are in a product; None if one of them is summed over."""
    kind = registry.lookup(equation.primitive)
    assert isinstance(kind, Contraction)
    if isinstance(kind, Convolution) and position == 0:
        numbers = equation.params["dimension_numbers"]
        whole = equation.params["batch_group_count"] == 1
        to = {numbers.lhs_spec[0]: numbers.out_spec[0]} if whole else {}
    else:
        to = dict(enumerate(kind.carried(equation, position)))
    found = {axis: to.get(axis) for axis in axes}
    if None in found.values():
        return None
    return {axis: n for axis, n in found.items() if n is not None}


def along(array: Array, carried: dict[int, int], shape: Sequence[int]) -> Array:
    """The entries of an array along some axes, which are others of a result."""
    if 0 in array.shape:  # There is no entry, and none is needed.
        return jnp.ones((1,) * len(shape), array.dtype)
    few = array[tuple(slice(None) if axis in carried else 0 for axis in range(array.ndim))]
    targets = [carried[axis] for axis in sorted(carried)]
    few = few.transpose(np.argsort(targets).tolist())
    return few.reshape([n if axis in targets else 1 for axis, n in enumerate(shape)])
