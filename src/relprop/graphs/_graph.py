"""The graph itself: nodes, weights of edges, and what of a value comes of no node."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from relprop.graphs._circuit_tracer import document
from relprop.graphs._influence import (
    check_thresholds,
    cumulative,
    edge_influence,
    most,
    node_influence,
)
from relprop.graphs._node import Node


@dataclasses.dataclass(frozen=True, eq=False)
class AttributionGraph:
    r"""What nodes contribute to each other.

    .. math:: \text{value}_t = \sum_s \text{edges}_{ts} + \text{left\_out}_t + \text{constants}_t

    Attributes:
        nodes: features, errors, embeddings and logits, in this order.
        edges: row t has what each node contributes to node t; rows of errors and embeddings are 0.
        constants: what comes of biases and of whatever else depends on no node.
        left_out: what comes of features that are no nodes, for there would be too many.
        influence: how much each node has to do with the logits, along all paths.
        cumulative: the part of all influence that the nodes up to this one have, in falling order.
        tokens: the text of each position.
    """

    nodes: tuple[Node, ...]
    edges: Float[np.ndarray, "nodes nodes"]
    constants: Float[np.ndarray, " nodes"]
    left_out: Float[np.ndarray, " nodes"]
    influence: Float[np.ndarray, " nodes"]
    cumulative: Float[np.ndarray, " nodes"]
    tokens: tuple[str, ...]

    @classmethod
    def of(
        cls,
        nodes: Sequence[Node],
        edges: Float[np.ndarray, "nodes nodes"],
        left_out: Float[np.ndarray, " nodes"],
        tokens: Sequence[str],
    ) -> AttributionGraph:
        """A graph of measured edges; the constants are what these do not explain."""
        targets = np.array([node.kind in ("feature", "logit") for node in nodes], bool)
        values = np.array([node.value for node in nodes], edges.dtype)
        constants = np.where(targets, values - edges.sum(1) - left_out, 0)
        influence = node_influence(edges, _weights(nodes))
        return cls(
            tuple(nodes), edges, constants, left_out, influence, cumulative(influence),
            tuple(tokens),
        )  # fmt: skip

    def prune(self, nodes: float = 0.8, edges: float = 0.98) -> AttributionGraph:
        r"""The graph of the nodes, and then of the edges, that have most of all influence.

        .. math:: B = (I - A)^{-1} - I

        with A the amounts of the edges, those into each node divided by their sum. The influence
        of a node is its column of B, weighted by the probabilities of the logits; that of an edge
        its entry of A times the influence of the node it leads to. Embeddings and logits stay;
        features and errors from which nothing leads on any more do not, nor do features that
        nothing leads to. What came of nodes that are gone is added to `left_out`.

        Args:
            nodes: the part of the influence of all nodes that is to be kept.
            edges: likewise of all edges between those.

        Raises:
            InputError: a part is not between 0 and 1.

        Source: Ameisen et al. 2025, appendix (graph pruning).
        """
        check_thresholds(nodes, edges)
        kinds = np.array([node.kind for node in self.nodes])
        fixed = (kinds == "embedding") | (kinds == "logit")
        keep = most(self.influence, nodes) | fixed
        weights = np.where(keep[:, None] & keep[None], self.edges, 0)
        kept = most(edge_influence(weights, _weights(self.nodes)), edges)
        while True:
            kept &= keep[:, None] & keep[None]
            idle = ~kept.any(0) | ((kinds == "feature") & ~kept.any(1))
            idle &= keep & ~fixed
            if not idle.any():
                return self._of(keep, kept)
            keep &= ~idle

    def _of(
        self, keep: Bool[np.ndarray, " nodes"], kept: Bool[np.ndarray, "nodes nodes"]
    ) -> AttributionGraph:
        edges = np.where(kept, self.edges, 0)
        left_out = self.left_out + self.edges.sum(1) - edges.sum(1)
        some = np.flatnonzero(keep)
        return AttributionGraph(
            tuple(self.nodes[i] for i in some), edges[np.ix_(some, some)], self.constants[some],
            left_out[some], self.influence[some], self.cumulative[some], self.tokens,
        )  # fmt: skip

    def to_json(self, slug: str = "graph", scan: str = "relprop", **metadata: Any) -> dict:
        """A tree for `json.dump`, in the format that circuit-tracer and Neuronpedia read.

        Args:
            slug: the name of the graph.
            scan: the name of the model, or of its features.
            **metadata: further entries of ``metadata``, such as ``node_threshold``.
        """
        return document(self.nodes, self.edges, self.cumulative, self.tokens, slug, scan, metadata)


def _weights(nodes: Sequence[Node]) -> Float[np.ndarray, " nodes"]:
    return np.array([node.probability if node.kind == "logit" else 0.0 for node in nodes])
