"""Layers of ONNX as functions of JAX arrays: convolutions, poolings, normalisations, resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from relprop._errors import InputError
from relprop.interop._onnx_operators import OPERATORS, known, lowers, pairs

Window = Sequence[int]


def _padding(
    sizes: Window, kernel: Window, strides: Window, holes: Window, pads: Any, auto_pad: str
) -> list[tuple[int, int]]:
    """Before and after each axis of an image."""
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for size, width, step, hole in zip(sizes, kernel, strides, holes, strict=True):
            reach = (width - 1) * hole + 1
            total = max((-(-size // step) - 1) * step + reach - size, 0)
            less, more = total // 2, total - total // 2
            found.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
        return found
    return [(0, 0)] * len(kernel) if pads is None else pairs(pads)


def _per_axis(rank: int, *given: Window | None) -> tuple[Window, ...]:
    """Numbers per axis of an image, 1 where none are given."""
    return tuple((1,) * rank if numbers is None else numbers for numbers in given)


# Convolutions.


@lowers("Conv")
def conv(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Window | None = None,
    group: int = 1,
    kernel_shape: Window | None = None,
    pads: Window | None = None,
    strides: Window | None = None,
):
    rank = weight.ndim - 2
    strides, dilations = _per_axis(rank, strides, dilations)
    out = lax.conv_general_dilated(
        x,
        weight,
        strides,
        _padding(x.shape[2:], weight.shape[2:], strides, dilations, pads, auto_pad),
        rhs_dilation=dilations,
        feature_group_count=group,
    )
    return out if bias is None else out + bias.reshape((1, -1) + (1,) * rank)


@lowers("ConvTranspose")
def conv_transpose(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Window | None = None,
    group: int = 1,
    kernel_shape: Window | None = None,
    output_padding: Window | None = None,
    output_shape: Window | None = None,
    pads: Window | None = None,
    strides: Window | None = None,
):
    """The transpose of a convolution: one of the input spread by the strides."""
    rank = weight.ndim - 2
    strides, dilations = _per_axis(rank, strides, dilations)
    more = output_padding or (0,) * rank
    reach = [(n - 1) * d for n, d in zip(weight.shape[2:], dilations, strict=True)]
    full = [
        (n - 1) * s + m + r + 1
        for n, s, m, r in zip(x.shape[2:], strides, more, reach, strict=True)
    ]
    cut = [(0, 0)] * rank if pads is None else pairs(pads)
    if output_shape is not None or auto_pad.startswith("SAME"):
        asked = output_shape or [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        totals = [f - n for f, n in zip(full, asked, strict=True)]
        upper = auto_pad == "SAME_UPPER"
        cut = [(t // 2, t - t // 2) if upper else (t - t // 2, t // 2) for t in totals]
    # (in, out / groups, ...): of each group's part, its inputs become those of its outputs.
    parts = weight.reshape(group, -1, *weight.shape[1:])
    parts = jnp.moveaxis(jnp.flip(parts, range(3, parts.ndim)), 2, 1)
    out = lax.conv_general_dilated(
        x,
        parts.reshape(-1, *parts.shape[2:]),
        (1,) * rank,
        [(r - a, r - b + m) for r, (a, b), m in zip(reach, cut, more, strict=True)],
        lhs_dilation=strides,
        rhs_dilation=dilations,
        feature_group_count=group,
    )
    return out if bias is None else out + bias.reshape((1, -1) + (1,) * rank)


# Poolings.


def _pooled(
    x: Any,
    kernel_shape: Window,
    strides: Window | None,
    dilations: Window | None,
    pads: Window | None,
    auto_pad: str,
    ceil_mode: int,
) -> tuple[Callable[..., Any], list[tuple[int, int]]]:
    """A reduction of windows, and the padding that was asked for."""
    rank = len(kernel_shape)
    strides, dilations = _per_axis(rank, strides, dilations)
    asked = _padding(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    ends = []
    for n, k, s, d, (a, b) in zip(
        x.shape[2:], kernel_shape, strides, dilations, asked, strict=True
    ):
        reach = (k - 1) * d + 1
        count = (n + a + b - reach) // s + 1
        if ceil_mode and (n + a + b - reach) % s and count * s < n + a:
            count += 1  # One more window, if it begins in the image or the padding before it.
        ends.append((a, max((count - 1) * s + reach - n - a, 0)))

    def reduce(values: Any, start: Any, function: Any) -> Any:
        return lax.reduce_window(
            values,
            np.asarray(start, values.dtype),  # A number, by which JAX knows the reduction.
            function,
            (1, 1, *kernel_shape),
            (1, 1, *strides),
            [(0, 0), (0, 0), *ends],
            window_dilation=(1, 1, *dilations),
        )

    return reduce, asked


@lowers("MaxPool")
def max_pool(
    x: Any,
    *,
    kernel_shape: Window,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Window | None = None,
    pads: Window | None = None,
    storage_order: int = 0,
    strides: Window | None = None,
):
    reduce, _ = _pooled(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    return reduce(x, -jnp.inf, lax.max)


@lowers("AveragePool")
def average_pool(
    x: Any,
    *,
    kernel_shape: Window,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Window | None = None,
    pads: Window | None = None,
    strides: Window | None = None,
):
    reduce, asked = _pooled(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    total = reduce(x, 0, lax.add)
    with jax.ensure_compile_time_eval():
        inside = jnp.ones((1, 1, *x.shape[2:]))
        if count_include_pad:
            # An image with its padding, without the part of the last windows that is beyond it.
            wide = jnp.pad(inside, [(0, 0), (0, 0), *asked], constant_values=1.0)
            whole, _ = _pooled(wide, kernel_shape, strides, dilations, None, "NOTSET", ceil_mode)
            count = whole(wide, 0, lax.add)[(..., *(slice(n) for n in total.shape[2:]))]
        else:
            count = reduce(inside, 0, lax.add)
    count = np.asarray(count)
    same = count.size and (count == count.flat[0]).all()
    return total / jnp.asarray(count.flat[0] if same else count, total.dtype)


def _over_images(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: function(x, axis=tuple(range(2, x.ndim)), keepdims=True)


OPERATORS["GlobalAveragePool"] = _over_images(jnp.mean)
OPERATORS["GlobalMaxPool"] = _over_images(jnp.max)


# Normalisations.


@lowers("BatchNormalization")
def batch_normalization(
    x: Any,
    scale: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    *,
    epsilon: float = 1e-5,
    training_mode: int = 0,
    **attributes: Any,
):
    """By statistics that were learnt; channels are the second axis, or the only other one."""
    if training_mode:
        raise InputError(
            "A BatchNormalization of the graph is in training mode, where it depends on the "
            "batch. Export the model for inference."
        )
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale, bias, mean, variance = (
        jnp.asarray(v).reshape(shape) for v in (scale, bias, mean, variance)
    )
    return (x - mean) * (scale / jnp.sqrt(variance + epsilon)) + bias


def _standardised(x: Any, axes: tuple[int, ...], epsilon: float) -> Any:
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred * centred, axes, keepdims=True) + epsilon)


@lowers("InstanceNormalization")
def instance_normalization(x: Any, scale: Any, bias: Any, *, epsilon: float = 1e-5):
    shape = (1, -1) + (1,) * (x.ndim - 2)
    normal = _standardised(x, tuple(range(2, x.ndim)), epsilon)
    return normal * scale.reshape(shape) + bias.reshape(shape)


@lowers("LayerNormalization")
def layer_normalization(
    x: Any,
    scale: Any,
    bias: Any = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
):
    out = _standardised(x, tuple(range(axis % x.ndim, x.ndim)), epsilon) * scale
    return out if bias is None else out + bias


@lowers("GroupNormalization")
def group_normalization(
    x: Any, scale: Any, bias: Any, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
):
    grouped = x.reshape(len(x), num_groups, -1, *x.shape[2:])
    normal = _standardised(grouped, tuple(range(2, grouped.ndim)), epsilon).reshape(x.shape)
    # Per group in opset 18, per channel since.
    repeats = x.shape[1] // len(scale)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale, bias = (jnp.repeat(v, repeats).reshape(shape) for v in (scale, bias))
    return normal * scale + bias


@lowers("LpNormalization")
def lp_normalization(x: Any, *, axis: int = -1, p: int = 2):
    return x / jnp.linalg.norm(x, ord=p, axis=axis, keepdims=True)


def _soft(function: Callable[..., Any]) -> Callable[..., Any]:
    def soft(x: Any, *, axis: int | None = None, opset: int) -> Any:
        if opset >= 13:
            return function(x, axis=-1 if axis is None else axis)
        # Until opset 12 over all axes from that one on.
        axis = 1 if axis is None else axis % x.ndim
        flat = x.reshape(*x.shape[:axis], -1)
        return function(flat, axis=-1).reshape(x.shape)

    return soft


OPERATORS["Softmax"] = _soft(jax.nn.softmax)
OPERATORS["LogSoftmax"] = _soft(jax.nn.log_softmax)


# Resizing: by a matrix for each axis, or by the entries that are nearest.


@lowers("Resize", "Upsample")
def resize(x: Any, *given: Any, opset: int, mode: str = "nearest", **how: Any):
    """Of opset 10 and `Upsample` the inputs are x and scales; since then x, roi, scales, sizes."""
    scales, sizes = (*given[1:], None, None)[:2] if opset > 10 else (*given, None)[0:1] + (None,)
    if opset <= 10:
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", **how}
    axes = how.get("axes") or range(x.ndim)
    for i, axis in enumerate(axes):
        size = x.shape[axis]
        if scales is not None and np.size(scales):
            scale = float(known(scales, "The scales of Resize")[i])
            count = int(np.floor(size * scale))
        elif sizes is not None:
            count = int(known(sizes, "The sizes of Resize")[i])
            scale = count / size
        else:
            scale = float(how["scales"][i])
            count = int(np.floor(size * scale))
        if count != size or scale != 1:
            x = _resized(x, axis, count, scale, mode, how)
    return x


def _resized(x: Any, axis: int, count: int, scale: float, mode: str, how: dict[str, Any]) -> Any:
    size = x.shape[axis]
    at = _places(size, count, scale, how.get("coordinate_transformation_mode", "half_pixel"))
    if mode == "nearest":
        nearest = {
            "round_prefer_floor": lambda p: np.ceil(p - 0.5),
            "round_prefer_ceil": lambda p: np.floor(p + 0.5),
            "floor": np.floor,
            "ceil": np.ceil,
        }[how.get("nearest_mode", "round_prefer_floor")](at)
        return jnp.take(x, np.clip(nearest, 0, size - 1).astype(int), axis)
    if how.get("antialias"):
        raise InputError(
            "Resize with antialias=1 has no form in JAX here: give `from_onnx` one of your own, "
            'operators={"Resize": function}.'
        )
    matrix = np.zeros((count, size))
    reach = 1 if mode == "linear" else 2
    first = np.floor(at).astype(int)
    for step in range(1 - reach, 1 + reach):
        near = first + step
        weight = _kernel(np.abs(at - near), mode, how.get("cubic_coeff_a", -0.75))
        if how.get("exclude_outside"):
            weight = np.where((near >= 0) & (near < size), weight, 0)
        np.add.at(matrix, (np.arange(count), np.clip(near, 0, size - 1)), weight)
    if how.get("exclude_outside"):
        matrix = matrix / matrix.sum(1, keepdims=True)
    out = jnp.tensordot(x, jnp.asarray(matrix, x.dtype), ((axis,), (1,)))
    return jnp.moveaxis(out, -1, axis)


def _places(size: int, count: int, scale: float, mode: str) -> np.ndarray:
    """Where in the input each entry of the result lies."""
    index = np.arange(count)
    if mode == "asymmetric":
        return index / scale
    if mode == "align_corners":
        return index * ((size - 1) / (count - 1) if count > 1 else 0.0)
    if mode == "half_pixel_symmetric":
        offset = size / 2 * (1 - count / (scale * size))
        return offset + (index + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel" and count == 1:
        return np.zeros(1)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (index + 0.5) / scale - 0.5
    raise InputError(f"Resize by {mode!r} has no form in JAX here.")


def _kernel(x: np.ndarray, mode: str, a: float) -> np.ndarray:
    if mode == "linear":
        return np.maximum(1 - x, 0)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
