"""``python -m census``: the table of all models, or of some."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import platform
from typing import Annotated

import jax
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import relprop
from census.entry import Tier
from census.measure import FOLLOWED, Row
from census.registry import chosen
from census.work import measured


def main(
    only: Annotated[str, typer.Option(help="Glob on family/name, such as 'torchax/*'.")] = "*",
    tier: Annotated[str, typer.Option(help="fast: a model of each kind; all.")] = "all",
    workers: Annotated[int, typer.Option(help="Processes, of about 2 GB each.")] = 1,
    json_path: Annotated[
        pathlib.Path | None, typer.Option("--json", help="Write the rows as JSON.")
    ] = None,
) -> None:
    """Prints a row per model; the exit status says whether all promises were kept."""
    console = Console()
    labels = [entry.label for entry in chosen(only, _tier(tier))]
    rows: list[Row] = []
    with Progress(console=console, transient=True) as progress:
        for row in progress.track(measured(labels, workers), total=len(labels)):
            rows.append(row)
            progress.console.print(_told(row), markup=False, highlight=False)
            if json_path is not None:  # Each time, so that an interrupted run leaves its rows.
                json_path.write_text(json.dumps([_plain(row) for row in rows], indent=1) + "\n")
    where = f"jax {jax.__version__}, relprop {relprop.__version__}, {platform.python_version()}"
    console.print(table(rows, title=where))
    console.print(summary(rows), highlight=False)
    raise typer.Exit(code=1 if any(row.broken() for row in rows) else 0)


def _told(row: Row) -> str:
    return f"{row.name}: {'; '.join(row.broken()) or 'all kept'} ({row.seconds:.0f} s)"


def table(rows: list[Row], title: str = "") -> Table:
    """The rows for people."""
    out = Table(title=title, box=None, pad_edge=False)
    out.add_column("model")
    for column in ("eqns", "active", "cover", "forward", "gradient"):
        out.add_column(column, justify="right")
    for column in ("maps", "norms", "act.", "gates", "routers", "rec."):
        out.add_column(column, justify="right")
    for column in ("score", "left", "bias", "stopped", "gap", "CP gap", "finite", "plan s", "s"):
        out.add_column(column, justify="right")
    for row in rows:
        out.add_row(*_cells(row), style="" if not row.broken() else "red")
    return out


def _cells(row: Row) -> list[str]:
    if row.error:
        return [row.name, "failed: see below"]
    balance = row.balances["attn_lrp"]
    return [
        row.name,
        str(row.equations),
        str(row.active),
        f"{row.coverage:.0%}",
        "native" if row.forward is None else f"{row.forward:.0e}",
        f"{row.gradient:.0e}",
        *(_found(row.found[name], count) for name, count in row.expected.items()),
        *(
            f"{number:.3g}"
            for number in (
                balance.score, balance.left, balance.bias, balance.stopped, balance.gap
            )
        ),
        f"{row.balances['cp_lrp'].relative_gap:.0e}",
        f"{len(row.finite)}/{len(FOLLOWED) + 1}",
        f"{row.planning:.1f}",
        f"{row.seconds:.0f}",
    ]  # fmt: skip


def _found(found: int, expected: int) -> str:
    return f"{found}/{expected}" if found or expected else ""


def summary(rows: list[Row]) -> str:
    """The whole census in one line."""
    traced = [row for row in rows if not row.error]
    active = sum(row.active for row in traced)
    missing = sum(len(row.missing) for row in traced)
    kept = sum(not row.broken() for row in rows)
    return (
        f"{len(rows)} models, {len(traced)} of them traced: "
        f"{sum(row.equations for row in traced)} equations, {active} active, "
        f"{missing} without a rule. All promises kept: {kept} of {len(rows)}."
    )


def _plain(row: Row) -> dict[str, object]:
    return {**dataclasses.asdict(row), "coverage": row.coverage, "broken": row.broken()}


def _tier(name: str) -> Tier:
    if name not in ("fast", "all"):
        raise typer.BadParameter(f"There are the tiers fast and all, not {name!r}.")
    return "fast" if name == "fast" else "all"


if __name__ == "__main__":
    typer.run(main)
