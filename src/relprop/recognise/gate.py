"""Gates: the product of an activation and something else, as in SwiGLU, GEGLU, LSTM and GRU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from relprop._core import registry
from relprop._core.graph import Atom, Constant, Equation
from relprop._core.operation import Operation
from relprop.propagators.linear import Addition, Division, Multiplication, Negation
from relprop.propagators.recognised import Gate
from relprop.recognise.activation import joins
from relprop.recognise.dataflow import Dataflow, is_move

# Between 0 and 1: of two activations, the one that opens and closes.
_SIGMOIDS = ("logistic",)
# Activations of one equation; a square or an exponential is no gate.
_ACTIVATIONS = ("tanh", "erf")
# Limits: a gate may be clipped, but being clipped makes no gate, unless at zero as in ReLU.
_LIMITS = ("max", "min", "clamp")


def gates(flow: Dataflow) -> Iterator[Operation]:
    """Each product of two values of which one is an activation, or the more gate-like one."""
    ends = {operation.last: operation for operation in joins(flow)}
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
    equation = _behind(flow, atom)
    if equation is None:
        return 0
    if equation.name in _SIGMOIDS:
        return 2
    plain = equation.name in _ACTIVATIONS and len(flow.operands(equation)) == 1
    return 1 if plain or _is_relu(equation) or equation in ends else 0


def _behind(flow: Dataflow, atom: Atom) -> Equation | None:
    """What makes a value, but for moves, parts, factors, offsets: `1 - z` is a gate if z is."""
    while True:
        equation = flow.producer(atom)
        operands = [] if equation is None else flow.operands(equation)
        if equation is None or len(operands) != 1:
            return equation
        kind = registry.lookup(equation.primitive)
        affine = isinstance(kind, Addition | Multiplication | Negation)
        affine = affine or (isinstance(kind, Division) and equation.inputs[0] is operands[0])
        limit = equation.name in _LIMITS and not _is_relu(equation)
        if not (affine or limit or is_move(equation)):
            return equation
        atom = operands[0]


def _is_relu(equation: Equation) -> bool:
    numbers = [np.asarray(a.array) for a in equation.inputs if isinstance(a, Constant)]
    return equation.name == "max" and any(n.ndim == 0 and n == 0 for n in numbers)
