"""Where nodes of an attribution graph are drawn: a column per position, a row per layer."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from relprop.graphs import AttributionGraph, Node

_SIDE_BY_SIDE = 8  # nodes of one layer and position; more are put below each other


@dataclasses.dataclass(frozen=True)
class GraphLayout:
    """Places in units of the distance of two nodes, y going up.

    Attributes:
        x: of each node.
        y: of each node.
        columns: the left and right end of each position.
        rows: the name of each row, and where its middle is.
        width: of the whole.
        height: of the whole.
    """

    x: Float[np.ndarray, " nodes"]
    y: Float[np.ndarray, " nodes"]
    columns: list[tuple[float, float]]
    rows: list[tuple[str, float]]
    width: float
    height: float


def laid_out(graph: AttributionGraph) -> GraphLayout:
    """A column per position, as wide as its fullest cell; embeddings below, logits above."""
    names = {-1: "embeddings"} | {n.layer: n.place for n in graph.nodes if n.kind == "error"}
    names |= {n.layer: n.place for n in graph.nodes if n.kind in ("feature", "logit")}
    layers = sorted({node.layer for node in graph.nodes})
    cells: dict[tuple[int, int], list[int]] = {}
    for i, node in sorted(enumerate(graph.nodes), key=lambda pair: _order(pair[1])):
        cells.setdefault((node.layer, node.position), []).append(i)
    wide, tall = [1] * len(graph.tokens), dict.fromkeys(layers, 1)
    for (layer, position), own in cells.items():
        wide[position] = max(wide[position], min(len(own), _SIDE_BY_SIDE))
        tall[layer] = max(tall[layer], -(-len(own) // _SIDE_BY_SIDE))
    left = np.concatenate([[0.0], np.cumsum([count + 0.6 for count in wide])])
    floor, bottom = {}, 0.0
    for layer in layers:
        floor[layer] = bottom
        bottom += tall[layer] + 0.8
    x, y = np.zeros(len(graph.nodes)), np.zeros(len(graph.nodes))
    for (layer, position), own in cells.items():
        for number, i in enumerate(own):
            line, place = divmod(number, _SIDE_BY_SIDE)
            x[i] = left[position] + 0.8 + place
            y[i] = floor[layer] + 0.8 + line
    columns = [(float(a), float(b)) for a, b in zip(left, left[1:], strict=False)]
    rows = [(names[layer], floor[layer] + 0.3 + tall[layer] / 2) for layer in layers]
    return GraphLayout(x, y, columns, rows, float(left[-1]), bottom)


def _order(node: Node) -> tuple[bool, float, int]:
    """Errors last; logits by their probability, features by their number."""
    return node.kind == "error", -node.probability, node.index
