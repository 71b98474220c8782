"""Circuits: against a transformer by hand whose readers read what they are given."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import patching
from relprop.rules import Gradient

from . import model

PARAMS = model.parameters()
X, Y = model.inputs()
RUNS = (X, PARAMS), (Y, PARAMS)


@pytest.fixture(scope="module")
def edges():
    return jax.jit(lambda x, y: patching.edges(model.score, (x, PARAMS), (y, PARAMS), Gradient()))(
        X, Y
    )


@pytest.fixture(scope="module")
def score():
    return jax.jit(patching.circuit_score(model.score, *RUNS))


def by_hand(kept):
    """The score of a circuit, by the names of its edges."""
    corrupted = model.laid_open(Y, PARAMS, {})[1]

    def stream(name, written):
        return sum(w if f"{u}->{name}" in kept else corrupted[u] for u, w in written.items())

    return model.laid_open(X, PARAMS, {}, stream=stream)[0]


def test_circuits_are_evaluated_as_by_hand(edges, score):
    np.testing.assert_allclose(score(edges.exists), model.score(X, PARAMS), rtol=1e-5)
    np.testing.assert_allclose(score(edges.exists & False), model.score(Y, PARAMS), rtol=1e-5)
    draw = np.random.default_rng(0)
    for part in (0.2, 0.5, 0.8):
        kept = edges.exists & jnp.asarray(draw.random(edges.exists.shape) < part)
        names = patching.Circuit(edges, kept).names
        np.testing.assert_allclose(score(kept), by_hand({*names}), rtol=1e-4, atol=1e-6)


def test_without_one_edge_the_score_changes_as_its_score_says(edges):
    # For small changes an edge is what its removal does.
    near = X + 1e-2 * (Y - X)
    runs = (X, PARAMS), (near, PARAMS)
    estimate = jax.jit(lambda: patching.edges(model.score, *runs, Gradient()))()
    masks = [estimate.exists] + [
        estimate.exists.at[u, v].set(False) for u, v in ((0, 0), (1, 7), (3, 14), (5, 13))
    ]
    run = jax.jit(jax.vmap(patching.circuit_score(model.score, *runs)))
    whole, *parts = run(jnp.stack(masks))
    for (u, v), part in zip(((0, 0), (1, 7), (3, 14), (5, 13)), parts, strict=True):
        np.testing.assert_allclose(part - whole, estimate.scores[u, v], rtol=0.1, atol=2e-6)


def test_faithfulness_and_its_areas(edges, score):
    fractions = (0.1, 0.5, 1.0)
    found = patching.faithfulness(model.score, *RUNS, edges, fractions=fractions)
    none, whole = score(edges.exists & False), score(edges.exists)
    wanted = []
    for part in fractions:
        names = [*edges.by_name()][: round(46 * part)]
        wanted.append((by_hand({*names}) - none) / (whole - none))
    np.testing.assert_allclose(found.values, wanted, rtol=1e-3, atol=1e-5)
    a, b, c = found.values
    np.testing.assert_allclose(c, 1, rtol=1e-6)
    np.testing.assert_allclose(found.cpr, 0.4 * (a + b) / 2 + 0.5 * (b + c) / 2)
    far = np.abs(1 - found.values)
    np.testing.assert_allclose(found.cmd, 0.4 * (far[0] + far[1]) / 2 + 0.5 * (far[1] + far[2]) / 2)


def test_completeness_and_minimality(edges, score):
    circuit = patching.top(edges, 12)
    assert len(circuit.names) == 12
    assert {*circuit.names} == {*[*edges.by_name()][:12]}
    sets = [["m0"], ["a0.h1", "logits"], []]
    found = patching.completeness(model.score, *RUNS, circuit, sets)
    everything = {*edges.by_name()}
    for names, value in zip(sets, found, strict=True):

        def without(kept, names=names):
            ends = {e: {*e.split("<")[0].split("->")} for e in kept}
            return {e for e in kept if not ends[e] & {*names}}

        wanted = abs(by_hand(without(circuit.names)) - by_hand(without(everything)))
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)
    small = patching.top(edges, 3)
    lost = patching.minimality(model.score, *RUNS, small)
    for name, value in lost.items():
        wanted = abs(by_hand({*small.names}) - by_hand({*small.names} - {name}))
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)
    assert {*lost} == {*small.names}


def test_json_of_the_benchmark(edges):
    circuit = patching.top(edges, 5)
    document = json.loads(json.dumps(circuit.to_json(model="by hand")))
    assert document["cfg"] == {"n_layers": 2, "n_heads": 2, "model": "by hand"}
    assert {*document["edges"]} == {*edges.by_name()}
    inside = [name for name, edge in document["edges"].items() if edge["in_graph"]]
    assert {*inside} == {*circuit.names}
    assert {*document["nodes"]} == {*edges.writers, "logits"}
    ends = {end for name in circuit.names for end in name.split("<")[0].split("->")}
    assert {n for n, node in document["nodes"].items() if node["in_graph"]} == ends
    largest, value = next(iter(edges.by_name().items()))
    assert document["edges"][largest]["score"] == value


def test_auroc():
    draw = np.random.default_rng(0)
    scores = {str(i): float(s) for i, s in enumerate(draw.integers(-5, 5, 40))}
    known = {str(i) for i in range(0, 40, 3)}
    pairs = [(abs(scores[a]), abs(scores[b])) for a in known for b in scores if b not in known]
    wanted = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])
    np.testing.assert_allclose(patching.auroc(scores, known), wanted)


def test_of_token_ids():
    def f(ids, params):
        return model.score(params["table"][ids], params["model"])

    params = {"table": X, "model": PARAMS}
    ids, others = jnp.array([0, 1, 2, 3]), jnp.array([0, 3, 2, 1])
    run = patching.circuit_score(f, (ids, params), (others, params))
    np.testing.assert_allclose(run(jnp.ones((7, 15), bool)), f(ids, params), rtol=1e-5)


def test_bad_input(edges):
    wrong = relprop.InputError
    with pytest.raises(wrong, match="7 writers by 15 readers"):
        patching.circuit_score(model.score, *RUNS)(jnp.ones((2, 2), bool))
    with pytest.raises(wrong, match="ascending"):
        patching.faithfulness(model.score, *RUNS, edges, fractions=(1.0, 0.5))
    with pytest.raises(wrong, match="no difference"):
        patching.faithfulness(model.score, RUNS[0], RUNS[0], edges, fractions=(1.0,))
    with pytest.raises(wrong, match="no node m7"):
        patching.completeness(model.score, *RUNS, patching.top(edges, 3), [["m7"]])
    with pytest.raises(wrong, match="amount or score"):
        patching.top(edges, 1, by="rank")
    for scores, known in (({"a": 1.0}, ["a"]), ({"a": 1.0, "b": np.nan}, ["a"]), ({}, ["a"])):
        with pytest.raises(wrong):
            patching.auroc(scores, known)
