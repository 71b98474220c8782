"""Photographs in folders by class, with masks beside them, as `relprop.evaluate` takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from relprop._errors import InputError

#: How much larger than the cut the shorter side is, as is usual for ImageNet.
_MARGIN = 256 / 224
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
Prepare = Callable[[Float[np.ndarray, "h w 3"]], Any]


def imagenet(
    folder: str | Path,
    masks: str | Path | None = None,
    *,
    size: int = 224,
    part: slice = slice(None),
    prepare: Prepare | None = None,
) -> dict[str, np.ndarray]:
    """Reads a folder of images in the layout of ImageNet: ``FOLDER/CLASS/NAME.JPEG``.

    Images are made smaller until the shorter side has `size` * 256 / 224 pixels, and their middle
    is cut out; masks likewise, without mixing pixels. Images and masks are turned as their
    EXIF says; those of 16 bits are scaled. What begins with a dot is not looked at.

    Args:
        folder: with a folder per class; classes are numbered in the order of these names.
        masks: ``MASKS/CLASS/NAME.png``, of the size of the image, not 0 where the object is; of
            colours and palettes, not black. Images without a mask are left out; None: there are no
            masks.
        size: of the cut.
        part: which of the images, in the order of their names: all of ImageNet do not fit into
            memory.
        prepare: from an image from 0 to 1, of channels last, to what the model takes, such as
            ``lambda x: (x - mean) / std``.

    Returns:
        ``x``, ``target`` and, with masks, ``mask`` of the shape of x.

    Raises:
        InputError: there is no folder or no image, or none in `part`; `prepare` returns something
            else than arrays of one shape; an image cannot be read or is transparent; a mask has
            another size than its image, is another by its transparency than by its colours, or
            nothing of the object is in the cut; lists all of the latter.
        ImportError: Pillow is not installed.

    Source: the protocol of Chefer et al. 2021, tables 1 and 2.
    """
    try:
        import PIL as PIL  # here, and not at the first of many files
    except ImportError as error:
        raise ImportError("Images need Pillow. Install it with: pip install pillow") from error
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.")
    if not isinstance(size, (int, np.integer)) or size < 1:
        raise InputError(f"`size` is a number of pixels and must be at least 1, got {size!r}.")
    x, target, inside, faults = [], [], [], []
    for file, number, mask in _files(folder, None if masks is None else Path(masks), part):
        try:
            image, found = _read(file, mask, size)
        except (InputError, OSError) as error:
            faults.append(f"{file}: {error}")
            continue
        x.append(image if prepare is None else _prepared(prepare, image, x))
        inside.append(found)
        target.append(number)
    if faults:
        raise InputError(f"{len(faults)} images cannot be used: {'; '.join(faults[:5])}.")
    data = {"x": np.stack(x), "target": np.array(target)}
    if masks is not None:
        data["mask"] = _like(np.stack(inside), data["x"])
    return data


def _files(folder: Path, masks: Path | None, part: slice) -> list[tuple[Path, int, Path | None]]:
    """Each image with the number of its class and its mask.

    What begins with a dot is hidden, as are the notes that a Mac or a notebook leaves in a folder.
    """

    def seen(inside: Path) -> list[Path]:
        return sorted(each for each in inside.iterdir() if not each.name.startswith("."))

    of_mask = (lambda file: None) if masks is None else _masks_of(masks, folder)
    files = [
        (file, number, of_mask(file))
        for number, inner in enumerate(each for each in seen(folder) if each.is_dir())
        for file in seen(inner)
        if file.suffix.lower() in _SUFFIXES and (masks is None or of_mask(file) is not None)
    ]
    if not files:
        also = "" if masks is None else f" that have a mask in {masks}"
        raise InputError(f"There are no images in the folders of {folder}{also}.")
    if not files[part]:
        raise InputError(f"`part` takes none of the {len(files)} images in {folder}: {part}.")
    return files[part]


def _read(file: Path, mask: Path | None, size: int) -> tuple[np.ndarray, Any]:
    """The middle of an image from 0 to 1, and where its object is."""
    from PIL import Image

    from relprop._images import eight_bit, read, upright

    image = eight_bit(upright(read(file))).convert("RGB")
    cut = np.asarray(_cut(image, size, Image.Resampling.BICUBIC), np.float32) / 255
    if mask is None:
        return cut, None
    where = upright(read(mask))
    if where.size != image.size:
        raise InputError(f"the mask has {where.size} pixels, the image {image.size}")
    inside = Image.fromarray(_coloured(where))
    found = np.asarray(_cut(inside, size, Image.Resampling.NEAREST))
    if not found.any():
        raise InputError("nothing of the object is in the cut")
    return cut, found


def _coloured(mask: Any) -> Bool[np.ndarray, "h w"]:
    """Where a mask is not black; its transparency is no colour.

    Raises:
        InputError: colour and transparency are two different masks.
    """
    if mask.mode in ("1", "L", "F") or mask.mode.startswith("I"):
        return np.asarray(mask) > 0
    pixels = np.asarray(mask.convert("RGBA"))
    colour, alpha = pixels[..., :3].max(axis=-1) > 0, pixels[..., 3]
    if alpha.min() < alpha.max() and ((alpha > 0) != colour).any():
        raise InputError(
            "the mask is transparent elsewhere than it is black, so that it is not known which of "
            "both is the object: save it in black and white"
        )
    return colour


def _prepared(prepare: Prepare, image: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """What a user makes of an image, which must be an array like that of the others."""
    given = prepare(image)
    found = np.asarray(given)
    if not jnp.issubdtype(found.dtype, jnp.number):
        raise InputError(f"`prepare` must return an array of numbers, got {repr(given)[:80]}.")
    if others and found.shape != others[0].shape:
        raise InputError(
            "`prepare` must return arrays of one shape, but returns "
            f"{list(others[0].shape)} and {list(found.shape)}."
        )
    return found


def _masks_of(masks: Path, folder: Path) -> Callable[[Path], Path | None]:
    """Where the mask of an image is; None where there is none."""
    if not masks.is_dir():
        raise InputError(f"There is no folder of masks {masks}.")

    def of(file: Path) -> Path | None:
        mask = masks / file.relative_to(folder).with_suffix(".png")
        return mask if mask.exists() else None

    return of


def _cut(image: Any, size: int, how: Any) -> Any:
    """The middle, after the shorter side was made `_MARGIN` times as long as the cut."""
    scale = round(size * _MARGIN) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), how).crop((left, top, left + size, top + size))


def _like(mask: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Masks ``[n, h, w]`` on all channels, which a model may have first or last."""
    if x.shape[1:-1] == mask.shape[1:]:
        return np.broadcast_to(mask[..., None], x.shape)
    if x.shape[2:] == mask.shape[1:]:
        return np.broadcast_to(mask[:, None], x.shape)
    raise InputError(
        f"Masks are {list(mask.shape[1:])}, and what `prepare` returns is {list(x.shape[1:])}: it "
        "may move channels to the front, and must leave height and width."
    )
