"""Relevance through a chain of reasoning: from the answer to the chain, and on to the text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from relprop import presets
from relprop._errors import InputError
from relprop._growth import A_LOT, times_the_score, warn_of_growth
from relprop.composites import composite_of
from relprop.tokens._explain import check_reach, few_terms
from relprop.tokens._model import LanguageModel
from relprop.tokens._query import Query, query_of
from relprop.tokens._run import relevance_of_hops
from relprop.tokens._targets import Span
from relprop.tokens._text import read


def hops(
    model: LanguageModel,
    text: Any,
    target: Span,
    chain: tuple[int, int],
    count: int = 1,
    *,
    signed: bool = False,
    contrast: Any = None,
    rules: Any = None,
    mask: Any = None,
    lengths: str | Sequence[int] = "buckets",
    on_missing: Any = "error",
    on_suspicion: str = "warn",
    growth_limit: float = A_LOT,
) -> Float[np.ndarray, "hops t"]:
    r"""Relevance of the tokens of one text through a chain of reasoning in it, hop by hop.

    An answer is often read off the last step of the reasoning before it. So the relevance that the
    tokens of the chain got is where the next explanation begins: of their logits, weighted by

    .. math:: w_t = |R_t| / \sum_{s \in \text{chain}} |R_s|,

    which is one pass for the whole chain. All passes share one evaluation of the model, so that a
    hop costs about half of an explanation. The sum over the hops, ``hops(...).sum(0)``, ranks the
    tokens of the text by all of them.

    Args:
        model: as for `explain`.
        text: one text, the chain in it.
        target: the answer.
        chain: where the reasoning is in the text: its first position and that after its last.
        count: how many hops.
        signed: whether weights have the signs of the relevance, so that what a token of the chain
            comes from counts against the answer if that token did. On planted chains, where it is
            known what is needed, less of that is found so.
        contrast: as for `explain`, of the answer.
        rules: as for `explain`.
        mask: as for `explain`.
        lengths: as for `explain`.
        on_missing: as for `explain`.
        on_suspicion: as for `explain`.
        growth_limit: as for `explain`; of each hop by itself.

    Returns:
        Relevance of each token per hop, the first row that for the answer itself. The rows that
        follow are in units of logits of the chain.

    Raises:
        InputError: as for `explain`, or several texts were given, or no hop, or a chain after the
            answer.
        MissingRuleError, RuleError, NothingMatchedError: as for `relprop.relevance`.

    >>> import jax.numpy as jnp
    >>> from relprop import tokens
    >>> model = tokens.LanguageModel(
    ...     embed=lambda params, ids: params[ids],
    ...     logits=lambda params, embeds, ids, mask: jnp.cumsum(embeds, 1) @ params.T,
    ...     params=jnp.eye(4) + 1,
    ... )
    >>> hops(model, [0, 1, 2], tokens.Span([3]), chain=(1, 3)).shape
    (2, 4)

    Source: Pan et al. 2026, FlashTrace, for the hops; there with other contributions.
    """
    if count < 1:
        raise InputError(f"`count` must be at least 1, got {count}.")
    if not isinstance(target, Span):
        raise InputError(f"The answer must be a Span(...), got {target!r}.")
    texts = read(model, text, mask)
    if not texts.single:
        raise InputError("Hops go through one text: explain the texts of a batch one by one.")
    composite = composite_of(presets.attn_lrp() if rules is None else rules)
    query = query_of(model, texts, target, contrast, lengths)
    part = query_of(model, texts, Span(within=chain), None, lengths)
    _check_order(chain, query)
    (positions, targets, against, weights), steps = _terms(query), _terms(part)
    scores, found = relevance_of_hops(
        model,
        query.ids,
        query.mask,
        positions,
        targets,
        against,
        weights,
        steps[0],
        steps[1],
        steps[3],
        count=count,
        signed=signed,
        rules=composite,
        on_missing=on_missing,
        on_suspicion=on_suspicion,
        of=target.of,
    )
    if not np.isfinite(scores).all():
        raise InputError(f"The explained logits are not finite: {scores.tolist()}.")
    check_reach(query, found[None, :1])
    check_reach(dataclasses.replace(part, lengths=query.lengths), found[None, 1:])
    if composite.seed == "score":
        warn_of_growth(max(map(times_the_score, scores, found), default=0.0), growth_limit)
    out = np.zeros((count + 1, texts.ids.shape[1] + query.added), found.dtype)
    length = int(texts.lengths[0])
    columns = [*texts.columns[0, :length], *range(out.shape[1] - query.added, out.shape[1])]
    out[:, columns] = found[:, : length + query.added]
    return out


def _check_order(chain: tuple[int, int], query: Query) -> None:
    """Whether any of a chain is before the answer."""
    last = int(query.positions.max())
    if chain[0] > last:
        raise InputError(
            f"The chain begins at position {chain[0]}, but what the answer is predicted from ends "
            f"at {last}: give a chain before the answer."
        )


def _terms(query: Query) -> list[Any]:
    """Positions, targets, contrast and weights of the terms of a sum, as many as compile."""
    terms = few_terms(query.positions, query.targets, query.contrast, query.weights)
    weights = np.ones(terms[1].shape, np.float32) if terms[3] is None else terms[3]
    return [None if x is None else x[0, 0] for x in (*terms[:3], weights)]
