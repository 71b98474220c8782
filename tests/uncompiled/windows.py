"""Operations on windows: padding, pooling, convolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# Entries of all windows together, above which XLA is faster than NumPy, and asks less memory.
_MOST = 4_000_000


def padded(x: Any, value: Any, padding_config: Sequence[tuple[int, int, int]]) -> Any:
    """As `lax.pad`: what negative padding takes away is cut from an array with the rest of it."""
    sizes = [n + max(n - 1, 0) * c[2] for n, c in zip(x.shape, padding_config, strict=True)]
    ends = [(max(low, 0), max(high, 0)) for low, high, _ in padding_config]
    whole = [low + n + high for n, (low, high) in zip(sizes, ends, strict=True)]
    out = np.full(whole, value, x.dtype)
    places = zip(ends, sizes, padding_config, strict=True)
    out[tuple(slice(low, low + n, c[2] + 1) for (low, _), n, c in places)] = x
    kept = zip(whole, padding_config, strict=True)
    return out[tuple(slice(max(-c[0], 0), n - max(-c[1], 0)) for n, c in kept)]


def _windows(
    x: Any, value: Any, sizes: Any, strides: Any, padding: Any, spread: Any, dilation: Any
) -> Any:
    """Windows of the last axes of x, as many as there are sizes: their places, then what is in."""
    rest = x.ndim - len(sizes)
    ends = [(low, high, n - 1) for (low, high), n in zip(padding, spread, strict=True)]
    x = padded(x, value, [(0, 0, 0)] * rest + ends)
    whole = [(n - 1) * d + 1 for n, d in zip(sizes, dilation, strict=True)]
    if any(n < size for n, size in zip(x.shape[rest:], whole, strict=True)):
        return None
    found = sliding_window_view(x, whole, tuple(range(rest, x.ndim)))
    steps = [slice(None, None, n) for n in (*strides, *dilation)]
    found = found[(slice(None),) * rest + tuple(steps)]
    return found if found.size <= _MOST else None


def pooled(reduce: Callable[..., Any], lowest: Callable[[np.dtype], Any]) -> Callable[..., Any]:
    """Sums, say, over windows; beyond the array there is the lowest of its dtype."""

    def pool(
        x: Any, *, window_dimensions: Any, window_strides: Any, padding: Any,
        base_dilation: Any, window_dilation: Any, **_: Any,
    ) -> Any:  # fmt: skip
        found = _windows(
            x, lowest(x.dtype), window_dimensions, window_strides, padding, base_dilation,
            window_dilation,
        )  # fmt: skip
        return None if found is None else reduce(found, tuple(range(x.ndim, 2 * x.ndim)))

    return pool


def smallest(dtype: np.dtype) -> Any:
    return -np.inf if dtype.kind == "f" else False if dtype.kind == "b" else np.iinfo(dtype).min


def largest(dtype: np.dtype) -> Any:
    return np.inf if dtype.kind == "f" else True if dtype.kind == "b" else np.iinfo(dtype).max


def convolved(
    x: Any, kernel: Any, *, window_strides: Any, padding: Any, lhs_dilation: Any,
    rhs_dilation: Any, dimension_numbers: Any, feature_group_count: int, batch_group_count: int,
    preferred_element_type: Any = None, **_: Any,
) -> Any:  # fmt: skip
    """As `lax.conv_general_dilated`: one product of matrices for each group of channels."""
    other = preferred_element_type is not None and preferred_element_type != x.dtype
    if x.dtype.kind != "f" or batch_group_count != 1 or other:
        return None
    x, kernel = (
        x.transpose(dimension_numbers.lhs_spec),
        kernel.transpose(dimension_numbers.rhs_spec),
    )
    groups, (outs, ins, *sizes) = feature_group_count, kernel.shape
    found = _windows(x, 0, sizes, window_strides, padding, lhs_dilation, rhs_dilation)
    if found is None:
        return None
    count, places = x.shape[0], found.shape[2 : 2 + len(sizes)]
    found = found.reshape(count, groups, ins, *found.shape[2:])
    # Groups, samples, places; channels, what is in a window.
    front = (1, 0, *range(3, 3 + len(sizes)))
    found = found.transpose(*front, 2, *range(3 + len(sizes), found.ndim))
    rows, length = count * math.prod(places), ins * math.prod(sizes)
    weights = kernel.reshape(groups, outs // groups, length).swapaxes(1, 2)
    out = found.reshape(groups, rows, length) @ weights
    out = out.reshape(groups, count, *places, outs // groups)
    out = np.moveaxis(out, (1, 0, -1), (0, 1, 2)).reshape(count, outs, *places)
    return out.transpose(np.argsort(dimension_numbers.out_spec))
