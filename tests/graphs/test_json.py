"""The JSON of circuit-tracer: by its documented schema, and by its own models where they are."""

import json

import numpy as np
import pytest

import relprop
from relprop.graphs import AttributionGraph, Node, attribution_graph

from . import model

# As documented: https://github.com/decoderesearch/circuit-tracer, MAPPING_INFO and graph models.
NODE = {
    "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str,
    "token_prob": float, "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int,
    "jsNodeId": str, "clerp": str, "influence": float, "activation": (float, type(None)),
}  # fmt: skip
METADATA = {
    "slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str,
    "node_threshold": (float, type(None)), "schema_version": int,
}  # fmt: skip
QUERY = {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str}
LINK = {"source": str, "target": str, "weight": float}


@pytest.fixture(scope="module")
def graph():
    return attribution_graph(
        model.featured(), (model.X, model.PARAMS), relprop.presets.relp(), places=model.PLACES,
        tokens=["<s>", " \"a\"", "</script>", "\u2603"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def document(graph):
    return json.loads(json.dumps(graph.prune().to_json("test", node_threshold=0.8)))


def check(entry, schema):
    assert {*entry} == {*schema}
    assert all(isinstance(entry[key], kind) for key, kind in schema.items())


def test_the_documented_schema(document):
    assert {*document} == {"metadata", "qParams", "nodes", "links"}
    check(document["metadata"], METADATA)
    check(document["qParams"], QUERY)
    for node in document["nodes"]:
        check(node, NODE)
        assert 0 <= node["influence"] <= 1 + 1e-9
    for link in document["links"]:
        check(link, LINK)
    assert document["metadata"]["node_threshold"] == 0.8
    assert sum(node["is_target_logit"] for node in document["nodes"]) == 1


def test_links_are_between_nodes_of_one_name_each(graph, document):
    names = [node["node_id"] for node in document["nodes"]]
    assert len({*names}) == len(names)
    assert {link[end] for link in document["links"] for end in ("source", "target")} <= {*names}
    weights = {(link["source"], link["target"]): link["weight"] for link in document["links"]}
    small = graph.prune()
    assert len(weights) == np.count_nonzero(small.edges)
    t, s = np.argwhere(small.edges)[0]
    assert weights[names[s], names[t]] == pytest.approx(small.edges[t, s])


def test_names_of_nodes():
    """Several errors and logits are in one cell, and an error beside features of each number."""
    nodes = [
        *(Node("feature", "m", 0, t, i, 1.0, "") for t in range(2) for i in range(2)),
        *(Node("error", "m error", 0, t, 0, 1.0, "") for t in (0, 1, 1)),
        *(Node("embedding", "x", -1, t, i, 1.0, "") for t, i in ((0, 0), (1, 1), (0, 2))),
        *(Node("logit", "logits", 1, 1, i, 1.0, "", 0.5) for i in range(2)),
    ]
    none = np.zeros((len(nodes), len(nodes)))
    drawn = AttributionGraph.of(nodes, none, none[0], ["a", "b"]).to_json()["nodes"]
    assert [n["node_id"] for n in drawn] == [
        "0_0_0", "0_1_0", "0_0_1", "0_1_1", "0_-1_0", "0_-1_1", "0_-2_1",
        "E_0_0", "E_1_1", "E_2_0", "2_0_1", "2_1_1",
    ]  # fmt: skip
    assert [n["jsNodeId"] for n in drawn] == [
        "0_0-0", "0_1-0", "0_0-0", "0_1-0", "0_-1-0", "0_-1-1", "0_-2-1",
        "E_0-0", "E_1-1", "E_2-0", "L_0-1", "L_1-1",
    ]  # fmt: skip
    assert {n["layer"] for n in drawn} == {"0", "E", "2"}


def test_names_of_all_nodes_differ(document):
    for key in ("node_id", "jsNodeId"):
        own = [
            n[key] for n in document["nodes"]
            if key == "node_id" or n["feature_type"] != "cross layer transcoder"
        ]  # fmt: skip
        assert len({*own}) == len(own)


def test_models_of_circuit_tracer(document):
    models = pytest.importorskip(
        "circuit_tracer.frontend.graph_models", reason="circuit-tracer needs transformer-lens"
    )
    read = models.Model(**document)
    assert json.loads(read.model_dump_json()) == document
    for node, ours in zip(read.nodes, document["nodes"], strict=True):
        layer, index, position = ours["node_id"].split("_")
        if node.feature_type == "cross layer transcoder":
            theirs = models.Node.feature_node(
                int(layer), int(position), int(index), node.influence, node.activation
            )
            assert theirs.model_dump() | {"clerp": node.clerp} == node.model_dump()
