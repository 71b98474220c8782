"""Hops through reasoning, measured on planted chains: how much of what is needed is found.

    python -m evidence.hops [--samples N]

Prints the table of docs/how-to/explain-text.md, and who leads. Recovery at 10 %: of the tokens that
are needed, how many are among the tenth of the source that a method ranks highest. Each text has as
many hops as statements are needed; the shares or relevance of all hops are added up.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from evidence import chains, flashtrace
from relprop import presets, tokens
from relprop.evaluation._rows import bootstrap
from relprop.tokens import _compute, _passes

RULES = {"attn_lrp": presets.attn_lrp(), "cp_lrp": presets.cp_lrp(), "relp": presets.relp()}
DEPTHS = tuple(range(1, chains.DEPTH + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=48, help="texts per model and depth")
    given = parser.parse_args()
    models = [chains.load(seed) for seed in chains.SEEDS]
    print(f"| method | {' | '.join(f'{d} needed' for d in DEPTHS)} | cost of one hop |")
    print(f"| --- |{' ---: |' * (len(DEPTHS) + 1)}")
    texts = {depth: chains.chains(given.samples, seed=0, depth=depth) for depth in DEPTHS}
    for name, method in methods().items():
        cells = []
        for data in texts.values():
            found = np.concatenate([of_texts(method, params, data) for params in models])
            low, high = bootstrap(found, seed=0)
            cells.append(f"{found.mean():.2f} [{low:.2f}, {high:.2f}]")
        rules = RULES.get(name)
        cells.append(f"{cost(models[0], texts[1], rules):.2f}" if rules else "-")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    for depth, data in texts.items():
        reading, found = best_reading(models, data)
        print(f"{depth} needed: {reading} is the best reading of FlashTrace, {found:.2f}")


def methods() -> dict[str, Callable[..., Any]]:
    """From parameters to a function of a text, its data and a number of hops: scores of tokens."""
    found: dict[str, Any] = {
        name: functools.partial(by_relevance, rules=rules) for name, rules in RULES.items()
    }
    found["attn_lrp, signed"] = functools.partial(
        by_relevance, rules=RULES["attn_lrp"], signed=True
    )
    found["attn_lrp, no hop"] = without_hops
    for name, direct in (("direct", True), ("routes", False)):
        reading = functools.partial(by_flashtrace, reading=(direct, True, True))
        found[f"FlashTrace, {name}"] = reading
    return found | {"chance": by_chance}


def best_reading(models: Sequence[Any], data: chains.Chains) -> tuple[str, float]:
    """The reading of FlashTrace that finds most in these texts, and how much that is."""
    found = {
        reading: np.mean(
            [
                of_texts(functools.partial(by_flashtrace, reading=reading), params, data)
                for params in models
            ]
        )
        for reading in flashtrace.READINGS
    }
    best = max(found, key=lambda reading: found[reading])
    words = (("direct", "routes"), ("before", "at the token"), ("summed", "the last hop"))
    said = ", ".join(pair[not is_first] for pair, is_first in zip(words, best, strict=True))
    return said, float(found[best])


def by_relevance(params: Any, **options: Any) -> Callable[..., Any]:
    model = chains.language_model(params)

    def scores(ids: Any, data: chains.Chains, hops: int) -> Any:
        target = tokens.Span(within=data.answer)
        return tokens.hops(model, ids, target, data.reasoning, hops, **options).sum(0)

    return scores


def without_hops(params: Any) -> Callable[..., Any]:
    model = chains.language_model(params)

    def scores(ids: Any, data: chains.Chains, hops: int) -> Any:
        return tokens.explain(model, ids, tokens.Span(within=data.answer)).relevance

    return scores


def by_flashtrace(params: Any, reading: tuple[bool, bool, bool]) -> Callable[..., Any]:
    direct, before, summed = reading

    def scores(ids: Any, data: chains.Chains, hops: int) -> Any:
        run = flashtrace.layers(params, ids)
        rows = flashtrace.flashtrace(run, data.answer, data.reasoning, hops, direct, before)
        return rows.sum(0) if summed else rows[-1]

    return scores


def by_chance(params: Any) -> Callable[..., Any]:
    rng = np.random.default_rng(0)
    return lambda ids, data, hops: rng.random(len(ids))


def of_texts(
    method: Callable[..., Any], params: Any, data: chains.Chains
) -> Float[np.ndarray, " n"]:
    """Recovery in each text, with as many hops as statements are needed."""
    scores = method(params)
    hops = (data.reasoning[1] - data.reasoning[0]) // 3
    return np.array(
        [
            recovery(scores(ids, data, hops), needed, data.source)
            for ids, needed in zip(data.ids, data.needed, strict=True)
        ]
    )


def recovery(scores: Any, needed: Any, source: Any, share: float = 0.1) -> float:
    """How much of what is needed is in the share of the source with the highest scores."""
    ranked = np.argsort(-np.where(source, scores, -np.inf), kind="stable")
    return float(needed[ranked[: int(share * source.sum())]].sum() / needed.sum())


def cost(params: Any, data: chains.Chains, rules: Any, count: int = 1) -> float:
    """Operations of an answer and its hops, as XLA counts them, per those of one explanation."""
    model = chains.language_model(params)
    settings = {"rules": rules, "on_missing": "error", "on_suspicion": "warn", "of": "logit"}
    ids = data.ids[:1]
    whole, one = np.ones(ids.shape, bool), np.ones((1, 1, 1), np.int32)
    explain = functools.partial(
        _compute.relevance, model, places=(), per_dimension=False, **settings
    )
    alone = _operations(explain, params, ids, whole, one, one, None, None)
    hop = functools.partial(_passes.relevance_of_hops, model, count=count, signed=False, **settings)
    steps = np.arange(*data.reasoning, dtype=np.int32)
    answer = (one[0, 0], one[0, 0], None, np.ones(1, np.float32))
    chain = (steps - 1, steps, np.ones(len(steps), np.float32))
    return _operations(hop, params, ids, whole, *answer, *chain) / alone


def _operations(function: Any, *args: Any) -> float:
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


if __name__ == "__main__":
    main()
