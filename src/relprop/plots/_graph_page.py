"""An attribution graph as a page that needs nothing else: to zoom, to point at, to search."""

from __future__ import annotations

from typing import Any

import numpy as np

from relprop._coloured_text import visible
from relprop.graphs import AttributionGraph, Node
from relprop.plots._figure import template
from relprop.plots._graph_layout import GraphLayout, laid_out

_UNIT, _MARGIN, _LABELS = 34.0, 30.0, 150.0  # pixels: of a node, around, and of names of rows


def graph_page(graph: AttributionGraph, name: str = "Attribution graph") -> str:
    """An HTML page with the graph: wheel to zoom, drag to move, hover for a node's edges, search.

    It is one file, loads nothing, and shows the numbers as tables where scripts are off. All texts
    are escaped.

    Args:
        graph: what `relprop.graphs.attribution_graph` has made, best pruned.
        name: the title.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: relprop.named(jnp.tanh(x), "hidden").sum(0)
    >>> found = relprop.graphs.attribution_graph(
    ...     f, (jnp.array([[1.0, 2.0]]),), relprop.presets.attn_lrp(), places="hidden")
    >>> page = graph_page(found, "<tanh>")
    >>> "&lt;tanh&gt;" in page, "<tanh>" in page
    (True, False)
    """
    layout = laid_out(graph)
    largest = float(np.abs(graph.edges).max(initial=0.0)) or 1.0
    edges = [
        {
            "source": int(s),
            "target": int(t),
            "weight": f"{graph.edges[t, s]:.4g}",
            "down": bool(graph.edges[t, s] < 0),
            "width": round(0.4 + 3.6 * abs(float(graph.edges[t, s])) / largest, 2),
            "path": _path(layout, int(s), int(t)),
        }
        for t, s in zip(*np.nonzero(graph.edges), strict=True)
    ]
    # The strongest last: they are drawn above the others.
    edges.sort(key=lambda edge: edge["width"])
    nodes = [_node(node, i, *_place(layout, i), graph) for i, node in enumerate(graph.nodes)]
    columns = [
        {
            "left": _LABELS + _MARGIN + a * _UNIT,
            "middle": _LABELS + _MARGIN + (a + b) / 2 * _UNIT,
            "token": visible(token),
        }
        for (a, b), token in zip(layout.columns, graph.tokens, strict=True)
    ]
    rows = [{"name": visible(n), "y": _height(layout, y)} for n, y in layout.rows]
    return template("graph_page.html.jinja").render(
        name=name,
        nodes=nodes,
        edges=edges,
        columns=columns,
        rows=rows,
        width=_LABELS + 2 * _MARGIN + layout.width * _UNIT,
        height=3 * _MARGIN + layout.height * _UNIT,
        bottom=_height(layout, 0.0),
    )


def _place(layout: GraphLayout, i: int) -> tuple[float, float]:
    return _LABELS + _MARGIN + float(layout.x[i]) * _UNIT, _height(layout, float(layout.y[i]))


def _height(layout: GraphLayout, y: float) -> float:
    return round(_MARGIN + (layout.height - y) * _UNIT, 1)


def _path(layout: GraphLayout, source: int, target: int) -> str:
    (x, y), (u, v) = _place(layout, source), _place(layout, target)
    middle = (y + v) / 2
    return f"M{x:.1f} {y:.1f}C{x:.1f} {middle:.1f} {u:.1f} {middle:.1f} {u:.1f} {v:.1f}"


def _node(node: Node, i: int, x: float, y: float, graph: AttributionGraph) -> dict[str, Any]:
    token = visible(graph.tokens[node.position])
    where = f"position {node.position} {token!r}"
    facts = [f"value {node.value:.4g}", f"influence {graph.influence[i]:.3g}"]
    if node.kind == "logit":
        facts[1] = f"probability {node.probability:.3g}"
    if node.kind in ("feature", "logit"):
        facts.append(f"of constants {graph.constants[i]:.3g}")
        facts.append(f"of what is not shown {graph.left_out[i]:.3g}")
    return {
        "number": i,
        "kind": node.kind,
        "label": visible(node.label),
        "where": where,
        "facts": ", ".join(facts),
        "x": round(x, 1),
        "y": y,
        "text": visible(node.label) if node.kind == "logit" else "",
    }
