"""The perturbation curves of all tasks in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evidence.ranking import leaders


def curves(found: Sequence[dict[str, Any]], path: Path) -> None:
    """The score while the most, and while the least relevant go, of the leaders and of chance."""
    from matplotlib.figure import Figure

    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.9 * rows), layout="constrained")
    for place, task in enumerate(found):
        axes = figure.add_subplot(rows, columns, place + 1)
        shown = [*leaders(task, "abpc")[:3], "random"]
        for number, method in enumerate(shown):
            (row,) = (row for row in task["rows"] if row["method"] == method)
            for order, style in (("most", "-"), ("least", ":")):
                points = row["curves"][order]
                removed = np.linspace(0, 1, len(points))
                label = method if order == "most" else None
                colour = "0.6" if method == "random" else f"C{number}"
                axes.plot(removed, points, style, color=colour, label=label, linewidth=1)
        axes.set_title(task["task"], fontsize=8)
        axes.tick_params(labelsize=6)
        # Below: within the axes there is a curve wherever it would stand.
        axes.legend(
            fontsize=6, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False
        )
    figure.supxlabel("fraction removed; solid: most relevant first, dotted: least", fontsize=8)
    figure.supylabel("score", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
