"""Digits among clutter and in grids: which of what is there made the class."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from relprop.metrics import features
from relprop.truth._planted import Planted, at_least_one

_FILE = Path(__file__).parent / "digits.npz"
_SIDE, _WIDE, _PIECE, _PIECES, _CELLS = 8, 20, 4, 6, 2


@cache
def digits() -> tuple[Float[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]]:
    """Handwritten digits in [0, 1] that no bundled model was trained on, and what they are.

    >>> images, labels = digits()
    >>> images.shape[1:], len(images) == len(labels)
    ((8, 8), True)

    Source: Alpaydin and Kaynak 1998, as in scikit-learn's ``load_digits``; the test part of its
    split in ``scripts/train_digits.py``.
    """
    with np.load(_FILE) as file:
        return (file["images"] / 16).astype(np.float32), file["labels"].astype(np.int64)


def clutter(
    count: int = 64,
    seed: int = 0,
    of: tuple[Float[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]] | None = None,
) -> Planted:
    """A digit at a random place among pieces of other digits.

    Args:
        count: how many images.
        seed: of all that is drawn.
        of: images and labels to draw from; None for `digits`.

    Returns:
        x ``[count, 20, 20, 1]``; the class is the whole digit, the mask its 8x8 pixels.

    >>> data = clutter(count=2)
    >>> data.x.shape, data.mask[0].sum()
    ((2, 20, 20, 1), np.int64(64))
    """
    at_least_one(count)
    images, labels = digits() if of is None else of
    rng = np.random.default_rng([seed, 2])
    x = np.zeros((count, _WIDE, _WIDE), np.float32)
    mask = np.zeros(x.shape, bool)
    chosen = rng.integers(0, len(images), count)
    for image, inside, number in zip(x, mask, chosen, strict=True):
        for _ in range(_PIECES):
            row, column = rng.integers(0, _SIDE - _PIECE + 1, 2)
            piece = images[rng.integers(len(images))][row : row + _PIECE, column : column + _PIECE]
            row, column = rng.integers(0, _WIDE - _PIECE + 1, 2)
            image[row : row + _PIECE, column : column + _PIECE] = piece
        row, column = rng.integers(0, _WIDE - _SIDE + 1, 2)
        image[row : row + _SIDE, column : column + _SIDE] = images[number]
        inside[row : row + _SIDE, column : column + _SIDE] = True
    return Planted(
        x[..., None], labels[chosen], mask[..., None], features.patches((_WIDE, _WIDE, 1), 2)
    )


def grid(count: int = 64, seed: int = 0, *, disconnected: bool = False) -> Planted:
    """Four digits of four classes, one of which is explained: the grid pointing game.

    Args:
        count: how many grids.
        seed: of all that is drawn.
        disconnected: whether the classes are those of a model with a head for each cell (DiFull):
            ``10 * cell + digit``. Nothing connects such a head to other cells, so that the right
            share of relevance in the cell is exactly 1.

    Returns:
        x ``[count, 16, 16, 1]``, the mask is a cell.

    >>> data = grid(count=3, disconnected=True)
    >>> data.x.shape, data.mask[0].sum(), bool(data.target.max() < 40)
    ((3, 16, 16, 1), np.int64(64), True)

    Source: Böhle et al. 2021 (grid pointing game); Rao et al. 2022 (DiFull).
    """
    at_least_one(count)
    images, labels = digits()
    rng = np.random.default_rng([seed, 3])
    places = [np.flatnonzero(labels == digit) for digit in range(10)]
    x = np.zeros((count, _CELLS * _SIDE, _CELLS * _SIDE), np.float32)
    mask = np.zeros(x.shape, bool)
    target = np.zeros(count, np.int64)
    for n in range(count):
        classes = rng.permutation(10)[: _CELLS**2]
        explained = rng.integers(_CELLS**2)
        for cell, digit in enumerate(classes):
            row, column = _SIDE * (cell // _CELLS), _SIDE * (cell % _CELLS)
            place = slice(row, row + _SIDE), slice(column, column + _SIDE)
            x[n][place] = images[rng.choice(places[digit])]
            mask[n][place] = cell == explained
        target[n] = classes[explained] + (10 * explained if disconnected else 0)
    return Planted(
        x[..., None],
        target,
        mask[..., None],
        features.patches((_CELLS * _SIDE, _CELLS * _SIDE, 1), 2),
    )
