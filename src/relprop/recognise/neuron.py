"""Neurons: layers with the activation function of their results, where a composite asks for them.

For rules that look at both, as that of DeepLIFT which tells apart what raises and what lowers the
argument of a function.
"""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core import registry
from relprop._core.graph import Equation, Value
from relprop._core.operation import Operation
from relprop._core.registry import operation_of
from relprop.propagators.linear import Contraction
from relprop.propagators.neuron import Neuron
from relprop.recognise.activation import activations
from relprop.recognise.bias import biased_layers
from relprop.recognise.dataflow import Dataflow


def neurons(flow: Dataflow) -> Iterator[Operation]:
    """Each activation of the results of a layer that nothing else reads."""
    biased = {operation.outputs[0]: operation for operation in flow.found(biased_layers)}
    functions = {operation.last: operation for operation in flow.found(activations)}
    for equation in flow.equations:
        function = functions.get(equation) or _single(flow, equation)
        if function is None:
            continue
        (start,) = (atom for atom in function.inputs if atom in flow.dependent)
        origin, moves = flow.origin(start)
        layer = biased.get(origin) or _layer(flow, flow.producer(origin))  # type: ignore[arg-type]
        if layer is None:
            continue
        inside = {*moves, *function.equations}
        passed = [layer.outputs[0], *(move.outputs[0] for move in moves)]
        if all(_only_for(flow, value, inside) for value in passed):
            others = [atom for atom in function.inputs if atom is not start]
            yield Operation(
                Neuron(layer, tuple(moves), function),
                (*layer.equations, *moves, *function.equations),
                (*layer.inputs, *others),
                equation.outputs,
            )


def _single(flow: Dataflow, equation: Equation) -> Operation | None:
    """An activation of one equation."""
    if len(flow.operands(equation)) != 1 or len(equation.outputs) != 1 or equation.bodies:
        return None
    operation = operation_of(equation)
    active = [atom in flow.dependent for atom in equation.inputs]
    found = operation.propagator.structure(operation, active) == "activation"
    same = flow.operands(equation)[0].shape == equation.outputs[0].shape
    return operation if found and same else None


def _layer(flow: Dataflow, equation: Equation | None) -> Operation | None:
    """A layer without a bias."""
    if equation is None or len(flow.operands(equation)) != 1:
        return None
    is_layer = isinstance(registry.lookup(equation.primitive), Contraction)
    return operation_of(equation) if is_layer else None


def _only_for(flow: Dataflow, value: Value, inside: set[Equation]) -> bool:
    """Whether a value is read inside only."""
    seen = value in flow.visible or value in flow.graph.explained_outputs
    return not seen and all(use in inside for use in flow.consumers(value))
