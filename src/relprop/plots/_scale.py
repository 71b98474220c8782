"""From relevance to the strength of a colour: channels summed up, zero in the middle."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from relprop._errors import InputError, unknown_name

Channels = Literal["first", "last"] | None
Bad = Literal["error", "mark"]

_REDUCTIONS = {
    "sum": lambda r: r.sum(-1),
    "absolute": lambda r: np.abs(r).sum(-1),
    "largest": lambda r: np.take_along_axis(r, np.abs(r).argmax(-1)[..., None], -1)[..., 0],
}


def numbers(values: Any, what: str) -> np.ndarray:
    """Real numbers in float64, from a NumPy or JAX array of any type.

    Raises:
        InputError: these are no real numbers.
    """
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array):
            raise TypeError("complex numbers")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} must be an array of real numbers, got {type(values).__name__}: {error}"
        ) from error


def reduced(
    values: Any, channels: Channels, reduce: str = "sum", what: str = "The relevance"
) -> Float[np.ndarray, "*batch h w"]:
    """One number per pixel.

    Args:
        values: relevance, ``[..., h, w]``, or with channels ``[..., c, h, w]`` or
            ``[..., h, w, c]``.
        channels: where they are; None if there are none.
        reduce: ``"sum"``, which conserves relevance; ``"absolute"``, the sum of absolute values;
            or ``"largest"``, the channel of the largest absolute value.
        what: how errors call it.

    >>> [reduced([[[1.0, -3.0]]], "last", by).tolist() for by in ("sum", "largest")]
    [[[-2.0]], [[-3.0]]]
    """
    array = numbers(values, what)
    if reduce not in _REDUCTIONS:
        raise unknown_name("reduction of channels", reduce, _REDUCTIONS)
    if channels not in ("first", "last", None):
        raise InputError(f"`channels` must be 'first', 'last' or None, got {channels!r}.")
    least = 2 if channels is None else 3
    if array.ndim < least or not array.size:
        raise InputError(
            f"{what} must have {least} axes or more, rows and columns"
            f"{'' if channels is None else f' with channels {channels}'}, and be not empty; its "
            f"shape is {array.shape}."
        )
    if channels is None:
        return array
    return _REDUCTIONS[reduce](np.moveaxis(array, -3, -1) if channels == "first" else array)


def single(values: Any, channels: Channels, reduce: str = "sum") -> Float[np.ndarray, "h w"]:
    """One number per pixel of one image.

    Raises:
        InputError: it is not one image; the shape is named.
    """
    array = reduced(values, channels, reduce)
    if array.ndim != 2:
        shape = np.shape(values)
        hint = (
            "say where its channels are, channels='first' or channels='last', or choose a sample"
            if channels is None
            else "choose a sample, or use `relprop.plots.heatmaps` for a batch"
        )
        raise InputError(f"The relevance must be that of one image, its shape is {shape}: {hint}.")
    return array


def checked(values: Float[np.ndarray, "*s"], bad: Bad) -> Bool[np.ndarray, "*s"]:
    """Where numbers are NaN or infinite.

    Raises:
        InputError: there are such, and they are not to be marked.
    """
    if bad not in ("error", "mark"):
        raise InputError(f"`bad` must be 'error' or 'mark', got {bad!r}.")
    wrong = ~np.isfinite(values)
    if bad == "error" and wrong.any():
        first = tuple(map(int, np.argwhere(wrong)[0]))
        raise InputError(
            f"{int(wrong.sum())} of {wrong.size} numbers are NaN or infinite, the first at {first} "
            f"of shape {values.shape}. `relprop.ledger` finds the operation that made them; "
            "bad='mark' draws them in a colour of their own."
        )
    return wrong


def limit(values: Float[np.ndarray, "*s"], quantile: float = 1.0) -> float:
    r"""The relevance that has the full colour: a quantile of the absolute values.

    .. math:: l = Q_q(|R_1|, \ldots, |R_n|)

    Args:
        values: relevance; what is NaN or infinite counts for nothing.
        quantile: 1 for the largest; less keeps a few outliers from making all else pale.

    >>> limit(np.array([1.0, -4.0, np.nan])), limit(np.zeros(3))
    (4.0, 0.0)
    """
    if not 0 < quantile <= 1:
        raise InputError(f"`quantile` must be above 0 and at most 1, got {quantile!r}.")
    finite = np.abs(values[np.isfinite(values)])
    return float(np.quantile(finite, quantile)) if finite.size else 0.0


def strength(values: Float[np.ndarray, "*s"], limit: float) -> Float[np.ndarray, "*s"]:
    r"""Relevance in [-1, 1], 0 staying 0; all 0 where the limit is.

    .. math:: s = \max(-1, \min(1, R / l))

    >>> strength(np.array([2.0, -8.0]), 4.0).tolist(), strength(np.zeros(2), 0.0).tolist()
    ([0.5, -1.0], [0.0, 0.0])
    """
    if limit == 0:
        return np.where(np.isnan(values), np.nan, np.zeros_like(values))
    return np.clip(values, -limit, limit) / limit
