"""Soft maximum: the logarithm of a sum of exponentials, which arrives shifted by the maximum.

``log(sum(exp(x - m))) + m``, or without the last addition as a part of log-softmax.
"""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core.graph import Atom, Equation
from relprop._core.operation import Operation
from relprop.propagators.recognised import SoftMaximum
from relprop.reading.terms import Algebra, plus, scaled
from relprop.recognise.dataflow import Dataflow, is_move
from relprop.recognise.softmax import arguments, is_softmax, sums_used


def soft_maxima(flow: Dataflow) -> Iterator[Operation]:
    """Each logarithm of a sum of exponentials, with the maximum added again if it is."""
    for equation in flow.equations:
        if equation.name != "log" or not flow.operands(equation):
            continue
        if equation.inputs[0] not in sums_used(flow):
            continue
        if is_softmax_of(flow, equation):
            continue
        starts = arguments(flow, equation.outputs[0]) or arguments(flow, equation.inputs[0])
        if starts:
            first, *more = starts
            yield flow.region(first, _with_shift(flow, equation), SoftMaximum(), *more)


def is_softmax_of(flow: Dataflow, equation: Equation) -> bool:
    """Whether the logarithm is that of a softmax, which has a maximum of its own."""
    (value,) = flow.operands(equation)
    return is_softmax(flow, value)


def _with_shift(flow: Dataflow, logarithm: Equation) -> Equation:
    """The addition of what was subtracted from all arguments, or the logarithm if there is none."""
    queue = [logarithm.outputs[0]]
    while queue:
        value = queue.pop(0)
        for use in flow.consumers(value):
            if is_move(use) and len(use.inputs) == 1:
                queue.append(use.outputs[0])
            elif use.name in ("add", "sub") and (use.name == "add" or use.inputs[0] is value):
                other = use.inputs[1] if use.inputs[0] is value else use.inputs[0]
                if cancels(flow.algebra, value, other, 1 if use.name == "add" else -1):
                    return use
    return logarithm


def cancels(algebra: Algebra, value: Atom, other: Atom, sign: int = 1) -> bool:
    """Whether a value has a summand that the other one, with a sign, takes away."""
    if other.shape not in ((), value.shape):
        return False
    index = algebra.indices(value.shape)
    own, more = algebra.of(value, index), algebra.of(other, index if other.shape else ())
    return bool(more) and len(plus(own, scaled(more, sign))) == len(own) - len(more)
