"""The montage: all heatmaps in one PNG."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from relprop.report.explanation import Explanation, by_model, maps_of, percent, rules_of
from relprop.report.heatmap import fitted, map_picture, picture, plain

MOST_ROWS = 64  # of more images than that only the first are drawn
_DPI = 100
_TILE = 96  # pixels: smaller images are enlarged to about this, larger ones are shrunk to twice it
_SPACE = 8
_MARGINS = {"left": 165, "right": 20, "top": 85, "bottom": 15}  # pixels, for labels


def write_png(explanations: Iterable[Explanation], path: Path) -> None:
    """Draws one row per image and one column per set of rules; models stand side by side.

    Args:
        explanations: what to draw; of each model, the first 64.
        path: the file, which is replaced if it exists.
    """
    blocks = [_Block(model, group) for model, group in by_model(explanations).items()]
    width = sum(block.canvas.shape[1] + _MARGINS["left"] + _MARGINS["right"] for block in blocks)
    tallest = max(block.canvas.shape[0] for block in blocks)
    height = tallest + _MARGINS["top"] + _MARGINS["bottom"]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    x = 0
    for block in blocks:
        x += _MARGINS["left"]
        rows, columns = block.canvas.shape[:2]
        bottom = height - _MARGINS["top"] - rows
        axes = figure.add_axes((x / width, bottom / height, columns / width, rows / height))
        block.draw(axes)
        x += columns + _MARGINS["right"]
    figure.savefig(path, format="png", metadata={"Software": None})


class _Block:
    """The pictures of one model, with what is written beside them."""

    def __init__(self, model: str, group: list[Explanation]):
        self.rules, self.maps = rules_of(group), maps_of(group)
        self.group = group[:MOST_ROWS]
        more = f" (first {MOST_ROWS} of {len(group)})" if len(group) > MOST_ROWS else ""
        self.title = model + more
        rows = [self._row(explanation) for explanation in self.group]
        self.tile = rows[0][0].shape[:2]
        self.canvas = np.concatenate([self._joined(row) for row in rows])

    def _row(self, explanation: Explanation) -> list[np.ndarray]:
        relevances = [explanation.rules.get(name) for name in self.rules]
        maps = [explanation.maps.get(name) for name in self.maps]
        image = explanation.image
        blank = np.zeros_like(image)
        return [
            _tile(plain(image)),
            *(_tile(picture(image, r[0] if r else blank)) for r in relevances),
            *(_tile(picture(image, blank) if m is None else map_picture(image, m)) for m in maps),
        ]

    def _joined(self, tiles: list[np.ndarray]) -> np.ndarray:
        space = ((0, _SPACE), (0, _SPACE), (0, 0))
        return np.concatenate([np.pad(t, space, constant_values=255) for t in tiles], axis=1)

    def draw(self, axes) -> None:
        axes.imshow(self.canvas, interpolation="nearest", aspect="auto")
        height, width = self.tile
        names = ["image", *(n.replace("_", "_\n") for n in [*self.rules, *self.maps])]
        columns = np.arange(len(names)) * (width + _SPACE) + width / 2
        rows = np.arange(len(self.group)) * (height + _SPACE) + height / 2
        axes.set_xticks(columns, names)
        axes.set_yticks(rows, [_label(explanation) for explanation in self.group])
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=8.5)
        axes.set_frame_on(False)
        axes.set_title(self.title, loc="left", fontsize=12, fontweight="bold", pad=8)
        for i, explanation in enumerate(self.group):
            for j, name in enumerate(self.rules, start=1):
                if name in explanation.rules:
                    corner = (columns[j] - width / 2 + 3, rows[i] + height / 2 - 4)
                    text = percent(explanation.share(name))
                    box = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5}
                    axes.annotate(text, corner, fontsize=7, color="white", bbox=box)


def _label(explanation: Explanation) -> str:
    name = explanation.name if len(explanation.name) <= 24 else "…" + explanation.name[-23:]
    target, label = (
        text if len(text) <= 16 else text[:15] + "…"
        for text in (explanation.target, explanation.label)
    )
    scored = f"class {target}: {explanation.score:.2f}"
    if explanation.label != explanation.target:
        scored += f"\npredicted {label}"
    # A dollar would start a formula.
    return f"{name}\n{scored}".replace("$", r"\$")


def _tile(image: Image.Image) -> np.ndarray:
    image = fitted(image, 2 * _TILE)
    factor = max(1, _TILE // max(image.size))
    return np.asarray(image).repeat(factor, axis=0).repeat(factor, axis=1)
