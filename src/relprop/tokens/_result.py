"""Relevance of tokens, and what it is of."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from relprop._coloured_text import ColouredText
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

    def __bool__(self) -> bool:
        return True  # Also of one text, which has no length.

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

    @property
    def explained(self) -> Float[np.ndarray, "..."]:
        """The relevance of the tokens that are shown, summed."""
        return self._sum(self.shown)

    @property
    def special(self) -> Float[np.ndarray, "..."]:
        """The relevance of the tokens that are not shown, summed."""
        return self._sum(self.mask & ~self.shown)

    @property
    def absorbed(self) -> Float[np.ndarray, "..."]:
        """The rest of the score: what biases, stabilisers and rules have kept."""
        return np.asarray(self.score) - self.explained - self.special

    def line(self) -> str:
        """The line in which the parts of one score add up.

        >>> from relprop.tokens import LanguageModel, explain
        >>> table = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
        >>> model = LanguageModel(
        ...     embed=lambda params, ids: params[ids],
        ...     logits=lambda params, embeds, ids, mask: embeds @ params.T + 0.5,
        ...     params=table,
        ... )
        >>> explain(model, [0, 1]).line()
        'tokens +4 absorbed +0.5 = score 4.5'
        """
        if self.is_batch or self.is_continuation:
            raise InputError("There are several scores: choose one by its index.")
        parts = {"tokens": self.explained, "special": self.special, "absorbed": self.absorbed}
        shown = [f"{name} {float(x):+.4g}" for name, x in parts.items() if name != "special" or x]
        return f"{' '.join(shown)} = score {float(self.score):.4g}"

    def _sum(self, chosen: Bool[np.ndarray, "... t"]) -> Float[np.ndarray, "..."]:
        if self.is_continuation:
            chosen = chosen[..., None, :]
        return np.where(chosen, self.relevance, 0).sum(-1)

    @property
    def first_share(self) -> Float[np.ndarray, "..."]:
        r"""The share of the first token in all relevance, :math:`|R_0| / \sum_t |R_t|`.

        One per text and target. Where it is large, the first token may be an attention sink; see
        `skip_first` of `explain`.
        """
        relevance = np.abs(self.relevance)
        first = np.argmax(self.mask, axis=-1)
        if self.is_continuation:
            first = np.broadcast_to(first[..., None], np.shape(self.score))
        own = np.take_along_axis(relevance, first[..., None], axis=-1)[..., 0]
        whole = relevance.sum(-1)
        return np.divide(own, whole, out=np.zeros_like(whole), where=whole > 0)

    def grouped(self, groups: Int[np.ndarray, "... t"]) -> Float[np.ndarray, "... g"]:
        r"""Relevance of groups of tokens, such as sentences, documents or turns of a chat.

        .. math:: R_g = \sum_{t \in g} R_t

        Args:
            groups: the number of the group of each token, from 0, in the shape of `ids`; tokens
                with -1 belong to none.

        Returns:
            The relevance of each group, in place of the axis of the tokens.

        Raises:
            InputError: the groups have not the shape of the ids, or are no integers from -1.
        """
        groups = np.asarray(groups)
        if groups.shape != self.ids.shape or groups.dtype.kind not in "iu" or groups.min() < -1:
            raise InputError(
                "`groups` has an integer for each token, -1 for none, in the shape of the ids, "
                f"{list(self.ids.shape)}; got {groups.dtype}{list(groups.shape)}."
            )
        member = groups[..., None] == np.arange(groups.max(initial=-1) + 1)
        if self.is_continuation and self.is_batch:
            member = member[:, None]
        return (self.relevance[..., None] * member).sum(-2)

    def _without(self, special: Collection[int], first: int) -> TokenRelevance:
        """The same with less shown: no special tokens, and not the first ones of each text."""
        place = np.cumsum(self.mask, axis=-1) - 1
        shown = self.shown & (place >= first) & ~np.isin(self.ids, list(special))
        return dataclasses.replace(self, shown=shown)

    def html(
        self,
        path: str | Path | None = None,
        title: str = "Relevance of tokens",
        details: Mapping[str, str] | None = None,
    ) -> str:
        """A page of coloured text that needs nothing else, with the numbers in tables.

        Args:
            path: a file to be written, too.
            title: of the page.
            details: what else is to be told, such as the model and the rules, by name.

        Returns:
            The page.
        """
        page = page_of({"": self}, title, details or {})
        if path is not None:
            write_text(path, page)
        return page

    def _repr_html_(self) -> str:
        return _show.html(_texts(self))

    def __rich__(self) -> Any:
        return _show.rich_text(_texts(self))

    def __str__(self) -> str:
        return _show.text(_texts(self))

    __repr__ = __str__

    def _without_rows(self) -> TokenRelevance:
        """A batch with one target per text: without the axis for several."""
        parts = {n: jax.tree.map(lambda x: x[:, 0], getattr(self, n)) for n in _OF_ROWS}
        parts |= {n: tuple(row[0] for row in getattr(self, n)) for n in _NAMES[1:]}
        return dataclasses.replace(self, **parts)


jax.tree_util.register_dataclass(
    TokenRelevance, data_fields=[*_OF_ROWS, *_OF_TEXT], meta_fields=list(_NAMES)
)


def page_of(results: Mapping[str, TokenRelevance], title: str, details: Mapping[str, str]) -> str:
    """An HTML page of texts, by what each of them is called."""
    texts, numbers = [], []
    for name, result in results.items():
        called = f"{name}: " if name else ""
        texts += [dataclasses.replace(t, title=f"{called}{t.title}") for t in _texts(result)]
        rows = [row for sample in _each(result, result.is_batch) for row in _rows(sample)]
        numbers += [(f"{called}{row.line()}", _strongest(row)) for row in rows]
    return _show.page(iter(texts), title, details, numbers)


def _each(result: TokenRelevance, several: bool) -> Iterable[TokenRelevance]:
    return result if several else [result]


def _rows(sample: TokenRelevance) -> Iterable[TokenRelevance]:
    return _each(sample, sample.is_continuation)


def _strongest(row: TokenRelevance) -> list[tuple[str, str, str]]:
    """Position, token and relevance of all tokens that are shown, the strongest first."""
    return [(str(i), token, f"{value:+.4g}") for i, token, value in row.top(len(row.shown))]


def _texts(result: TokenRelevance) -> Iterator[ColouredText]:
    """One per text and target; the targets of a text share one scale."""
    if result.is_batch:
        for number, sample in enumerate(result):
            for text in _texts(sample):
                title = f"sample {number}: {text.title}" if len(result) > 1 else text.title
                yield dataclasses.replace(text, title=title)
        return
    scale = float(np.abs(result.relevance[..., result.shown]).max(initial=0.0))
    for row in _rows(result):
        against = f" rather than {row.contrast_names}" if row.contrast_names else ""
        title = f"{row.target_names}{against}, score {float(row.score):.4g}"
        shown = np.flatnonzero(row.shown)
        yield ColouredText(title, [(row.tokens[i], float(row.relevance[i])) for i in shown], scale)
