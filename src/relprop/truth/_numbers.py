"""Tables and series with planted evidence: features that act together, and motifs in noise."""

from __future__ import annotations

import numpy as np

from relprop.truth._planted import Planted, at_least_one

_COLUMNS, _LENGTH, _MOTIF = 12, 48, 8
_PHASE = np.arange(_MOTIF) / (_MOTIF - 1)
#: A rise, a wave and a spike pair; without a mean, so that none is told by a sum.
_MOTIFS = np.stack(
    [
        2 * _PHASE - 1,
        np.sin(4 * np.pi * _PHASE),
        np.where(np.isin(np.arange(_MOTIF), (1, 6)), 1.5, -0.5),
    ]
)


def interactions(count: int = 64, seed: int = 0) -> Planted:
    r"""Twelve numbers, of which one decides which two others are multiplied.

    .. math:: y = [\, x_1 x_2 > 0 \,] \text{ if } x_0 > 0, \qquad [\, x_3 x_4 > 0 \,] \text{ else}

    :math:`x_5` is noise that is also in :math:`x_1`, a suppressor; the others are nothing.

    Args:
        count: how many rows.
        seed: of all that is drawn.

    Returns:
        x ``[count, 12]``; the mask is the switch and the two numbers that were multiplied.

    >>> data = interactions(count=3)
    >>> data.x.shape, data.mask.sum(axis=1).tolist()
    ((3, 12), [3, 3, 3])
    """
    at_least_one(count)
    rng = np.random.default_rng([seed, 5])
    x = rng.normal(size=(count, _COLUMNS))
    first = x[:, 0] > 0
    target = np.where(first, x[:, 1] * x[:, 2] > 0, x[:, 3] * x[:, 4] > 0).astype(int)
    x[:, 1] += 0.5 * x[:, 5]
    mask = np.zeros(x.shape, bool)
    mask[:, 0] = True
    mask[:, 1:3] = first[:, None]
    mask[:, 3:5] = ~first[:, None]
    return Planted(x.astype(np.float32), target, mask, np.arange(_COLUMNS))


def motifs(count: int = 64, seed: int = 0) -> Planted:
    """Series of noise with one of three motifs at a random place, which is the class.

    Args:
        count: how many series.
        seed: of all that is drawn.

    Returns:
        x ``[count, 48, 1]``; the mask is the eight steps of the motif.

    >>> data = motifs(count=3)
    >>> data.x.shape, data.mask.sum(axis=(1, 2)).tolist()
    ((3, 48, 1), [8, 8, 8])
    """
    at_least_one(count)
    rng = np.random.default_rng([seed, 6])
    x = 0.3 * rng.normal(size=(count, _LENGTH))
    target = rng.integers(0, len(_MOTIFS), count)
    starts = rng.integers(0, _LENGTH - _MOTIF + 1, count)
    mask = np.zeros(x.shape, bool)
    for row, inside, motif, start in zip(x, mask, target, starts, strict=True):
        row[start : start + _MOTIF] += 1.5 * _MOTIFS[motif]
        inside[start : start + _MOTIF] = True
    features = np.arange(_LENGTH)[:, None]
    return Planted(x[..., None].astype(np.float32), target, mask[..., None], features)
