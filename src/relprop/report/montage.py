"""The montage: all heatmaps in one PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from relprop._errors import InputError
from relprop._files import replacing
from relprop.plots._gallery import Tiles, tile_side
from relprop.plots._pixels import map_picture, map_scale_of, picture, plain, scale_of
from relprop.report.explanation import Explanation, by_model, maps_of, percent, rules_of

MOST_ROWS = 64  # of more images than that only the first are drawn
_DPI = 100
_MARGINS = {"left": 165, "right": 20, "top": 85, "bottom": 85}  # pixels, for labels
_BAR = 220  # pixels: the length of a colour bar


def write_png(explanations: Iterable[Explanation], path: Path, style: str = "plain") -> None:
    """Writes the picture that `png_bytes` draws; the file is whole or as it was."""
    data = png_bytes(explanations, style)
    with replacing(path) as file:
        file.write(data)


def png_bytes(explanations: Iterable[Explanation], style: str = "plain") -> bytes:
    """Draws one row per image and one column per set of rules; models stand side by side.

    Args:
        explanations: what to draw; of each model, the first 64.
        style: how relevance is drawn, as in `relprop.plots.gallery`.

    Raises:
        UnknownNameError: there is no such style.
        InputError: there is nothing to draw.
    """
    groups = by_model(explanations)
    if not groups:
        raise InputError("There are no explanations to draw.")
    blocks = {_title(m, group): _tiles(group, style) for m, group in groups.items()}
    width = sum(tiles.width + _MARGINS["left"] + _MARGINS["right"] for tiles in blocks.values())
    tallest = max(tiles.height for tiles in blocks.values())
    height = tallest + _MARGINS["top"] + _MARGINS["bottom"]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    x = 0
    for title, tiles in blocks.items():
        x += _MARGINS["left"]
        bottom = height - _MARGINS["top"] - tiles.height
        box = (x / width, bottom / height, tiles.width / width, tiles.height / height)
        tiles.draw(figure.add_axes(box), title)
        x += tiles.width + _MARGINS["right"]
    shown = [e for group in groups.values() for e in group]
    _draw_scales(figure, style, bool(rules_of(shown)), bool(maps_of(shown)))
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    return drawn.getvalue()


def _title(model: str, group: list[Explanation]) -> str:
    more = f" (first {MOST_ROWS} of {len(group)})" if len(group) > MOST_ROWS else ""
    return model + more


def _draw_scales(figure: Figure, style: str, relevance: bool, maps: bool) -> None:
    """Colour bars at the bottom, with what their ends are and what they are in units of."""
    height, width = figure.bbox.height, figure.bbox.width
    x = _MARGINS["left"]
    scales = [(scale_of(style), ("against the class", "0", "for the class"))] * relevance
    scales += [(map_scale_of(), ("counts least", "", "counts most"))] * maps
    for colours, ends in scales:
        axes = figure.add_axes((x / width, 58 / height, _BAR / width, 10 / height))
        axes.imshow(colours[None], aspect="auto", interpolation="bilinear")
        axes.set_yticks([])
        last = len(colours) - 1
        axes.set_xticks([0, last / 2, last], ends, fontsize=7.5)
        axes.tick_params(length=0, pad=2)
        for label, side in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
            label.set_horizontalalignment(side)
        axes.spines[:].set_color("0.75")
        x += _BAR + 30
    note = "Each tile is in units of its own strongest pixel"
    note += "; the number is the share of the score on the pixels." if relevance else "."
    figure.text(_MARGINS["left"] / width, 22 / height, note, fontsize=7.5, color="0.3", va="center")


def _tiles(group: list[Explanation], style: str) -> Tiles:
    rules, maps, group = rules_of(group), maps_of(group), group[:MOST_ROWS]
    side = tile_side(len(group) * (1 + len(rules) + len(maps)))
    columns = {"image": [np.asarray(plain(e.image)) for e in group]}
    columns |= {name: [_relevance_tile(e, name, style, side) for e in group] for name in rules}
    columns |= {name: [_map_tile(e, name) for e in group] for name in maps}
    notes = {n: [percent(e.share(n)) if n in e.rules else "" for e in group] for n in rules}
    return Tiles.of(columns, [_label(e) for e in group], notes, side)


def _relevance_tile(explanation: Explanation, rules: str, style: str, side: int) -> np.ndarray:
    found = explanation.rules.get(rules)
    image = explanation.image
    return np.asarray(picture(image, found[0] if found else np.zeros_like(image), style, side))


def _map_tile(explanation: Explanation, method: str) -> np.ndarray:
    found, image = explanation.maps.get(method), explanation.image
    shown = plain(np.ones_like(image)) if found is None else map_picture(image, found)
    return np.asarray(shown)


def _label(explanation: Explanation) -> str:
    name = explanation.name if len(explanation.name) <= 24 else "…" + explanation.name[-23:]
    target, label = (
        text if len(text) <= 16 else text[:15] + "…"
        for text in (explanation.target, explanation.label)
    )
    scored = f"class {target}: {explanation.score:.2f}"
    if explanation.label != explanation.target:
        scored += f"\npredicted {label}"
    return f"{name}\n{scored}"
