"""Whether cost grows as that of the gradient does: over sequence length, depth and batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax

import relprop
from benchmarks.architectures import Transformer
from benchmarks.measure import absolute, compare
from benchmarks.results import Options, Result
from relprop.rules import AlphaBeta, Epsilon

COLUMNS = ("flops", "memory", "wall", "staging")
BOUNDS = {"flops": 1.05, "memory": 1.15, "wall": 1.10, "staging": 1.5}
SIGNED_BOUNDS = {"flops": 2.1, "memory": 1.5, "wall": 2.3, "staging": 1.5}
RULES = {
    "epsilon": (Epsilon(), BOUNDS),
    "AttnLRP": (relprop.presets.attn_lrp(), BOUNDS),
    "alpha-beta": (AlphaBeta(), SIGNED_BOUNDS),
}
BASE = Transformer(
    "gpt2", tokens=128, width=256, hidden=1024, heads=4, groups=4, depth=6, classes=100
)
SWEEPS = {
    "tokens": (128, 256, 512, 1024, 2048),
    "depth": (3, 6, 12, 24),
    "batch": (1, 2, 4, 8, 16),
}


def results(options: Options) -> Iterator[Result]:
    """A result per size and rule, one size varied at a time."""
    for swept, sizes in SWEEPS.items():
        for size in sizes[:1] if options.quick else sizes:
            case = f"{swept} {size}"
            if not options.wants(case):
                continue
            model = _transformer(swept, size, options.quick)
            args = model.initialised() if options.runs else (model.x, model.weights)
            functions = {
                n: relprop.value_and_relevance(model.score, r) for n, (r, _) in RULES.items()
            }
            gradient = {"value_and_grad": jax.value_and_grad(model.score)}
            base, *costs = compare(gradient | functions, *args, runs=options.runs).values()
            yield Result("scaling", case, "value_and_grad", base.amounts, note=absolute(base))
            for (rule, (_, bounds)), cost in zip(RULES.items(), costs, strict=True):
                ratios = cost.relative_to(base)
                yield Result("scaling", case, rule, cost.amounts, ratios, bounds)


def _transformer(swept: str, size: int, quick: bool):
    base = BASE
    if quick:
        base = dataclasses.replace(base, tokens=8, width=16, hidden=32, depth=1)
    if swept == "batch":
        return base.model(batch=size)
    return dataclasses.replace(base, **{swept: 8 if quick else size}).model(batch=1)
