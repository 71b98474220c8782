"""Relevance as colours over an image."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

COLOURS = "bwr"  # blue, white, red; symmetric about 0
_LARGEST = 256  # pixels along the longer side of a picture; more adds bytes and nothing to see


def normalised(relevance: Float[np.ndarray, "h w *c"]) -> Float[np.ndarray, "h w"]:
    r"""Relevance of each pixel in [-1, 1], 0 staying 0.

    .. math:: \hat R_{hw} = \sum_c R_{hwc} / \max_{hw} |\sum_c R_{hwc}|

    Entries that are NaN or infinite count as 0.

    >>> normalised(np.array([[1.0, -4.0]])).tolist()
    [[0.25, -1.0]]
    """
    relevance = np.asarray(relevance, np.float64)
    relevance = np.where(np.isfinite(relevance), relevance, 0.0)
    relevance = relevance.reshape(*relevance.shape[:2], -1).sum(-1)
    largest = np.abs(relevance).max(initial=0.0)
    return relevance / largest if largest else relevance


def overlay(relevance: Float[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 4"]:
    """Red where relevance is positive, blue where it is negative, clear where there is none.

    The strongest pixel of the image has the full colour, whatever its sign: colours of one
    picture can be compared with one another, but not with those of another picture.

    >>> overlay(np.array([[0.0, 2.0, -2.0]]))[0].tolist()
    [[255, 254, 254, 0], [255, 0, 0, 230], [0, 0, 255, 230]]
    """
    strength = normalised(relevance)
    # Weak relevance is clear, not white, which would look like a bright part of the image: of the
    # map's middle only the very zero is used.
    rgba = matplotlib.colormaps[COLOURS](0.5 + np.sign(strength) * (0.35 + 0.15 * np.abs(strength)))
    # Not quite opaque, for the image to shine through; a root, for weak relevance to be seen.
    rgba[..., 3] = 0.9 * np.abs(strength) ** 0.7
    return np.rint(255 * rgba).astype(np.uint8)


def grey(image: Float[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w"]:
    """The brightness of an image with values in [0, 1]."""
    image = np.asarray(image, np.float64)
    brightness = image.reshape(*image.shape[:2], -1).mean(-1)
    return np.rint(255 * np.clip(brightness, 0.0, 1.0)).astype(np.uint8)


def picture(
    image: Float[np.ndarray, "h w *c"], relevance: Float[np.ndarray, "h w *c"]
) -> Image.Image:
    """The heatmap over the image in grey.

    Args:
        image: values in [0, 1].
        relevance: of its pixels, of the same height and width.

    >>> picture(np.ones((2, 3)), np.ones((2, 3, 1))).size
    (3, 2)
    """
    # Less contrast: black and white as they are would compete with the colours.
    base = Image.fromarray(np.rint(65 + 0.6 * grey(image)).astype(np.uint8)).convert("RGBA")
    return Image.alpha_composite(base, Image.fromarray(overlay(relevance))).convert("RGB")


def plain(image: Float[np.ndarray, "h w *c"]) -> Image.Image:
    """The image itself: in colour if it has three channels, else in grey."""
    if image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(np.rint(255 * np.clip(image, 0.0, 1.0)).astype(np.uint8))
    return Image.fromarray(grey(image)).convert("RGB")


def fitted(image: Image.Image, longer_side: int = _LARGEST) -> Image.Image:
    """The image, shrunk if it is larger than that."""
    factor = longer_side / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(1, round(factor * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def data_uri(image: Image.Image) -> str:
    """The image as a PNG inside of a URI."""
    file = io.BytesIO()
    fitted(image).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def scale(steps: int = 21) -> list[str]:
    """The colours from -1 to 1, over a grey image, as CSS."""
    ends = np.linspace(-1.0, 1.0, steps)[None]
    colours = np.asarray(picture(np.full_like(ends, 0.5), ends))[0]
    return [f"rgb({r} {g} {b})" for r, g, b in colours.tolist()]
