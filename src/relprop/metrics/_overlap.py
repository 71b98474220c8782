"""Segmentation: does what is relevant cover what the mask covers, and nothing else?"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from relprop.metrics import _checks


def pixel_accuracy(
    R: Float[ArrayLike, "*s"], mask: ArrayLike, *, threshold: float | None = None
) -> Float[Array, ""]:
    r"""Part of the entries that are on the right side of the threshold. Higher is better.

    .. math:: \frac{|\{i : [R_i > \theta] = [i \in M]\}|}{n}

    Args:
        R: relevance, of pixels: summed over channels.
        mask: of the same shape: booleans, or numbers that are positive inside.
        threshold: above which an entry counts as found; None: the mean of R, above which nothing is
            where all entries are alike.

    Returns:
        From 0 to 1; what finds nothing has the share of what is outside of the mask.

    Raises:
        InputError: the mask has another shape or no positive, or R has NaN in it.

    >>> R = jnp.array([1.0, 3.0, 2.0, 0.0])
    >>> float(pixel_accuracy(R, jnp.array([False, True, False, False])))
    0.75

    Source: Chefer et al. 2021, table 2.
    """
    R, inside, found = _segmented(R, mask, threshold)
    return _checks.defined(jnp.mean((found == inside).astype(R.dtype)), R, inside)


def mean_iou(
    R: Float[ArrayLike, "*s"], mask: ArrayLike, *, threshold: float | None = None
) -> Float[Array, ""]:
    r"""Intersection over union of what is found and the mask, and of what is not; the mean.

    .. math:: \tfrac12 \left(\frac{|F \cap M|}{|F \cup M|}
              + \frac{|\bar F \cap \bar M|}{|\bar F \cup \bar M|}\right),
              \qquad F = \{i : R_i > \theta\}

    Higher is better.

    Args:
        R: as for `pixel_accuracy`.
        mask: as for `pixel_accuracy`; it must not cover everything.
        threshold: as for `pixel_accuracy`.

    Returns:
        From 0 to 1.

    Raises:
        InputError: as for `pixel_accuracy`; or nothing is outside of the mask.

    >>> R = jnp.array([1.0, 3.0, 2.0, 0.0])
    >>> round(float(mean_iou(R, jnp.array([True, True, False, False]))), 3)
    0.333

    Source: Chefer et al. 2021, table 2.
    """
    R, inside, found = _segmented(R, mask, threshold, negatives=True)
    both = _iou(found, inside, R.dtype) + _iou(~found, ~inside, R.dtype)
    return _checks.defined(both / 2, R, inside, negatives=True)


def average_precision(R: Float[ArrayLike, "*s"], mask: ArrayLike) -> Float[Array, ""]:
    r"""Precision at the relevance of each entry of the mask, in the mean. Higher is better.

    .. math:: \frac{1}{|M|} \sum_{i \in M}
              \frac{|\{j \in M : R_j \ge R_i\}|}{|\{j : R_j \ge R_i\}|}

    Args:
        R: as for `pixel_accuracy`.
        mask: as for `pixel_accuracy`.

    Returns:
        From 0 to 1; where all entries are alike, the share of the mask.

    Raises:
        InputError: as for `pixel_accuracy`.

    >>> R = jnp.array([1.0, 3.0, 2.0])
    >>> float(average_precision(R, jnp.array([False, True, False])))
    1.0

    Source: Chefer et al. 2021, table 2 (mAP).
    """
    R, inside, _ = _segmented(R, mask, 0.0)
    flat, hit = R.ravel(), inside.ravel()
    order = jnp.argsort(flat)
    below = jnp.searchsorted(flat[order], flat)  # how many entries are less relevant than each
    hits = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(hit[order])])
    precision = (hits[-1] - hits[below]).astype(R.dtype) / (flat.size - below).astype(R.dtype)
    return _checks.defined(
        jnp.sum(jnp.where(hit, precision, 0)) / hits[-1].astype(R.dtype), R, inside
    )


def _segmented(
    R: Any, mask: Any, threshold: float | None, negatives: bool = False
) -> tuple[Float[Array, "*s"], Bool[Array, "*s"], Bool[Array, "*s"]]:
    """The relevance, the mask, and what is found."""
    R = _checks.relevance(R)
    inside = _checks.mask(mask, R.shape, negatives=negatives)
    if threshold is not None:
        return R, inside, threshold < R
    # A mean is rounded, and may lie below entries that are all alike; that of zeros may not.
    above = R - jnp.min(R)
    return R, inside, jnp.mean(above) < above


def _iou(a: Bool[Array, "*s"], b: Bool[Array, "*s"], dtype: Any) -> Float[Array, ""]:
    return jnp.sum(a & b).astype(dtype) / jnp.maximum(jnp.sum(a | b), 1).astype(dtype)
