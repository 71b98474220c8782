"""Relevance taken back again and again through one evaluation of a language model."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from relprop._core.forward import forward
from relprop._core.relevance import Relevance
from relprop._run import Run
from relprop.tokens._compute import logits_of, scores_at
from relprop.tokens._model import LanguageModel


def relevance_of_hops(
    model: LanguageModel,
    params: Any,
    ids: Int[Array, "1 t"],
    mask: Bool[Array, "1 t"],
    positions: Int[Array, " k"],
    targets: Int[Array, " k"],
    contrast: Int[Array, " k"] | None,
    weights: Float[Array, " k"],
    before: Int[Array, " c"],
    chain: Int[Array, " c"],
    there: Float[Array, " c"],
    *,
    count: int,
    signed: bool,
    rules: Any,
    on_missing: Any,
    on_suspicion: str,
    of: str,
) -> tuple[Float[Array, " hops"], Float[Array, "hops t"]]:
    r"""The explained sum of logits and the relevance of the tokens, of an answer and hop by hop.

    The sum is that of `_compute.relevance`. One pass forward, and for each row one pass back from
    logits that are in it:

    .. math:: \sum_i w_i z_{p_i v_i},

    at first of the answer, then of the chain, whose weights are the shares that its tokens had.

    The logits of the answer are those of `targets` at `positions`, as there; those of the `chain`
    are at the positions `before` each of its tokens, and `there` is 0 for what only fills up.
    """
    embeds = model.embed(params, ids)

    def terms(params, embeds, ids, mask, positions, targets, contrast):
        rows = scores_at(model, params, embeds, ids, mask, positions)
        split = len(positions) - len(before)
        first = logits_of(rows[:split], targets[:split], contrast, of)
        return first, logits_of(rows[split:], targets[split:], None, of)

    both = jnp.concatenate([positions, before]), jnp.concatenate([targets, chain])
    args = (params, embeds, ids, mask, *both, contrast)
    run = Run.start(
        terms, args, 1, rules, on_missing, False, scalar=False, on_suspicion=on_suspicion
    )
    values, tape = forward(run.plan, run.trace.arrays)
    scored = rules.seed == "score"
    seeds: list[Relevance | None] = [_seed(weights, scored), None]
    scores, found = [(values[0] * weights).sum()], []
    for hop in range(count + 1):
        leaving, _ = run.backward(tape, seeds)
        found.append(run.result(leaving, tape, 1)[0].sum(-1))
        inside = found[-1][before + 1] * there
        size = jnp.abs(inside)
        shares = (inside if signed else size) / jnp.where(jnp.any(size > 0), size.sum(), 1)
        seeds = [None, _seed(shares, scored)]
        if hop < count:
            scores.append((values[1] * shares).sum())
    return jnp.stack(scores), jnp.stack(found)


def _seed(weights: Any, scored: bool) -> Relevance:
    """Relevance of terms of a weighted sum: the terms of it, or of a derivative the weights."""
    return Relevance(multiplier=weights) if scored else Relevance(share=weights)
