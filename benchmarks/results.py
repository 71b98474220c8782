"""A measurement, tables of them, and the file that holds them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
from rich.table import Table

import relprop

PACKAGES = ("jax", "jaxlib", "numpy", "torch", "transformers", "zennit", "lxt", "captum")


@dataclasses.dataclass(frozen=True)
class Result:
    """What one explanation of one function costs.

    Attributes:
        benchmark: which benchmark it belongs to.
        case: the function, with its sizes.
        subject: the rule or the library that explains it.
        amounts: what was measured, by column: FLOPs, bytes, seconds.
        ratios: to what the benchmark compares with.
        bounds: the largest ratios that are accepted.
        note: what has to be known, such as why there are no numbers.
    """

    benchmark: str
    case: str
    subject: str
    amounts: Mapping[str, float]
    ratios: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""

    def cell(self, column: str) -> str:
        """The ratio of a column if there is one, with a ! where it is above its bound."""
        value = self.ratios.get(column, math.nan)
        if math.isnan(value):
            return ""
        return f"{value:.2f}" + " !" * (value > self.bounds.get(column, math.inf))


@dataclasses.dataclass(frozen=True)
class Options:
    """What a benchmark is asked to do.

    Attributes:
        only: cases whose name contains this.
        quick: fewer cases, of smaller size.
        runs: runs per function, of which the quickest counts; 0 counts without running.
        batches: entries of a batch, where the benchmark has several.
    """

    only: str = ""
    quick: bool = False
    runs: int = 0
    batches: tuple[int, ...] = (1,)

    def wants(self, case: str) -> bool:
        """Whether a case is to be measured."""
        return self.only.lower() in case.lower()


def table(title: str, columns: Sequence[str], results: Iterable[Result]) -> Table:
    """A table with a row per result; columns without numbers are left out."""
    results = list(results)
    shown = [c for c in columns if any(r.cell(c) for r in results)]
    notes = any(r.note for r in results)
    out = Table(title=title, title_justify="left")
    for name in ("case", "subject"):
        out.add_column(name)
    for name in shown:
        out.add_column(name, justify="right")
    if notes:
        out.add_column("note")
    before = None
    for r in results:
        cells = [r.case if r.case != before else "", r.subject, *(r.cell(c) for c in shown)]
        out.add_row(*cells, *([r.note] if notes else []))
        before = r.case
    return out


def environment() -> dict[str, Any]:
    """What the numbers depend on, as far as it can be asked."""
    return {
        "relprop": relprop.__version__,
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "usable cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": os.environ.get("OMP_NUM_THREADS", "all cores"),
        "dtype": "float32",
    }


def write(path: pathlib.Path, results: Iterable[Result]) -> None:
    """Writes results and environment as JSON; what was not measured is null."""
    rows = [_finite(dataclasses.asdict(r)) for r in results]
    document = {"environment": environment(), "results": rows}
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def read(path: pathlib.Path) -> list[Result]:
    """The results in a file that `write` wrote."""

    def numbers(row: Mapping[str, float | None]) -> dict[str, float]:
        return {k: math.nan if v is None else v for k, v in row.items()}

    rows = json.loads(path.read_text())["results"]
    return [
        Result(**{k: numbers(v) if isinstance(v, dict) else v for k, v in row.items()})
        for row in rows
    ]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    here = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
