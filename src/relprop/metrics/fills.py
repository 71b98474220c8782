r"""Fills: what takes the place of features that are removed.

A fill is a number, an array that can be broadcast to the sample (the embedding of a mask token, the
mean image of a data set), or a function ``fill(x, missing)`` of the sample and of what is removed
from it, an array of booleans like x, that returns an array like x. Those below are such functions.

A method whose baseline is the fill has an advantage over others: see the traps in "Measure
explanations".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, ArrayLike, Bool, Float, Key

from relprop._errors import InputError
from relprop.metrics._checks import of_shape

__all__ = ["blur", "filler", "linear_imputation", "mean", "noise"]

#: ``fill(x, missing)``: what is in the place of what is missing.
Fill = Callable[[Any, Any], Any]


def filler(fill: Any, x: Float[Array, "*s"]) -> Fill:
    """Any fill as a function that returns an array like x.

    Args:
        fill: a number, an array, or a function of these two.
        x: a sample.

    Returns:
        A function of a sample and of what is missing from it.

    Raises:
        InputError: an array, or what the function returns, cannot be broadcast to x.

    >>> filler(2.0, jnp.ones(3))(jnp.ones(3), jnp.array([True, False, True])).tolist()
    [2.0, 2.0, 2.0]
    """
    if callable(fill):
        made: Any = fill
        return lambda x, missing: of_shape(made(x, missing), x, "What the fill returns")
    if isinstance(fill, str):
        raise InputError(
            "A fill is a number, an array or a function such as `metrics.fills.mean()`, and no "
            f"name; got {fill!r}."
        )
    array = of_shape(fill, x, "The fill")
    return lambda x, missing: array


def mean(axes: int | Sequence[int] | None = None) -> Fill:
    """The mean of the sample, over all axes, or over some: ``mean((0, 1))`` is one per channel.

    Args:
        axes: what the mean is taken over; None: all of them.

    Returns:
        A fill.

    >>> mean()(jnp.array([1.0, 3.0]), None).tolist()
    [2.0, 2.0]
    """
    over = tuple(axes) if isinstance(axes, Sequence) else axes

    def fill(x: Float[Array, "*s"], missing: Any) -> Float[Array, "*s"]:
        return jnp.broadcast_to(jnp.mean(x, axis=over, keepdims=True), x.shape)

    return fill


def blur(sigma: float, axes: Sequence[int] = (0, 1)) -> Fill:
    r"""The sample under a Gaussian, cut off at :math:`4 \sigma`, whose edges are repeated.

    Args:
        sigma: in entries.
        axes: along which it is blurred.

    Returns:
        A fill.

    Raises:
        InputError: sigma is not positive.

    >>> round(float(blur(1.0, axes=(0,))(jnp.array([0.0, 0.0, 1.0, 0.0, 0.0]), None)[2]), 2)
    0.4
    """
    if not sigma > 0:
        raise InputError(f"`sigma` must be positive, got {sigma!r}.")
    reach = max(1, round(4 * sigma))

    def fill(x: Float[Array, "*s"], missing: Any) -> Float[Array, "*s"]:
        weight = jnp.exp(-0.5 * (jnp.arange(-reach, reach + 1).astype(x.dtype) / sigma) ** 2)
        weight = weight / jnp.sum(weight)
        for axis in axes:
            pad = [(reach, reach) if i == axis % x.ndim else (0, 0) for i in range(x.ndim)]
            wide = jnp.pad(x, pad, mode="edge")
            parts = [
                weight[i] * lax.slice_in_dim(wide, i, i + x.shape[axis], axis=axis)
                for i in range(2 * reach + 1)
            ]
            x = sum(parts[1:], parts[0])
        return x

    return fill


def noise(key: Key[Array, ""], scale: ArrayLike = 1.0, around: ArrayLike = 0.0) -> Fill:
    """Gaussian noise, the same for every removal from one sample.

    Args:
        key: of the random numbers.
        scale: standard deviation, in units of x.
        around: its mean: a number, or an array that can be broadcast to x.

    Returns:
        A fill.

    >>> fill = noise(jax.random.key(0), scale=0.0, around=1.0)
    >>> fill(jnp.zeros(2), None).tolist()
    [1.0, 1.0]
    """

    def fill(x: Float[Array, "*s"], missing: Any) -> Float[Array, "*s"]:
        drawn = jax.random.normal(key, x.shape, x.dtype)
        width = of_shape(scale, x, "The scale of the noise")
        return of_shape(around, x, "The mean of the noise") + width * drawn

    return fill


def linear_imputation(noise: float = 0.0, key: Key[Array, ""] | None = None) -> Fill:
    r"""Missing pixels as weighted means of their eight neighbours, which may be missing as well.

    .. math:: x_i = \frac{\sum_{j \in N(i)} w_{ij} x_j}{\sum_{j \in N(i)} w_{ij}}
              \text{ for all missing } i, \qquad
              w_{ij} = \tfrac16 \text{ beside}, \tfrac1{12} \text{ across a corner,}

    a linear system over all that are missing, solved by conjugate gradients for each channel. So
    little of the shape of what is removed remains to be seen. Where nothing is left it is 0.

    Args:
        noise: standard deviation of Gaussian noise that is added, in units of x.
        key: of that noise; by default ``jax.random.key(0)``.

    Returns:
        A fill for samples ``[height, width]`` or ``[height, width, channels]``.

    >>> hole = jnp.zeros((3, 3), bool).at[1, 1].set(True)
    >>> float(linear_imputation()(jnp.ones((3, 3)).at[1, 1].set(9), hole)[1, 1].round(4))
    1.0

    Source: Rong et al. 2022 (ROAD).
    """

    def fill(x: Float[Array, "..."], missing: Bool[Array, "..."]) -> Float[Array, "..."]:
        if x.ndim not in (2, 3):
            raise InputError(
                "Linear imputation is of images [height, width] or [height, width, channels], not "
                f"of the shape {list(x.shape)}."
            )
        layers = (x, missing) if x.ndim == 3 else (x[..., None], missing[..., None])
        solved = jax.vmap(_imputed, in_axes=-1, out_axes=-1)(*layers).reshape(x.shape)
        drawn = jax.random.normal(jax.random.key(0) if key is None else key, x.shape, x.dtype)
        return solved + noise * drawn

    return fill


def _imputed(x: Float[Array, "h w"], missing: Bool[Array, "h w"]) -> Float[Array, "h w"]:
    weights = _neighbours(jnp.ones_like(x))

    def system(v):  # (D - W) over what is missing, the identity elsewhere
        inside = jnp.where(missing, v, 0)
        return jnp.where(missing, weights * v - _neighbours(inside), v)

    known = jnp.where(missing, 0, x)
    given = jnp.where(missing, _neighbours(known), known)
    solved, _ = cg(system, given, x0=known, tol=1e-6, maxiter=4 * max(x.shape) + 50)
    return jnp.where(jnp.all(missing), jnp.zeros_like(x), solved)


def _neighbours(x: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """The weighted sum of the neighbours; beyond the edge there are none."""
    wide = jnp.pad(x, 1)
    height, width = x.shape
    total = jnp.zeros_like(x)
    for down in range(3):
        for right in range(3):
            if (down, right) != (1, 1):
                weight = 1 / 6 if 1 in (down, right) else 1 / 12
                total = total + weight * wide[down : down + height, right : right + width]
    return total
