"""How long texts are made before they are compiled for: few lengths stand for all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from relprop._errors import InputError
from relprop.tokens._model import LanguageModel
from relprop.tokens._run import logits_at, shape_of_logits

_STEP, _RATIO = 16, 1.6


def buckets() -> Iterator[int]:
    """The lengths that texts are padded to: 16, 32, 64, 112, 192, 320, 512, 832 and so on.

    Multiples of 16, each about 1.6 times the one before: seven of them hold all texts of up to 512
    tokens, and a text is padded to 1.3 times its length on average.
    """
    length = _STEP
    while True:
        yield length
        length = -(-int(length * _RATIO) // _STEP) * _STEP


def padded_length(length: int, lengths: str | Sequence[int], bounds: Sequence[int] = ()) -> int:
    """The length that a text of some length is padded to.

    Args:
        length: of the text.
        lengths: ``"buckets"``, ``"exact"``, or the lengths to choose from.
        bounds: lengths that padding must not cross.
    """
    if isinstance(lengths, str):
        if lengths == "exact":
            return length
        chosen = next(bucket for bucket in buckets() if bucket >= length)
    else:
        chosen = min((n for n in lengths if n >= length), default=length)
    return min([chosen, *(bound for bound in bounds if bound >= length)])


def check_lengths(lengths: Any) -> None:
    """Whether lengths are as `padded_length` takes them."""
    if isinstance(lengths, str):
        good = lengths in ("buckets", "exact")
    else:
        numbers = list(lengths) if isinstance(lengths, Sequence) else [None]
        good = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers)
    if not good:
        raise InputError(
            '`lengths` must be "buckets", "exact" or a sequence of lengths that texts are padded '
            f"to, got {lengths!r}."
        )


def paddable(
    model: LanguageModel,
    ids: Int[np.ndarray, "b t"],
    lengths: Int[np.ndarray, " b"],
    width: int,
) -> bool:
    """Whether texts with padding at the end may get more of it, so that they are so wide."""
    known = model._memory.setdefault("paddable", Paddable())
    return known(model, ids, lengths, width)


class Paddable:
    """Which lengths a model can be padded to, so that what it says of the text stays as it is.

    That is measured: at the first length, its logits are compared with those of the text at its
    own length; at any other they must be numbers. A model that takes no such length, or says
    something else, is run at the lengths that texts have.
    """

    def __init__(self) -> None:
        self._compared = False
        self._found: dict[tuple[int, int], bool] = {}

    def __call__(
        self,
        model: LanguageModel,
        ids: Int[np.ndarray, "b t"],
        lengths: Int[np.ndarray, " b"],
        width: int,
    ) -> bool:
        """Whether texts with padding at the end may get more of it."""
        key = len(ids), width
        if key not in self._found:
            self._found[key] = self._measured(model, ids, lengths, width)
        return self._found[key]

    def _measured(self, model: LanguageModel, ids: Any, lengths: Any, width: int) -> bool:
        if self._compared and not all(self._found.values()) and min(self._failed()) <= width:
            return False
        try:
            shape_of_logits(model, len(ids), width)
        except Exception:  # of the model's own code, whatever it does with so many tokens
            return False
        padded = self._last_logits(model, widened(ids, width, model.pad_id), lengths)
        if np.isnan(padded).any():
            return False
        if self._compared:
            return True
        own = self._last_logits(model, ids, lengths)
        self._compared = True
        with np.errstate(invalid="ignore"):  # ruled out tokens have minus infinity on both sides
            same = (own == padded) | (np.abs(own - padded) <= _rounding(model.params) * _size(own))
        return bool(same.all())

    def _failed(self) -> Iterator[int]:
        return (width for (_, width), good in self._found.items() if not good)

    def _last_logits(self, model: LanguageModel, ids: Any, lengths: Any) -> np.ndarray:
        per_token = len(shape_of_logits(model, *ids.shape)) == 3
        last = ((lengths - 1) * per_token).astype(np.int32)[:, None]
        found = logits_at(model, ids, text_mask(ids.shape[1], lengths), last)
        return np.asarray(found).astype(np.float64)


def widened(ids: Int[np.ndarray, "b t"], width: int, pad_id: int | None) -> np.ndarray:
    """Ids with padding at the end."""
    return np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=pad_id or 0)


def text_mask(width: int, lengths: Int[np.ndarray, " b"]) -> Bool[np.ndarray, "b t"]:
    """Where texts of some lengths are, with padding at the end."""
    return np.arange(width) < lengths[:, None]


def chunks(count: int, most: int) -> list[tuple[int, int, int]]:
    """Rows in parts of few sizes: begin and end of each, and the size it is filled up to."""
    parts = []
    for begin in range(0, count, most):
        end = min(begin + most, count)
        doubled = next(2**k for k in itertools.count() if 2**k >= end - begin)
        parts.append((begin, end, min(most, doubled)))
    return parts


def _rounding(params: Any) -> float:
    """What rounding may change, relative to the largest logit: half the digits of the weights."""
    kinds = {x.dtype for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.floating)}
    return max((float(jnp.finfo(kind).eps) for kind in kinds), default=1e-7) ** 0.5


def _size(logits: np.ndarray) -> float:
    finite = np.abs(logits[np.isfinite(logits)])
    return float(finite.max(initial=0.0))
