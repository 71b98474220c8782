"""Rows that are taken or added to by numbers which are known are so by one array of numbers.

PyTorch scatters entry by entry, with indices that were repeated along the features before, and a
function may hold the ends of a graph's edges in several arrays. Where the same rows are meant, the
same value says so, and sums over the edges of a node are seen as that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Array

from relprop._core.graph import Equation, Value
from relprop.reading.draft import Draft


def by_number(draft: Draft) -> None:
    """Writes gathers of rows and additions to rows, at places that are known, in one way."""
    names = {equation.name for equation in draft.equations}
    if _ADDS not in names:
        return
    known: dict[bytes, Value] = {}
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if equation.name not in _METHODS or equation.outputs[0] not in draft.index.dependent:
            continue
        rows = rows_of(draft, equation)
        if rows is None:
            continue
        key = rows.tobytes()
        if key not in known:
            known[key] = Value(rows.shape, rows.dtype)
            draft.constants[known[key]] = rows
        operand, _, *updates = equation.inputs
        made[equation] = draft.derived(
            _METHODS[equation.name], [operand, known[key], *updates], equation, equation.outputs[0]
        )
    if made:
        draft.put(made)


def _taken(x: Array, rows: Array) -> Array:
    return x.at[rows].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _added(x: Array, rows: Array, updates: Array) -> Array:
    return x.at[rows].add(updates, mode="promise_in_bounds", wrap_negative_indices=False)


def _largest(x: Array, rows: Array, updates: Array) -> Array:
    return x.at[rows].max(updates, mode="promise_in_bounds", wrap_negative_indices=False)


_ADDS = "scatter-add"
_METHODS: dict[str, Callable[..., Array]] = {
    "gather": _taken,
    _ADDS: _added,
    "scatter-max": _largest,
}


def rows_of(draft: Draft, equation: Equation) -> np.ndarray | None:
    """The numbers of whole rows, if these are what is taken or added to, and all are there."""
    operand, indices = equation.inputs[:2]
    numbers = equation.params["dimension_numbers"]
    if equation.name == "gather":
        axes, within = numbers.start_index_map, numbers.offset_dims
        edges, collapsed = equation.outputs[0].shape, numbers.collapsed_slice_dims
    else:
        axes, within = numbers.scatter_dims_to_operand_dims, numbers.update_window_dims
        edges, collapsed = equation.inputs[2].shape, numbers.inserted_window_dims
    rank = len(operand.shape)
    fits = (
        rank == len(edges) and edges[1:] == operand.shape[1:] and not numbers.operand_batching_dims
    )
    by_row = axes == collapsed == (0,) and within == (*range(1, rank),)
    by_entry = sorted(axes) == list(range(rank)) and collapsed == (*range(rank),) and not within
    if not fits or not (by_row or by_entry) or len(edges) < 1 or len(edges) == 1 and not by_row:
        return None
    if equation.name == "gather" and by_row and equation.params["slice_sizes"][0] != 1:
        return None
    places = draft.known(indices)
    if places is None or places.shape[:-1] != (edges[:1] if by_row else edges):
        return None
    first = places[..., axes.index(0)]
    if by_entry:
        grid = np.indices(edges)
        if any((places[..., i] != grid[axis]).any() for i, axis in enumerate(axes) if axis):
            return None
        if (first != first[(slice(None), *[slice(0, 1)] * (rank - 1))]).any():
            return None
    rows = first.reshape(edges[0], -1)[:, 0].astype(np.int32)
    inside = not rows.size or (rows.min() >= 0 and rows.max() < operand.shape[0])
    return rows if inside and rows.size > 1 else None
