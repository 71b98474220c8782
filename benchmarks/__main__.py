"""``python -m benchmarks``: what explanations cost, next to gradients and to other libraries."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import (
    attribution,
    bounds,
    circuits,
    faithfulness,
    figure,
    graphs,
    jobs,
    peers,
    rules,
    scaling,
    staging,
)
from benchmarks.results import Options, Result, environment, table, write

BENCHMARKS = {
    "bounds": bounds,
    "attribution": attribution,
    "circuits": circuits,
    "graphs": graphs,
    "staging": staging,
    "scaling": scaling,
    "rules": rules,
    "peers": peers,
    "faithfulness": faithfulness,
    "jobs": jobs,
}


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(BENCHMARKS)}.")] = None,
    only: Annotated[str, typer.Option(help="Cases whose name contains this.")] = "",
    quick: Annotated[bool, typer.Option(help="Fewer cases of smaller size.")] = False,
    wall: Annotated[bool, typer.Option(help="Run what is compiled, and time it.")] = False,
    runs: Annotated[int, typer.Option(help="Runs per function; the quickest counts.")] = 5,
    batch: Annotated[list[int], typer.Option(help="Entries of a batch.")] = [1],  # noqa: B006
    out: Annotated[pathlib.Path, typer.Option(help="Where to write.")] = pathlib.Path(
        "benchmark-report"
    ),
) -> None:
    """Prints a table per benchmark; writes benchmarks.json and a figure for each.

    Without --wall, functions of JAX are compiled for shapes alone, and XLA counts their FLOPs and
    bytes. `peers` runs always, since PyTorch has nothing to count before it runs; `jobs` only
    with --wall.
    """
    console = Console()
    unknown = sorted(set(names or ()) - set(BENCHMARKS))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(BENCHMARKS)}.")
    for key, value in environment().items():
        console.print(f"{key}: {value}")
    out.mkdir(parents=True, exist_ok=True)
    options = Options(only, quick, runs if wall else 0, tuple(batch))
    found: list[Result] = []
    for name in names or BENCHMARKS:
        module = BENCHMARKS[name]
        title = module.__doc__.strip().splitlines()[0]
        mine = []
        for result in module.results(options):
            mine.append(result)
            if console.is_terminal:
                console.print(f"{result.case}: {result.subject}", style="dim")
        if not mine:
            continue
        found += mine
        console.print(table(f"{name}: {title}", module.COLUMNS, mine))
        figure.save(out / f"{name}.png", title, module.COLUMNS, mine)
        write(out / "benchmarks.json", found)  # after each, so that an interrupted run keeps some
    console.print(f"written to {out.resolve()}")


if __name__ == "__main__":
    typer.run(main)
