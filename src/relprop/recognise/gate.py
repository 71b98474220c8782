"""Gates: the product of an activation and something else, as in SwiGLU, GEGLU, LSTM and GRU."""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core import registry
from relprop._core.graph import Atom, Equation
from relprop._core.operation import Operation
from relprop.propagators.linear import Addition, Division, Multiplication, Negation
from relprop.propagators.recognised import Gate
from relprop.recognise.activation import is_relu, joins
from relprop.recognise.dataflow import Dataflow, is_move

# Between 0 and 1: of two activations, the one that opens and closes.
_SIGMOIDS = ("logistic",)
# Activations of one equation; a square or an exponential is no gate.
_ACTIVATIONS = ("tanh", "erf")
# A gate may be limited or squared, but neither makes a gate, unless it is the limit of ReLU.
_LIMITS = ("max", "min", "clamp", "square", "integer_pow")


def gates(flow: Dataflow) -> Iterator[Operation]:
    """Each product of two values of which one is an activation, or the more gate-like one."""
    ends = {operation.last: operation for operation in flow.found(joins)}
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
    equation, limits = _behind(flow, atom)
    if equation is None:
        return 0
    if equation.name in _SIGMOIDS or _is_sigmoid(flow, equation):
        return 2
    if is_relu(equation) and "min" in limits | _inner_names(equation):
        return 2  # Limited on both sides: a hard sigmoid.
    plain = equation.name in _ACTIVATIONS and len(flow.operands(equation)) == 1
    return 1 if plain or is_relu(equation) or equation in ends else 0


def _behind(flow: Dataflow, atom: Atom) -> tuple[Equation | None, set[str]]:
    """What makes a value, but for moves, parts, factors, offsets: `1 - z` is a gate if z is.

    Also the names of the limits on the way.
    """
    limits: set[str] = set()
    while True:
        equation = flow.producer(atom)
        operands = [] if equation is None else flow.operands(equation)
        if equation is None or len(operands) != 1 or _is_sigmoid(flow, equation):
            return equation, limits
        kind = registry.lookup(equation.primitive)
        affine = isinstance(kind, Addition | Multiplication | Negation)
        affine = affine or (isinstance(kind, Division) and equation.inputs[0] is operands[0])
        limit = equation.name in _LIMITS and not is_relu(equation) and not _is_inverse(equation)
        if not (affine or limit or is_move(equation)):
            return equation, limits
        limits |= {equation.name} & {"min", "clamp"}
        atom = operands[0]


def _inner_names(equation: Equation) -> set[str]:
    return {e.name for body in equation.bodies for e in body.equations}


def _is_inverse(equation: Equation) -> bool:
    return equation.name == "integer_pow" and equation.params["y"] < 0


def _is_sigmoid(flow: Dataflow, equation: Equation) -> bool:
    """Whether an equation ends `1 / (1 + exp(-x))`, however the inverse is written."""
    operands = flow.operands(equation)
    divides = equation.name == "div" and len(operands) == 1 and equation.inputs[1] is operands[0]
    if not divides and not _is_inverse(equation):
        return False
    above = flow.producer(operands[0])
    if above is None or above.name != "add" or len(flow.operands(above)) != 1:
        return False
    exponential = flow.producer(flow.operands(above)[0])
    return exponential is not None and exponential.name == "exp"
