"""What of the predictions of a model is explained: positions, tokens and their contrasts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from relprop._errors import InputError, unknown_name
from relprop.tokens._lengths import check_lengths, paddable, padded_length, text_mask, widened
from relprop.tokens._model import LanguageModel
from relprop.tokens._run import logits_at, shape_of_logits
from relprop.tokens._targets import (
    AtPosition,
    ClassTarget,
    Continuation,
    NextToken,
    Span,
    Target,
)
from relprop.tokens._text import Texts, check_ids, check_length, encoded, single_token, sources


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """Texts with padding at the end, and which of their logits are explained.

    Rows are explained one by one; the terms of a row are added up.
    """

    ids: Int[np.ndarray, "b t"]
    lengths: Int[np.ndarray, " b"]
    positions: Int[np.ndarray, "b n k"]
    targets: Int[np.ndarray, "b n k"]
    contrast: Int[np.ndarray, "b n k"] | None = None
    weights: Float[np.ndarray, "b n k"] | None = None
    labels: tuple[str, ...] | None = None
    of: str = "logit"
    added: int = 0
    is_continuation: bool = False
    is_span: bool = False

    @property
    def mask(self) -> Bool[np.ndarray, "b t"]:
        return text_mask(self.ids.shape[1], self.lengths)


def query_of(
    model: LanguageModel,
    texts: Texts,
    target: Target | None,
    contrast: Any,
    lengths: str | Sequence[int],
) -> Query:
    """What is explained; without a target, what the model predicts."""
    check_lengths(lengths)
    named = target.tokens if isinstance(target, (Continuation, Span)) else None
    added = None if named is None else _given(model, named, texts)
    count = _count(target) if added is None else added.shape[1]
    ids = _packed(model, texts, count, lengths)
    shape = shape_of_logits(model, *ids.shape)
    if target is None:
        target = NextToken() if len(shape) == 3 else ClassTarget()
    _check_kind(target, shape)
    labels = _labels(model, shape)
    if isinstance(target, (Continuation, Span)):
        query = _continued(model, ids, texts, target, added, count)
    else:
        wanted, position = _wanted(target)
        positions = _positions(model, texts, position)
        if wanted is None:
            mask = text_mask(ids.shape[1], texts.lengths)
            chosen = best(model, ids, mask, positions)
        else:
            chosen = _numbers(model, wanted, len(ids), "target", labels)[:, None]
        terms = positions[..., None], chosen[..., None]
        query = Query(ids, texts.lengths, *terms, labels=labels)
    check_exists(query.targets, shape[-1], "target")
    return query if contrast is None else _contrasted(model, query, contrast, shape[-1])


def best(model: LanguageModel, ids: Any, mask: Any, positions: Any) -> Int[np.ndarray, "b n"]:
    """What the model likes best at some positions."""
    logits = logits_at(model, ids, mask, positions)
    return np.asarray(jnp.argmax(logits, axis=-1))


def _packed(
    model: LanguageModel, texts: Texts, added: int, lengths: str | Sequence[int]
) -> Int[np.ndarray, "b t"]:
    """Ids with padding at the end, with room for tokens that are added, of a length that is shared.

    A width that the caller has padded to is kept, as long as there is room.
    """
    ids = texts.packed(model.pad_id or 0).astype(np.int32)
    check_length(model, texts, added)
    own = ids.shape[1] + added
    given = texts.ids.shape[1]
    width = padded_length(own, lengths, model.bounds)
    if lengths != "exact" and given > ids.shape[1]:
        width = given if given >= own else width
    if width > own and not paddable(model, ids, texts.lengths, width):
        width = own
    return widened(ids, width, model.pad_id)


def _contrasted(model: LanguageModel, query: Query, contrast: Any, outputs: int) -> Query:
    """The same with a second token or class for each target."""
    batch, rows, terms = query.targets.shape
    if query.is_continuation:
        other = _numbers(model, contrast, rows, "contrast", one="token")[None, :, None]
    elif query.is_span:
        other = _numbers(model, contrast, terms, "contrast", one="token")[None, None]
    else:
        other = _numbers(model, contrast, batch, "contrast", query.labels)[:, None, None]
    other = np.broadcast_to(other, query.targets.shape)
    check_exists(other, outputs, "contrast")
    same = np.argwhere(other == query.targets).tolist()
    if same:
        sample, *term = same[0]
        raise InputError(
            f"The contrast must differ from the target, but both are {other[sample, *term]} for "
            f"sample {sample}."
        )
    return dataclasses.replace(query, contrast=other)


def _labels(model: LanguageModel, shape: tuple[int, ...]) -> tuple[str, ...] | None:
    """Names of the outputs; None where these are tokens."""
    if model.labels and len(model.labels) == shape[-1]:
        return model.labels
    return tuple(map(str, range(shape[-1]))) if len(shape) == 2 else None


def _numbers(
    model: LanguageModel,
    given: Any,
    count: int,
    what: str,
    labels: tuple[str, ...] | None = None,
    one: str = "sample",
) -> Int[np.ndarray, " n"]:
    """Tokens or classes that were named, one each."""

    def number(name: Any) -> int:
        if labels is None or not isinstance(name, str):
            return single_token(model.tokenizer, name)
        if name not in labels and name.isdecimal():
            return int(name)
        if name not in labels:
            raise unknown_name("class", name, labels)
        return labels.index(name)

    return np.asarray([number(name) for name in per_sample(given, count, what, one)], np.int64)


def _check_kind(target: Target, shape: tuple[int, ...]) -> None:
    per_class = len(shape) == 2
    if per_class != isinstance(target, ClassTarget):
        gives = f"{shape[-1]} scores per {'text' if per_class else 'token'}"
        right = "ClassTarget" if per_class else "NextToken, Continuation, Span or AtPosition"
        raise InputError(
            f"The model gives {gives}, which {type(target).__name__} does not fit: use {right}."
        )


def check_exists(chosen: np.ndarray, count: int, what: str) -> None:
    """Whether tokens or classes are among the outputs of a model; JAX would take the last one.

    Raises:
        InputError: names those that are not.
    """
    wrong = np.unique(chosen[(chosen < 0) | (chosen >= count)]).tolist()
    if wrong:
        raise InputError(
            f"The model has {count} outputs, 0 to {count - 1}; the {what} names {wrong}."
        )


def _wanted(target: Target) -> tuple[Any, Any]:
    """The token or class, and the position of its logit."""
    if isinstance(target, NextToken):
        return target.token, target.position
    if isinstance(target, AtPosition):
        return target.index, target.position
    if isinstance(target, ClassTarget):
        return target.index, 0  # a classifier has one position
    raise InputError(f"Only the targets of `relprop.tokens` can be explained, got {target!r}.")


def _positions(model: LanguageModel, texts: Texts, position: Any) -> np.ndarray:
    """Positions in each text without its padding, one column."""
    lengths = texts.lengths
    given = np.asarray(per_sample(position, len(lengths), "position"))
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise InputError(f"A position is an integer, got {position!r}.")
    for sample, (number, length) in enumerate(zip(given, lengths, strict=True)):
        if not -length <= number < length:
            raise InputError(
                f"Position {number} is outside of the text: sample {sample} has {length} tokens, "
                f"0 to {length - 1} (or -{length} to -1 from its end; padding does not count)."
            )
    found = given % lengths
    before = sources(model, texts)
    if (found < before).any():
        raise InputError(
            f"Tokens of the source have no logits: positions begin at the mark, {before.tolist()}; "
            f"got {found.tolist()}."
        )
    return found.astype(np.int32)[:, None]


def per_sample(given: Any, count: int, what: str, one: str = "sample") -> list[Any]:
    """One for each, of a sequence of them or of one for all."""
    if isinstance(given, str) or not np.iterable(given):
        return [given] * count
    each = list(given)
    if len(each) != count:
        raise InputError(
            f"There must be one {what} for all, or one per {one}: {count}, got {len(each)}."
        )
    return each


def _count(target: Target | None) -> int:
    """How many tokens a target adds to the text that it does not name."""
    return (target.length or 0) if isinstance(target, (Continuation, Span)) else 0


def _continued(
    model: LanguageModel,
    ids: np.ndarray,
    texts: Texts,
    target: Continuation | Span,
    added: np.ndarray | None,
    count: int,
) -> Query:
    """The texts with what continues them: token k of that is explained by all before."""
    lengths = texts.lengths
    if isinstance(target, Span) and target.within is not None:
        after = _within(model, texts, target.within)
    else:
        after = (lengths[:, None] + np.arange(count)).astype(np.int32)
        if added is None:
            ids = _generated(model, ids, lengths, count)
        else:
            np.put_along_axis(ids, after, added, axis=1)
    chosen = np.take_along_axis(ids, after, axis=1)
    if isinstance(target, Continuation):
        terms = (after - 1)[..., None], chosen[..., None]
        return Query(ids, lengths + count, *terms, added=count, is_continuation=True)
    weights = _weights(target, chosen.shape)
    terms = (after - 1)[:, None], chosen[:, None], None, weights
    return Query(ids, lengths + count, *terms, of=target.of, added=count, is_span=True)


def _within(model: LanguageModel, texts: Texts, within: tuple[int, int]) -> Int[np.ndarray, "b k"]:
    """Positions of a part of each text."""
    start, stop = within
    lengths = texts.lengths
    columns = np.stack([np.arange(start, stop)] * len(lengths))
    first = 1 + int(sources(model, texts).max())
    if start < first or (columns >= lengths[:, None]).any():
        raise InputError(
            f"A span within the text goes from position {first}, with a predicted token before "
            f"it, to at most the end of the text, {int(lengths.min())}; got {start} to {stop}."
        )
    return columns.astype(np.int32)


def _weights(target: Span, shape: tuple[int, ...]) -> Float[np.ndarray, "b 1 k"] | None:
    if target.weights is None:
        return None
    weights = np.asarray(target.weights, np.float32)
    if weights.shape not in (shape, shape[1:]) or not np.isfinite(weights).all():
        raise InputError(
            f"The weights of a span are finite numbers, one per token: {list(shape[1:])}, or one "
            f"row of these per sample; got {list(weights.shape)}."
        )
    return np.broadcast_to(weights, shape)[:, None]


def _given(model: LanguageModel, tokens: Any, texts: Texts) -> Int[np.ndarray, "b k"]:
    batch = len(texts.ids)
    if isinstance(tokens, str):
        rows = [encoded(model.tokenizer, tokens)] * batch
    elif len(tokens) and all(isinstance(part, str) for part in tokens):
        rows = [encoded(model.tokenizer, t) for t in per_sample(tokens, batch, "continuation")]
    elif len(tokens) and np.iterable(tokens[0]):
        rows = [np.asarray(t) for t in per_sample(tokens, batch, "continuation")]
    else:
        rows = [np.asarray(tokens)] * batch
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1 or lengths[0] == 0 or any(row.dtype.kind not in "iu" for row in rows):
        raise InputError(
            "A continuation has at least one token, and the same number of tokens for all samples; "
            f"got {lengths} tokens. Explain samples that differ one by one."
        )
    check_ids(model, np.concatenate(rows))
    return np.stack(rows).astype(np.int32)


def _generated(
    model: LanguageModel, ids: np.ndarray, lengths: np.ndarray, count: int
) -> np.ndarray:
    """Texts with the tokens that the model likes best, one after the other."""
    for step in range(count):
        end = (lengths + step)[:, None]
        mask = text_mask(ids.shape[1], lengths + step)
        token = best(model, ids, mask, (end - 1).astype(np.int32))
        np.put_along_axis(ids, end, token.astype(ids.dtype), axis=1)
    return ids
