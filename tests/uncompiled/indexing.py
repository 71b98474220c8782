"""Operations that read and write parts of an array, at places that are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import lax


def sliced(x: Any, *starts: Any, slice_sizes: Any) -> Any:
    return x[_within(x, starts, slice_sizes)]


def updated(x: Any, update: Any, *starts: Any) -> Any:
    out = x.copy()
    out[_within(x, starts, update.shape)] = update
    return out


def _within(x: Any, starts: Sequence[Any], sizes: Any) -> tuple[slice, ...]:
    triples = zip(starts, sizes, x.shape, strict=True)
    first = [(min(max(int(start), 0), whole - n), n) for start, n, whole in triples]
    return tuple(slice(start, start + n) for start, n in first)


def gathered(
    x: Any, indices: Any, *, dimension_numbers: Any, slice_sizes: Any, mode: Any,
    fill_value: Any = None, **_: Any,
) -> Any:  # fmt: skip
    """As `lax.gather`."""
    numbers, batch = dimension_numbers, indices.ndim - 1
    left_out = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    places, inside = _places(
        x.shape, indices, numbers.start_index_map, slice_sizes,
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, left_out,
    )  # fmt: skip
    out = x[places]
    if mode == lax.GatherScatterMode.FILL_OR_DROP and not inside.all():
        beyond = _filling(x.dtype) if fill_value is None else fill_value
        inside = inside.reshape(inside.shape + (1,) * (out.ndim - batch))
        out = np.where(inside, out, np.asarray(beyond, x.dtype))
    return np.moveaxis(out, range(batch, out.ndim), numbers.offset_dims)


def scattered(write: Callable[[Any, Any, Any], None]) -> Callable[..., Any]:
    """As `lax.scatter` and its kind, of which each writes in its way."""

    def scatter(x: Any, indices: Any, updates: Any, *, dimension_numbers: Any, mode: Any, **_: Any):
        numbers = dimension_numbers
        left_out = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        window = iter(updates.shape[axis] for axis in numbers.update_window_dims)
        sizes = [1 if axis in left_out else next(window) for axis in range(x.ndim)]
        places, inside = _places(
            x.shape, indices, numbers.scatter_dims_to_operand_dims, sizes,
            numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, left_out,
        )  # fmt: skip
        count = updates.ndim - len(numbers.update_window_dims)
        updates = np.moveaxis(updates, numbers.update_window_dims, range(count, updates.ndim))
        out = x.copy()
        if mode == lax.GatherScatterMode.CLIP or inside.all():
            write(out, places, updates)
        else:
            whole = np.broadcast_arrays(*places) if places else []
            write(out, tuple(place[inside] for place in whole), updates[inside])
        return out

    return scatter


def _places(
    shape: Any, indices: Any, mapped: Any, sizes: Any, batched: Any, batches: Any, left_out: Any
) -> tuple[tuple[Any, ...], Any]:
    """The indices of NumPy: axes of the batch, then those of a window, and which are inside."""
    batch = indices.shape[:-1]
    kept = [axis for axis in range(len(shape)) if axis not in left_out]
    inside, places = np.ones(batch, bool), []
    for axis, (whole, size) in enumerate(zip(shape, sizes, strict=True)):
        start = np.zeros(batch, np.int64)
        if axis in mapped:
            start = indices[..., mapped.index(axis)].astype(np.int64)
            inside &= (start >= 0) & (start <= whole - size)
            start = start.clip(0, whole - size)
        elif axis in batched:
            along = batches[batched.index(axis)]
            start = start + np.arange(batch[along]).reshape(
                [-1 if other == along else 1 for other in range(len(batch))]
            )
        start = start.reshape(batch + (1,) * len(kept))
        if axis in kept:
            own = [size if other == axis else 1 for other in kept]
            start = start + np.arange(size).reshape(own)
        places.append(start)
    return tuple(places), inside


def _filling(dtype: np.dtype) -> Any:
    if dtype.kind == "f":
        return np.nan
    if dtype.kind == "i":
        return np.iinfo(dtype).min
    return True if dtype.kind == "b" else np.iinfo(dtype).max


def overwrite(out: Any, places: Any, updates: Any) -> None:
    out[places] = updates


def by(ufunc: np.ufunc) -> Callable[[Any, Any, Any], None]:
    return lambda out, places, updates: ufunc.at(out, places, updates)
