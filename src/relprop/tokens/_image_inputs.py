"""What processors return for texts with images, taken apart text by text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from relprop._errors import InputError

PIXELS = "pixel_values"
GRID = "image_grid_thw"  # frames, rows and columns of flattened patches, image by image


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """One text with its images, without padding.

    Attributes:
        ids: of its tokens, ``[1, tokens]``.
        pixels: of its images.
        others: what else the model takes, by name.
    """

    ids: Int[np.ndarray, "1 t"]
    pixels: np.ndarray
    others: Mapping[str, np.ndarray]


def texts_of(
    inputs: Mapping[str, Any], image_id: int | None, merged: int
) -> tuple[list[Inputs], Bool[np.ndarray, "b t"]]:
    """Each text with its images, and where in the batch its tokens are.

    Args:
        inputs: of one text, or of a batch.
        image_id: the token that stands for features of images.
        merged: how many flattened patches a group has along a side; a group has one token.

    Raises:
        InputError: no ids or pixels; a mask that is none; images of which it is not known whose
            they are, or a text without any.
    """
    missing = sorted({"input_ids", PIXELS} - {*inputs})
    if missing:
        raise InputError(
            f"The inputs have {', '.join(inputs)} but no {', '.join(missing)}: give what the "
            "processor returns for a text with images."
        )
    given = {name: _array(value, name) for name, value in inputs.items() if value is not None}
    ids, pixels = np.atleast_2d(given.pop("input_ids")), given.pop(PIXELS)
    mask = np.atleast_2d(given.pop("attention_mask", np.ones(ids.shape, bool)))
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all() or not mask.any(axis=1).all():
        raise InputError(
            "`attention_mask` must be 1 at tokens and 0 at padding, of the shape of the ids, "
            f"{list(ids.shape)}, with a token in each text; got {list(mask.shape)}."
        )
    mask = mask.astype(bool)
    if len(ids) == 1:
        kept = {name: _of_tokens(array, mask, 0) for name, array in given.items()}
        return [Inputs(ids[:, mask[0]], pixels, kept)], mask
    rows = _rows(ids, mask, pixels, given, image_id, merged)
    return [
        Inputs(ids[i : i + 1, mask[i]], pixels[own], _own(given, mask, i, whose, len(pixels)))
        for i, (own, whose) in enumerate(rows)
    ], mask


def _rows(
    ids: Any, mask: Any, pixels: Any, others: Mapping[str, Any], image_id: int | None, merged: int
) -> list[tuple[slice, slice]]:
    """Of each text, its part of the first axis of the pixels, and of that of the images."""
    batch = len(ids)
    if pixels.ndim == 5 or image_id is None:
        if len(pixels) != batch:
            raise InputError(
                f"`{PIXELS}` of the shape {list(pixels.shape)} does not say whose its images are: "
                f"{batch} texts have {batch} rows of it. Explain the texts one by one."
            )
        each = [slice(i, i + 1) for i in range(batch)]
        return list(zip(each, each, strict=True))
    counts = ((ids == image_id) & mask).sum(axis=1)
    sizes = _tokens_of_images(int(counts.sum()), pixels, others, merged)
    ends = np.cumsum(sizes)
    stops = np.searchsorted(ends, np.cumsum(counts)) + 1
    starts = np.concatenate([[0], stops[:-1]])
    own = [int(sizes[a:b].sum()) for a, b in zip(starts, stops, strict=True)]
    if own != counts.tolist() or not counts.all():
        raise InputError(
            f"The texts have {counts.tolist()} tokens of images, and the images take "
            f"{sizes.tolist()}: each text must have images, and all of them. `explain` explains a "
            "text without any."
        )
    whose = [slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
    if pixels.ndim != 2:
        return list(zip(whose, whose, strict=True))
    begins = np.concatenate([[0], ends]) * merged**2
    return [(slice(int(begins[s.start]), int(begins[s.stop])), s) for s in whose]


def _tokens_of_images(
    tokens: int, pixels: Any, others: Mapping[str, Any], merged: int
) -> Int[np.ndarray, " images"]:
    """How many tokens stand for each image: as its patches say, or as many for all."""
    if pixels.ndim == 2 and GRID in others:
        return np.reshape(others[GRID], (-1, 3)).prod(axis=1) // merged**2
    count = max(len(pixels), 1)
    if tokens % count:
        raise InputError(
            f"{tokens} tokens stand for {count} images, which do not take equally many: explain "
            "the texts one by one."
        )
    return np.full(count, tokens // count)


def _own(
    others: Mapping[str, Any], mask: Any, text: int, images: slice, pixels: int
) -> dict[str, Any]:
    """What else belongs to a text, by the first axis of each array."""
    batch, found = len(mask), {}
    count = images.stop - images.start
    for name, array in others.items():
        of_images = name in (GRID, "image_sizes") or name.startswith("pixel_")
        if array.shape[:2] == mask.shape:
            found[name] = _of_tokens(array, mask, text)
        elif not array.ndim:
            found[name] = array
        elif len(array) == batch and (not of_images or (count == 1 and pixels == batch)):
            found[name] = array[text : text + 1]
        elif of_images and images.stop <= len(array):
            found[name] = array[images]
        else:
            raise InputError(
                f"`{name}` of the shape {list(array.shape)} belongs neither to {batch} texts nor "
                "to their images: explain the texts one by one."
            )
    return found


def _of_tokens(array: Any, mask: Any, text: int) -> Any:
    """Of an array with an entry for each token those of a text; any other as it is."""
    return array[text : text + 1, mask[text]] if array.shape[:2] == mask.shape else array


def _array(value: Any, name: str) -> np.ndarray:
    """NumPy of whatever a processor gives; its tensors of PyTorch are on the CPU."""
    try:
        return value.numpy() if hasattr(value, "numpy") else np.asarray(value)
    except ValueError as error:
        raise InputError(
            f"`{name}` is no array: {error}. Have the processor pad the texts (`padding=True`)."
        ) from error
