"""What NumPy knows of the operations of JAX, by the names of their primitives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.special
from jax import lax

from .indexing import by, gathered, overwrite, scattered, sliced, updated
from .windows import convolved, largest, padded, pooled, smallest

# Those that NumPy computes with as XLA does; it has no sums of short floats in longer ones.
_DTYPES = frozenset(
    np.dtype(name)
    for name in "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64".split()
)


def by_numpy(name: str, operands: Sequence[Any], params: Any) -> list[Any] | None:
    """The results of an operation; None if only JAX knows it."""
    if not all(x.dtype in _DTYPES for x in operands):
        return None
    if name in _ELEMENTWISE:
        return [_ELEMENTWISE[name](*operands)]
    found = _OTHERS[name](*operands, **params) if name in _OTHERS else None
    return found if found is None or isinstance(found, list) else [found]


def _contracted(
    x: Any, y: Any, dimension_numbers: Any, preferred_element_type: Any, **_: Any
) -> Any:
    (summed_x, summed_y), (batch_x, batch_y) = dimension_numbers
    dtype = np.dtype(preferred_element_type or x.dtype)
    if dtype not in _DTYPES or bool in (dtype, x.dtype):
        return None
    free_x = [a for a in range(x.ndim) if a not in (*summed_x, *batch_x)]
    free_y = [b for b in range(y.ndim) if b not in (*summed_y, *batch_y)]
    batch, rows = [x.shape[a] for a in batch_x], [x.shape[a] for a in free_x]
    columns, length = [y.shape[b] for b in free_y], math.prod(x.shape[a] for a in summed_x)
    x = x.astype(dtype, copy=False).transpose(*batch_x, *free_x, *summed_x)
    y = y.astype(dtype, copy=False).transpose(*batch_y, *summed_y, *free_y)
    x = x.reshape([*batch, math.prod(rows), length])
    return (x @ y.reshape([*batch, length, math.prod(columns)])).reshape([*batch, *rows, *columns])


def _broadcast(x: Any, *dynamic: Any, shape: Any, broadcast_dimensions: Any, **_: Any) -> Any:
    if dynamic:
        return None
    own = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
        own[axis] = size
    return np.broadcast_to(x.reshape(own), shape)


def _converted(x: Any, new_dtype: Any, **_: Any) -> Any:
    if jax.dtypes.issubdtype(new_dtype, jax.dtypes.extended):
        return None
    if x.dtype.kind == "f" and np.dtype(new_dtype).kind in "iu" and x.size:
        bounds = np.iinfo(new_dtype)
        if not (x.min() > bounds.min and x.max() < bounds.max):  # There, and at NaN, XLA differs.
            return None
    return x.astype(new_dtype)


def _divided(x: Any, y: Any) -> Any:
    if x.dtype.kind == "f":
        return x / y
    if (y == 0).any():
        return None
    return x // y if x.dtype.kind == "u" else np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))


def _remainder(x: Any, y: Any) -> Any:
    return None if x.dtype.kind != "f" and (y == 0).any() else np.fmod(x, y)


def _rounded(x: Any, rounding_method: Any) -> Any:
    if rounding_method == lax.RoundingMethod.TO_NEAREST_EVEN:
        return np.rint(x)
    whole = np.trunc(x)
    return whole + np.sign(x) * (np.abs(x - whole) >= 0.5)


def _selected(which: Any, *cases: Any) -> Any:
    return np.where(which, cases[1], cases[0]) if which.dtype == bool else np.choose(which, cases)


def _iota(*dynamic: Any, dtype: Any, shape: Any, dimension: int, **_: Any) -> Any:
    if dynamic or dtype not in _DTYPES:
        return None
    own = [-1 if axis == dimension else 1 for axis in range(len(shape))]
    return np.broadcast_to(np.arange(shape[dimension], dtype=dtype).reshape(own), shape)


def _sorted(*xs: Any, dimension: int, num_keys: int, **_: Any) -> Any:
    if num_keys != 1:
        return None
    order = np.argsort(xs[0], dimension, kind="stable")
    return [np.take_along_axis(x, order, dimension) for x in xs]


def _accumulated(ufunc: np.ufunc) -> Callable[..., Any]:
    def accumulate(x: Any, axis: int, reverse: bool) -> Any:
        x = np.flip(x, axis) if reverse else x
        found = ufunc.accumulate(x, axis, dtype=x.dtype)
        return np.flip(found, axis) if reverse else found

    return accumulate


def _reduced(ufunc: np.ufunc) -> Callable[..., Any]:
    def reduce(x: Any, axes: Any, **_: Any) -> Any:
        return ufunc.reduce(x, tuple(axes), dtype=x.dtype)

    return reduce


def _all_or_any(ufunc: np.ufunc) -> Callable[..., Any]:
    def reduce(x: Any, axes: Any, **_: Any) -> Any:
        return ufunc.reduce(x, tuple(axes)) if x.dtype == bool else None

    return reduce


def _first(find: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, axes, index_dtype: find(x, axes[0]).astype(index_dtype)


def _sum(x: Any, axes: Any) -> Any:
    return np.sum(x, axes, dtype=x.dtype)


# What has the same meaning in NumPy, element by element.
_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative,
    "max": np.maximum, "min": np.minimum, "exp": np.exp, "exp2": np.exp2, "log": np.log,
    "sqrt": np.sqrt, "cbrt": np.cbrt, "tanh": np.tanh, "sinh": np.sinh, "cosh": np.cosh,
    "abs": np.abs, "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "sin": np.sin,
    "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "atan2": np.arctan2, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "pow": np.power, "nextafter": np.nextafter, "eq": np.equal, "ne": np.not_equal,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
    "is_finite": np.isfinite, "square": np.square, "expm1": np.expm1, "log1p": np.log1p,
    "erf": scipy.special.erf, "erfc": scipy.special.erfc, "erf_inv": scipy.special.erfinv,
    "stop_gradient": np.asarray, "copy": np.asarray, "copy_p": np.asarray,
}  # fmt: skip
_OTHERS: dict[str, Callable[..., Any]] = {
    "rsqrt": lambda x, **_: 1 / np.sqrt(x),
    "logistic": lambda x, **_: 1 / (1 + np.exp(-x)),
    "integer_pow": lambda x, y: x**y if y >= 0 else 1 / x**-y,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "div": _divided,
    "rem": _remainder,
    "round": _rounded,
    "select_n": _selected,
    "convert_element_type": _converted,
    "optimization_barrier": lambda *xs: list(xs),
    "iota": _iota,
    "sort": _sorted,
    "reduce_sum": _reduced(np.add),
    "reduce_prod": _reduced(np.multiply),
    "reduce_max": _reduced(np.maximum),
    "reduce_min": _reduced(np.minimum),
    "reduce_and": _all_or_any(np.logical_and),
    "reduce_or": _all_or_any(np.logical_or),
    "argmax": _first(np.argmax),
    "argmin": _first(np.argmin),
    "cumsum": _accumulated(np.add),
    "cumprod": _accumulated(np.multiply),
    "cummax": _accumulated(np.maximum),
    "cummin": _accumulated(np.minimum),
    "reshape": lambda x, *dynamic, new_sizes, dimensions=None, **_: (
        x if dimensions is None else x.transpose(dimensions)
    ).reshape(new_sizes),
    "squeeze": lambda x, dimensions: x.squeeze(tuple(dimensions)),
    "expand_dims": lambda x, dimensions: np.expand_dims(x, tuple(dimensions)),
    "transpose": lambda x, permutation: x.transpose(permutation),
    "rev": lambda x, dimensions: np.flip(x, tuple(dimensions)),
    "concatenate": lambda *xs, dimension: np.concatenate(xs, dimension),
    "stack": lambda *xs, axis: np.stack(xs, axis),
    "split": lambda x, sizes, axis: np.split(x, np.cumsum(sizes)[:-1], axis),
    "slice": lambda x, start_indices, limit_indices, strides: x[
        tuple(map(slice, start_indices, limit_indices, strides or (1,) * x.ndim))
    ],
    "pad": padded,
    "broadcast_in_dim": _broadcast,
    "dot_general": _contracted,
    "conv_general_dilated": convolved,
    "reduce_window_sum": pooled(_sum, lambda _: 0),
    "reduce_window_max": pooled(np.max, smallest),
    "reduce_window_min": pooled(np.min, largest),
    "dynamic_slice": lambda x, *starts, slice_sizes: sliced(x, *starts, slice_sizes=slice_sizes),
    "dynamic_update_slice": updated,
    "gather": gathered,
    "scatter": scattered(overwrite),
    "scatter-add": scattered(by(np.add)),
    "scatter-mul": scattered(by(np.multiply)),
    "scatter-max": scattered(by(np.maximum)),
    "scatter-min": scattered(by(np.minimum)),
}
