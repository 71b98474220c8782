"""Operators of PyTorch that torchax 0.0.13 lacks, or computes otherwise than PyTorch.

`LOWERINGS` is all of them. Each is a function of JAX arrays with the arguments that PyTorch gives
its operator, so that its documentation is that of PyTorch.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from relprop import _compat

aten = torch.ops.aten
LOWERINGS: dict[Any, Callable[..., Any]] = {}


def lowers(*operators: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enters a function for some operators."""

    def entered(function: Callable[..., Any]) -> Callable[..., Any]:
        LOWERINGS.update(dict.fromkeys(operators, function))
        return function

    return entered


# Products.


@lowers(aten._grouped_mm)
def grouped_mm(rows: Any, matrices: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None):
    """Rows in groups, each group times its matrix: the experts of Mixtral, Qwen-MoE, DeepSeek.

    torchax has no lowering of ``aten::_grouped_mm``.
    """
    if (rows.ndim, matrices.ndim) != (2, 3) or offs is None or bias is not None or out_dtype:
        raise NotImplementedError(
            "Of torch's grouped matrix products only that of a matrix with a stack of matrices, "
            f"without bias, can run in JAX; got shapes {rows.shape} and {matrices.shape}."
        )
    sizes = jnp.diff(offs, prepend=jnp.zeros(1, offs.dtype))
    return jax.lax.ragged_dot(rows, matrices, sizes)


@lowers(torch.nn.functional.linear)
def linear(input: Any, weight: Any, bias: Any = None):
    """`torch.nn.functional.linear` with torch's own names for its arguments.

    torchax calls one of them ``weights``, so that it fails for timm's EVA, which names it.
    """
    product = jnp.einsum("...a,ba->...b", input, weight)
    return product if bias is None else product + bias


@lowers(aten._int_mm)
def int_mm(left: Any, right: Any):
    """Products of whole numbers of 8 bits, in 32."""
    return jnp.matmul(left, right, preferred_element_type=jnp.int32)


@lowers(aten.convolution)
def convolution(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
):
    """Convolutions and transposed ones; torchax mixes the channels of the groups of the latter."""
    rank = weight.ndim - 2
    batched = input if input.ndim == weight.ndim else input[None]
    stride, padding, dilation, more = (
        tuple(v) * (rank if len(v) == 1 else 1) for v in (stride, padding, dilation, output_padding)
    )
    if not transposed:
        steps, spread = stride, (1,) * rank
        pads = [(p, p) for p in padding]
        kernels = (0, 1)
    else:
        # The transpose of a convolution with that weight, as one of the input spread by the stride.
        steps, spread = (1,) * rank, stride
        reach = [d * (n - 1) for d, n in zip(dilation, weight.shape[2:], strict=True)]
        pads = [(r - p, r - p + m) for r, p, m in zip(reach, padding, more, strict=True)]
        weight = jnp.flip(weight, range(2, weight.ndim))
        kernels = (1, 0)
        if groups > 1:
            # (in, out / groups): of each group's part, its inputs become those of its outputs.
            parts = weight.reshape(groups, -1, *weight.shape[1:])
            weight = jnp.moveaxis(parts, 2, 1).reshape(-1, *parts.shape[1:2], *weight.shape[2:])
            kernels = (0, 1)
    images = tuple(range(weight.ndim))
    out = jax.lax.conv_general_dilated(
        batched,
        weight,
        steps,
        pads,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=jax.lax.ConvDimensionNumbers(
            images, (*kernels, *range(2, weight.ndim)), images
        ),
        feature_group_count=groups,
    )
    if bias is not None:
        out = out + bias.reshape((1, -1) + (1,) * rank)
    return out.reshape(out.shape[batched.ndim - input.ndim :])


# Windows.


@lowers(aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d)
def avg_pool(
    input: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
):
    """Means of windows; torchax counts amiss where the number of windows is rounded up."""
    rank = len(kernel_size)
    stride, padding = stride or kernel_size, tuple(padding) * (rank if len(padding) == 1 else 1)
    pads, counts = [], []
    for size, width, step, pad in zip(
        input.shape[-rank:], kernel_size, stride, padding, strict=True
    ):
        number = (size + 2 * pad - width) // step + 1
        if ceil_mode and (size + 2 * pad - width) % step and number * step < size + pad:
            number += 1  # One more window, if it begins in the image or the padding before it.
        first = np.arange(number) * step - pad
        end = first + width
        pads.append((pad, max(int(end[-1]) - size, 0)))
        inside = np.minimum(end, size) - np.maximum(first, 0)
        counts.append(np.minimum(end, size + pad) - first if count_include_pad else inside)
    outer = (1,) * (input.ndim - rank)
    # A padding that no window reaches to the end of is cut off by the strides.
    total = jax.lax.reduce_window(
        input,
        np.zeros((), input.dtype),  # A number, by which JAX knows that this is a sum.
        jax.lax.add,
        (*outer, *kernel_size),
        (*outer, *stride),
        [(0, 0)] * len(outer) + pads,
    )
    if divisor_override is not None:
        return total / jnp.asarray(divisor_override, total.dtype)
    each = functools.reduce(np.multiply.outer, counts)
    same = each.size and (each == each.flat[0]).all()
    return total / jnp.asarray(each.flat[0] if same else each, total.dtype)


def _adaptive_max_pool(input: Any, output_size: Sequence[int]) -> tuple[Any, Any]:
    """The largest entries of windows that divide the axes as evenly as can be, and their places."""
    rank = len(output_size)
    sizes = input.shape[-rank:]
    places = np.zeros((), int)
    lengths = []
    for size, count in zip(sizes, output_size, strict=True):
        first = np.arange(count) * size // count
        end = -(-(np.arange(1, count + 1) * size) // count)
        longest = int((end - first).max())
        lengths.append(longest)
        # A window that is shorter than others has its last entry more than once.
        window = np.minimum(first[:, None] + np.arange(longest), end[:, None] - 1)
        places = places[..., None, None] * size + window
    # (count, length) of each axis: the counts first.
    order = [*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)]
    places = places.transpose(order).reshape(*output_size, math.prod(lengths))
    windows = input.reshape(*input.shape[:-rank], -1)[..., places]
    chosen = jnp.argmax(windows, -1)
    indices = jnp.take_along_axis(jnp.broadcast_to(places, windows.shape), chosen[..., None], -1)[
        ..., 0
    ]
    return jnp.max(windows, -1), indices


@lowers(aten.adaptive_max_pool2d, aten.adaptive_max_pool3d)
def adaptive_max_pool(input: Any, output_size: Sequence[int]):
    """Torchax has no lowering of it."""
    return _adaptive_max_pool(input, output_size)


@lowers(aten.col2im)
def col2im(
    input: Any,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
):
    """Windows summed where they overlap; torchax fails for paddings."""
    batched = input if input.ndim == 3 else input[None]
    samples, height, width = len(batched), *output_size
    counts = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip(
            output_size, padding, dilation, kernel_size, stride, strict=True
        )
    ]
    windows = batched.reshape(samples, -1, *kernel_size, *counts)
    out = jnp.zeros(
        (samples, windows.shape[1], height + 2 * padding[0], width + 2 * padding[1]), input.dtype
    )
    for row, column in itertools.product(*map(range, kernel_size)):
        at = [
            slice(k * d, k * d + s * (n - 1) + 1, s)
            for k, d, s, n in zip((row, column), dilation, stride, counts, strict=True)
        ]
        out = out.at[:, :, at[0], at[1]].add(windows[:, :, row, column])
    out = out[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
    return out.reshape(out.shape[batched.ndim - input.ndim :])


@lowers(aten.max_unpool2d, aten.max_unpool3d)
def max_unpool(input: Any, indices: Any, output_size: Sequence[int], *unused: Any):
    """Numbers put back to where they were the largest; torchax does it in Python."""
    rank = len(output_size)
    outer = input.shape[:-rank]
    flat = jnp.zeros((math.prod(outer), math.prod(output_size)), input.dtype)
    rows = jnp.arange(len(flat))[:, None]
    flat = flat.at[rows, indices.reshape(len(flat), -1)].set(input.reshape(len(flat), -1))
    return flat.reshape(*outer, *output_size)


# Embeddings.


@lowers(aten._embedding_bag, aten._embedding_bag_forward_only)
def embedding_bag(
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
):
    """Sums, means or maxima of bags of rows.

    torchax leaves out the weights of samples and what is said of padding and of the last offset.
    """
    count = len(offsets) - include_last_offset
    bags = jnp.searchsorted(offsets[:count], jnp.arange(len(indices)), side="right") - 1
    counted = indices != padding_idx
    rows = weight[indices]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, None]
    sizes = jax.ops.segment_sum(counted.astype(rows.dtype), bags, count)[:, None]
    if mode == 2:
        lowest = jnp.asarray(-jnp.inf, rows.dtype)
        most = jax.ops.segment_max(jnp.where(counted[:, None], rows, lowest), bags, count)
        out = jnp.where(sizes == 0, 0, most)
    else:
        out = jax.ops.segment_sum(jnp.where(counted[:, None], rows, 0), bags, count)
        out = out / jnp.maximum(sizes, 1) if mode == 1 else out
    return out, bags, sizes[:, 0].astype(indices.dtype), None


# Resizing with antialiasing: separable, by a matrix for each axis.


def _antialiased(
    input: Any,
    output_size: Sequence[int],
    align_corners: bool,
    scales: Sequence[float | None],
    kernel: Callable[[np.ndarray], np.ndarray],
    reach: float,
) -> Any:
    axes = (-2, -1)
    for axis, count, scale in zip(axes, output_size, scales, strict=True):
        matrix = _resizing(input.shape[axis], count, align_corners, scale, kernel, reach)
        input = jnp.moveaxis(
            jnp.tensordot(input, jnp.asarray(matrix, input.dtype), ((axis,), (1,))), -1, axis
        )
    return input


def _resizing(
    size: int,
    count: int,
    align_corners: bool,
    scale: float | None,
    kernel: Callable[[np.ndarray], np.ndarray],
    reach: float,
) -> np.ndarray:
    """The matrix (count, size) of a resizing whose kernel is as wide as what it leaves out."""
    if align_corners:
        step = (size - 1) / (count - 1) if count > 1 else 0.0
    else:
        step = 1 / scale if scale else size / count
    wide = max(step, 1.0)
    matrix = np.zeros((count, size))
    for row in range(count):
        centre = step * (row + 0.5)
        first = max(int(centre - reach * wide + 0.5), 0)
        end = min(int(centre + reach * wide + 0.5), size)
        weights = kernel((np.arange(first, end) - centre + 0.5) / wide)
        matrix[row, first:end] = weights / weights.sum()
    return matrix


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _two_scales(scales: Sequence[Any]) -> Sequence[float | None]:
    """One overload has both factors in a list, the other each by itself."""
    if len(scales) == 1:
        return scales[0] if scales[0] is not None else (None, None)
    return tuple(scales) or (None, None)


@lowers(aten._upsample_bilinear2d_aa)
def upsample_bilinear2d_aa(input: Any, output_size: Any, align_corners: bool, *scales: Any):
    return _resized(input, output_size, align_corners, scales, _triangle, 1.0)


@lowers(aten._upsample_bicubic2d_aa)
def upsample_bicubic2d_aa(input: Any, output_size: Any, align_corners: bool, *scales: Any):
    return _resized(input, output_size, align_corners, scales, _cubic, 2.0)


def _resized(input, output_size, align_corners, scales, kernel, reach):
    scales = _two_scales(scales)
    if output_size is None:
        output_size = [int(n * s) for n, s in zip(input.shape[-2:], scales, strict=True)]
    return _antialiased(input, output_size, align_corners, scales, kernel, reach)


# Statistics and orders.


@lowers(aten.mean)
def mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None):
    """Torchax has it without ``dtype``."""
    axes = None if input.ndim == 0 or dim is None or dim == [] else tuple(np.atleast_1d(dim))
    return jnp.mean(input, axes, keepdims=keepdim, dtype=_dtype(dtype))


@lowers(aten.cummax)
def cummax(input: Any, dim: int):
    """Torchax fails for more than one axis."""
    return _cumulative(jax.lax.cummax, input, dim)


@lowers(aten.cummin)
def cummin(input: Any, dim: int):
    return _cumulative(jax.lax.cummin, input, dim)


def _cumulative(function: Callable[..., Any], input: Any, dim: int) -> tuple[Any, Any]:
    x = jnp.atleast_1d(input)
    dim %= x.ndim
    best = function(x, axis=dim)
    at = jax.lax.broadcasted_iota(jnp.result_type(int), x.shape, dim)
    last = jax.lax.cummax(jnp.where(x == best, at, 0), axis=dim)
    return best.reshape(input.shape), last.reshape(input.shape)


@lowers(aten.searchsorted)
def searchsorted(
    sorted_sequence: Any,
    values: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
):
    """Torchax has it for one row of numbers, from the left."""
    if sorter is not None:
        sorted_sequence = jnp.take_along_axis(sorted_sequence, sorter, -1)
    find = functools.partial(jnp.searchsorted, side=side or ("right" if right else "left"))
    for _ in sorted_sequence.shape[:-1]:
        find = jax.vmap(find)
    return find(sorted_sequence, jnp.asarray(values))


@lowers(torch.take_along_dim)
def take_along_dim(input: Any, indices: Any, dim: int | None = None):
    """PyTorch refuses whole numbers of 32 bits, which is what JAX has."""
    return jnp.take_along_axis(input, indices, dim)


def _dtype(dtype: Any) -> Any:
    from torchax.ops import mappings  # pyright: ignore[reportMissingImports]

    return mappings.t2j_dtype(dtype) if isinstance(dtype, torch.dtype) else dtype


@lowers(aten.masked_select)
def masked_select(input: Any, mask: Any):
    """Torchax traces the mask, so that it is not known how many entries there are."""
    shape: Any = jnp.broadcast_shapes(input.shape, mask.shape)
    if not _compat.is_traced(mask):
        mask = np.broadcast_to(np.asarray(mask), shape)
    return jnp.broadcast_to(input, shape)[mask]


@lowers(aten._is_all_true)
def is_all_true(input: Any):
    """Torchax has no lowering of it; LLaVA asks."""
    return jnp.all(input)


@lowers(aten._is_any_true)
def is_any_true(input: Any):
    return jnp.any(input)


# Fake quantisation.


@lowers(aten.fake_quantize_per_tensor_affine_cachemask)
def fake_quantize(input: Any, scale: Any, zero_point: Any, quant_min: int, quant_max: int):
    """Torchax has no lowering of it."""
    steps = jnp.round(input / scale) + zero_point
    kept = (steps >= quant_min) & (steps <= quant_max)
    return (jnp.clip(steps, quant_min, quant_max) - zero_point) * scale, kept


@lowers(aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams)
def fake_quantize_qparams(
    input: Any, scale: Any, zero_point: Any, enabled: Any, quant_min: int, quant_max: int
):
    given, kept = fake_quantize(input, scale, zero_point, quant_min, quant_max)
    return jnp.where(enabled == 1, given, input), kept | (enabled != 1)


@lowers(aten.fake_quantize_per_channel_affine_cachemask)
def fake_quantize_channels(
    input: Any, scale: Any, zero_point: Any, axis: int, quant_min: int, quant_max: int
):
    shape = [-1 if at == axis else 1 for at in range(input.ndim)]
    return fake_quantize(
        input, scale.reshape(shape), zero_point.reshape(shape), quant_min, quant_max
    )


@lowers(aten._fused_moving_avg_obs_fq_helper)
def observed_fake_quantize(
    input: Any,
    observer_on: Any,
    fake_quant_on: Any,
    running_min: Any,
    running_max: Any,
    scale: Any,
    zero_point: Any,
    averaging_const: float,
    quant_min: int,
    quant_max: int,
    ch_axis: int,
    per_row_fake_quant: bool = False,
    symmetric_quant: bool = False,
):
    """Fake quantisation by a scale that is not observed any more; torchax has no lowering of it."""
    if not _compat.is_traced(observer_on) and int(np.asarray(observer_on).reshape(())):
        raise NotImplementedError(
            "The module still observes what it is given to find the scales of its quantisation. "
            "Call `module.apply(torch.ao.quantization.disable_observer)` first."
        )
    args = input, scale, zero_point
    if per_row_fake_quant:
        given, kept = fake_quantize_channels(*args, ch_axis, quant_min, quant_max)
    else:
        given, kept = fake_quantize(*args, quant_min, quant_max)
    on = jnp.reshape(fake_quant_on, ()) == 1
    return jnp.where(on, given, input), kept | ~on
