"""Means and average poolings: a sum, divided by how many entries it has."""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core import registry
from relprop._core.graph import Equation
from relprop._core.operation import Operation
from relprop.propagators.linear import Division, Multiplication
from relprop.propagators.recognised import Average
from relprop.propagators.sums import Sum, WindowSum
from relprop.recognise.dataflow import Dataflow, is_device_sum


def averages(flow: Dataflow) -> Iterator[Operation]:
    """Each scaling of a sum by something independent."""
    for equation in flow.equations:
        kind = registry.lookup(equation.primitive)
        operands = flow.operands(equation)
        if not isinstance(kind, Multiplication | Division) or len(operands) != 1:
            continue
        left = equation.inputs[0] is operands[0]
        if isinstance(kind, Division) and not left:
            continue
        if operands[0].shape != equation.outputs[0].shape:
            continue
        # A sum over devices may complete the sum, or be all of it.
        origins = (flow.origin(operands[0], through) for through in (is_device_sum, None))
        sums = ((flow.producer(origin), moves) for origin, moves in origins)
        total, moves = next(((e, m) for e, m in sums if e is not None and _is_sum(e)), (None, []))
        if total is None:
            continue
        yield Operation(
            Average(isinstance(kind, Division)),
            (total, *moves, equation),
            (*total.inputs, equation.inputs[1] if left else equation.inputs[0]),
            equation.outputs,
        )


def _is_sum(equation: Equation) -> bool:
    return isinstance(registry.lookup(equation.primitive), Sum | WindowSum)
