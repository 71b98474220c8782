"""Activation functions: GELU, SiLU, mish, hard-swish, or one that somebody just made up.

They arrive as several element-wise equations. Where two values that are joined element by
element both come, through element-wise equations only, from one value of the same shape, all in
between is a function of each entry of that value. Where they come from two different values the
join is a true product or sum: a gate, a residual.

Every value has at most one immediate dominator here: the nearest earlier value that all paths
from it pass. Slices and splits have none, since the halves of a projection are two things.

What is done to a value before and after with nothing but numbers belongs to the function as well:
`relu6(x + 3) / 6` is one hard sigmoid, not an offset, an activation and a scale.
"""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core.graph import Atom, Constant, Equation, Value
from relprop._core.operation import Operation
from relprop.propagators.recognised import Activation
from relprop.recognise.average import averages
from relprop.recognise.bias import biased_layers
from relprop.recognise.dataflow import Dataflow, compares, is_elementwise
from relprop.recognise.statistic import statistics


def activations(flow: Dataflow) -> Iterator[Operation]:
    """Each equation that completes an element-wise function of one value."""
    joined = {operation.last: operation for operation in joins(flow)}
    # A root that divides, the factor of a mean and the bias of a layer belong to those.
    others = (statistics, averages, biased_layers)
    taken = {operation.last for find in others for operation in find(flow)}
    for end in flow.equations:
        start, links = _chain(flow, joined, taken, end)
        nonlinear = any(e in joined or _is_nonlinear(flow, e) for e in links)
        if start is not None and nonlinear and (len(links) > 1 or end in joined):
            yield flow.region(start, end, Activation())


def _chain(
    flow: Dataflow, joined: dict[Equation, Operation], taken: set[Equation], equation: Equation
) -> tuple[Value | None, list[Equation]]:
    """The longest function of one value that ends with an equation: that value, the equations."""
    start: Value | None = None
    links: list[Equation] = []
    while equation not in taken:
        if equation in joined:
            links.extend(joined[equation].equations)
            start = joined[equation].inputs[0]  # type: ignore[assignment]
        elif _is_unary(flow, equation):
            links.append(equation)
            (start,) = flow.operands(equation)
        else:
            break
        before = flow.producer(start)  # type: ignore[arg-type]
        if before is None or any(use not in links for use in flow.consumers(start)):  # type: ignore[arg-type]
            break
        equation = before
    return start, links


def _is_unary(flow: Dataflow, equation: Equation) -> bool:
    """Whether an equation is a function of the entries of one value and of numbers."""
    operands = flow.operands(equation)
    others = [a for a in equation.inputs if a not in flow.dependent]
    return (
        len(operands) == 1
        and len(equation.outputs) == 1
        and operands[0].shape == equation.outputs[0].shape
        and is_elementwise(equation)
        and all(isinstance(atom, Constant) and atom.shape == () for atom in others)
    )


def _is_nonlinear(flow: Dataflow, equation: Equation) -> bool:
    operation = Operation.of(equation)
    active = [atom in flow.dependent for atom in equation.inputs]
    return bool(equation.bodies) or operation.propagator.structure(operation, active) == (
        "activation"
    )


def joins(flow: Dataflow) -> Iterator[Operation]:
    """Each equation that joins what was computed from one value, entry by entry."""
    dominator: dict[Value, Value] = {}
    depth: dict[Value, int] = {}

    def nearest_common(a: Value, b: Value) -> Value | None:
        while a is not b:
            if depth.get(a, 0) < depth.get(b, 0):
                a, b = b, a
            if a not in dominator:
                return None
            a = dominator[a]
        return a

    # A choice by comparison, `where(x > 0, x, 0)`, is a function of x like any other: what is
    # compared is followed as well, although no relevance passes there.
    tracked: set[Atom] = set(flow.dependent)
    for equation in flow.equations:
        operands = [a for a in equation.inputs if isinstance(a, Value) and a in tracked]
        if not operands or len(equation.outputs) != 1:
            continue
        if not (is_elementwise(equation) or compares(equation)):
            continue
        (out,) = equation.outputs
        tracked.add(out)
        if any(a.shape != out.shape for a in operands):
            continue
        common: Value | None = operands[0]
        for operand in operands[1:]:
            common = common and nearest_common(common, operand)
        if common is None:
            continue
        dominator[out], depth[out] = common, depth.get(common, 0) + 1
        if out in flow.dependent and (len(operands) > 1 or equation.bodies):
            yield flow.region(common, equation, Activation())
