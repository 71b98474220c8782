"""The anatomy of a model: attention, norms, gates, routers, recurrences, residual streams.

Rules are given to operations; what a model's author calls attention or a norm consists of several.
Each finder here looks at the steps of a plan, and reads data flow only, so that one finder serves
every framework. Nothing depends on what is found: it is for people, for selections and for
methods that need attention maps.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence, Set

from relprop._core.graph import Graph, Value
from relprop._core.plan import Plan, Planner
from relprop.anatomy.activation import activations, gates
from relprop.anatomy.attention import layers_of_attention
from relprop.anatomy.blocks import (
    Activation,
    Attention,
    Block,
    Gate,
    Memory,
    Norm,
    Recurrence,
    Residual,
    Router,
    Stack,
    Suspicion,
)
from relprop.anatomy.normalisation import norms
from relprop.anatomy.opening import openings
from relprop.anatomy.pooling import memories, unexplained
from relprop.anatomy.position import rotations
from relprop.anatomy.recurrence import recurrences
from relprop.anatomy.residual import residuals
from relprop.anatomy.routing import routers, weighing
from relprop.anatomy.streams import Application, Stream, TokenFlow
from relprop.anatomy.suspicion import suspicions
from relprop.anatomy.wiring import Wiring
from relprop.reading import read
from relprop.recognise.findings import Findings
from relprop.structures import DEFAULTS, recognisers

__all__ = [
    "Activation",
    "Attention",
    "Block",
    "Gate",
    "Application",
    "Memory",
    "Norm",
    "Recurrence",
    "Residual",
    "Router",
    "Stack",
    "Stream",
    "Suspicion",
    "TokenFlow",
]

FINDERS = (
    layers_of_attention,
    memories,
    norms,
    activations,
    gates,
    rotations,
    routers,
    recurrences,
    residuals,
    suspicions,
)


def anatomy_of(
    graph: Graph,
    explained: set[Value],
    asked: Sequence[bool] | None = None,
    sources: Set[Value] = frozenset(),
) -> Plan:
    """The plan of a graph in which everything is in its place, whatever rules somebody chose.

    Args:
        graph: the graph.
        explained: the inputs that relevance is wanted of.
        asked: per output, whether it is explained; all of them by default.
        sources: values that are explained beside the inputs, in whatever graph they are.
    """
    found = functools.partial(Findings().recognised, recognisers=tuple(recognisers((), ())))
    planner = Planner(read, found, lambda step: (DEFAULTS.get(step.structure or ""), ""), sources)
    return planner.assign(graph, explained, asked=asked)


def blocks(plan: Plan) -> Iterator[Block]:
    """All blocks of a plan and of the bodies inside it."""
    wiring = Wiring(plan)
    explained = set()
    for find in FINDERS:
        for block in find(wiring):
            explained.add(block.value)
            yield block
    weights = {opening.softmax for opening in openings(wiring)}
    yield from unexplained(wiring, explained | weights | weighing(wiring))
    for step in plan.steps:
        for body in step.bodies:
            yield from blocks(body)
