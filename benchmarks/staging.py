"""Trace and compile time relative to that of `jax.value_and_grad`: what the first call costs.

All later calls of a jitted explanation trace nothing; the last column of the results counts it.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

import relprop
from benchmarks.architectures import Loop, Transformer
from benchmarks.measure import absolute, compare
from benchmarks.results import Options, Result
from relprop.rules import AlphaBeta, Epsilon

COLUMNS = ("trace", "compile", "staging", "traces of a second call")
BOUNDS: dict[Loop, float] = {"unrolled": 1.5, "scan": 1.2}
RULES = {
    "epsilon": Epsilon(),
    "AttnLRP": relprop.presets.attn_lrp(),
    "alpha-beta": AlphaBeta(),
}


def results(options: Options) -> Iterator[Result]:
    """A result per way to write the layers, depth and rule; the quickest of several stagings."""
    for loop, bound in BOUNDS.items():
        for depth in (1,) if options.quick else (12, 24):
            case = f"GPT-2, {depth} layers of width 256, {loop}"
            if not options.wants(case):
                continue
            model = Transformer(
                "gpt2", tokens=64, width=256, hidden=1024, heads=4, groups=4, depth=depth,
                classes=100, loop=loop,
            ).model(batch=1)  # fmt: skip
            functions = {n: relprop.value_and_relevance(model.score, r) for n, r in RULES.items()}
            base, *costs = compare(
                {"": jax.value_and_grad(model.score), **functions},
                model.x,
                model.weights,
                stagings=1 if options.quick else 2,
            ).values()
            yield Result("staging", case, "value_and_grad", base.amounts, note=absolute(base))
            for rule, cost in zip(RULES, costs, strict=True):
                again = {"traces of a second call": float(_traces_of_a_second_call(RULES[rule]))}
                bounds = {"staging": bound, "traces of a second call": 0.0}
                ratios = cost.relative_to(base) | again
                yield Result("staging", case, rule, cost.amounts, ratios, bounds)


def _traces_of_a_second_call(rule) -> int:
    traces = 0

    def score(x, w):
        nonlocal traces
        traces += 1
        return jax.nn.relu(x @ w).sum()

    explain = jax.jit(relprop.relevance(score, rule))
    x, w = jnp.ones((1, 4)), jnp.ones((4, 4))
    explain(x, w)
    first = traces
    explain(x, w)
    return traces - first
