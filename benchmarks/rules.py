"""Every rule on small models, relative to `jax.value_and_grad`."""

from __future__ import annotations

from collections.abc import Iterator

import jax

import relprop
from benchmarks.measure import compare
from benchmarks.models import MODELS
from benchmarks.results import Options, Result
from relprop.rules import AlphaBeta, Epsilon, Gamma, Gradient, Zero, ZPlus

COLUMNS = ("flops", "memory", "wall", "trace", "compile")
RULES = {
    "gradient": Gradient(),
    "LRP-0": Zero(),
    "epsilon": Epsilon(),
    "gamma": Gamma(),
    "z+": ZPlus(),
    "alpha-beta": AlphaBeta(),
}


def results(options: Options) -> Iterator[Result]:
    """A result per model and rule."""
    models = {name: make for name, make in MODELS.items() if options.wants(name)}
    for name in list(models)[: 1 if options.quick else None]:
        score, x, weights = models[name]()
        explained = {n: relprop.value_and_relevance(score, rule) for n, rule in RULES.items()}
        base, *costs = compare(
            {"": jax.value_and_grad(score), **explained}, x, weights, runs=options.runs
        ).values()
        case = f"{name}, input {'x'.join(map(str, x.shape))}"
        for rule, cost in zip(RULES, costs, strict=True):
            yield Result("rules", case, rule, cost.amounts, cost.relative_to(base))
