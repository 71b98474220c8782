"""Layers with a bias: a dense layer or convolution, and the addition of something constant."""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core import registry
from relprop._core.graph import Equation
from relprop._core.operation import Operation
from relprop.propagators.linear import Addition, Contraction
from relprop.propagators.recognised import Biased
from relprop.recognise.dataflow import Dataflow, is_device_sum


def biased_layers(flow: Dataflow) -> Iterator[Operation]:
    """Each addition of an independent value to the product of a layer, perhaps moved about."""
    for equation in flow.equations:
        kind = registry.lookup(equation.primitive)
        operands = flow.operands(equation)
        if not isinstance(kind, Addition) or len(operands) != 1:
            continue
        # In `b - W x` the product has a sign of its own; that stays an offset.
        left = equation.inputs[0] is operands[0]
        if kind.sign < 0 and not left:
            continue
        origin, moves = flow.origin(operands[0], is_device_sum)
        layer = flow.producer(origin)
        if layer is None or not is_layer(flow, layer) or operands[0].shape != _shape(equation):
            continue
        bias = equation.inputs[1] if left else equation.inputs[0]
        if bias in flow.touched:
            continue  # Such as the maximum of the product itself, its gradient stopped.
        yield Operation(
            Biased(kind.sign),
            (layer, *moves, equation),
            (*layer.inputs, bias),
            equation.outputs,
        )


def is_layer(flow: Dataflow, equation: Equation) -> bool:
    """Whether it is a dense layer or convolution, of one operand that is explained."""
    kind = registry.lookup(equation.primitive)
    return isinstance(kind, Contraction) and len(flow.operands(equation)) == 1


def _shape(equation: Equation) -> tuple[int, ...]:
    return equation.outputs[0].shape
