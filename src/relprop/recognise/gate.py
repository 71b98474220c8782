"""Gates: the product of an activation and something else, as in SwiGLU, GEGLU, LSTM and GRU."""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core import registry
from relprop._core.graph import Atom, Equation
from relprop._core.operation import Operation
from relprop.propagators.linear import Multiplication
from relprop.propagators.recognised import Gate
from relprop.recognise.activation import activations
from relprop.recognise.dataflow import Dataflow

# Between 0 and 1: of two activations, the one that opens and closes.
_SIGMOIDS = ("logistic",)
# Activations of one equation; a square or an exponential is no gate.
_ACTIVATIONS = ("tanh", "erf", "max", "min", "clamp")


def gates(flow: Dataflow) -> Iterator[Operation]:
    """Each product of two values of which one is an activation, or the more gate-like one."""
    ends = {operation.last: operation for operation in activations(flow)}
    for equation in flow.equations:
        kind = registry.lookup(equation.primitive)
        operands = flow.operands(equation)
        # A product inside an activation, such as x * sigmoid(x), is no gate.
        if not isinstance(kind, Multiplication) or len(operands) != 2 or equation in ends:
            continue
        scores = [_gatedness(flow, ends, operand) for operand in operands]
        if scores[0] == scores[1]:
            continue
        gate, signal = sorted(operands, key=lambda a: -scores[operands.index(a)])
        yield Operation(Gate(), (equation,), (gate, signal), equation.outputs)


def _gatedness(flow: Dataflow, ends: dict[Equation, Operation], atom: Atom) -> int:
    """2 for a sigmoid, 1 for another activation, 0 for everything else."""
    origin, _ = flow.origin(atom)
    equation = flow.producer(origin)
    if equation is None:
        return 0
    if equation.name in _SIGMOIDS:
        return 2
    plain = equation.name in _ACTIVATIONS and len(flow.operands(equation)) == 1
    return 1 if plain or equation in ends else 0
