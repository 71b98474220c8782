"""Features: which entries of a sample are removed together, as an array of integer labels.

Any array of integers does that can be broadcast to the sample: entries with one label are one
feature. These functions make the usual ones. Without labels every entry is a feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from relprop._errors import InputError

__all__ = ["channels", "patches", "pixels", "superpixels", "tokens"]


def pixels(shape: Sequence[int], channel_axis: int = -1) -> Int[np.ndarray, "..."]:
    """One feature per pixel, with all its channels.

    Args:
        shape: of the sample.
        channel_axis: the axis of channels.

    Returns:
        Labels from 0 on, an array of the shape of the sample.

    Raises:
        InputError: there is no such axis.

    >>> pixels((2, 2, 3))[..., 0].tolist()
    [[0, 1], [2, 3]]
    """
    axis = axis_of(shape, channel_axis)
    places = [n for i, n in enumerate(shape) if i != axis]
    labels = np.arange(math.prod(places)).reshape(places)
    return np.broadcast_to(np.expand_dims(labels, axis), shape)


def patches(
    shape: Sequence[int], size: int | Sequence[int], axes: Sequence[int] = (0, 1)
) -> Int[np.ndarray, "..."]:
    """One feature per patch; those at the far ends are smaller where it does not divide evenly.

    Args:
        shape: of the sample.
        size: length of a patch along the axes.
        axes: along which patches are cut; all that lies along other axes belongs together.

    Returns:
        Labels from 0 on, an array of the shape of the sample.

    Raises:
        InputError: there is no such axis, or a length is not positive.

    >>> patches((4, 4), 2).tolist()
    [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    """
    sizes = [size] * len(axes) if isinstance(size, int) else [*size]
    if len(sizes) != len(axes) or min(sizes, default=0) < 1:
        raise InputError(f"`size` needs one positive length per axis of {axes}, got {size!r}.")
    labels = np.zeros([1] * len(shape), int)
    for axis, length in zip(axes, sizes, strict=True):
        axis = axis_of(shape, axis)
        along = np.arange(shape[axis]) // length
        line = along.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        labels = labels * (along[-1] + 1) + line
    return np.broadcast_to(labels, shape)


def channels(shape: Sequence[int], axis: int = -1) -> Int[np.ndarray, "..."]:
    """One feature per entry along an axis: a channel, a frequency, a column of a table.

    Args:
        shape: of the sample.
        axis: along which the features lie.

    Returns:
        Labels from 0 on, an array of the shape of the sample.

    Raises:
        InputError: there is no such axis.

    >>> channels((2, 3)).tolist()
    [[0, 1, 2], [0, 1, 2]]
    """
    axis = axis_of(shape, axis)
    line = [-1 if i == axis else 1 for i in range(len(shape))]
    return np.broadcast_to(np.arange(shape[axis]).reshape(line), shape)


def tokens(shape: Sequence[int], axis: int = 0) -> Int[np.ndarray, "..."]:
    """One feature per token of embeddings ``[tokens, width]``: an entry along their axis.

    Args:
        shape: of the embeddings.
        axis: along which the tokens lie.

    Returns:
        Labels from 0 on, an array of the shape of the sample.

    Raises:
        InputError: there is no such axis.

    >>> tokens((2, 3)).tolist()
    [[0, 0, 0], [1, 1, 1]]
    """
    return channels(shape, axis)


def superpixels(
    image: Any, count: int = 50, *, compactness: float = 10.0, channel_axis: int | None = -1
) -> Int[np.ndarray, "..."]:
    """Segments of an image that are alike in colour, by SLIC of scikit-image.

    Args:
        image: of shape ``[height, width, channels]``, its channels wherever `channel_axis` says.
        count: about how many segments there are to be.
        compactness: how much nearness counts beside colour.
        channel_axis: of the channels; None if there are none.

    Returns:
        Labels from 0 on, an array of the shape of the image.

    Raises:
        ImportError: scikit-image is not installed.
        InputError: there is no such axis.

    >>> image = np.zeros((8, 8, 3)) + np.repeat([0.0, 1.0], 4)[:, None]  # half black, half white
    >>> labels = superpixels(image, 2)
    >>> bool((labels[:, :4] == labels[0, 0]).all() and (labels[:, 4:] == labels[0, 7]).all())
    True

    Source: Achanta et al. 2012 (SLIC); for removal of superpixels Rieger and Hansen 2020.
    """
    try:
        from skimage.segmentation import slic
    except ImportError:
        raise ImportError(
            "Superpixels need scikit-image: pip install 'relprop[evidence]'"
        ) from None
    image = np.asarray(image, np.float64)
    if channel_axis is not None:
        channel_axis = axis_of(image.shape, channel_axis)
    colour = channel_axis is not None and image.shape[channel_axis] == 3
    labels = slic(
        image, count, compactness, channel_axis=channel_axis, start_label=0, convert2lab=colour
    )
    if channel_axis is not None:
        labels = np.expand_dims(labels, channel_axis)
    return np.broadcast_to(labels, image.shape)


def axis_of(shape: Sequence[int], axis: int) -> int:
    """An axis, counted from the front.

    Args:
        shape: of the sample.
        axis: from the front, or a negative number from the end.

    Returns:
        The number of the axis, from 0 on.

    Raises:
        InputError: there is no such axis.

    >>> axis_of((2, 3), -1)
    1
    """
    if not isinstance(axis, (int, np.integer)):
        raise InputError(f"An axis is an integer, got {axis!r}.")
    if not -len(shape) <= axis < len(shape):
        raise InputError(f"The shape {tuple(shape)} has no axis {axis}.")
    return axis % len(shape)
