"""``python -m benchmarks.bounds``: what explanations of large models cost, and what they may.

By default nothing is run: functions are compiled for shapes alone, and XLA counts.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import jax
import typer
from rich.console import Console
from rich.table import Table

import relprop
from benchmarks.architectures import ARCHITECTURES, Loop, Model, Transformer
from benchmarks.measure import measure
from relprop.rules import AlphaBeta, Epsilon, Gamma, Zero, ZPlus

LINEAR = {
    "LRP-0": Zero(),
    "epsilon": Epsilon(),
    "AttnLRP": relprop.presets.attn_lrp(),
    "CP-LRP": relprop.presets.cp_lrp(),
}
SIGNED = {"gamma": Gamma(), "z+": ZPlus(), "alpha-beta": AlphaBeta()}
TRANSFORMERS = ("ViT-B/16", "BERT-base", "GPT-2 small", "Llama, 12 layers")
IMAGES = ("VGG16", "ResNet-50", "ViT-B/16")


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

    def functions(self, batch: int) -> Iterator[tuple[str, Model]]:
        """The functions of the row with their names."""
        for name in self.models:
            for loop in self.loops:
                architecture = ARCHITECTURES[name]
                if isinstance(architecture, Transformer):
                    architecture = dataclasses.replace(architecture, loop=loop)
                yield f"{name}, {loop}, batch {batch}", architecture.model(batch)


ROWS = (
    Row(TRANSFORMERS, LINEAR, {"flops": 1.05, "memory": 1.15, "wall": 1.10, "staging": 1.5}),
    Row(IMAGES, SIGNED, {"flops": 2.1, "memory": 1.5, "wall": 2.3, "staging": 1.5}),
    Row(
        TRANSFORMERS,
        LINEAR,
        {"flops": 1.4, "memory": 1.15, "wall": 1.5, "staging": 1.2},
        loops=("checkpoint", "scan", "scan of checkpoints"),
    ),
)
COLUMNS = ("flops", "memory", "wall", "staging")


def main(
    only: Annotated[str, typer.Option(help="Measure functions whose name contains this.")] = "",
    rules: Annotated[str, typer.Option(help="Measure rules whose name contains this.")] = "",
    batches: Annotated[list[int], typer.Option("--batch", help="Entries of a batch.")] = [1],  # noqa: B006
    out: Annotated[pathlib.Path | None, typer.Option(help="Write the numbers as JSON.")] = None,
    runs: Annotated[int, typer.Option(help="Runs per function; 0 counts without running.")] = 0,
) -> None:
    """Prints a row per function and rule: ratios to `jax.value_and_grad`, a ! where over bounds.

    Staging is tracing and compiling together.
    """
    console = Console()
    console.print(f"jax {jax.__version__}, relprop {relprop.__version__}, batches {batches}")
    table = Table("function", "rule", *COLUMNS)
    results = []
    for row in ROWS:
        for name, model in (f for batch in batches for f in row.functions(batch)):
            if only not in name:
                continue
            args = model.initialised() if runs else (model.x, model.weights)
            base = measure(jax.value_and_grad(model.score), *args, runs=runs)
            for rule_name, rule in row.rules.items():
                if rules not in rule_name:
                    continue
                explain = relprop.value_and_relevance(model.score, rule)
                cost = measure(explain, *args, runs=runs)
                ratios = cost.relative_to(base)
                table.add_row(name, rule_name, *(_cell(ratios[c], row.bounds[c]) for c in COLUMNS))
                results.append(
                    {"function": name, "rule": rule_name, "base": dataclasses.asdict(base)}
                    | {"cost": dataclasses.asdict(cost), "ratio": ratios}
                )
    console.print(table)
    if out is not None:
        out.write_text(json.dumps(results, indent=1))


def _cell(ratio: float, bound: float) -> str:
    return f"{ratio:.2f}" + " !" * (ratio > bound)


if __name__ == "__main__":
    typer.run(main)
