"""What a node of an attribution graph is."""

from __future__ import annotations

import dataclasses
from typing import Literal

Kind = Literal["feature", "error", "embedding", "logit"]


@dataclasses.dataclass(frozen=True)
class Node:
    """One node of an attribution graph.

    Attributes:
        kind: ``"feature"`` (also a neuron or a head), ``"error"``, ``"embedding"`` or ``"logit"``.
        place: the name of the place, of the explained argument, or ``"logits"``.
        layer: the number of the place among those of features, in order of evaluation; -1 of
            embeddings, and of logits that of all places.
        position: the position in the text.
        index: which one there: of a feature, a head or a logit.
        value: the activation; of a node of several entries what these have of the score; of a
            logit its difference to the mean of all.
        label: for people.
        probability: of a logit.
    """

    kind: Kind
    place: str
    layer: int
    position: int
    index: int
    value: float
    label: str
    probability: float = 0.0
