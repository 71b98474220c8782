"""How alike two arrays are: correlations and structural similarity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from relprop._errors import InputError
from relprop.metrics._checks import single

#: From two arrays of one shape to a number.
Similarity = Callable[[Any, Any], Any]


@jax.jit
def pearson(a: Float[Array, "*s"], b: Float[Array, "*s"]) -> Float[Array, ""]:
    r"""Correlation of the entries, from -1 to 1; NaN where one of the arrays is constant.

    .. math:: \frac{\sum_i (a_i - \bar a)(b_i - \bar b)}
                   {\sqrt{\sum_i (a_i - \bar a)^2 \sum_i (b_i - \bar b)^2}}

    >>> float(pearson(jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0])).round(3))
    1.0
    """
    a, b = single(a), single(b)
    return cosine(a - jnp.mean(a), b - jnp.mean(b))


@jax.jit
def spearman(a: Float[Array, "*s"], b: Float[Array, "*s"]) -> Float[Array, ""]:
    """Correlation of the ranks, from -1 to 1; those that are alike have their mean rank.

    >>> float(spearman(jnp.array([1.0, 2.0, 9.0]), jnp.array([3.0, 5.0, 6.0])).round(3))
    1.0
    """
    return pearson(ranks(a), ranks(b))


@jax.jit
def cosine(a: Float[Array, "*s"], b: Float[Array, "*s"]) -> Float[Array, ""]:
    """Cosine of the angle between them, from -1 to 1; NaN where one is zero.

    >>> float(cosine(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])))
    0.0
    """
    # Scaled first: squares of what is small vanish in single precision.
    a, b = (v / jnp.max(jnp.abs(v)) for v in (single(a), single(b)))
    return jnp.sum(a * b) / jnp.sqrt(jnp.sum(a * a) * jnp.sum(b * b))


@jax.jit
def ssim(a: Float[Array, "h w *c"], b: Float[Array, "h w *c"]) -> Float[Array, ""]:
    r"""Structural similarity of two maps, from -1 to 1: the mean over windows of 7 by 7 of

    .. math:: \frac{(2 \mu_a \mu_b + c_1)(2 \sigma_{ab} + c_2)}
                   {(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)}

    with :math:`c_1 = (0.01 L)^2`, :math:`c_2 = (0.03 L)^2` and L the range of both maps.

    Raises:
        InputError: they are no maps of at least 7 by 7.

    >>> round(float(ssim(jnp.eye(7), jnp.eye(7))), 3)
    1.0

    Source: Wang et al. 2004; for explanations Adebayo et al. 2018.
    """  # noqa: D400, D415 - the sentence ends in the equation
    if a.ndim < 2 or min(a.shape[:2]) < 7:
        raise InputError(f"SSIM looks at windows of 7 by 7, but a map is of shape {list(a.shape)}.")
    a, b = (single(v).reshape(*v.shape[:2], -1) for v in (a, b))
    both = jnp.stack([a, b, a * a, b * b, a * b])
    summed = lax.reduce_window(
        both, jnp.zeros((), both.dtype), lax.add, (1, 7, 7, 1), (1, 1, 1, 1), "VALID"
    )
    mean_a, mean_b, aa, bb, ab = summed / 49
    unbiased = 49 / 48
    var_a, var_b = unbiased * (aa - mean_a**2), unbiased * (bb - mean_b**2)
    together = unbiased * (ab - mean_a * mean_b)
    width = jnp.maximum(jnp.max(a), jnp.max(b)) - jnp.minimum(jnp.min(a), jnp.min(b))
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    above = (2 * mean_a * mean_b + c1) * (2 * together + c2)
    below = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return jnp.mean(above / below)


@jax.jit
def ranks(a: Float[Array, "*s"]) -> Float[Array, " n"]:
    """Ranks from 1; equal entries have the mean of theirs.

    >>> ranks(jnp.array([5.0, 1.0, 5.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    flat = a.ravel()
    ordered = jnp.sort(flat)
    below = jnp.searchsorted(ordered, flat, side="left")
    upto = jnp.searchsorted(ordered, flat, side="right")
    return (below + upto + 1).astype(single(flat).dtype) / 2


_KNOWN = {"pearson": pearson, "spearman": spearman, "cosine": cosine, "ssim": ssim}


def similarity(name: str | Similarity) -> Similarity:
    """A similarity by its name, or as it is.

    Raises:
        InputError: the name is not known.
    """
    if callable(name):
        return name
    if name not in _KNOWN:
        raise InputError(f"A similarity is a function or one of {[*_KNOWN]}, got {name!r}.")
    return _KNOWN[name]
