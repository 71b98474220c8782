"""What explanations of large models cost, relative to `jax.value_and_grad`, and what they may."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax

import relprop
from benchmarks.architectures import ARCHITECTURES, ConvNet, Loop, Model, Transformer
from benchmarks.measure import absolute, compare
from benchmarks.results import Options, Result
from relprop.rules import AlphaBeta, Epsilon, Gamma, Zero, ZPlus

COLUMNS = ("flops", "memory", "wall", "staging")
LINEAR = {
    "LRP-0": Zero(),
    "epsilon": Epsilon(),
    "AttnLRP": relprop.presets.attn_lrp(),
    "CP-LRP": relprop.presets.cp_lrp(),
}
SIGNED = {"gamma": Gamma(), "z+": ZPlus(), "alpha-beta": AlphaBeta()}
TRANSFORMERS = ("ViT-B/16", "BERT-base", "GPT-2 small", "Llama, 12 layers")
IMAGES = ("VGG16", "ResNet-50", "ViT-B/16")

LOOP = {"flops": 1.4, "memory": 1.15, "wall": 1.5}


@dataclasses.dataclass(frozen=True)
class Row:
    """Models with rules, and the largest ratios to `jax.value_and_grad` that are accepted.

    Attributes:
        models: names of architectures.
        rules: by their names.
        bounds: per column of the measurements.
        loops: how the layers of transformers are written.
    """

    models: tuple[str, ...]
    rules: Mapping[str, Any]
    bounds: Mapping[str, float]
    loops: tuple[Loop, ...] = ("unrolled",)

    def functions(self, batches: tuple[int, ...], quick: bool) -> Iterator[tuple[str, Model]]:
        """The functions of the row with their names; quick: the first one, in miniature."""
        for name in self.models[: 1 if quick else None]:
            architecture = _miniature(ARCHITECTURES[name]) if quick else ARCHITECTURES[name]
            for loop in self.loops[: 1 if quick else None]:
                if isinstance(architecture, Transformer):
                    architecture = dataclasses.replace(architecture, loop=loop)
                for batch in batches:
                    yield f"{name}, {loop}, batch {batch}", architecture.model(batch)


ROWS = (
    Row(TRANSFORMERS, LINEAR, {"flops": 1.05, "memory": 1.15, "wall": 1.10, "staging": 1.5}),
    Row(IMAGES, SIGNED, {"flops": 2.1, "memory": 1.5, "wall": 2.3, "staging": 1.5}),
    Row(TRANSFORMERS, LINEAR, LOOP | {"staging": 1.5}, loops=("checkpoint",)),
    Row(TRANSFORMERS, LINEAR, LOOP | {"staging": 1.2}, loops=("scan", "scan of checkpoints")),
)


def results(options: Options) -> Iterator[Result]:
    """A result per function and rule. Staging is tracing and compiling together."""
    for row in ROWS:
        for name, model in row.functions(options.batches, options.quick):
            if not options.wants(name):
                continue
            args = model.initialised() if options.runs else (model.x, model.weights)
            explained = {
                n: relprop.value_and_relevance(model.score, r) for n, r in row.rules.items()
            }
            gradient = {"value_and_grad": jax.value_and_grad(model.score)}
            base, *costs = compare(gradient | explained, *args, runs=options.runs).values()
            yield Result("bounds", name, "value_and_grad", base.amounts, note=absolute(base))
            for rule, cost in zip(row.rules, costs, strict=True):
                yield Result("bounds", name, rule, cost.amounts, cost.relative_to(base), row.bounds)


def _miniature(architecture: Transformer | ConvNet) -> Transformer | ConvNet:
    if isinstance(architecture, ConvNet):
        return dataclasses.replace(architecture, size=32)
    tokens = 17 if architecture.kind == "vit" else 16
    small = {"width": 48, "hidden": 96, "heads": 4, "groups": 4, "depth": 1, "classes": 10}
    return dataclasses.replace(architecture, tokens=tokens, **small)
