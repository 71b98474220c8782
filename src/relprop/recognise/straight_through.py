"""Straight-through estimators: functions whose derivative is somebody else's.

``z + stop_gradient(g(z) - z)`` has the value of g(z), and is the activation g; so is a function
with a derivative of its own, of which nothing would pass by what is inside: a rounding, a sign.
"""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core import registry
from relprop._core.control import Call
from relprop._core.graph import Equation, Value
from relprop._core.operation import Operation
from relprop.propagators.linear import Addition
from relprop.propagators.recognised import ActivationFunction
from relprop.reading.terms import leaf
from relprop.recognise.dataflow import Dataflow

# So many constants may be added in one estimator.
_LONGEST = 8


def straight_through(flow: Dataflow) -> Iterator[Operation]:
    """Each equation that completes one."""
    for equation in flow.equations:
        operands = flow.operands(equation)
        kind = registry.lookup(equation.primitive)
        if isinstance(kind, Addition) and len(operands) == 1:
            start = _start(flow, equation)
            if start is not None:
                whole = flow.region(start, equation, ActivationFunction())
                others = [a for a in whole.inputs if a in flow.dependent and a is not start]
                if others and start in operands:  # Such as a scale that is computed from others.
                    whole = Operation(
                        ActivationFunction(), (equation,), equation.inputs, equation.outputs
                    )
                yield whole
        elif type(kind) is Call and len(operands) == 1 and len(equation.outputs) == 1:
            # What could be looked into has been opened: the rest is cut off inside.
            (out,) = equation.outputs
            if operands[0].shape == out.shape and out not in flow.graph.closed:
                yield Operation(
                    ActivationFunction(), (equation,), equation.inputs, equation.outputs
                )


def _start(flow: Dataflow, equation: Equation) -> Value | None:
    """The value whose own part in a sum is taken away again, with the derivative stopped."""
    (out,) = equation.outputs
    before = [*_before_additions(flow, equation)]
    if not any(stopped for _, stopped in before):
        return None
    index = flow.algebra.indices(out.shape)
    term = flow.algebra.of(out, index)
    if not term or term == leaf(out, index):
        return None
    for start, stopped in before:
        own = flow.algebra.of(start, index) if stopped else {}
        # What is rounded to few bits, or an integer of another type, is itself to the algebra.
        if own and (own == term or not any(product in term for product in own)):
            return start
    return None


def _before_additions(flow: Dataflow, equation: Equation) -> Iterator[tuple[Value, bool]]:
    """What a sum was before each of its constants was added, the last one first.

    With it, whether one of those since then was computed from the explained inputs.
    """
    (out,) = equation.outputs
    stopped = False
    current: Equation | None = equation
    for _ in range(_LONGEST):
        if current is None or not isinstance(registry.lookup(current.primitive), Addition):
            return
        operands = flow.operands(current)
        if len(operands) != 1 or operands[0].shape != out.shape:
            return
        (start,) = operands
        stopped |= any(a in flow.touched for a in current.inputs if a is not start)
        yield start, stopped
        current = flow.producer(start)
