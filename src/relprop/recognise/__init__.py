"""Recovering structure: several equations become one operation that has a name.

Frameworks and `jax.nn` emit no softmax, no normalisation, no GELU and no layers, only arithmetic.
Each recogniser here finds one structure again, by data flow and never by names, so that it works
for every framework and for code that nobody has seen before. A recogniser maps an equation, the
last one of a structure, to the operation that takes its place; `relprop.structures` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from relprop import _compat
from relprop._core.control import Branch, Scan
from relprop._core.graph import Atom, Equation, Graph, Value
from relprop._core.operation import Operation
from relprop._core.registry import lookup, operation_of
from relprop.recognise.dataflow import Dataflow

Recogniser = Callable[[Dataflow], Iterable[Operation]]
#: Of inputs of bodies, the flow around and the value there.
Beyond = dict[Atom, tuple[Dataflow, Atom]]


def recognise(
    graph: Graph,
    dependent: set[Value],
    explained: set[Value],
    recognisers: Sequence[Recogniser],
    visible: Collection[Value] = (),
    beyond: Beyond | None = None,
) -> list[Operation]:
    """The equations of a graph as operations, one for each equation that has results.

    Args:
        graph: the graph.
        dependent: the values that depend on the explained inputs.
        explained: those inputs.
        recognisers: what is looked for, in the order of precedence.
        visible: values that somebody looks at, where a chain of functions is not to go around.
        beyond: what inputs of bodies are outside; those of the bodies in this graph come in.
    """
    flow = Dataflow(graph, dependent, explained, visible, outside(graph, beyond))
    if beyond is not None:
        beyond.update(_entering(flow))
    found: dict[Equation, Operation] = {}
    for recogniser in recognisers:
        for operation in flow.found(recogniser):
            found.setdefault(operation.last, operation)
    return [found.get(e) or operation_of(e) for e in graph.equations if e.outputs]


def outside(graph: Graph, beyond: Beyond | None) -> Beyond:
    """What the inputs of a body are outside, as far as that is known."""
    return {v: beyond[v] for v in graph.inputs if v in beyond} if beyond else {}


def _entering(flow: Dataflow) -> Beyond:
    """What the inputs of all bodies in a graph are; not what a loop carries, nor of shared bodies.

    A gate may be computed before a loop, for all turns at once, and what it opens for in the loop.
    """
    found: Beyond = {}
    shared: set[Atom] = set()
    for equation in flow.equations:
        for inner, atom in _given(equation):
            if found.setdefault(inner, (flow, atom))[1] is not atom:
                shared.add(inner)
    return {inner: outer for inner, outer in found.items() if inner not in shared}


def _given(equation: Equation) -> Iterator[tuple[Atom, Atom]]:
    """What bodies of loops and branches are given in the same way in all turns."""
    kind, given = lookup(equation.primitive), list(equation.inputs)
    first = last = 0
    if isinstance(kind, Branch):
        given = given[1:]
    elif isinstance(kind, Scan):
        first, carried = _compat.scan_sizes(equation.params)
        last = first + carried
    else:
        return
    for body in equation.bodies:
        for i, pair in enumerate(zip(body.inputs, given, strict=True)):
            if not first <= i < last:
                yield pair
