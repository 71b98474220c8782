"""What circuits cost: all nodes and edges, next to gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

import relprop
from benchmarks.architectures import ARCHITECTURES, Transformer
from benchmarks.measure import absolute, compare
from benchmarks.results import Options, Result
from relprop.places import Branches, Heads, Stream

COLUMNS = ("flops", "memory", "wall", "staging")
PARTS = ("query", "key", "value", "pattern", "output")
NODES = (*map(Heads, PARTS), Branches(), Stream())
RULES = {"AtP": relprop.rules.Gradient(), "RelP": relprop.presets.relp()}
BOUNDS = {"nodes": 1.3, "edges": 3.0}


def results(options: Options) -> Iterator[Result]:
    """Nodes relative to two of `jax.value_and_grad`, edges likewise."""
    gpt2 = ARCHITECTURES["GPT-2 small"]
    assert isinstance(gpt2, Transformer)
    architecture = dataclasses.replace(gpt2, tokens=64)
    if options.quick:
        small: dict[str, Any] = {"width": 48, "hidden": 96, "heads": 4, "groups": 4, "depth": 1}
        architecture = dataclasses.replace(architecture, tokens=8, classes=10, **small)
    model = architecture.model(1)
    name = f"GPT-2, {architecture.depth} layers, {architecture.tokens} tokens"
    if not options.wants(name):
        return
    x, weights = model.initialised() if options.runs else (model.x, model.weights)

    def two(x, y, weights):
        return [jax.value_and_grad(model.score)(a, weights) for a in (x, y)]

    def circuits(kind, rules):
        def run(x, y, weights):
            pair = (x, weights), (y, weights)
            if kind == "edges":
                return relprop.patching.edges(model.score, *pair, rules, on_suspicion="ignore")
            return relprop.patching.nodes(
                model.score, *pair, rules, places=NODES, on_suspicion="ignore"
            )

        return run

    some = dict([*RULES.items()][-1:]) if options.quick else RULES
    kinds = {f"{kind}, {name}": (kind, rules) for kind in BOUNDS for name, rules in some.items()}
    functions = {"two value_and_grad": two} | {n: circuits(*pair) for n, pair in kinds.items()}
    base, *costs = compare(functions, x, x, weights, runs=options.runs).values()
    yield Result("circuits", name, "two value_and_grad", base.amounts, note=absolute(base))
    for (subject, (kind, _)), cost in zip(kinds.items(), costs, strict=True):
        ratios, bound = cost.relative_to(base), {"flops": BOUNDS[kind]}
        yield Result("circuits", name, subject, cost.amounts, ratios, bound)
