"""Soft maximum: the logarithm of a sum of exponentials, which arrives shifted by the maximum.

``log(sum(exp(x - m))) + m``, or without the last addition as a part of log-softmax.
"""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core.graph import Equation, Value
from relprop._core.operation import Operation
from relprop.propagators.recognised import SoftMaximum
from relprop.recognise.dataflow import Dataflow
from relprop.recognise.softmax import is_maximum_of, unshifted


def soft_maxima(flow: Dataflow) -> Iterator[Operation]:
    """Each logarithm of a sum of exponentials, with the maximum added again if it is."""
    for equation in flow.equations:
        if equation.name != "log" or not flow.operands(equation):
            continue
        total, _ = flow.origin(equation.inputs[0], lambda e: e.name == "abs")
        summation = flow.producer(total)
        if summation is None or summation.name != "reduce_sum":
            continue
        summed, _ = flow.origin(summation.inputs[0])
        exponential = flow.producer(summed)
        if exponential is None or exponential.name != "exp":
            continue
        start = unshifted(flow, exponential.inputs[0])
        if isinstance(start, Value):
            yield flow.region(start, _with_maximum(flow, equation, start), SoftMaximum())


def _with_maximum(flow: Dataflow, logarithm: Equation, start: Value) -> Equation:
    """The addition of the maximum to the logarithm, or the logarithm if there is none."""
    value = logarithm.outputs[0]
    for use in flow.consumers(value):
        if use.name == "add" and len(flow.operands(use)) == 1:
            other = use.inputs[1] if use.inputs[0] is value else use.inputs[0]
            if is_maximum_of(flow, other, start):
                return use
    return logarithm
