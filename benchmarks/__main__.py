"""``python -m benchmarks``: cost of each rule on each model, relative to `jax.value_and_grad`."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
from typing import Annotated

import jax
import typer
from rich.console import Console
from rich.table import Table

import relprop
from benchmarks.measure import Cost, measure
from benchmarks.models import MODELS
from relprop.rules import AlphaBeta, Epsilon, Gamma, Gradient, Zero, ZPlus

RULES = {
    "gradient": Gradient(),
    "LRP-0": Zero(),
    "epsilon": Epsilon(),
    "gamma": Gamma(),
    "z+": ZPlus(),
    "alpha-beta": AlphaBeta(),
}
COLUMNS = ("flops", "memory", "wall", "trace", "compile")


def main(
    only: Annotated[str, typer.Option(help="Measure models whose name contains this.")] = "",
    out: Annotated[pathlib.Path | None, typer.Option(help="Write the numbers as JSON.")] = None,
    runs: Annotated[int, typer.Option(help="Runs per function; the quickest counts.")] = 7,
) -> None:
    """Prints a table per model."""
    console = Console()
    where = {
        "jax": jax.__version__,
        "relprop": relprop.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "dtype": "float32",
    }
    console.print(", ".join(f"{k} {v}" for k, v in where.items()))
    results = []
    for name, make in MODELS.items():
        if only not in name:
            continue
        score, x, weights = make()
        base = measure(jax.value_and_grad(score), x, weights, runs=runs)
        table = Table(title=f"{name}, input {'x'.join(map(str, x.shape))}: {_absolute(base)}")
        for column in ("rule, relative to value_and_grad", *COLUMNS):
            table.add_column(column, justify="left" if " " in column else "right")
        for rule_name, rule in RULES.items():
            cost = measure(relprop.value_and_relevance(score, rule), x, weights, runs=runs)
            ratios = cost.relative_to(base)
            table.add_row(rule_name, *(f"{ratios[column]:.2f}" for column in COLUMNS))
            results.append(
                {"model": name, "rule": rule_name, "base": dataclasses.asdict(base)}
                | {"cost": dataclasses.asdict(cost), "ratio": ratios}
            )
        console.print(table)
    if out is not None:
        out.write_text(json.dumps({"where": where, "results": results}, indent=1))
        console.print(f"written to {out.resolve()}")


def _absolute(base: Cost) -> str:
    return (
        f"value_and_grad has {base.flops / 1e9:.2f} GFLOP, {base.memory / 2**20:.0f} MiB, "
        f"{base.wall * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    typer.run(main)
