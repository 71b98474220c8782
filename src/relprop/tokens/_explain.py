"""The one call: a model, a text and what of its prediction is to be explained."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from relprop import presets
from relprop._coloured_text import visible
from relprop._errors import InputError, unknown_name
from relprop._growth import A_LOT, times_the_score, warn_of_growth
from relprop.composites import composite_of
from relprop.places import places_of
from relprop.tokens._model import LanguageModel
from relprop.tokens._result import TokenRelevance
from relprop.tokens._targets import AtPosition, ClassTarget, Continuation, NextToken, Target
from relprop.tokens._text import (
    Texts,
    check_ids,
    encoded,
    pieces,
    read,
    single_token,
    special_ids,
)


def explain(
    model: LanguageModel,
    text: Any,
    target: Target | None = None,
    *,
    contrast: Any = None,
    rules: Any = None,
    mask: Any = None,
    skip_special: bool = False,
    per_dimension: bool = False,
    places: Any = (),
    rows_at_once: int = 16,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
    growth_limit: float = A_LOT,
) -> TokenRelevance:
    r"""How much each token of a text adds to a logit that a language model gives it.

    Token ids have no relevance. They are embedded, and what is returned is the relevance of their
    embeddings, summed over the features of each token:

    .. math:: R_t = \sum_d R_{td}, \qquad
              \sum_t R_t + \text{absorbed} + \text{not conserved} = \text{logit}.

    Biases absorb, and so do stabilisers; rules that do not conserve relevance make or lose the
    rest. By default that is attention: the gradient of its softmax loses relevance, so that with a
    trained language model the tokens often get less than half of the logit (a third of it in
    SmolLM2). Under `relprop.presets.cp_lrp` only biases absorb. `relprop.ledger` lists it all.
    Padding has none.

    Args:
        model: made by `from_pretrained`, `from_torch` or as a `LanguageModel`.
        text: a string, token ids ``[tokens]``, what a tokenizer of transformers returns, or a
            batch of these. Lists of ids may differ in length.
        target: what is explained: `NextToken`, `AtPosition`, `ClassTarget` or `Continuation`. By
            default the next token or the class that the model predicts.
        contrast: a second token or class, whose logit is subtracted: why this rather than that? A
            sequence has one per sample; for a `Continuation`, one per token or one for all.
        rules: as for `relprop.relevance`; by default `relprop.presets.attn_lrp`.
        mask: for ids with padding, 1 (or True) at tokens, 0 at padding, on any side.
        skip_special: leave out special tokens, such as ``[CLS]``, when the result is shown and
            ranked; its arrays keep them.
        per_dimension: also return the relevance of each feature.
        places: relevance at places inside of the model as well, such as
            ``"model/layers/*"``; as for `relprop.relevance`.
        rows_at_once: of a continuation, how many tokens are explained at once: more share a
            forward pass and its memory.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.
        growth_limit: as for `relprop.relevance`; the relevance of a token is compared with the
            logit.

    Returns:
        A `TokenRelevance`: of one text, or of a batch if a batch was given.

    Raises:
        InputError: the text cannot be read, a token or position does not exist, padding without a
            mask, a target that does not fit the model, a model that looks at padding.
        MissingRuleError, RuleError, NothingMatchedError: as for `relprop.relevance`.

    >>> import jax.numpy as jnp
    >>> model = LanguageModel(
    ...     embed=lambda params, ids: params[ids],
    ...     logits=lambda params, embeds, ids, mask: jnp.cumsum(embeds, 1) @ params.T,
    ...     params=jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]),
    ... )
    >>> print(explain(model, [0, 1, 2], NextToken(1), contrast=0))
    token 1 rather than token 0, score 4
      0  -1
      1  +4
      2  +1

    Source: Achtibat et al. 2024, AttnLRP, for the default rules.
    """
    if not isinstance(target, None | Target):
        raise InputError(
            f"The target must be NextToken(...), AtPosition(...), ClassTarget(...) or "
            f"Continuation(...), got {target!r}."
        )
    if rows_at_once < 1:
        raise InputError(f"`rows_at_once` must be at least 1, got {rows_at_once}.")
    composite = composite_of(presets.attn_lrp() if rules is None else rules)
    texts = read(model, text, mask)
    query = _query(model, texts, target)
    if contrast is not None:
        outputs = model._shape_of_logits(*query.ids.shape)[-1]
        query = _contrasted(model, query, contrast, outputs)
    scores, found, inside = model._relevance(
        model.params,
        query.ids,
        query.mask,
        query.positions,
        query.targets,
        query.contrast,
        rules=composite,
        on_missing=on_missing,
        on_suspicion=on_suspicion,
        places=places_of(places),
        rows_at_once=rows_at_once,
        per_dimension=per_dimension,
    )
    scores, found = np.asarray(scores), np.asarray(found)
    if not np.isfinite(scores).all():
        raise InputError(
            f"The explained logits are not finite: {scores.tolist()}. Ruled out tokens (a logit of "
            "minus infinity) cannot be explained; NaN comes from the weights or from ids without "
            "an embedding."
        )
    _check_reach(query, found)
    if composite.seed == "score":
        each = zip(scores.reshape(-1), found.reshape(scores.size, -1), strict=True)
        warn_of_growth(max(times_the_score(*pair) for pair in each), growth_limit)
    result = _result(model, texts, query, scores, found, inside, per_dimension, skip_special)
    if not query.is_continuation:
        result = result._without_rows()
    return result[0] if texts.single else result


@dataclasses.dataclass(frozen=True, eq=False)
class _Query:
    """Texts with padding at the end, and which of their logits are explained."""

    ids: Int[np.ndarray, "b t"]
    lengths: Int[np.ndarray, " b"]
    positions: Int[np.ndarray, "b n"]
    targets: Int[np.ndarray, "b n"]
    contrast: Int[np.ndarray, "b n"] | None = None
    labels: tuple[str, ...] | None = None
    is_continuation: bool = False

    @property
    def mask(self) -> Bool[np.ndarray, "b t"]:
        return _mask(self.ids, self.lengths)


def _mask(ids: np.ndarray, lengths: np.ndarray) -> Bool[np.ndarray, "b t"]:
    return np.arange(ids.shape[1]) < lengths[:, None]


def _query(model: LanguageModel, texts: Texts, target: Target | None) -> _Query:
    """What is explained; without a target, what the model predicts."""
    ids = texts.packed(model.pad_id or 0).astype(np.int32)
    shape = model._shape_of_logits(*ids.shape)
    if target is None:
        target = NextToken() if len(shape) == 3 else ClassTarget()
    _check_kind(target, shape)
    labels = _labels(model, shape)
    if isinstance(target, Continuation):
        query = _continued(model, ids, texts.lengths, target)
    else:
        wanted, position = _wanted(target)
        positions = _positions(texts, position)
        if wanted is None:
            mask = _mask(ids, texts.lengths)
            chosen = np.asarray(model._predict(model.params, ids, mask, positions))
        else:
            chosen = _numbers(model, wanted, len(ids), "target", labels)[:, None]
        query = _Query(ids, texts.lengths, positions, chosen, labels=labels)
    _check_exists(query.targets, shape[-1], "target")
    return query


def _contrasted(model: LanguageModel, query: _Query, contrast: Any, outputs: int) -> _Query:
    """The same with a second token or class for each target."""
    batch, rows = query.targets.shape
    if query.is_continuation:
        other = _numbers(model, contrast, rows, "contrast", one="token")[None]
    else:
        other = _numbers(model, contrast, batch, "contrast", query.labels)[:, None]
    other = np.broadcast_to(other, query.targets.shape)
    _check_exists(other, outputs, "contrast")
    same = np.argwhere(other == query.targets).tolist()
    if same:
        sample, row = same[0]
        raise InputError(
            f"The contrast must differ from the target, but both are {other[sample, row]} for "
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

    return np.asarray([number(name) for name in _per_sample(given, count, what, one)], np.int64)


def _check_kind(target: Target, shape: tuple[int, ...]) -> None:
    per_class = len(shape) == 2
    if per_class != isinstance(target, ClassTarget):
        gives = f"{shape[-1]} scores per {'text' if per_class else 'token'}"
        right = "ClassTarget" if per_class else "NextToken, Continuation or AtPosition"
        raise InputError(
            f"The model gives {gives}, which {type(target).__name__} does not fit: use {right}."
        )


def _check_exists(chosen: np.ndarray, count: int, what: str) -> None:
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


def _positions(texts: Texts, position: Any) -> np.ndarray:
    """Positions in each text without its padding, one column."""
    lengths = texts.lengths
    given = np.asarray(_per_sample(position, len(lengths), "position"))
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise InputError(f"A position is an integer, got {position!r}.")
    for sample, (number, length) in enumerate(zip(given, lengths, strict=True)):
        if not -length <= number < length:
            raise InputError(
                f"Position {number} is outside of the text: sample {sample} has {length} tokens, "
                f"0 to {length - 1} (or -{length} to -1 from its end; padding does not count)."
            )
    return (given % lengths).astype(np.int32)[:, None]


def _per_sample(given: Any, count: int, what: str, one: str = "sample") -> list[Any]:
    if isinstance(given, str) or not np.iterable(given):
        return [given] * count
    each = list(given)
    if len(each) != count:
        raise InputError(
            f"There must be one {what} for all, or one per {one}: {count}, got {len(each)}."
        )
    return each


def _continued(
    model: LanguageModel, ids: np.ndarray, lengths: np.ndarray, target: Continuation
) -> _Query:
    """The texts with their continuation: row k explains token k of it by all before."""
    if target.length is not None:
        ids = _generated(model, ids, lengths, target.length)
        count = target.length
    else:
        added = _given(model, target.tokens, len(ids))
        count = added.shape[1]
        ids = np.pad(ids, ((0, 0), (0, count)), constant_values=model.pad_id or 0)
        np.put_along_axis(ids, lengths[:, None] + np.arange(count), added, axis=1)
    after = (lengths[:, None] + np.arange(count)).astype(np.int32)
    targets = np.take_along_axis(ids, after, axis=1)
    return _Query(ids, lengths + count, after - 1, targets, is_continuation=True)


def _given(model: LanguageModel, tokens: Any, batch: int) -> np.ndarray:
    if isinstance(tokens, str):
        rows = [encoded(model.tokenizer, tokens)] * batch
    elif len(tokens) and all(isinstance(part, str) for part in tokens):
        rows = [encoded(model.tokenizer, t) for t in _per_sample(tokens, batch, "continuation")]
    elif len(tokens) and np.iterable(tokens[0]):
        rows = [np.asarray(t) for t in _per_sample(tokens, batch, "continuation")]
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
    # One shape from the start: it compiles once.
    ids = np.pad(ids, ((0, 0), (0, count)), constant_values=model.pad_id or 0)
    for step in range(count):
        end = (lengths + step)[:, None]
        last = (end - 1).astype(np.int32)
        token = model._predict(model.params, ids, _mask(ids, lengths + step), last)
        np.put_along_axis(ids, end, np.asarray(token, ids.dtype), axis=1)
    return ids


def _check_reach(query: _Query, found: Float[np.ndarray, "b n t *d"]) -> None:
    """Whether tokens have relevance that the prediction must not depend on.

    Raises:
        InputError: padding has, or tokens that are yet to be predicted.
    """
    strength = np.abs(found) if found.ndim == 3 else np.abs(found).sum(-1)
    columns = np.arange(strength.shape[2])
    small = 1e-6 * strength.max(initial=0.0)
    padding = columns >= query.lengths[:, None, None]
    if (np.where(padding, strength, 0.0) > small).any():
        raise InputError(
            "Padding has relevance, so the model looks at it: `logits` must use its mask. Explain "
            "texts of different lengths one by one if it cannot."
        )
    ahead = columns > query.positions[:, :, None]
    if query.is_continuation and (np.where(ahead, strength, 0.0) > small).any():
        raise InputError(
            "The model looks ahead: tokens of the continuation depend on later ones. "
            "A continuation needs a causal model; AtPosition explains single tokens of others."
        )


def _result(
    model: LanguageModel,
    texts: Texts,
    query: _Query,
    scores: Float[np.ndarray, "b n"],
    found: Float[np.ndarray, "b n t *d"],
    inside: Any,
    per_dimension: bool,
    skip_special: bool,
) -> TokenRelevance:
    """Everything as the caller laid it out: padding where it was, a continuation at the end."""
    batch, width = texts.ids.shape
    added = query.ids.shape[1] - int(texts.lengths.max())
    ids = np.zeros((batch, width + added), np.int64)
    mask = np.ones_like(ids, bool)
    ids[:, :width], mask[:, :width] = texts.ids, texts.mask
    relevance = np.zeros((*found.shape[:2], width + added, *found.shape[3:]), found.dtype)
    for sample, length in enumerate(texts.lengths):
        end = length + added
        columns = [*texts.columns[sample, :length], *range(width, width + added)]
        ids[sample, width:] = query.ids[sample, length:end]
        relevance[sample][:, columns] = found[sample][:, :end]
    shown = mask.copy()
    if skip_special:
        shown &= ~np.isin(ids, list(special_ids(model.tokenizer)))
    return TokenRelevance(
        relevance=relevance.sum(-1) if per_dimension else relevance,
        score=scores,
        target=query.targets,
        contrast=query.contrast,
        ids=ids,
        mask=mask,
        shown=shown,
        per_dimension=relevance if per_dimension else None,
        inside=jax.tree.map(np.asarray, inside),
        tokens=tuple(pieces(model.tokenizer, row) for row in ids),
        target_names=_names(model, query, query.targets),
        contrast_names=_names(model, query, query.contrast),
    )


def _names(model: LanguageModel, query: _Query, chosen: Any) -> tuple[tuple[str, ...], ...]:
    """What each target is called."""
    if chosen is None:
        return ()
    if query.labels is not None:
        return tuple(tuple(f"class {query.labels[i]}" for i in row) for row in chosen.tolist())
    if model.tokenizer is None:
        return tuple(tuple(f"token {i}" for i in row) for row in chosen.tolist())
    return tuple(
        tuple(
            f"'{visible(piece.strip(' '))}' ({i})"
            for i, piece in zip(row, pieces(model.tokenizer, row), strict=True)
        )
        for row in chosen.tolist()
    )
