"""Images as pixels: brightness, size, and colours laid over them."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.colors import Colormap, ListedColormap, to_rgba
from PIL import Image

from relprop._colours import diverging
from relprop._errors import InputError, unknown_name
from relprop.plots._scale import Channels, limit, numbers, strength

COLOURS = "bwr"  # blue, white, red
MAP_COLOURS = "YlOrBr"  # yellow to brown: for what knows no sign
#: Ways to draw relevance, for `picture`.
STYLES = ("plain", "overlay", "opacity", "contours")
_LEVELS = (0.25, 0.5, 0.75)  # of the strongest, that contours go around
_LARGEST = 256  # pixels along the longer side of a picture; more adds bytes and nothing to see


def colormap(colours: str | Colormap = COLOURS) -> Colormap:
    """A map of matplotlib with a level for zero alone, and a colour for NaN.

    Args:
        colours: ``"bwr"``, ``"seismic"`` or ``"coldnhot"``; a map of matplotlib is taken as it is.

    >>> [float(part) for part in colormap("seismic")(0.5)]
    [1.0, 1.0, 1.0, 1.0]
    """
    if isinstance(colours, Colormap):
        return colours
    levels = diverging(colours)
    return ListedColormap(levels.levels() / 255, name=colours).with_extremes(bad=levels.bad)


def overlay_colormap(colours: str = COLOURS) -> Colormap:
    """The colours of `overlay` from -1 to 1 as a map of matplotlib."""
    chosen = diverging(colours)
    count = len(chosen.levels())
    table = overlay(np.linspace(-1.0, 1.0, count), colours) / 255
    return ListedColormap(table, name=f"{colours}_overlay").with_extremes(bad=chosen.bad)


def overlay(strength: Float[np.ndarray, "*s"], colours: str = COLOURS) -> UInt8[np.ndarray, "*s 4"]:
    """Red where relevance is positive, blue where it is negative, clear where there is none.

    Args:
        strength: in [-1, 1]; NaN has a colour of its own.
        colours: the name of a map.

    >>> overlay(np.array([0.0, 1.0, -1.0])).tolist()
    [[255, 255, 255, 0], [255, 0, 0, 230], [0, 0, 255, 230]]
    """
    chosen = diverging(colours)
    wrong = np.isnan(strength)
    s = np.where(wrong, 0.0, strength)
    # Weak relevance is clear, not white, which would look like a bright part of the image: of the
    # map's middle only the very zero is used.
    rgb = chosen(np.sign(s) * (0.7 + 0.3 * np.abs(s)))
    # Not quite opaque, for the image to shine through; a root, for weak relevance to be seen.
    alpha = np.rint(255 * 0.9 * np.abs(s) ** 0.7)
    rgba = np.concatenate([rgb, alpha[..., None]], axis=-1).astype(np.uint8)
    rgba[wrong] = np.rint(255 * np.array(to_rgba(chosen.bad)))
    return rgba


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
    return strength(relevance, limit(relevance))


def enlarged(
    values: Float[np.ndarray, "rows columns"], height: int, width: int
) -> Float[np.ndarray, "h w"]:
    """A map of patches over the pixels of the image: bilinear between the middles of patches.

    >>> enlarged(np.array([[0.0, 1.0]]), 1, 4).tolist()
    [[0.0, 0.25, 0.75, 1.0]]
    """
    image = Image.fromarray(np.asarray(values, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def map_overlay(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 4"]:
    """Dark where the values are greatest, clear where they are least.

    The scale goes from the least to the greatest value, as in the reference implementation of
    Chefer et al. 2021. Entries that are NaN or infinite, and maps of one value, are clear.

    >>> map_overlay(np.array([[2.0, 4.0]]))[0, :, 3].tolist()
    [0, 217]
    """
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    least, most = (f(values[finite]) if finite.any() else 0.0 for f in (np.min, np.max))
    strength = np.where(finite, values - least, 0.0) / ((most - least) or 1.0)
    rgba = matplotlib.colormaps[MAP_COLOURS](0.25 + 0.75 * strength)
    rgba[..., 3] = 0.85 * strength**0.7
    return np.rint(255 * rgba).astype(np.uint8)


def image_of(values: Any, channels: Channels) -> Float[np.ndarray, "h w *c"]:
    """An image with its channels last.

    Raises:
        InputError: it isn't one; the shape is named.
    """
    image = numbers(values, "The image")
    if image.ndim != (2 if channels is None or image.ndim == 2 else 3) or not image.size:
        raise InputError(
            f"The image must be [h, w] or, with channels={channels!r}, one image with channels; "
            f"its shape is {image.shape}."
        )
    return np.moveaxis(image, 0, -1) if image.ndim == 3 and channels == "first" else image


def in_range(image: Float[np.ndarray, "h w *c"]) -> Float[np.ndarray, "h w *c"]:
    """The image itself, whose values must be in [0, 1]: others would all be black or white.

    Raises:
        InputError: they are not, or NaN.
    """
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
        raise InputError(
            f"The image must have values in [0, 1]; they go from {image.min():.4g} to "
            f"{image.max():.4g}."
        )
    return image


def grey(image: Float[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w"]:
    """The brightness of an image with values in [0, 1]."""
    image = np.asarray(image, np.float64)
    brightness = image.reshape(*image.shape[:2], -1).mean(-1)
    return np.rint(255 * np.clip(brightness, 0.0, 1.0)).astype(np.uint8)


def background(image: Float[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w"]:
    """The image in grey with less contrast: black and white would compete with the colours."""
    return np.rint(65 + 0.6 * grey(image)).astype(np.uint8)


def check_style(style: str) -> str:
    """A way to draw relevance.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if style not in STYLES:
        raise unknown_name("style of heatmaps", style, STYLES)
    return style


def picture(
    image: Float[np.ndarray, "h w *c"],
    relevance: Float[np.ndarray, "h w *c"],
    style: str = "plain",
    side: int = _LARGEST,
) -> Image.Image:
    """The heatmap of an image in one of `STYLES`.

    The strongest pixel has the full colour, whatever its sign: colours of one picture can be
    compared with one another, but not with those of another picture.

    Args:
        image: values in [0, 1].
        relevance: of its pixels, of the same height and width.
        style: ``"plain"``, the heatmap alone; ``"overlay"``, colours over the image;
            ``"opacity"``, one red and one blue, the stronger the less of the image is seen;
            ``"contours"``, lines around what has a quarter, a half and three quarters of the
            strongest.
        side: pixels of the longer side that contours are drawn for.

    >>> picture(np.ones((2, 3)), np.ones((2, 3, 1))).size
    (3, 2)
    """
    return drawn(image, normalised(relevance), style, side=side)


def drawn(
    image: Float[np.ndarray, "h w *c"],
    strengths: Float[np.ndarray, "h w"],
    style: str,
    colours: str = COLOURS,
    side: int = _LARGEST,
) -> Image.Image:
    """Strengths in [-1, 1], which may be NaN, in one of `STYLES`."""
    if check_style(style) == "plain":
        rgba = colormap(colours)(0.5 + 0.5 * np.ma.masked_invalid(strengths))
        return Image.fromarray(np.rint(255 * rgba[..., :3]).astype(np.uint8))
    if style == "overlay":
        return over(image, overlay(strengths, colours))
    if style == "opacity":
        return _in_colours(np.rint(100 + 0.35 * grey(image)), strengths, colours)
    return _contours(image, strengths, colours, side)


def relevance_picture(values: Float[np.ndarray, "h w"]) -> Image.Image:
    """Relevance as colours, the strongest in full colour, without an image.

    >>> np.asarray(relevance_picture(np.array([[2.0, 0.0]])))[0].tolist()
    [[255, 0, 0], [255, 255, 255]]
    """
    values = np.asarray(values, np.float64)
    return drawn(values, strength(values, limit(values)), "plain")


def _in_colours(
    base: Float[np.ndarray, "h w"], strengths: Float[np.ndarray, "h w"], colours: str
) -> Image.Image:
    """Full colours over grey, whose opacity is the strength."""
    chosen = diverging(colours)
    wrong = np.isnan(strengths)
    s = np.where(wrong, 1.0, strengths)
    full = chosen(np.sign(s)).astype(np.float64)
    full[wrong] = 255 * np.array(to_rgba(chosen.bad))[:3]
    alpha = np.abs(s)[..., None]
    mixed = alpha * full + (1 - alpha) * base[..., None]
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _contours(
    image: Float[np.ndarray, "h w *c"],
    strengths: Float[np.ndarray, "h w"],
    colours: str,
    side: int,
) -> Image.Image:
    """Lines around what is stronger than each of `_LEVELS`, darker as they go up."""
    factor = max(1, side // max(strengths.shape))
    large = np.nan_to_num(strengths).repeat(factor, 0).repeat(factor, 1)
    base = np.asarray(plain(image)).repeat(factor, 0).repeat(factor, 1)
    out = np.rint(80 + 0.5 * base.astype(np.float64)).astype(np.uint8)
    width = max(1, factor // 12)
    ends = diverging(colours)(np.array([1.0, -1.0]))
    for sign, end in zip((1, -1), ends, strict=True):
        for level in _LEVELS:
            out[_edges(sign * large >= level, width)] = np.rint((1.1 - 0.5 * level) * end).clip(
                0, 255
            )
    return Image.fromarray(out)


def _edges(inside: Bool[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """The part of a region that is less than so many pixels from its border."""
    core = np.pad(inside, width, mode="edge")
    height, length = inside.shape
    kept = np.ones_like(inside)
    for down in range(2 * width + 1):
        for right in range(2 * width + 1):
            kept &= core[down : down + height, right : right + length]
    return inside & ~kept


def map_picture(
    image: Float[np.ndarray, "h w *c"], values: Float[np.ndarray, "h w"]
) -> Image.Image:
    """A map that knows no sign over the image in grey.

    >>> map_picture(np.ones((2, 3)), np.ones((2, 3))).size
    (3, 2)
    """
    return over(image, map_overlay(values))


def over(image: Float[np.ndarray, "h w *c"], colours: UInt8[np.ndarray, "h w 4"]) -> Image.Image:
    """Colours over the image in grey."""
    base = Image.fromarray(background(image)).convert("RGBA")
    return Image.alpha_composite(base, Image.fromarray(colours)).convert("RGB")


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


def scale_of(style: str, colours: str = COLOURS, steps: int = 21) -> UInt8[np.ndarray, "steps 3"]:
    """The colours that a style has for strengths from -1 to 1; contours are lines of these."""
    ends = np.linspace(-1.0, 1.0, steps)[None]
    chosen = "opacity" if check_style(style) == "contours" else style
    return np.asarray(drawn(np.full_like(ends, 0.5), ends, chosen, colours))[0]


def scale(style: str = "plain") -> list[str]:
    """The colours from -1 to 1 as CSS."""
    return _css(scale_of(style))


def map_scale_of(steps: int = 21) -> UInt8[np.ndarray, "steps 3"]:
    """The colours of a map from its least to its greatest value."""
    ends = np.linspace(0.0, 1.0, steps)[None]
    return np.asarray(map_picture(np.full_like(ends, 0.5), ends))[0]


def map_scale() -> list[str]:
    """The same as CSS."""
    return _css(map_scale_of())


def _css(row: UInt8[np.ndarray, "steps 3"]) -> list[str]:
    return [f"rgb({r} {g} {b})" for r, g, b in row.tolist()]
