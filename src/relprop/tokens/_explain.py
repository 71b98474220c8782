"""The one call: a model, a text and what of its prediction is to be explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from relprop import presets
from relprop._errors import InputError
from relprop._growth import A_LOT, times_the_score, warn_of_growth
from relprop.composites import composite_of
from relprop.places.kinds import places_of
from relprop.tokens._lengths import chunks
from relprop.tokens._model import LanguageModel
from relprop.tokens._query import Query, query_of
from relprop.tokens._result import TokenRelevance
from relprop.tokens._run import relevance
from relprop.tokens._targets import Target
from relprop.tokens._text import Texts, pieces, read, special_ids, term_name


def explain(
    model: LanguageModel,
    text: Any,
    target: Target | None = None,
    *,
    contrast: Any = None,
    rules: Any = None,
    mask: Any = None,
    skip_special: bool = False,
    skip_first: int = 0,
    per_dimension: bool = False,
    places: Any = (),
    rows_at_once: int = 16,
    lengths: str | Sequence[int] | None = None,
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
        skip_first: likewise, how many tokens at the beginning of each text to leave out: models
            often use the first as an attention sink, whose relevance says little of the text.
        per_dimension: also return the relevance of each feature.
        places: relevance at places inside of the model as well, such as
            ``"model/layers/*"``; as for `relprop.relevance`.
        rows_at_once: of a continuation, how many tokens are explained at once: more share a
            forward pass and its memory.
        lengths: what texts are padded to, so that those of many lengths share a compiled program:
            ``"buckets"`` are 16, 32, 64, 112, 192, 320, 512 and so on; a sequence has others;
            ``"exact"`` is no padding, and the default where `places` are asked for, whose values
            would have it. A width that you have padded to is kept. Padding changes no relevance but
            by rounding: models that look at it, or that cannot take it, are not padded.
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
    >>> from relprop.tokens import NextToken
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
    if skip_first < 0:
        raise InputError(f"`skip_first` counts tokens, got {skip_first}.")
    composite = composite_of(presets.attn_lrp() if rules is None else rules)
    texts, inner = read(model, text, mask), places_of(places)
    if lengths is None:
        lengths = "exact" if inner else "buckets"
    query = query_of(model, texts, target, contrast, lengths)
    scores, found, inside = _computed(
        model,
        query,
        rows_at_once,
        rules=composite,
        on_missing=on_missing,
        on_suspicion=on_suspicion,
        places=inner,
        per_dimension=per_dimension,
    )
    if not np.isfinite(scores).all():
        raise InputError(
            f"The explained logits are not finite: {scores.tolist()}. Ruled out tokens (a logit of "
            "minus infinity) cannot be explained; NaN comes from the weights or from ids without "
            "an embedding."
        )
    check_reach(query, found)
    if composite.seed == "score":
        each = zip(scores.reshape(-1), found.reshape(scores.size, -1), strict=True)
        warn_of_growth(max(times_the_score(*pair) for pair in each), growth_limit)
    result = _result(model, texts, query, scores, found, inside, per_dimension)
    result = result._without(_special(model) if skip_special else (), skip_first)
    if not query.is_continuation:
        result = result._without_rows()
    return result[0] if texts.single else result


def _special(model: LanguageModel) -> frozenset[int]:
    mark = frozenset[int]() if model.start is None else frozenset({model.start})
    return special_ids(model.tokenizer) | mark


def _computed(
    model: LanguageModel, query: Query, rows_at_once: int, **settings: Any
) -> tuple[np.ndarray, np.ndarray, Any]:
    """Scores, relevance and what is inside, of all rows, some of them at a time."""
    terms = (query.positions, query.targets, query.contrast, query.weights)
    parts = []
    for begin, end, size in chunks(query.targets.shape[1], rows_at_once):
        # Few sizes compile; what is missing is filled up with the last row.
        rows = np.minimum(np.arange(begin, begin + size), end - 1)
        chosen = [None if x is None else x[:, rows] for x in few_terms(*terms)]
        out = relevance(model, query.ids, query.mask, *chosen, of=query.of, **settings)
        parts.append(jax.tree.map(lambda x, n=end - begin: np.asarray(x)[:, :n], out))
    return jax.tree.map(lambda *each: np.concatenate(each, axis=1), *parts)


def few_terms(positions: Any, targets: Any, contrast: Any, weights: Any) -> tuple[Any, ...]:
    """Terms filled up to one of few counts, with weights of 0: each count is compiled for."""
    count = targets.shape[-1]
    ((_, _, size),) = chunks(count, 2 * count)
    if size == count:
        return positions, targets, contrast, weights
    weights = np.ones(targets.shape, np.float32) if weights is None else weights
    fill = ((0, 0), (0, 0), (0, size - count))
    each = (positions, targets, contrast)
    filled = (None if x is None else np.pad(x, fill, mode="edge") for x in each)
    return *filled, np.pad(weights, fill)


def check_reach(query: Query, found: Float[np.ndarray, "b n t *d"]) -> None:
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
            "Padding has relevance, so the model looks at it: `logits` must use its mask. If it "
            'cannot, explain texts of different lengths one by one, with `lengths="exact"`.'
        )
    ahead = columns > query.positions.max(-1, keepdims=True)
    if (query.is_continuation or query.is_span) and (np.where(ahead, strength, 0.0) > small).any():
        raise InputError(
            "The model looks ahead: tokens of the continuation depend on later ones. "
            "A continuation needs a causal model; AtPosition explains single tokens of others."
        )


def _result(
    model: LanguageModel,
    texts: Texts,
    query: Query,
    scores: Float[np.ndarray, "b n"],
    found: Float[np.ndarray, "b n t *d"],
    inside: Any,
    per_dimension: bool,
) -> TokenRelevance:
    """Everything as the caller laid it out: padding where it was, a continuation at the end."""
    batch, width = texts.ids.shape
    contrast = query.contrast
    added = query.added
    ids = np.zeros((batch, width + added), np.int64)
    mask = np.ones_like(ids, bool)
    ids[:, :width], mask[:, :width] = texts.ids, texts.mask
    relevance = np.zeros((*found.shape[:2], width + added, *found.shape[3:]), found.dtype)
    for sample, length in enumerate(texts.lengths):
        end = length + added
        columns = [*texts.columns[sample, :length], *range(width, width + added)]
        ids[sample, width:] = query.ids[sample, length:end]
        relevance[sample][:, columns] = found[sample][:, :end]
    return TokenRelevance(
        relevance=relevance.sum(-1) if per_dimension else relevance,
        score=scores,
        target=query.targets if query.is_span else query.targets[..., 0],
        contrast=None if contrast is None else contrast if query.is_span else contrast[..., 0],
        ids=ids,
        mask=mask,
        shown=mask,
        per_dimension=relevance if per_dimension else None,
        inside=jax.tree.map(np.asarray, inside),
        tokens=tuple(pieces(model.tokenizer, row, model.start) for row in ids),
        target_names=_names(model, query, query.targets),
        contrast_names=_names(model, query, query.contrast),
    )


def _names(model: LanguageModel, query: Query, chosen: Any) -> tuple[tuple[str, ...], ...]:
    """What each target is called."""
    if chosen is None:
        return ()
    return tuple(
        tuple(term_name(model.tokenizer, query.labels, row) for row in rows)
        for rows in chosen.tolist()
    )
