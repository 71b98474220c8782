"""Logsumexp: the logarithm of a sum of exponentials, which arrives shifted by the maximum.

``log(sum(exp(x - m))) + m``, or without the last addition as a part of log-softmax.
"""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core.graph import Equation
from relprop._core.operation import Operation
from relprop.propagators.recognised import LogSumExp
from relprop.reading.logarithms import cancels
from relprop.recognise.dataflow import Dataflow, is_move
from relprop.recognise.softmax import arguments, is_softmax, sums_used


def logsumexps(flow: Dataflow) -> Iterator[Operation]:
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
            yield flow.region(first, _with_shift(flow, equation), LogSumExp(), *more)


def is_softmax_of(flow: Dataflow, equation: Equation) -> bool:
    """Whether the logarithm is that of a softmax, which has a maximum of its own."""
    (value,) = flow.operands(equation)
    return is_softmax(flow, value)


def _with_shift(flow: Dataflow, logarithm: Equation) -> Equation:
    """The last addition of what was subtracted from all arguments; the logarithm without one."""
    last = logarithm
    queue = [logarithm.outputs[0]]
    while queue:
        value = queue.pop(0)
        for use in flow.consumers(value):
            if is_move(use) and len(use.inputs) == 1:
                queue.append(use.outputs[0])
            elif use.name in ("add", "sub") and (use.name == "add" or use.inputs[0] is value):
                other = use.inputs[1] if use.inputs[0] is value else use.inputs[0]
                if cancels(flow.algebra, value, other, 1 if use.name == "add" else -1):
                    last = use
                    queue.append(use.outputs[0])
    return last
