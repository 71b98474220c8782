"""Images as models take them: 8 bits per channel, grey or RGB, whatever the file had.

Pillow's own `convert` clips numbers above 255, so that images of 16 bits turn white and images of
floats in [0, 1] black, and it drops transparency.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from relprop._errors import InputError

#: What Pillow may take an image for, whatever the file is called. EPS is not among them: opening
#: one starts Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")


def read(file: Path) -> Image.Image:
    """An image of a format that is opened, whole, as Pillow has it; the first frame of several.

    Raises:
        InputError: it is no regular file, as a pipe, for which one would wait forever; or it is
            damaged or too large.
        OSError: it cannot be read.
    """
    if not file.is_file():
        raise InputError("is no file")
    try:
        with warnings.catch_warnings():
            # What Pillow makes of a damaged file counts if it is an image; one of so many pixels
            # that it may be made to fill the memory does not.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                image.load()
                whole = image.copy()
                whole.format = image.format  # Pillow's copies forget it
                return whole
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # Pillow raises SyntaxError, ValueError and others
        raise InputError(f"cannot be read: {type(error).__name__}: {error}") from error


def upright(image: Image.Image) -> Image.Image:
    """The image as it is to be seen, whichever way the camera was held (EXIF).

    Raises:
        InputError: what the file says about that is damaged.
    """
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception as error:  # of damaged EXIF Pillow raises SyntaxError, struct.error and others
        raise InputError(f"has EXIF that cannot be read: {error}") from error
    turned.format = image.format
    return turned


def eight_bit(image: Image.Image) -> Image.Image:
    """The same image in mode L or RGB: scaled by the range of its format, or refused.

    Args:
        image: of any mode. 16 bits are scaled to 8, and floats from [0, 1].

    Raises:
        InputError: its range is not known, it holds NaN or infinity, it is transparent, or Pillow
            cannot convert its mode.

    >>> sixteen = Image.fromarray(np.array([[0, 257, 65535]], np.uint16))
    >>> np.asarray(eight_bit(sixteen)).tolist()
    [[0, 1, 255]]
    >>> eight_bit(Image.new("F", (2, 2), 300.0))
    Traceback (most recent call last):
    relprop.InputError: has floating point numbers from 300 to 300: ...
    """
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image
    if image.mode in _SIXTEEN:
        return _grey(np.asarray(image).astype(np.float64) / 257)
    if image.mode == "I":
        return _grey(_of_integers(image) / 257)
    if image.mode == "F":
        return _grey(_of_floats(image) * 255)
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise InputError(
                f"is transparent in {(alpha < 255).mean():.0%} of its pixels, and what is behind "
                "them is not known: put it on a background first"
            )
    try:
        return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
    except ValueError as error:
        raise InputError(
            f"has the mode {image.mode}, which Pillow cannot convert: save it as RGB or grey"
        ) from error


def _of_integers(image: Image.Image) -> Float[np.ndarray, "h w"]:
    """Numbers up to 65535, which is how older Pillow opens a PNG of 16 bits."""
    values = np.asarray(image).astype(np.float64)
    if image.format != "PNG" or values.min() < 0 or values.max() > 65535:
        raise InputError(
            f"has integers of 32 bits from {values.min():.0f} to {values.max():.0f}: what is black "
            "and what is white is not known. Save it with 8 or 16 bits"
        )
    return values


def _of_floats(image: Image.Image) -> Float[np.ndarray, "h w"]:
    values = np.asarray(image).astype(np.float64)
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise InputError(f"has NaN or infinity in {wrong} of its {values.size} pixels")
    if values.min() < 0 or values.max() > 1:
        raise InputError(
            f"has floating point numbers from {values.min():.6g} to {values.max():.6g}: what is "
            "black and what is white is only known of numbers in [0, 1]. Scale them to that"
        )
    return values


def _grey(values: Float[np.ndarray, "h w"]) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8))
