"""The JSON of circuit-tracer, which its pages and Neuronpedia read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from relprop.graphs._node import Node

_TYPES = {
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "embedding": "embedding",
    "logit": "logit",
}


def document(
    nodes: Sequence[Node],
    edges: Float[np.ndarray, "nodes nodes"],
    cumulative: Float[np.ndarray, " nodes"],
    tokens: Sequence[str],
    slug: str,
    scan: str,
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """The tree of a graph."""
    logits = [node for node in nodes if node.kind == "logit"]
    likely = max(logits, key=lambda node: node.probability, default=None)
    both = _names(nodes)
    drawn = [
        _node(node, *own, float(part), node is likely)
        for node, own, part in zip(nodes, both, cumulative, strict=True)
    ]
    names = [name for name, _ in both]
    links = [
        {"source": names[s], "target": names[t], "weight": float(edges[t, s])}
        for t, s in zip(*np.nonzero(edges), strict=True)
    ]
    about = {
        "slug": slug,
        "scan": scan,
        "transcoder_list": [],
        "prompt_tokens": [*tokens],
        "prompt": "".join(tokens),
        "node_threshold": None,
        "schema_version": 1,
    }
    asked = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": about | dict(metadata), "qParams": asked, "nodes": drawn, "links": links}


def _names(nodes: Sequence[Node]) -> list[tuple[str, str]]:
    """What links call each node, and what pages do.

    A name of links means one node. That of pages is one for a feature at all positions.
    """
    errors: Counter[tuple[int, int]] = Counter()  # by layer and position, those before
    found = []
    for node in nodes:
        index, layer = str(node.index), str(node.layer)
        if node.kind == "error":  # Below 0, where no feature is.
            index = str(-1 - errors[node.layer, node.position])
            errors[node.layer, node.position] += 1
        elif node.kind == "embedding":
            layer = "E"
        elif node.kind == "logit":
            layer = str(node.layer + 1)
        short = "L" if node.kind == "logit" else layer
        end = 0 if node.kind == "feature" else node.position
        found.append((f"{layer}_{index}_{node.position}", f"{short}_{index}-{end}"))
    return found


def _node(node: Node, name: str, on_page: str, cumulative: float, likely: bool) -> dict[str, Any]:
    feature = node.index
    if node.kind == "feature":  # One number for layer and index, by Cantor's pairing.
        both = node.layer + node.index
        feature = both * (both + 1) // 2 + node.index
    return {
        "node_id": name,
        "feature": -1 if node.kind == "error" else feature,
        "layer": name.split("_")[0],
        "ctx_idx": node.position,
        "feature_type": _TYPES[node.kind],
        "token_prob": node.probability,
        "is_target_logit": likely,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": on_page,
        "clerp": node.label,
        "influence": cumulative,
        "activation": node.value if node.kind == "feature" else None,
    }
