"""Loops that are a function of each entry: Horner's scheme, Newton's method, series."""

from __future__ import annotations

from collections.abc import Sequence

from relprop import _compat
from relprop._core import registry
from relprop._core.control import Scan
from relprop._core.graph import Equation, Value, depends_on
from relprop.propagators.general import compares, is_elementwise
from relprop.recognise.dataflow import Dataflow


def loops_over_entries(flow: Dataflow, equation: Equation) -> bool:
    """Whether a loop computes each entry of its only result from that of its operands.

    Each turn may read numbers of its own, such as a coefficient. Where nothing is joined by a
    product, as by Horner's scheme, the turns have rules for what they do: functions and sums.
    """
    if not isinstance(registry.lookup(equation.primitive), Scan) or equation.has_effects:
        return False
    consts, carried = _compat.scan_sizes(equation.params)
    first, (body,) = consts + carried, equation.bodies
    if carried != 1 or len(equation.outputs) != 1:
        return False
    whole, turns = equation.inputs[:first], equation.inputs[first:]
    shapes = [a.shape for a in whole] + [a.shape[1:] for a in turns]
    if any(shape not in ((), equation.outputs[0].shape) for shape in shapes):
        return False
    if any(map(flow.depends, turns)):
        return False
    start = {v for v, a in zip(body.inputs, whole, strict=False) if flow.depends(a)}
    found = depends_on(body.equations, {*start, body.inputs[consts]})
    entrywise = all(_is_of_entries(inner, found) for inner in body.equations)
    return entrywise and _joins(body.equations, found)


def _is_of_entries(equation: Equation, varying: set[Value]) -> bool:
    spread = equation.name == "broadcast_in_dim" and equation.inputs[0] not in varying
    named = equation.name == "name"  # A place that somebody may ask for.
    return (is_elementwise(equation) and not named) or compares(equation) or spread


def _joins(equations: Sequence[Equation], varying: set[Value]) -> bool:
    """Whether two values are joined by anything else than a sum."""
    for equation in equations:
        active = [atom in varying for atom in equation.inputs]
        operation = registry.operation_of(equation)
        if sum(active) > 1 and not operation.propagator.linear(operation, active):
            return True
    return False
