"""How much nodes and edges have to do with the logits, along all paths."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from relprop._errors import InputError


def normalised(edges: Float[np.ndarray, "nodes nodes"]) -> Float[np.ndarray, "nodes nodes"]:
    """The amounts of edges, those into each node divided by their sum."""
    amounts = np.abs(edges)
    sums = amounts.sum(1, keepdims=True)
    return np.divide(amounts, sums, out=np.zeros_like(amounts), where=sums > 0)


def node_influence(
    edges: Float[np.ndarray, "nodes nodes"], weights: Float[np.ndarray, " nodes"]
) -> Float[np.ndarray, " nodes"]:
    r"""The rows of :math:`B = A + A^2 + \dots` at the logits, weighted.

    The paths of a graph without cycles end, so that there are no more powers than nodes in a row.
    """
    step = normalised(edges)
    total, along = np.zeros_like(weights), weights
    for _ in range(len(weights)):
        along = along @ step
        if not along.any():
            break
        total = total + along
    return total


def edge_influence(
    edges: Float[np.ndarray, "nodes nodes"], weights: Float[np.ndarray, " nodes"]
) -> Float[np.ndarray, "nodes nodes"]:
    """What goes along each edge: its part of the node it leads to, times the influence of that."""
    return normalised(edges) * (node_influence(edges, weights) + weights)[:, None]


def cumulative(scores: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """By entry, the part of the sum that it and all larger ones have."""
    flat = scores.ravel()
    order = np.argsort(-flat, kind="stable")
    parts = np.zeros(flat.shape)
    total = flat.sum()
    if total > 0:
        parts[order] = np.cumsum(flat[order], dtype=float) / total
    return parts.reshape(scores.shape)


def most(scores: Float[np.ndarray, "..."], part: float) -> Bool[np.ndarray, "..."]:
    """The fewest entries that have a part of the sum, the largest first; none that is 0."""
    before = cumulative(scores) - (scores / scores.sum() if scores.any() else 0)
    # Less what rounding may have added to the sum of all that come before.
    return ((before < part - 1e-12) | (part == 1)) & (scores > 0)


def check_thresholds(nodes: float, edges: float) -> None:
    """Refuses what is no part of a whole."""
    wrong = [f"{name}={t!r}" for name, t in (("nodes", nodes), ("edges", edges)) if not 0 <= t <= 1]
    if wrong:
        raise InputError(f"Parts that are kept are numbers from 0 to 1, got {', '.join(wrong)}.")
