"""Pruning: influence by the inverse of a matrix, and what is kept."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relprop import InputError
from relprop.graphs import AttributionGraph, Node


def made(edges, kinds, probabilities=(1.0,)):
    supply = iter(probabilities)
    nodes = [
        Node(kind, kind, 0, i, i, 1.0, f"{kind} {i}", next(supply) if kind == "logit" else 0.0)
        for i, kind in enumerate(kinds)
    ]
    edges = np.asarray(edges, float)
    return AttributionGraph.of(nodes, edges, np.zeros(len(nodes)), [str(i) for i in range(9)])


def acyclic(seed, features=8):
    draw = np.random.default_rng(seed)
    kinds = ["feature"] * features + ["error", "embedding", "embedding", "logit", "logit"]
    count = len(kinds)
    edges = np.zeros((count, count))
    edges[:features, :features] = np.tril(draw.standard_normal((features, features)), -1)
    edges[:features, features:-2] = draw.standard_normal((features, 3))
    edges[-2:, :-2] = draw.standard_normal((2, count - 2))
    edges[draw.random(edges.shape) < 0.4] = 0
    return made(edges, kinds, (0.7, 0.2))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_influence_is_that_of_all_paths(seed):
    graph = acyclic(seed)
    amounts = np.abs(graph.edges)
    sums = amounts.sum(1, keepdims=True)
    a = amounts / np.where(sums > 0, sums, 1)
    inverse = np.linalg.inv(np.eye(len(a)) - a) - np.eye(len(a))
    weights = np.array([n.probability for n in graph.nodes])
    np.testing.assert_allclose(graph.influence, weights @ inverse, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_what_is_kept_hangs_together_and_all_is_told(seed, nodes, edges):
    graph = acyclic(seed)
    small = graph.prune(nodes, edges)
    labels = {n.label for n in small.nodes}
    assert {n.label for n in graph.nodes if n.kind in ("embedding", "logit")} <= labels
    for i, node in enumerate(small.nodes):
        if node.kind in ("feature", "error"):
            assert small.edges[:, i].any()
        if node.kind == "feature":
            assert small.edges[i].any()
        if node.kind in ("feature", "logit"):
            told = small.edges[i].sum() + small.constants[i] + small.left_out[i]
            np.testing.assert_allclose(told, node.value, atol=1e-9)


def test_all_parts_keep_all_that_has_influence():
    graph = acyclic(3)
    whole = graph.prune(1.0, 1.0)
    gone = {n.label for n in graph.nodes} - {n.label for n in whole.nodes}
    by_label = dict(zip([n.label for n in graph.nodes], graph.influence, strict=True))
    assert all(by_label[label] == 0 or label.startswith("feature") for label in gone)


def test_the_weaker_of_two_ways_goes():
    #        a      b    token  logit
    edges = [
        [0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [9.0, 1.0, 0.0, 0.0],
    ]
    graph = made(edges, ["feature", "feature", "embedding", "logit"])
    np.testing.assert_allclose(graph.influence, [0.9, 0.1, 1.0, 0.0])
    np.testing.assert_allclose(graph.cumulative, [0.95, 1.0, 0.5, 1.0])
    small = graph.prune(0.8)
    assert [n.label for n in small.nodes] == ["feature 0", "embedding 2", "logit 3"]
    np.testing.assert_allclose(small.left_out, [0.0, 0.0, 1.0])
    # Of equal edges the first is enough for half; then nothing leads to the feature any more.
    assert [n.label for n in graph.prune(1.0, 0.3).nodes] == ["embedding 2", "logit 3"]


@pytest.mark.parametrize("parts", [(1.5, 0.9), (0.8, -0.1), (float("nan"), 0.5)])
def test_parts_are_parts(parts):
    with pytest.raises(InputError, match="numbers from 0 to 1"):
        acyclic(0).prune(*parts)


def test_a_graph_without_edges_is_no_trouble():
    graph = made(np.zeros((2, 2)), ["embedding", "logit"])
    small = graph.prune()
    assert len(small.nodes) == 2 and not small.influence.any()
    assert dataclasses.replace(small, tokens=()).to_json()["links"] == []
