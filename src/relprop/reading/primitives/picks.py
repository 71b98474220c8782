"""Entries that are picked: the largest of an axis, a sorted axis, an entry per place.

Which ones they are is not known, but that they are entries of what they were picked from. So a part
of a softmax that is renormalised, as the weights of chosen experts are, is a softmax again.
"""

from __future__ import annotations

from typing import Any

from relprop._core.graph import Equation
from relprop.reading.algebra import Algebra
from relprop.reading.primitives.rows import base_of, gather
from relprop.reading.terms import Index, Term


def largest(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """The first result of `top_k` and `sort`: entries of their operand along one axis."""
    params = equation.params
    axis = params.get("axis", params.get("dimension", -1)) % len(index)
    if params.get("num_keys", 1) != 1:
        return None
    inner = list(index)
    inner[axis] = ("picked", equation.outputs[-1], index)
    return algebra.of(equation.inputs[0], tuple(inner))


def gathered(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Rows by their numbers, or one entry for each place, as `take_along_axis` gathers them."""
    found = gather(algebra, equation, index)
    return found if found is not None else _along_axis(algebra, equation, index)


def _along_axis(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    numbers: Any = equation.params["dimension_numbers"]
    operand, indices = equation.inputs
    if len(numbers.start_index_map) != 1 or any(n != 1 for n in equation.params["slice_sizes"]):
        return None
    (axis,) = numbers.start_index_map
    shared = dict(
        zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    )
    ids = base_of(algebra.maker, indices)
    if numbers.offset_dims or ids is None or {axis, *shared} != {*range(len(operand.shape))}:
        return None
    inner = [index[shared[a]] if a in shared else 0 for a in range(len(operand.shape))]
    inner[axis] = ("picked", ids, index)
    return algebra.of(operand, tuple(inner))
