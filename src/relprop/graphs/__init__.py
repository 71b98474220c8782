"""Attribution graphs: which features of a prompt make which others, and these the logits.

Nodes are the inputs, features inside of the function (or neurons and heads), what the features
leave over, and the most probable logits. An edge is what one node has of the value of another,
without a way through a third one.
"""

from relprop.graphs._attribute import attribution_graph as attribution_graph
from relprop.graphs._graph import AttributionGraph as AttributionGraph
from relprop.graphs._node import Node as Node

__all__ = ["AttributionGraph", "Node", "attribution_graph"]
