"""An attribution graph as a figure."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from relprop._coloured_text import visible
from relprop.graphs import AttributionGraph
from relprop.plots._figure import describe, drawing, title
from relprop.plots._graph_layout import laid_out
from relprop.plots._text import drawable

#: Kind of node -> marker and colour.
_MARKS = {
    "feature": ("o", "#2f8f6b"),
    "error": ("D", "#8b9097"),
    "embedding": ("s", "#3b6ea8"),
    "logit": ("s", "#1c1e21"),
}
_UP, _DOWN = "#b2182b", "#2166ac"
_POINTS = 12


def graph(
    graph: AttributionGraph,
    *,
    edges: int = 400,
    labels: bool | None = None,
    name: str = "",
    axes: Axes | None = None,
) -> Figure:
    """An attribution graph: a column per position, embeddings below, logits above.

    Edges that raise the value they lead to are red, those that lower it are blue and dashed; the
    stronger, the wider.

    Args:
        graph: what `relprop.graphs.attribution_graph` has made, best pruned.
        edges: how many edges are drawn at most, the strongest first.
        labels: whether features have their number beside them; by default where there are no more
            than 60. Logits always have their text.
        name: the title.
        axes: to be drawn on, by default those of a new figure.

    Returns:
        The figure.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: relprop.named(jnp.tanh(x), "hidden").sum(0)
    >>> found = relprop.graphs.attribution_graph(
    ...     f, (jnp.array([[1.0, 2.0]]),), relprop.presets.attn_lrp(), places="hidden")
    >>> plot = relprop.plots.graph(found, name="tanh")
    >>> plot.alt
    "Attribution graph (tanh): 2 features, 1 embedding and 2 logits at 1 position, ..."
    """
    layout = laid_out(graph)
    figure, axes = drawing(axes, 2.2 + 0.34 * layout.width, 1.2 + 0.42 * layout.height)
    drawn = _strongest(graph.edges, edges)
    largest = max((abs(graph.edges[t, s]) for t, s in drawn), default=1.0)
    for up in (True, False):
        own = [(t, s) for t, s in drawn if (graph.edges[t, s] >= 0) == up]
        lines = [_curve(layout.x[[s, t]], layout.y[[s, t]]) for t, s in own]
        widths = [0.3 + 2.2 * abs(graph.edges[t, s]) / largest for t, s in own]
        axes.add_collection(
            LineCollection(
                lines,
                linewidths=widths,
                colors=_UP if up else _DOWN,
                linestyles="solid" if up else (0, (4, 1.5)),
                alpha=0.55,
                zorder=1,
            )
        )
    kinds = np.array([node.kind for node in graph.nodes])
    for kind, (marker, colour) in _MARKS.items():
        own = kinds == kind
        axes.scatter(
            layout.x[own], layout.y[own], 30, colour, marker=marker, zorder=2,
            edgecolors="white", linewidths=0.6, label=kind,
        )  # fmt: skip
    count = int((kinds == "feature").sum())
    for i, node in enumerate(graph.nodes):
        numbered = node.kind == "feature" and (count <= 60 if labels is None else labels)
        if not numbered and node.kind != "logit":
            continue
        text = str(node.index) if numbered else drawable(visible(node.label))
        place = (layout.x[i], layout.y[i] + 0.22)
        axes.text(*place, text, fontsize=6, ha="center", va="bottom", parse_math=False)
    middles = [(a + b) / 2 for a, b in layout.columns]
    words = [drawable(visible(token).strip() or "␣") for token in graph.tokens]
    axes.set_xticks(middles, words, parse_math=False, fontsize=8)
    axes.set_yticks([y for _, y in layout.rows], [n for n, _ in layout.rows], fontsize=7)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.tick_params(length=0)
    for left, _ in layout.columns[1:]:
        axes.axvline(left + 0.1, color="0.9", linewidth=0.8, zorder=0)
    axes.set_xlim(0, layout.width + 0.2)
    axes.set_ylim(0, layout.height + 0.3)
    axes.spines[:].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7)
    title(axes, name)
    describe(figure, _described(graph, drawn, name), *_table(graph, drawn))
    return figure


def _strongest(edges: Float[np.ndarray, "nodes nodes"], most: int) -> list[tuple[int, int]]:
    """Target and source of the strongest edges, the strongest last, so that it is on top."""
    targets, sources = np.nonzero(edges)
    order = np.argsort(-np.abs(edges[targets, sources]), kind="stable")[:most][::-1]
    return [(int(targets[i]), int(sources[i])) for i in order]


def _curve(x: Float[np.ndarray, "2"], y: Float[np.ndarray, "2"]) -> Float[np.ndarray, "points 2"]:
    """From a source up to a target, leaving and arriving upright."""
    t = np.linspace(0, 1, _POINTS)
    smooth = t**2 * (3 - 2 * t)
    return np.stack([x[0] + (x[1] - x[0]) * smooth, y[0] + (y[1] - y[0]) * t], axis=1)


def _described(graph: AttributionGraph, drawn: list[tuple[int, int]], name: str) -> str:
    kinds = [node.kind for node in graph.nodes]
    counts = [
        f"{kinds.count(kind)} {kind}{'s' if kinds.count(kind) != 1 else ''}"
        for kind in _MARKS
        if kind in kinds
    ]
    where = f"{len(graph.tokens)} position{'s' if len(graph.tokens) != 1 else ''}"
    text = f"Attribution graph{f' ({name})' if name else ''}: "
    text += f"{', '.join(counts[:-1])}{' and ' if counts[:-1] else ''}{counts[-1]} at {where}, "
    text += f"{len(drawn)} of {np.count_nonzero(graph.edges)} edges drawn"
    if drawn:
        t, s = drawn[-1]
        source, target = graph.nodes[s].label, graph.nodes[t].label
        text += f"; the strongest from {source!r} to {target!r} ({graph.edges[t, s]:.3g})"
    return text + "."


def _table(
    graph: AttributionGraph, drawn: list[tuple[int, int]]
) -> tuple[tuple[str, ...], list[list[str]]]:
    rows = [
        [graph.nodes[s].label, graph.nodes[t].label, f"{graph.edges[t, s]:.4g}"]
        for t, s in reversed(drawn[-100:])
    ]
    return ("from", "to", "contribution"), rows
