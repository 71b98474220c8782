"""The table of an evaluation: means with their intervals, ranks, costs, and what beats what."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relprop._errors import InputError, unknown_name
from relprop._files import write_text
from relprop._table import Table
from relprop.evaluation._rows import Row, bootstrap


class Evaluation(Table, Sequence[Row]):
    """Rows of methods, columns of metrics: mean, 95 % bootstrap interval and rank.

    ``table["epsilon", "abpc"]`` are the numbers of all samples, ``table["cnn", "epsilon", "abpc"]``
    where there are several models. Ranks are those among methods of one model that are no controls.
    ``!`` marks what a control beats.

    Attributes:
        better: metric -> ``"higher"`` or ``"lower"``.
        notes: what else is to be said.
        x: the first samples, for pictures.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        better: Mapping[str, str],
        notes: Sequence[str] = (),
        *,
        resamples: int = 1000,
        seed: int = 0,
        x: Any = None,
    ):
        self._rows, self.better, self.notes = tuple(rows), dict(better), tuple(notes)
        self._resamples, self._seed, self.x = resamples, seed, x
        self._intervals: dict[tuple[int, str], tuple[float, float]] = {}

    def __getitem__(self, key):
        if not isinstance(key, tuple):
            return self._rows[key]
        *place, metric = key
        if metric not in self.better:
            raise unknown_name("metric", str(metric), self.better)
        for row in self._rows:
            if place in ([row.method], [row.model, row.method]):
                return row.values[metric]
        known = {name for row in self._rows for name in (row.method, f"{row.model} {row.method}")}
        raise unknown_name("method", " ".join(map(str, place)), known)

    def __len__(self) -> int:
        return len(self._rows)

    def mean(self, row: Row, metric: str) -> float:
        """The mean over samples for which the metric is defined; NaN where there is none."""
        values = row.values[metric]
        return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else np.nan

    def interval(self, row: Row, metric: str) -> tuple[float, float]:
        """The 95 % bootstrap interval of that mean."""
        key = self._rows.index(row), metric
        if key not in self._intervals:
            found = bootstrap(row.values[metric], self._resamples, self._seed)
            self._intervals[key] = found
        return self._intervals[key]

    def rank(self, row: Row, metric: str) -> int | None:
        """From 1, the best; None for controls, and where the mean is not defined."""
        own = self._signed(row, metric)
        if row.control or np.isnan(own):
            return None
        others = [r for r in self._rows if r.model == row.model and not r.control]
        return 1 + sum(self._signed(other, metric) > own for other in others)

    def beaten_by(self, row: Row, metric: str) -> list[str]:
        """The controls whose mean is better."""
        own = self._signed(row, metric)
        controls = [r for r in self._rows if r.model == row.model and r.control and r is not row]
        if row.control:
            return []
        return [r.method for r in controls if self._signed(r, metric) > own]

    def _signed(self, row: Row, metric: str) -> float:
        mean = self.mean(row, metric)
        return mean if self.better[metric] == "higher" else -mean

    def title(self) -> str:
        count = len(next(iter(self._rows[0].values.values()))) if self._rows else 0
        return f"{count} samples: mean [95 % bootstrap interval] rank"

    def columns(self) -> list[str]:
        arrows = {"higher": "higher", "lower": "lower"}
        named = [f"{name} ({arrows[better]})" for name, better in self.better.items()]
        return ["model", "method", *named, "ms", "kB"]

    def cells(self) -> list[list[str]]:
        return [
            [
                row.model,
                row.method + (" (control)" if row.control else ""),
                *(self._cell(row, metric) for metric in self.better),
                f"{1000 * row.seconds:.3g}",
                "" if row.memory is None else f"{row.memory / 1000:.3g}",
            ]
            for row in self._rows
        ]

    def _cell(self, row: Row, metric: str) -> str:
        mean, (low, high) = self.mean(row, metric), self.interval(row, metric)
        rank = self.rank(row, metric)
        parts = [f"{mean:.3g} [{low:.3g}, {high:.3g}]", "" if rank is None else str(rank)]
        return " ".join(part for part in parts if part) + "!" * bool(self.beaten_by(row, metric))

    def footer(self) -> str:
        lines = [*self.notes]
        beaten = any(self.beaten_by(row, metric) for row in self._rows for metric in self.better)
        if beaten:
            lines.append("! a control, which knows nothing of the model, has the better mean.")
        for metric in self.better:
            gone = sum(int(np.isnan(row.values[metric]).sum()) for row in self._rows)
            if gone:
                lines.append(
                    f"{metric} is not defined for {gone} explanations, which are left out."
                )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as JSON has them: ``{"rows": [...], "better": ..., "notes": ...}``."""
        rows = []
        for row in self._rows:
            found = {}
            for metric in self.better:
                low, high = self.interval(row, metric)
                found[metric] = {
                    "mean": _plain(self.mean(row, metric)),
                    "low": _plain(low),
                    "high": _plain(high),
                    "rank": self.rank(row, metric),
                    "beaten_by": self.beaten_by(row, metric),
                    "values": [_plain(v) for v in row.values[metric]],
                }
            curves = {order: c.tolist() for order, c in row.curves.items()}
            rows.append(
                {
                    "model": row.model,
                    "method": row.method,
                    "control": row.control,
                    "metrics": found,
                    "seconds": row.seconds,
                    "bytes": row.memory,
                    "curves": curves,
                }
            )
        return {"rows": rows, "better": self.better, "notes": [*self.notes]}

    def to_csv(self) -> str:
        """One line per model, method and metric."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            "model method control metric better mean low high rank beaten_by seconds bytes".split()
        )
        for row in self._rows:
            for metric, better in self.better.items():
                low, high = self.interval(row, metric)
                numbers = [self.mean(row, metric), low, high]
                rank = self.rank(row, metric)
                writer.writerow(
                    [row.model, row.method, int(row.control), metric, better, *numbers]
                    + ["" if rank is None else rank, " ".join(self.beaten_by(row, metric))]
                    + [row.seconds, "" if row.memory is None else row.memory]
                )
        return file.getvalue()

    def write_csv(self, path: str | Path) -> None:
        """Writes `to_csv` to a file, which is whole or not there."""
        write_text(Path(path), self.to_csv())

    def write_json(self, path: str | Path) -> None:
        """Writes `to_dict` to a file, which is whole or not there."""
        write_text(Path(path), json.dumps(self.to_dict(), indent=1, allow_nan=False))

    def figure(self, model: str | None = None) -> Any:
        """The perturbation curves of all methods, with bands of 95 %.

        Args:
            model: by default the first one.

        Returns:
            A `relprop.plots.Plot`.

        Raises:
            InputError: the evaluation has no curves: ``evaluate(..., curves={})``.
        """
        from relprop.evaluation._figure import curves  # which needs an extra

        model = self._rows[0].model if model is None else model
        rows = [row for row in self._rows if row.model == model]
        if not rows or not all(row.curves for row in rows):
            raise InputError(
                "There are no curves to draw: `relprop.evaluate(..., curves={'steps': 16})` "
                f"computes them; or there is no model {model!r}."
            )
        return curves(rows, self._resamples, self._seed)

    def write_html(self, path: str | Path, title: str = "Explanations, measured") -> None:
        """Writes a page that needs nothing else: the table, the curves, and pictures of images."""
        from relprop.evaluation._html import page  # which needs an extra

        write_text(Path(path), page(self, self._rows, (self.x, self.figure), title))

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(c)}</th>" for c in self.columns())
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>"
            for row in self.cells()
        )
        foot = html.escape(self.footer()).replace("\n", "<br>")
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{foot}</p>"


def _plain(value: float) -> float | None:
    """A number, or None for what JSON has no number for."""
    return float(value) if np.isfinite(value) else None
