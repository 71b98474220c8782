"""Recovering structure: several equations become one operation that has a name.

Frameworks and `jax.nn` emit no softmax, no normalisation, no GELU and no layers, only arithmetic.
Each recogniser here finds one structure again, by data flow and never by names, so that it works
for every framework and for code that nobody has seen before. A recogniser maps an equation, the
last one of a structure, to the operation that takes its place; `STRUCTURES` lists them in order of
precedence.
"""

from __future__ import annotations

from collections.abc import Collection

from relprop._core.graph import Equation, Graph, Value
from relprop._core.operation import Operation
from relprop.recognise.activation import activations
from relprop.recognise.average import averages
from relprop.recognise.batch_norm import batch_norms, merged_layers
from relprop.recognise.bias import biased_layers
from relprop.recognise.dataflow import Dataflow
from relprop.recognise.fixed import fixed_maps
from relprop.recognise.gate import gates
from relprop.recognise.neuron import neurons
from relprop.recognise.norm import norms
from relprop.recognise.padding import padded_convolutions
from relprop.recognise.parted import parted_layers
from relprop.recognise.soft_maximum import soft_maxima
from relprop.recognise.softmax import softmaxes
from relprop.recognise.statistic import statistics
from relprop.recognise.straight_through import straight_through

STRUCTURES = (
    straight_through,
    softmaxes,
    soft_maxima,
    statistics,
    fixed_maps,
    biased_layers,
    parted_layers,
    averages,
    activations,
    gates,
)
# Larger ones, which have their place only where a composite names them.
WHOLES = {"norm": norms, "neuron": neurons, "batch_norm": batch_norms}
# What is merged into the layers beside it, where a composite wants that.
CANONIZERS = {"batch_norm": merged_layers}


def recognise(
    graph: Graph,
    dependent: set[Value],
    explained: set[Value],
    wholes: Collection[str] = (),
    visible: Collection[Value] = (),
    canonizers: Collection[str] = (),
) -> list[Operation]:
    """The equations of a graph as operations, one for each equation that has results.

    Args:
        graph: the graph.
        dependent: the values that depend on the explained inputs.
        explained: those inputs.
        wholes: names of larger structures to be taken as one operation.
        visible: values that somebody looks at, where a chain of functions is not to go around.
        canonizers: names of what is to be merged into the layers beside it.
    """
    graph = padded_convolutions(graph, dependent, visible)
    flow = Dataflow(graph, dependent, explained, visible)
    found: dict[Equation, Operation] = {}
    asked = [CANONIZERS[name] for name in CANONIZERS if name in canonizers]
    asked += [WHOLES[name] for name in WHOLES if name in wholes]
    for structure in (*asked, *STRUCTURES):
        for operation in flow.found(structure):
            found.setdefault(operation.last, operation)
    return [found.get(e) or Operation.of(e) for e in graph.equations if e.outputs]
