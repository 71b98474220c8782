"""Layers as plain functions, in the layouts of PyTorch: channels before pixels, weights out x in.

What `relprop` could not see as one operation is marked with `relprop.region`: the copies of a
value, normalisations, the choice of the class token.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from relprop._core.region import region

Pair = int | tuple[int, int]


def pair(size: Pair) -> tuple[int, int]:
    """A number stands for both axes."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def along(vector: Float[Array, " n"], axis: int, rank: int) -> Float[Array, "..."]:
    """A vector laid along one axis of an array of some rank, to be broadcast over the others."""
    shape = [1] * rank
    shape[axis] = vector.shape[0]
    return vector.reshape(shape)


def product(
    x: Float[Array, "*batch in"], weight: Float[Array, "out in"]
) -> Float[Array, "*batch out"]:
    r""":math:`y = x W^\top`."""
    return lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))


def linear(
    x: Float[Array, "*batch in"],
    weight: Float[Array, "out in"],
    bias: Float[Array, " out"] | None = None,
) -> Float[Array, "*batch out"]:
    r""":math:`y = x W^\top + b`."""
    y = product(x, weight)
    return y if bias is None else y + along(bias, -1, y.ndim)


def convolution(
    x: Float[Array, "n c h w"],
    weight: Float[Array, "out c kh kw"],
    stride: Pair = 1,
    padding: Pair = 0,
) -> Float[Array, "n out h2 w2"]:
    """The correlation that deep learning calls a convolution, without a bias."""
    return lax.conv_general_dilated(
        x,
        weight,
        pair(stride),
        [(p, p) for p in pair(padding)],
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )


def conv2d(
    x: Float[Array, "n c h w"],
    weight: Float[Array, "out c kh kw"],
    bias: Float[Array, " out"] | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
) -> Float[Array, "n out h2 w2"]:
    """A convolutional layer."""
    y = convolution(x, weight, stride, padding)
    return y if bias is None else y + along(bias, 1, 4)


@region("layer_norm")
def layer_norm(
    x: Float[Array, "*batch d"],
    weight: Float[Array, " d"],
    bias: Float[Array, " d"],
    eps: float,
) -> Float[Array, "*batch d"]:
    """Layer normalisation over the last axis."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    normal = centred * lax.rsqrt(variance + eps)
    return normal * along(weight, -1, x.ndim) + along(bias, -1, x.ndim)


@region("batch_norm")
def batch_norm(
    x: Float[Array, "n c h w"],
    weight: Float[Array, " c"],
    bias: Float[Array, " c"],
    mean: Float[Array, " c"],
    variance: Float[Array, " c"],
    eps: float = 1e-5,
) -> Float[Array, "n c h w"]:
    """Batch normalisation by the statistics of the training data."""
    weight, bias, mean, variance = (along(v, 1, 4) for v in (weight, bias, mean, variance))
    return (x - mean) * (weight / jnp.sqrt(variance + eps)) + bias


@region("clone")
def clone(x: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Two copies of a value, one for each of its readers."""
    return x, x


@region("clone")
def clone3(x: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], ...]:
    """Three copies."""
    return x, x, x


@region("index_select")
def first(x: Float[Array, "n t d"]) -> Float[Array, "n d"]:
    """The first token of each sample."""
    return x[:, 0]


def max_pool2d(
    x: Float[Array, "n c h w"], size: Pair, stride: Pair | None = None, padding: Pair = 0
) -> Float[Array, "n c h2 w2"]:
    """The largest entry of each window; the padding is never chosen."""
    return lax.reduce_window(x, -jnp.inf, lax.max, *_windows(size, stride, padding))


def avg_pool2d(
    x: Float[Array, "n c h w"],
    size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    count_include_pad: bool = True,
) -> Float[Array, "n c h2 w2"]:
    """The mean of each window, over its size or over what of it lies in the image."""
    windows = _windows(size, stride, padding)
    total = lax.reduce_window(x, 0.0, lax.add, *windows)
    if count_include_pad:
        return total / (pair(size)[0] * pair(size)[1])
    count = lax.reduce_window(jnp.ones((1, 1, *x.shape[2:]), x.dtype), 0.0, lax.add, *windows)
    return total / count


@region("adaptive_avg_pool")
def adaptive_avg_pool2d(x: Float[Array, "n c h w"], size: Pair) -> Float[Array, "n c h2 w2"]:
    """Means of as many windows as asked for, which overlap where the sizes don't divide."""
    rows, columns = (_bins(n, m) for n, m in zip(x.shape[2:], pair(size), strict=True))
    count = rows.sum(1)[:, None] * columns.sum(1)[None, :]
    # Summed before divided: sums of whole numbers are exact.
    total = jnp.einsum("ih,nchw,jw->ncij", *(jnp.asarray(a, x.dtype) for a in (rows, x, columns)))
    return total / jnp.asarray(count, x.dtype)[None, None]


def einsum(equation: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """A product of two arrays."""
    return jnp.einsum(equation, a, b)


def gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The exact GELU, by the error function."""
    return jax.nn.gelu(x, approximate=False)


def _windows(size: Pair, stride: Pair | None, padding: Pair):
    size, padding = pair(size), pair(padding)
    stride = size if stride is None else pair(stride)
    pads = [(0, 0), (0, 0), *((p, p) for p in padding)]
    return (1, 1, *size), (1, 1, *stride), pads


def _bins(size: int, count: int) -> np.ndarray:
    """Of n entries in m windows, window i has those from floor(i n / m) to ceil((i + 1) n / m)."""
    first = np.arange(count)[:, None] * size // count
    end = -(-(np.arange(count)[:, None] + 1) * size // count)
    entry = np.arange(size)[None, :]
    return (first <= entry) & (entry < end)
