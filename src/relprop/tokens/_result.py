"""Relevance of tokens, and what it is of."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from relprop._errors import InputError
from relprop._files import write_text
from relprop.tokens import _show

_OF_ROWS = ("relevance", "score", "target", "contrast", "per_dimension", "inside")
_OF_TEXT = ("ids", "mask", "shown")
_NAMES = ("tokens", "target_names", "contrast_names")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TokenRelevance:
    """Relevance of the tokens of a text, or of each text of a batch.

    All arrays have an axis for the samples in front if a batch was explained, and then one for the
    tokens of a continuation if that was the target. Indexing takes away the first of them. It is a
    pytree; printed, it shows the tokens with their numbers, under rich (`rich.print`) and in a
    notebook as coloured text: red where relevance is positive, blue where it is negative.

    Attributes:
        relevance: of each token, summed over the features of its embedding; 0 at padding. For a
            continuation of n tokens, ``[n, tokens + n]``: row k is of its token k, and 0 from
            that token on.
        score: the explained logit, or the difference of two.
        target: the token or class that was explained.
        contrast: the one it was compared to, or None.
        ids: the text, with its continuation.
        mask: where it is text, and not padding.
        shown: the same without what is not shown: special tokens, if they are left out; of one
            token of a continuation, what comes after.
        per_dimension: relevance of each feature, ``[..., tokens, features]``, if asked for.
        inside: `relprop.places.Inside` by name, if places were asked for: after the axes above
            come those that the value has in the model for a batch of one text, with padding at
            the end of the text.
        tokens: the text in parts, spaces included.
        target_names: what the targets are called.
        contrast_names: the same of the contrasts.
    """

    relevance: Float[np.ndarray, "... t"]
    score: Float[np.ndarray, "..."]
    target: Int[np.ndarray, "..."]
    contrast: Int[np.ndarray, "..."] | None
    ids: Int[np.ndarray, "... t"]
    mask: Bool[np.ndarray, "... t"]
    shown: Bool[np.ndarray, "... t"]
    per_dimension: Float[np.ndarray, "... t d"] | None
    inside: Any
    tokens: Any
    target_names: Any
    contrast_names: Any

    @property
    def is_batch(self) -> bool:
        """Whether the first axis is one of samples."""
        return np.ndim(self.ids) == 2

    @property
    def is_continuation(self) -> bool:
        """Whether there is an axis for the tokens of a continuation."""
        return np.ndim(self.score) == np.ndim(self.ids)

    def __len__(self) -> int:
        if not (self.is_batch or self.is_continuation):
            raise TypeError("This is the relevance of one text for one target: it has no length.")
        return len(self.score)

    def __getitem__(self, index: int) -> TokenRelevance:
        count, index = len(self), operator.index(index)
        if not -count <= index < count:
            raise IndexError(f"There are {count}, so there is no number {index}.")
        index %= count
        arrays = (*_OF_ROWS, *_OF_TEXT) if self.is_batch else _OF_ROWS
        names = _NAMES if self.is_batch else _NAMES[1:]
        parts = {n: jax.tree.map(lambda x: x[index], getattr(self, n)) for n in arrays}
        parts |= {n: getattr(self, n)[index] if getattr(self, n) else () for n in names}
        if not self.is_batch:  # What comes later has no part in a token.
            width = np.shape(self.ids)[-1]
            parts["shown"] = self.shown & (np.arange(width) < width - count + index)
        return dataclasses.replace(self, **parts)

    def __iter__(self) -> Iterator[TokenRelevance]:
        return (self[i] for i in range(len(self)))

    def top(self, k: int = 5) -> list[tuple[int, str, float]]:
        """The strongest tokens of one text for one target, whatever their sign.

        Args:
            k: how many, at most.

        Returns:
            Position, token and relevance of each, the strongest first. Special tokens that are left
            out are not among them.
        """
        if self.is_batch or self.is_continuation:
            raise InputError(
                f"There are {len(self)} {'texts' if self.is_batch else 'explained tokens'}: choose "
                "one by its index, as in result[0].top()."
            )
        shown = np.flatnonzero(self.shown)
        best = sorted(shown, key=lambda i: -abs(self.relevance[i]))[:k]
        return [(int(i), self.tokens[i], float(self.relevance[i])) for i in best]

    def html(self, path: str | Path | None = None, title: str = "Relevance of tokens") -> str:
        """A page of coloured text that needs nothing else.

        Args:
            path: a file to be written, too.
            title: of the page.

        Returns:
            The page.
        """
        page = _show.page(self, title)
        if path is not None:
            write_text(path, page)
        return page

    def _repr_html_(self) -> str:
        return _show.html(self)

    def __rich__(self) -> Any:
        return _show.rich_text(self)

    def __str__(self) -> str:
        return _show.text(self)

    __repr__ = __str__

    def _without_rows(self) -> TokenRelevance:
        """A batch with one target per text: without the axis for several."""
        parts = {n: jax.tree.map(lambda x: x[:, 0], getattr(self, n)) for n in _OF_ROWS}
        parts |= {n: tuple(row[0] for row in getattr(self, n)) for n in _NAMES[1:]}
        return dataclasses.replace(self, **parts)


jax.tree_util.register_dataclass(
    TokenRelevance, data_fields=[*_OF_ROWS, *_OF_TEXT], meta_fields=list(_NAMES)
)
