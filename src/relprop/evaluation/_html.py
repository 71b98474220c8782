"""The page of an evaluation: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from relprop import plots
from relprop._table import Table
from relprop.evaluation._rows import Row
from relprop.plots._figure import template

Figure = Callable[[str], Any]


def page(table: Table, rows: Sequence[Row], drawn: tuple[Any, Figure], title: str) -> str:
    """The page as text; nothing in it depends on the time, but for what was measured.

    Args:
        table: of the numbers.
        rows: of the table.
        drawn: the inputs, and what draws the curves of a model by its name.
        title: of the page.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    sections = [
        {"model": model, "figures": [Markup(f.html()) for f in _figures(rows, drawn, model)]}
        for model in models
    ]
    return template("evaluation.html.jinja", Path(__file__).parent).render(
        title=title,
        subtitle=table.title(),
        columns=table.columns(),
        rows=[(row.control, cells) for row, cells in zip(rows, table.cells(), strict=True)],
        footer=table.footer().splitlines(),
        sections=sections,
    )


def _figures(rows: Sequence[Row], drawn: tuple[Any, Figure], model: str) -> list[Any]:
    inputs, figure = drawn
    rows = [row for row in rows if row.model == model]
    found = [figure(model)] if all(row.curves for row in rows) else []
    x = np.asarray(inputs)
    image = x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (1, 3))
    if image and min(x.shape[1:3]) > 1:
        span = np.ptp(x)
        scaled = (x - x.min()) / (span if span else 1)
        maps = {row.method: row.R for row in rows}
        channels: Any = "last" if x.ndim == 4 else None
        found.append(plots.gallery(scaled, maps, channels=channels))
    return found
