"""Complexity: how many entries does an explanation need?"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from relprop._errors import InputError
from relprop.metrics import _checks


def sparseness(R: Float[ArrayLike, "..."]) -> Float[Array, ""]:
    r"""Gini index of the absolute relevance. Higher is sparser, which is taken for better.

    .. math:: \frac{\sum_{i=1}^n (2 i - n - 1) |R|_{(i)}}{n \sum_i |R|_i},
              \qquad |R|_{(1)} \leq |R|_{(2)} \leq \dots

    Args:
        R: relevance.

    Returns:
        From 0, where all are alike, to 1 - 1/n, where one has everything. NaN where all is 0.

    Raises:
        InputError: R has NaN in it.

    >>> float(sparseness(jnp.array([0.0, 0.0, 0.0, 2.0])))
    0.75

    Source: Chalasani et al. 2020; Hurley and Rickard 2009.
    """
    sizes = jnp.sort(jnp.abs(_checks.relevance(R)).ravel())
    n = sizes.size
    weights = jnp.asarray(2 * np.arange(1, n + 1) - n - 1, sizes.dtype)
    return jnp.sum(weights * sizes) / (n * jnp.sum(sizes))


def entropy(R: Float[ArrayLike, "..."]) -> Float[Array, ""]:
    r"""Entropy of the shares of absolute relevance. Lower is less complex, taken for better.

    .. math:: -\sum_i p_i \ln p_i, \qquad p_i = \frac{|R_i|}{\sum_k |R_k|}

    Args:
        R: relevance.

    Returns:
        From 0, where one has everything, to ln n. NaN where all is 0.

    Raises:
        InputError: R has NaN in it.

    >>> round(float(entropy(jnp.ones(4))), 4)
    1.3863

    Source: Bhatt et al. 2020 (complexity).
    """
    sizes = jnp.abs(_checks.relevance(R))
    shares = sizes / jnp.sum(sizes)
    terms = shares * jnp.log(jnp.where(shares > 0, shares, 1))
    return jnp.where(jnp.isnan(jnp.sum(shares)), jnp.nan, jnp.maximum(-jnp.sum(terms), 0))


def effective_complexity(
    R: Float[ArrayLike, "..."], *, threshold: float = 1e-5, relative: bool = False
) -> Float[Array, ""]:
    r"""How many entries matter. Lower is better.

    .. math:: |\{ i : |R_i| > \text{threshold} \}|

    Args:
        R: relevance.
        threshold: what counts as nothing, in units of R.
        relative: whether in units of the largest absolute relevance instead, so that the scale of
            an explanation makes no difference.

    Returns:
        From 0 to the number of entries.

    Raises:
        InputError: R has NaN in it; the threshold is negative.

    >>> float(effective_complexity(jnp.array([0.0, 1.0, -2.0])))
    2.0

    Source: Nguyen and Martinez 2020 (effective complexity), with a threshold for what can be
    left out.
    """
    if not threshold >= 0:
        raise InputError(f"`threshold` must be at least 0, got {threshold!r}.")
    sizes = jnp.abs(_checks.relevance(R))
    least = threshold * jnp.max(sizes) if relative else threshold
    count = jnp.sum(sizes > least).astype(sizes.dtype)
    return jnp.where(jnp.any(jnp.isnan(sizes)), jnp.nan, count)
