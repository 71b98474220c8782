"""Entries that are picked: the largest of an axis, a sorted axis, an entry per place.

Which ones they are is not known, but that they are entries of what they were picked from. So a part
of a softmax that is renormalised, as the weights of chosen experts are, is a softmax again.
"""

from __future__ import annotations

from typing import Any

from relprop._core.graph import Equation, Value
from relprop.reading.algebra import Algebra
from relprop.reading.primitives.rows import Column, columns_of, counted, gather, unrepeated
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
    if numbers.offset_dims:
        return None
    inner: dict[int, Any] = {}
    picked: list[Column] = []
    columns = columns_of(algebra.maker, equation)
    if columns is not None:
        for axis, column in columns.items():
            along = counted(algebra.maker, column)
            if along is None:
                picked.append(column)
            inner[axis] = _place(column, index) if along is None else index[along]
    elif len(numbers.start_index_map) == 1 and set(equation.params["slice_sizes"]) == {1}:
        pairs = (numbers.operand_batching_dims, numbers.start_indices_batching_dims)
        inner = {axis: index[own] for axis, own in zip(*pairs, strict=True)}
        picked = [unrepeated(algebra.maker, indices)]
        inner[numbers.start_index_map[0]] = _place(picked[0], index)
    if inner.keys() != {*range(len(operand.shape))} or len(picked) != 1:
        return None
    if not isinstance(picked[0][0], Value):
        return None
    return algebra.of(operand, tuple(inner[axis] for axis in range(len(operand.shape))))


def _place(column: Column, index: Index) -> Any:
    """The place that an entry is picked from, by the entry of the integers that says so."""
    atom, axes = column
    own = (0 if n == 1 else index[a] for a, n in zip(axes, atom.shape, strict=True))
    return ("picked", atom, tuple(own))
