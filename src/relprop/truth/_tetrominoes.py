"""Tetrominoes in noise: four ways in which pixels can make a class, and noise that suppresses."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from relprop._errors import InputError, unknown_name
from relprop.metrics import features
from relprop.truth._planted import Planted, at_least_one

Kind = Literal["linear", "multiplicative", "rigid", "xor"]
Background = Literal["white", "correlated"]
SIDE = 8
_T = np.array([[1, 1, 1], [0, 1, 0]], bool)
_L = np.array([[1, 0], [1, 0], [1, 1]], bool)
#: Of the signal, against noise of unit variance; such that a small network is right in nine of ten.
_STRENGTH = {"linear": 0.5, "multiplicative": 0.95, "rigid": 2.2, "xor": 2.2}


def tetrominoes(
    kind: Kind = "linear",
    *,
    size: int = 8,
    background: Background = "correlated",
    count: int = 64,
    seed: int = 0,
) -> Planted:
    r"""Images of noise with a T or an L in them, after XAI-TRIS; two classes.

    With noise :math:`\eta`, shapes :math:`a_T, a_L` and a strength :math:`\alpha`:

    - ``"linear"``: :math:`x = \eta + \alpha a`, a T at the upper left or an L at the lower right;
    - ``"multiplicative"``: :math:`x = \eta (1 - \alpha a)`, the same places: no pixel has a mean;
    - ``"rigid"``: as linear, with the shape turned and shifted at random;
    - ``"xor"``: :math:`x = \eta + \alpha (s a_T + s' a_L)`, both with signs: class 1 where
      :math:`s \neq s'`.

    Correlated noise is smooth over three pixels of eight: then pixels beside the shape tell of the
    noise inside it. Such suppressors help to predict, and no class depends on them.

    Args:
        kind: which of them.
        size: 8, or a multiple of it, in which every pixel of the shapes is that much larger.
        background: ``"white"`` or ``"correlated"`` noise.
        count: how many images.
        seed: of all that is drawn.

    Returns:
        x ``[count, size, size, 1]``. The mask is the shape in the image if it moves, and both
        shapes else, since there the absence of a shape tells the class as well.

    Raises:
        InputError: the size is no multiple of 8.
        UnknownNameError: no such kind or background.

    >>> data = tetrominoes("xor", count=4)
    >>> data.x.shape, data.mask[0].sum()
    ((4, 8, 8, 1), np.int64(8))

    Source: Clark et al. 2024 (XAI-TRIS); suppressors: Haufe et al. 2014, Wilming et al. 2023.
    """
    at_least_one(count)
    if kind not in get_args(Kind):
        raise unknown_name("kind of tetrominoes", kind, get_args(Kind))
    if background not in get_args(Background):
        raise unknown_name("background", background, get_args(Background))
    if size < SIDE or size % SIDE:
        raise InputError(f"`size` must be a multiple of {SIDE}, got {size!r}.")
    rng = np.random.default_rng([seed, 1])
    target = rng.integers(0, 2, count)
    noise = _noise(rng, count, size, background == "correlated")
    both = np.stack([_placed(_T, 1, 1), _placed(_L, 4, 5)])
    if kind == "rigid":
        shapes = np.stack([_moved(rng, (_T, _L)[t]) for t in target])
        mask = shapes
    else:
        shapes, mask = both[target], np.broadcast_to(both.any(axis=0), (count, SIDE, SIDE))
    signal = shapes.astype(float)
    if kind == "xor":
        first = rng.choice([-1.0, 1.0], count)
        second = first * np.where(target == 1, -1, 1)
        signal = first[:, None, None] * both[0] + second[:, None, None] * both[1]
    signal, mask = (np.kron(a, np.ones((1, size // SIDE, size // SIDE))) for a in (signal, mask))
    strength = _STRENGTH[kind]
    x = noise * (1 - strength * signal) if kind == "multiplicative" else noise + strength * signal
    blocks = features.patches((size, size, 1), size // SIDE)
    return Planted(x[..., None].astype(np.float32), target, mask[..., None] > 0, blocks)


def _placed(shape: Bool[np.ndarray, "h w"], row: int, column: int) -> Bool[np.ndarray, "8 8"]:
    image = np.zeros((SIDE, SIDE), bool)
    image[row : row + shape.shape[0], column : column + shape.shape[1]] = shape
    return image


def _moved(rng: np.random.Generator, shape: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "8 8"]:
    turned = np.rot90(shape, int(rng.integers(4)))
    rows, columns = (SIDE - extent for extent in turned.shape)
    return _placed(turned, int(rng.integers(rows + 1)), int(rng.integers(columns + 1)))


def _noise(
    rng: np.random.Generator, count: int, size: int, smooth: bool
) -> Float[np.ndarray, "n s s"]:
    """Of unit variance over the images; a Gaussian filter is a product with a matrix per axis."""
    noise = rng.normal(size=(count, size, size))
    if smooth:
        places = np.arange(size)
        width = 3 * size / SIDE / 2
        kernel = np.exp(-((places[:, None] - places) ** 2) / (2 * width**2))
        kernel /= np.sqrt((kernel**2).sum(axis=1, keepdims=True))
        noise = kernel @ noise @ kernel.T
    return noise
