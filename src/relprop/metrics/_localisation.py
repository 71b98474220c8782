"""Localisation: does relevance lie where the evidence is known to be?"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float

from relprop._errors import InputError
from relprop.metrics import _checks
from relprop.metrics._similarity import ranks


def pointing_game(
    R: Float[ArrayLike, "*s"], mask: ArrayLike, *, tolerance: int = 0
) -> Float[Array, ""]:
    r"""Whether the most relevant entry is inside of the mask. Higher is better.

    .. math:: [\arg\max_i R_i \in M]

    Args:
        R: relevance.
        mask: of the same shape: booleans, or numbers that are positive inside.
        tolerance: how far outside still counts, in entries along every axis.

    Returns:
        1 or 0; where several entries are the largest, the share of them that is inside, which is
        what a choice by chance would give.

    Raises:
        InputError: the mask has another shape or no positive, or R has NaN in it.

    >>> float(pointing_game(jnp.array([0.0, 2.0]), jnp.array([False, True])))
    1.0

    Source: Zhang et al. 2018 (excitation backprop).
    """
    R, inside = _pair(R, mask)
    if tolerance < 0:
        raise InputError(f"`tolerance` must be at least 0, got {tolerance!r}.")
    if tolerance:
        inside = _wider(inside, tolerance)
    top = R == jnp.max(R)
    share = jnp.sum(top & inside).astype(R.dtype) / jnp.sum(top).astype(R.dtype)
    return _checks.defined(share, R, inside)


def relevance_mass(R: Float[ArrayLike, "*s"], mask: ArrayLike) -> Float[Array, ""]:
    r"""Positive relevance inside of the mask over all positive relevance. Higher is better.

    .. math:: \frac{\sum_{i \in M} R_i^+}{\sum_i R_i^+}

    Args:
        R: relevance.
        mask: as for `pointing_game`.

    Returns:
        From 0 to 1; chance is about the share of the mask. 0 where no relevance is positive.

    Raises:
        InputError: as for `pointing_game`.

    >>> float(relevance_mass(jnp.array([1.0, 3.0, -1.0]), jnp.array([False, True, True])))
    0.75

    Source: Arras et al. 2022 (relevance mass accuracy).
    """
    R, inside = _pair(R, mask)
    positive = jnp.maximum(R, 0)
    share = _ratio(jnp.sum(jnp.where(inside, positive, 0)), jnp.sum(positive))
    return _checks.defined(share, R, inside)


def relevance_rank(R: Float[ArrayLike, "*s"], mask: ArrayLike) -> Float[Array, ""]:
    r"""Which part of the mask is among as many largest entries as it has. Higher is better.

    .. math:: \frac{|\operatorname{top}_{|M|}(R) \cap M|}{|M|}

    Args:
        R: relevance.
        mask: as for `pointing_game`.

    Returns:
        From 0 to 1; chance is the share of the mask. Entries that are alike and of which only some
        are among the largest count in part, as a choice by chance would in the mean.

    Raises:
        InputError: as for `pointing_game`.

    >>> R = jnp.array([1.0, 3.0, 2.0, 0.0])
    >>> float(relevance_rank(R, jnp.array([True, True, False, False])))
    0.5

    Source: Arras et al. 2022 (relevance rank accuracy).
    """
    R, inside = _pair(R, mask)
    size = jnp.sum(inside)
    return _checks.defined(_among_top(R, inside, size) / size.astype(R.dtype), R, inside)


def top_k_intersection(R: Float[ArrayLike, "*s"], mask: ArrayLike, *, k: int) -> Float[Array, ""]:
    r"""Which part of the k largest entries is inside of the mask. Higher is better.

    .. math:: \frac{|\operatorname{top}_k(R) \cap M|}{k}

    Args:
        R: relevance.
        mask: as for `pointing_game`.
        k: how many entries; with more than the mask has, 1 is out of reach.

    Returns:
        From 0 to 1; ties as for `relevance_rank`.

    Raises:
        InputError: as for `pointing_game`; k is not from 1 to the number of entries.

    >>> R = jnp.array([1.0, 3.0, 2.0, 0.0])
    >>> float(top_k_intersection(R, jnp.array([True, True, False, False]), k=1))
    1.0

    Source: Theiner et al. 2022.
    """
    R, inside = _pair(R, mask)
    if not 1 <= k <= R.size:
        raise InputError(f"`k` must be from 1 to the number of entries, {R.size}, got {k!r}.")
    return _checks.defined(_among_top(R, inside, jnp.asarray(k)) / k, R, inside)


def auc(R: Float[ArrayLike, "*s"], mask: ArrayLike) -> Float[Array, ""]:
    r"""Area under the ROC curve of relevance that tells inside from outside. Higher is better.

    .. math:: P(R_i > R_j) + \tfrac12 P(R_i = R_j), \qquad i \in M, \; j \notin M

    Args:
        R: relevance.
        mask: as for `pointing_game`; it must not cover everything.

    Returns:
        From 0 to 1; chance is 1/2.

    Raises:
        InputError: as for `pointing_game`; or nothing is outside of the mask.

    >>> float(auc(jnp.array([1.0, 3.0, 2.0]), jnp.array([False, True, False])))
    1.0

    Source: Fawcett 2006.
    """
    R, inside = _pair(R, mask, negatives=True)
    m = jnp.sum(inside).astype(R.dtype)
    n = R.size - m
    rank = ranks(R).reshape(R.shape)
    wins = jnp.sum(jnp.where(inside, rank, 0)) - m * (m + 1) / 2
    return _checks.defined(wins / (m * n), R, inside, negatives=True)


def attribution_localisation(
    R: Float[ArrayLike, "*s"], mask: ArrayLike, *, weighted: bool = False
) -> Float[Array, ""]:
    r"""Positive relevance inside of the mask over all, where asked by the size of the mask.

    .. math:: \mu = \frac{\sum_{i \in M} R_i^+}{\sum_i R_i^+}, \qquad
              \mu_w = \mu \, \frac{n}{|M|}

    Higher is better.

    Args:
        R: relevance.
        mask: as for `pointing_game`.
        weighted: whether by the size, so that 1 is chance for all masks.

    Returns:
        From 0 to 1; weighted from 0, above 1 is better than chance.

    Raises:
        InputError: as for `pointing_game`.

    >>> R, mask = jnp.array([1.0, 3.0]), jnp.array([False, True])
    >>> float(attribution_localisation(R, mask, weighted=True))
    1.5

    Source: Kohlbrenner et al. 2020.
    """
    share = relevance_mass(R, mask)
    if not weighted:
        return share
    inside = _pair(R, mask)[1]
    return share * (inside.size / jnp.sum(inside).astype(share.dtype))


def focus(R: Float[ArrayLike, "*s"], mosaic: ArrayLike) -> Float[Array, ""]:
    r"""Of a mosaic of images, the positive relevance in those of the class. Higher is better.

    .. math:: \frac{\sum_{i \in T} R_i^+}{\sum_i R_i^+}

    Args:
        R: relevance of the mosaic for one class.
        mosaic: of the same shape: positive in the images of that class, of which a mosaic of two by
            two has two.

    Returns:
        From 0 to 1; chance is 1/2 of such a mosaic.

    Raises:
        InputError: as for `pointing_game`.

    >>> float(focus(jnp.array([1.0, 3.0]), jnp.array([False, True])))
    0.75

    Source: Arias-Duart et al. 2022.
    """
    return relevance_mass(R, mosaic)


def _pair(R: Any, mask: Any, *, negatives: bool = False) -> tuple[Array, Array]:
    R = _checks.relevance(R)
    return R, _checks.mask(mask, R.shape, negatives=negatives)


def _among_top(R: Array, inside: Bool[Array, "*s"], k: Array) -> Array:
    """How many of the k largest are inside; of those that tie for the last places, their share."""
    flat, hit = R.ravel(), inside.ravel()
    least = jnp.sort(flat)[jnp.maximum(R.size - k, 0)]
    above, level = flat > least, flat == least
    free = (k - jnp.sum(above)).astype(R.dtype)
    part = free / jnp.maximum(jnp.sum(level), 1).astype(R.dtype)
    return jnp.sum(above & hit).astype(R.dtype) + part * jnp.sum(level & hit).astype(R.dtype)


def _ratio(part: Array, whole: Array) -> Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)


def _wider(inside: Bool[Array, "*s"], by: int) -> Bool[Array, "*s"]:
    window = (2 * by + 1,) * inside.ndim
    counted = lax.reduce_window(
        inside.astype(np.int32), np.int32(0), lax.max, window, (1,) * inside.ndim, "SAME"
    )
    return counted > 0
