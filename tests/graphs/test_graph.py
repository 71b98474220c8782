"""Attribution graphs: against the derivatives of a function that is linear in all nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.graphs import attribution_graph
from relprop.places import Heads
from relprop.rules import Gradient

from . import model

RELP = relprop.presets.relp()


def graph_of(f=None, rules=RELP, places=tuple(model.PLACES), **keywords):
    f = f or model.featured()
    return attribution_graph(f, (model.X, model.PARAMS), rules, places=places, **keywords)


@pytest.fixture(scope="module")
def graph():
    return graph_of(logits=range(model.LOGITS))


@pytest.fixture(scope="module")
def by_hand():
    """What everything contributes to each target, from derivatives; and the values of targets."""
    parts = model.values()
    slopes = jax.jit(jax.jacrev(model.laid_open))(parts)
    targets = jax.jit(model.laid_open)(parts)

    def flat(name, slope):
        axes = 2 if name.startswith("features") else 1  # of which each entry is a node
        amounts = np.asarray(slope) * np.asarray(parts[name])
        amounts = amounts.reshape(-1, *parts[name].shape)
        own = amounts.reshape(len(amounts), *parts[name].shape[:axes], -1).sum(-1)
        return own.reshape(len(own), -1)

    active = [np.flatnonzero(parts[name]) for name in model.NAMES[: model.LAYERS]]
    keep = [*active, slice(None)]
    rows = [
        np.concatenate(
            [
                np.asarray(flat(name, slope[name]))[own][:, cut]
                for name, cut in zip(model.NAMES, [*active, *[slice(None)] * 3], strict=True)
            ],
            axis=1,
        )
        for slope, own in zip(slopes, keep, strict=True)
    ]
    constants = [
        np.asarray(sum(flat(name, slope[name]).sum(1) for name in model.biases()))[own]
        for slope, own in zip(slopes, keep, strict=True)
    ]
    values = [np.asarray(t).ravel()[own] for t, own in zip(targets, keep, strict=True)]
    return np.concatenate(rows), np.concatenate(constants), np.concatenate(values)


def targets(graph):
    return [i for i, node in enumerate(graph.nodes) if node.kind in ("feature", "logit")]


def test_edges_and_constants_are_those_written_out_by_hand(graph, by_hand):
    edges, constants, values = by_hand
    own = targets(graph)
    np.testing.assert_allclose([graph.nodes[i].value for i in own], values, atol=1e-5)
    np.testing.assert_allclose(graph.edges[own][:, : edges.shape[1]], edges, atol=1e-5)
    np.testing.assert_allclose(graph.constants[own], constants, atol=1e-5)
    assert np.abs(constants).max() > 0.1
    assert not graph.edges[:, edges.shape[1] :].any()  # logits contribute to nothing


def test_all_that_arrives_is_told(graph):
    own = targets(graph)
    told = (graph.edges.sum(1) + graph.constants + graph.left_out)[own]
    np.testing.assert_allclose(told, [graph.nodes[i].value for i in own], atol=1e-5)
    assert not graph.edges[[i for i in range(len(graph.nodes)) if i not in own]].any()


def test_nodes_are_where_they_are(graph):
    kinds = [node.kind for node in graph.nodes]
    assert kinds == sorted(kinds, key=["feature", "error", "embedding", "logit"].index)
    parts = model.values()
    for node in graph.nodes:
        if node.kind == "feature":
            value = parts[f"features{node.layer}"][node.position, node.index]
            np.testing.assert_allclose(node.value, value, rtol=1e-4, atol=1e-6)
    assert kinds.count("error") == 2 * model.TOKENS
    assert [n.position for n in graph.nodes if n.kind == "embedding"] == [*range(model.TOKENS)]
    logits = model.plain(model.X, model.PARAMS)
    found = [n for n in graph.nodes if n.kind == "logit"]
    np.testing.assert_allclose([n.probability for n in found], jax.nn.softmax(logits), rtol=1e-4)


def test_batches_do_not_change_it(graph):
    other = graph_of(logits=range(model.LOGITS), batch_size=7)
    np.testing.assert_allclose(other.edges, graph.edges, atol=1e-6)


def test_of_many_features_the_strongest_are_nodes_and_the_rest_is_told(graph):
    few = graph_of(logits=range(model.LOGITS), max_features=5)
    labels = [(n.label, n.position) for n in graph.nodes]
    own = [labels.index((n.label, n.position)) for n in few.nodes]
    assert sum(n.kind == "feature" for n in few.nodes) == 5
    np.testing.assert_allclose(few.edges, graph.edges[np.ix_(own, own)], atol=1e-6)
    np.testing.assert_allclose(few.constants, graph.constants[own], atol=1e-5)
    gone = np.setdiff1d(np.arange(len(labels)), own)
    lost = graph.edges[np.ix_(own, gone)].sum(1)
    np.testing.assert_allclose(few.left_out, lost, atol=1e-5)
    assert np.abs(lost).max() > 0.01


def test_the_most_probable_logits():
    def f(x, params):
        return (relprop.named(x, "x") @ params["head"])[-1]

    chosen = graph_of(f, places="x", max_logits=2, logit_mass=1.0)
    order = np.argsort(-f(model.X, model.PARAMS))
    assert [n.index for n in chosen.nodes if n.kind == "logit"] == order[:2].tolist()
    first = graph_of(f, places="x", logit_mass=0.0, vocabulary="abcde", tokens="wxyz")
    assert [n.label for n in first.nodes if n.kind == "logit"] == ["abcde"[order[0]]]
    assert first.tokens == tuple("wxyz")


def test_by_gradient_of_a_score_the_edges_are_derivatives():
    def f(x, params):
        return jnp.sum(relprop.named(jnp.tanh(x), "hidden") ** 2)

    graph = graph_of(f, Gradient(), "hidden")
    hidden = np.tanh(model.X).ravel()
    np.testing.assert_allclose(graph.edges[-1, : hidden.size], 2 * hidden**2, rtol=1e-5)
    local = ((1 - np.tanh(model.X) ** 2) * model.X).ravel()
    to_tokens = graph.edges[: hidden.size, hidden.size : -1].sum(1)
    np.testing.assert_allclose(to_tokens, local, rtol=1e-4, atol=1e-6)


def test_heads_are_nodes_of_several_entries():
    """A function without biases: nothing is lost, and heads stand between tokens and logits."""

    def f(x, params):
        for p in params["layers"]:
            x = model.attention(x, p)
        return model.norm(x)[-1] @ params["head"]

    graph = graph_of(f, places={Heads("output"): (0, 1)})
    heads = [n for n in graph.nodes if n.kind == "feature"]
    assert len(heads) == model.LAYERS * model.HEADS * model.TOKENS
    assert {(n.layer, n.index, n.position) for n in heads} == {
        (i, h, t) for i in range(2) for h in range(2) for t in range(model.TOKENS)
    }
    assert np.abs(graph.constants).max() < 1e-5
    # What heads have of the score is what they hand to logits, those weighted, on all ways.
    weights = np.array([n.probability for n in graph.nodes])
    values = np.array([n.value for n in graph.nodes if n.kind == "feature"])
    direct = weights @ graph.edges
    via = graph.edges[: len(heads), : len(heads)].sum(0)
    np.testing.assert_allclose(direct[: len(heads)] + via, values, atol=1e-5)


def test_jump_relu_features_are_reproduced():
    p = PARAMS = model.PARAMS["layers"][0]

    def encode(v):
        a = v @ p["encoder"] + p["encoder bias"][None]
        return jnp.where(a > 0.3, jax.nn.relu(a), jnp.zeros_like(a))

    f = relprop.splice(model.plain, "m0 in", encode, model.decode(PARAMS), into="m0 out")
    with_errors = graph_of(f, places="m0 in features")
    own = [i for i, n in enumerate(with_errors.nodes) if n.kind == "feature"]
    bias = p["encoder bias"][np.array([with_errors.nodes[i].index for i in own])]
    np.testing.assert_allclose(with_errors.constants[own], bias, atol=1e-5)


def test_however_a_function_is_written():
    """Checkpoints, calls and arrays that a function closes over change nothing."""

    def f(x, params):
        for i, p in enumerate(params["layers"]):
            x = x + relprop.named(jax.nn.relu(x @ p["up"]), f"hidden {i}") @ p["down"]
        return (x @ params["head"])[-1]

    places = ["hidden 0", "hidden 1"]
    graph = graph_of(f, places=places)
    for other in (jax.checkpoint(f), jax.jit(f), lambda x, _: f(x, model.PARAMS)):
        np.testing.assert_allclose(graph_of(other, places=places).edges, graph.edges, atol=1e-6)


def test_several_arguments_have_names_of_their_own():
    def f(x, y):
        return (relprop.named(x * y, "product") @ model.PARAMS["head"])[-1]

    graph = attribution_graph(f, (model.X, model.X + 1), RELP, (0, 1), places="product")
    names = [node["node_id"] for node in graph.to_json()["nodes"]]
    assert len({*names}) == len(names)
    assert [n.label for n in graph.nodes if n.kind == "embedding"] == [
        f"{name}[{i}]" for name in "xy" for i in range(model.TOKENS)
    ]


def test_a_place_may_be_the_output():
    def f(x, params):
        return relprop.named((x @ params["head"]).sum(0), "out")

    graph = graph_of(f, places={"out": 0, "*": 0}, position_axis={"out": None})
    own = [i for i, n in enumerate(graph.nodes) if n.kind == "logit"]
    features = [i for i, n in enumerate(graph.nodes) if n.kind == "feature"]
    assert [graph.nodes[i].place for i in features] == ["out"] * model.LOGITS
    np.testing.assert_allclose(graph.constants[own], 0, atol=1e-5)
    told = graph.edges[np.ix_(own, features)].sum(1)
    np.testing.assert_allclose(told, [graph.nodes[i].value for i in own], atol=1e-5)
    assert graph.influence.sum() > 0


def test_the_name_of_an_error_proves_nothing():
    def f(x, params):
        h = relprop.named(jnp.tanh(x @ params["head"]), "squared error")
        return relprop.named(relprop.named(jnp.tanh(h), "twice error") * 2, "twice features").sum(0)

    graph = graph_of(f, places=["twice features", "squared error"])
    assert {n.place for n in graph.nodes} == {"squared error", "twice features", "x", "logits"}
    assert {n.kind for n in graph.nodes} == {"feature", "embedding", "logit"}
    kinds = np.array([n.kind for n in graph.nodes])
    assert np.abs(graph.edges[kinds == "feature"][:, kinds == "embedding"]).sum() > 0


def test_numbers_of_logits_may_be_those_of_numpy():
    graph = graph_of(logits=np.array([3]), max_features=1)
    assert [n.index for n in graph.nodes if n.kind == "logit"] == [3]


def test_positions_are_those_of_the_text_wherever_their_axis_is():
    def f(x, params):
        h = relprop.named(jax.nn.relu(x @ params["head"]).reshape(model.TOKENS, 5, 1), "h")
        return relprop.named(h.swapaxes(0, 1), "swapped").sum((0, 2)) @ jnp.ones((4, 2))

    for places, axes in (({"h": (0, 1)}, {}), ({"swapped": None}, {"swap*": -2})):
        graph = graph_of(f, places=places, position_axis=axes, position=1)
        rows = [i for i, n in enumerate(graph.nodes) if n.kind == "feature"]
        tokens = [i for i, n in enumerate(graph.nodes) if n.kind == "embedding"]
        for i in rows:
            from_tokens = np.flatnonzero(graph.edges[i, tokens])
            # A node of entries that are all 0 has no edges.
            assert from_tokens.tolist() == [graph.nodes[i].position] * bool(graph.nodes[i].value)
        assert {graph.nodes[i].index for i in rows} <= {*range(5)}
        assert {n.position for n in graph.nodes if n.kind == "logit"} == {1}


def test_as_many_heads_as_positions():
    def f(x, params):
        heads = jax.nn.relu(x @ jnp.ones((6, 8))).reshape(4, 4, 2)
        return relprop.named(heads, "h").sum((0, 1))

    with pytest.raises(relprop.InputError, match="2 of which are as long as the text"):
        graph_of(f, places={"h": (0, 1)})
    graph = graph_of(f, places={"h": (0, 1)}, position_axis={"h": 0})
    tokens = [i for i, n in enumerate(graph.nodes) if n.kind == "embedding"]
    for node, row in zip(graph.nodes, graph.edges, strict=True):
        if node.kind == "feature" and row.any():
            assert np.flatnonzero(row[tokens]).tolist() == [node.position]


def test_a_vector_of_features_is_at_the_position_of_the_logits():
    p = model.PARAMS["layers"][0]
    f = relprop.splice(
        lambda x, params: relprop.named(x.sum(0), "sum") @ params["head"],
        "sum", lambda v: jax.nn.relu(v @ p["encoder"]), lambda a: a @ p["decoder"],
    )  # fmt: skip
    graph = graph_of(f, places="sum features", position_axis={"sum features": None}, position=2)
    own = [n for n in graph.nodes if n.kind in ("feature", "error")]
    assert {n.position for n in own} == {2} and sum(n.kind == "error" for n in own) == model.WIDTH
    names = [node["node_id"] for node in graph.to_json()["nodes"]]
    assert len({*names}) == len(names)


@pytest.mark.parametrize(("lengths", "tokens"), [((2, 3), None), ((2, 2), "abcd")])
def test_positions_are_numbered_on_through_arguments(lengths, tokens):
    def f(x, y):
        return (relprop.named(jnp.tanh(jnp.concatenate([x, y])), "both") @ model.PARAMS["head"])[-1]

    x, y = (model.X[:n] for n in lengths)
    graph = attribution_graph(f, (x, y), RELP, (0, 1), places="both", tokens=tokens)
    assert len(graph.tokens) == sum(lengths)
    embeddings = [(n.label, n.position) for n in graph.nodes if n.kind == "embedding"]
    names = [f"{name}[{i}]" for name, n in zip("xy", lengths, strict=True) for i in range(n)]
    assert embeddings == [(name, i) for i, name in enumerate(names)]
    assert {n.position for n in graph.nodes if n.kind == "feature"} == {*range(sum(lengths))}
