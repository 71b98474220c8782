"""Activation functions: GELU, SiLU, mish, hard-swish, or one that somebody just made up.

They arrive as several element-wise equations. Where two values that are joined element by
element both come, through element-wise equations only, from one value of the same shape, all in
between is a function of each entry of that value. Where they come from two different values the
join is a true product or sum: a gate, a residual.

Every value has at most one immediate dominator here: the nearest earlier value that all paths
from it pass. Slices and splits have none, since the halves of a projection are two things.
"""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core.graph import Atom, Value
from relprop._core.operation import Operation
from relprop.propagators.recognised import Activation
from relprop.recognise.dataflow import Dataflow, compares, is_elementwise


def activations(flow: Dataflow) -> Iterator[Operation]:
    """Each equation that completes an element-wise function of one value."""
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
