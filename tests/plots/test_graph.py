"""Attribution graphs as figures and as pages."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

import relprop
from relprop import plots
from relprop.graphs import AttributionGraph, Node, attribution_graph
from tests.plots.pictures import Page, rgb

pytestmark = pytest.mark.frameworks

EVIL = "</script><script>alert('x')</script>\" onload=\"alert(1)"


def made(features=3, tokens=("The", " $x^2$ cat"), label=EVIL):
    nodes = [
        *(Node("feature", "mlp 0", 0, i % 2, i, 1.0, f"{label} {i}") for i in range(features)),
        Node("error", "mlp 0 error", 0, 1, 0, 0.5, "error"),
        *(Node("embedding", "x", -1, i, i, 1.0, f"x[{i}]") for i in range(2)),
        Node("logit", "logits", 1, 1, 7, 2.0, " sat", 0.75),
    ]
    count = len(nodes)
    edges = np.zeros((count, count))
    edges[:features, -2] = np.linspace(-1, 1, features)
    edges[-1, :features] = 0.5
    edges[-1, features] = -2.0
    return AttributionGraph.of(nodes, edges, np.zeros(count), tokens)


def test_what_is_drawn_and_said():
    graph = made(label="feature")
    figure = plots.graph(graph, name="a $ name")
    rgb(figure)
    assert figure.alt == (
        "Attribution graph (a $ name): 3 features, 1 error, 2 embeddings and 1 logit at 2 "
        "positions, 6 of 6 edges drawn; the strongest from 'error' to ' sat' (-2)."
    )
    columns, rows = figure.table
    assert columns == ("from", "to", "contribution") and rows[0] == ["error", " sat", "-2"]
    (axes,) = figure.axes
    up, down = [c for c in axes.collections if c.get_zorder() == 1]
    assert (len(up.get_paths()), len(down.get_paths())) == (4, 2)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["The", "$x^2$ cat"]
    assert plots.graph(graph, edges=2).alt.count("2 of 6 edges drawn") == 1


def test_nodes_have_places_of_their_own_and_sources_are_below():
    graph = made(features=40)
    page = plots.graph_page(graph)
    places = re.findall(r'transform="translate\(([\d.]+) ([\d.]+)\)"', page)
    assert len({*places}) == len(places) == len(graph.nodes)
    height = [float(y) for _, y in places]
    for t, s in np.argwhere(graph.edges):
        assert height[t] < height[s]
    width, tall = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', page).groups())
    assert all(0 < float(x) < width and 0 < float(y) < tall for x, y in places)


def test_a_page_needs_nothing_else_and_all_is_escaped():
    graph = made(tokens=(EVIL, "\x1b[0m"))
    text = plots.graph_page(graph, EVIL)
    page = Page(text)
    assert text.count("<script") == 1 and "alert('x')" not in text
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert not re.search(r"https?://|@import|url\(", text)
    assert "\x1b" not in text
    nodes = [a for a in page.all("g") if "data-number" in a]
    assert nodes[0]["data-label"] == f"{EVIL} 0"
    assert [int(a["data-number"]) for a in nodes] == [*range(len(graph.nodes))]
    weights = {
        (int(a["data-target"]), int(a["data-source"])): float(a["data-weight"])
        for a in page.all("path")
        if "data-weight" in a
    }
    assert weights == {(t, s): graph.edges[t, s] for t, s in np.argwhere(graph.edges)}


def test_graphs_without_edges_are_drawn():
    graph = made(features=0)
    graph = graph.prune(0.0, 0.0)
    assert "0 of 0 edges" in plots.graph(graph).alt
    assert "0 edges" in plots.graph_page(graph)


def test_node_scores_are_traces():
    """What `patching.nodes` returns is a map of layers by positions as it is."""
    scores = {f"mlp {i}": np.arange(6.0).reshape(3, 2) * i for i in range(2)}
    figure = plots.trace(scores, ["a", "b", "c"], unit="effect")
    np.testing.assert_array_equal(
        np.ma.getdata(figure.axes[0].images[0].get_array()), [[0, 0, 0], [1, 5, 9]]
    )


def test_arguments_of_different_lengths_are_drawn():
    def f(x, y):
        return relprop.named(jnp.tanh(jnp.concatenate([x, y])), "both").sum(0)

    x, y = jnp.ones((2, 3)), jnp.ones((4, 3))
    graph = attribution_graph(f, (x, y), relprop.presets.relp(), (0, 1), places="both")
    assert len(plots.graph(graph).axes[0].get_xticks()) == 6
    assert plots.graph_page(graph).count("data-number") == len(graph.nodes)
