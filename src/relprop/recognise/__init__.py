"""Recovering structure: several equations become one operation that has a name.

Frameworks and `jax.nn` emit no softmax, no normalisation, no GELU and no layers, only arithmetic.
Each recogniser here finds one structure again, by data flow and never by names, so that it works
for every framework and for code that nobody has seen before. A recogniser maps an equation, the
last one of a structure, to the operation that takes its place; `relprop.structures` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from relprop._core.graph import Equation, Graph, Value
from relprop._core.operation import Operation
from relprop._core.registry import operation_of
from relprop.recognise.dataflow import Dataflow

Recogniser = Callable[[Dataflow], Iterable[Operation]]


def recognise(
    graph: Graph,
    dependent: set[Value],
    explained: set[Value],
    recognisers: Sequence[Recogniser],
    visible: Collection[Value] = (),
) -> list[Operation]:
    """The equations of a graph as operations, one for each equation that has results.

    Args:
        graph: the graph.
        dependent: the values that depend on the explained inputs.
        explained: those inputs.
        recognisers: what is looked for, in the order of precedence.
        visible: values that somebody looks at, where a chain of functions is not to go around.
    """
    flow = Dataflow(graph, dependent, explained, visible)
    found: dict[Equation, Operation] = {}
    for recogniser in recognisers:
        for operation in flow.found(recogniser):
            found.setdefault(operation.last, operation)
    return [found.get(e) or operation_of(e) for e in graph.equations if e.outputs]
