"""Where relevance stayed, and the picture of a computation, of small functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

import relprop
from relprop import InputError, plots
from relprop.plots._computation import chosen
from relprop.presets import attn_lrp
from tests.plots.pictures import Page, rgb

pytestmark = pytest.mark.frameworks
KEYS = jax.random.split(jax.random.key(0), 3)
PARAMS = {
    "blocks": [
        {
            name: jax.random.normal(key, (4, 4))
            for name, key in zip(("up", "down"), keys, strict=True)
        }
        for keys in (jax.random.split(KEYS[0], 2) for _ in range(5))
    ],
    "head": jax.random.normal(KEYS[1], (4,)),
}
X = jax.random.normal(KEYS[2], (3, 4))


def stack(x, params):
    """Five blocks, with a bias between the layers of each, and a head."""
    for block in params["blocks"]:
        x = x + jnp.tanh(x @ block["up"] + 0.5)[::-1] @ block["down"]
    return x.sum(0) @ params["head"]


def looped(x, params):
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["blocks"])

    def body(x, block):
        return x + jnp.tanh(x @ block["up"] + 0.5) @ block["down"], None

    return jax.lax.scan(body, x, stacked)[0].sum(0) @ params["head"]


@pytest.fixture(scope="module")
def ledger():
    return relprop.ledger(stack, attn_lrp())(X, PARAMS)


def test_reads_are_the_edges_of_the_data_flow():
    plan = relprop.inspect(stack, attn_lrp())(X, PARAMS)
    first = [(op.structure, op.reads) for op in plan[:5]]
    assert first == [
        ("dense", (-1,)),
        ("activation", (0,)),
        ("structural", (1,)),
        ("dense", (2,)),
        ("sum", (-1, 3)),
    ]
    inside = relprop.inspect(looped, attn_lrp())(X, PARAMS)
    assert [(op.structure, op.depth, op.reads) for op in inside] == [
        ("scan", 0, (-1,)),
        ("dense", 1, (-1,)),
        ("activation", 1, (1,)),
        ("dense", 1, (2,)),
        ("sum", 1, (-1, 3)),
        ("sum", 0, (0,)),
        ("dense", 0, (5,)),
    ]


def test_the_parts_of_a_flow_add_up_to_the_score(ledger):
    flow = plots.Flow.of(ledger)
    assert flow.layers == (*(f"blocks/{i}" for i in range(5)), "head")
    parts = flow.parts()
    total = np.sum(list(parts.values()), axis=0)
    np.testing.assert_allclose(total, float(ledger.score), rtol=1e-6)
    assert parts["explained"][-1] == pytest.approx(float(ledger.score))
    assert parts["explained"][0] == pytest.approx(ledger.left, rel=1e-4)
    for name in ("bias", "epsilon", "stopped", "gap"):
        assert parts[name][0] == pytest.approx(getattr(ledger, name), rel=1e-6, abs=1e-6)
    assert (np.abs(flow.absorbed["bias"][:5]) > 1e-3).all() and flow.absorbed["bias"][5] == 0
    # What a layer hands down is the relevance of its input, which `places` sees as well.
    _, inside = relprop.relevance(
        lambda x, p: stack(relprop.named(x, "in"), p), attn_lrp(), places="in"
    )(X, PARAMS)
    assert parts["explained"][0] == pytest.approx(float(inside["in"].relevance.sum()), rel=1e-4)


def test_flows_add_up_and_layers_can_be_chosen(ledger):
    named = plots.Flow.of(ledger, lambda op: "head" if "head" in op.path else "body")
    assert named.layers == ("body", "head")
    both = named + named
    assert both.parts()["explained"].tolist() == [2 * v for v in named.parts()["explained"]]
    with pytest.raises(InputError, match="same layers"):
        named + plots.Flow.of(ledger)


def test_figure_of_a_flow(ledger):
    figure = plots.flow(ledger, name="<b>$")
    (axes,) = figure.axes
    rgb(figure)
    assert [label.get_text() for label in axes.get_xticklabels()][-2:] == ["head", "score"]
    assert len(axes.patches) == 5 * 7
    parts = plots.Flow.of(ledger).parts()
    heights = np.array([bar.get_height() for bar in axes.patches]).reshape(5, 7)
    np.testing.assert_allclose(heights, np.stack(list(parts.values())))
    for column in range(7):  # positive parts on top of one another, negative ones below zero
        bars = sorted((bar.get_y(), bar.get_height()) for bar in axes.patches[column::7])
        ends = sorted(y for bar in bars for y in (bar[0], sum(bar)))
        assert ends[-1] - ends[0] == pytest.approx(np.abs(heights[:, column]).sum(), rel=1e-4)
    page = Page(figure.html())
    assert len(page.all("td")) == 7 * 5 and not page.all("b")
    hatches = {bar.get_hatch() for bar in axes.patches}
    assert len(hatches) == 5  # readable without colours
    again = plots.flow(plots.Flow(0.0, ("a",), {"bias": np.zeros(1)}))
    rgb(again)


def test_sums_of_layers():
    figure = plots.layer_sums({"b/10": [1.0, -3.0], "b/9": [[2.0]]}, score=1.0)
    axes = figure.axes[0]
    rgb(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["b/9", "b/10"]
    assert [bar.get_height() for bar in axes.patches] == [2.0, 1.0, 0.0, -3.0]
    assert axes.lines[0].get_ydata().tolist() == [2.0, -2.0]
    with pytest.raises(InputError, match="NaN"):
        plots.layer_sums({"a": [np.nan]})


def test_a_block_is_drawn_once():
    plan = relprop.inspect(stack, attn_lrp())(X, PARAMS)
    drawn = chosen(plan, moves=False, least=12)
    assert [(list(part), count) for part, count in drawn.repeats] == [([0, 1, 3, 4], 5)]
    assert [op.structure for op in drawn.operations.values()] == [
        "dense", "activation", "dense", "sum", "sum", "dense",
    ]  # fmt: skip
    last = list(drawn.operations)[-2]
    assert drawn.reads == {0: (-1,), 1: (0,), 3: (1,), 4: (-1, 3), last: (4,), last + 1: (last,)}
    assert len(chosen(plan, moves=False, least=100).operations) == 5 * 4 + 2
    assert len(chosen(plan, moves=True, least=100).operations) == 5 * 5 + 2
    figure = plots.computation(plan, name="<$")
    rgb(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "blocks/*  5 times" in texts and "dense: up" in texts
    assert "5 turns" in figure.alt and len(figure.table[1]) == 6


def test_what_is_inside_of_a_loop_has_a_frame():
    plan = relprop.inspect(looped, attn_lrp())(X, PARAMS)
    drawn = chosen(plan, moves=False, least=12)
    assert drawn.loops == [([1, 2, 3, 4], "scan")]
    assert drawn.reads == {1: (-1,), 2: (1,), 3: (2,), 4: (-1, 3), 5: (4,), 6: (5,)}
    figure = plots.computation(plan)
    rgb(figure)
    assert "scan" in [text.get_text() for text in figure.axes[0].texts]
    with pytest.raises(InputError, match="no operations"):
        plots.computation([])
