"""Ratios as dots on a line per case, with their bounds."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.results import Result

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def save(path: pathlib.Path, title: str, columns: Sequence[str], results: Sequence[Result]) -> bool:
    """Writes a figure with a panel per column; False if there is nothing to show."""
    shown = [c for c in columns if any(r.cell(c) for r in results)]
    rows = [r for r in results if any(r.cell(c) for c in shown)]
    if not rows:
        return False
    subjects = list(dict.fromkeys(r.subject for r in rows))
    cases = list(dict.fromkeys(r.case for r in rows))
    figure = Figure(figsize=(2.2 + 2.6 * len(shown), 1.4 + 0.28 * len(cases)), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for panel, column in zip(panels, shown, strict=True):
        for result in rows:
            y, ratio = cases.index(result.case), result.ratios.get(column, math.nan)
            colour = COLOURS[subjects.index(result.subject) % len(COLOURS)]
            panel.plot(ratio, y, "o", color=colour, markersize=4, alpha=0.8)
            if column in result.bounds:
                panel.plot(result.bounds[column], y, "|", color="black", markersize=10)
        panel.axvline(1.0, color="0.7", linewidth=0.8, zorder=0)
        panel.set_xlabel(column)
        panel.grid(axis="y", color="0.92")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(cases)), cases, fontsize=7)
    panels[0].invert_yaxis()
    for number, subject in enumerate(subjects):
        panels[0].plot([], [], "o", color=COLOURS[number % len(COLOURS)], label=subject)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=150)
    return True
