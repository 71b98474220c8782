"""Perturbation curves, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from relprop.evaluation._rows import Row, bootstrap
from relprop.plots import Plot
from relprop.plots._figure import describe

_TITLES = {"most": "most relevant first: lower is better", "least": "least first: higher is better"}


def curves(rows: Sequence[Row], resamples: int, seed: int) -> Plot:
    """One line per method with its band, for both orders of removal; controls are dashed."""
    figure = Plot(10.0, 4.0)
    axes = figure.subplots(1, 2, sharey=True)
    for place, (order, title) in zip(axes, _TITLES.items(), strict=True):
        for row in rows:
            _line(place, row, row.curves[order], resamples, seed)
        place.set_title(title, fontsize=10)
        place.set_xlabel("fraction of features removed")
    axes[0].set_ylabel("score")
    axes[1].legend(fontsize=8)
    numbers = [
        [row.method, *(f"{np.mean(row.curves[order]):.4g}" for order in _TITLES)] for row in rows
    ]
    words = "Scores while features are removed, by method. " + "; ".join(
        f"{name}: mean {most} most relevant first, {least} least first"
        for name, most, least in numbers
    )
    describe(figure, words, ["method", *_TITLES], numbers)
    return figure


def _line(axes: Any, row: Row, values: np.ndarray, resamples: int, seed: int) -> None:
    at = np.linspace(0, 1, values.shape[1])
    bands = np.array([bootstrap(column, resamples, seed) for column in values.T])
    style = "--" if row.control else "-"
    (line,) = axes.plot(at, np.nanmean(values, axis=0), style, label=row.method)
    axes.fill_between(at, *bands.T, color=line.get_color(), alpha=0.15, linewidth=0)
