"""The statistic of a normalisation: a root of something summed over the input.

LayerNorm, RMSNorm, GroupNorm and L2-normalisation are spelled in many ways, but all of them
divide by ``rsqrt``, ``sqrt`` or a power of a half of some mean. Whatever the spelling, once that
value counts as a constant, what is left of the normalisation is linear.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from relprop._core import registry
from relprop._core.graph import Atom, Constant, Equation, Value
from relprop._core.operation import Operation
from relprop.propagators.recognised import Statistic
from relprop.recognise.dataflow import Dataflow, is_elementwise, is_move


def statistics(flow: Dataflow) -> Iterator[Operation]:
    """Each root of a reduction of dependent values by which something else is divided."""
    for equation in flow.equations:
        if not (flow.operands(equation) and _reduced(flow, equation.inputs[0])):
            continue
        exponent = _root_exponent(equation)
        if exponent is not None and _divides(flow, equation.outputs[0], exponent < 0):
            yield Operation(Statistic(), (equation,), equation.inputs, equation.outputs)


def _root_exponent(equation: Equation) -> float | None:
    """The exponent, 0.5 or -0.5, if the equation takes a root."""
    if equation.name in ("rsqrt", "sqrt"):
        return -0.5 if equation.name == "rsqrt" else 0.5
    if equation.name != "pow" or not isinstance(equation.inputs[1], Constant):
        return None
    exponent = np.asarray(equation.inputs[1].array)
    return float(exponent) if exponent.ndim == 0 and abs(float(exponent)) == 0.5 else None


def _divides(flow: Dataflow, value: Value, inverse: bool) -> bool:
    """Whether all that is done with a root is to divide something else by it.

    A norm that is the score, or a standard deviation that is a feature, is no normalisation.

    Args:
        flow: the graph.
        value: the root, or what has become of it.
        inverse: whether it is one over the root.
    """
    if value in flow.graph.explained_outputs:
        # What leaves the body of a loop or a call is taken for a normalisation outside of it.
        return flow.graph.inner
    uses = flow.consumers(value)
    for use in uses:
        if not any(out in flow.dependent for out in use.outputs):
            continue
        operands = flow.operands(use)
        if len(operands) == 2 and operands[0] is not operands[1]:
            scales = use.name == "mul" and inverse
            if scales or (use.name == "div" and (use.inputs[1] is value) is not inverse):
                continue
            return False
        if len(operands) != 1 or not (is_move(use) or is_elementwise(use)):
            return False
        flips = (use.name == "div" and use.inputs[1] is value) or use.params.get("y") == -1
        if not _divides(flow, use.outputs[0], inverse is not flips):
            return False
    return bool(uses)


def _reduced(flow: Dataflow, atom: Atom) -> bool:
    """Whether all that a value depends on has been summed over some axis on the way."""
    queue, seen = [atom], set()
    while queue:
        atom = queue.pop()
        if not isinstance(atom, Value) or atom not in flow.dependent or atom in seen:
            continue
        seen.add(atom)
        equation = flow.producer(atom)
        if equation is None:
            return False
        if registry.lookup(equation.primitive).reduces:
            continue
        if not (is_move(equation) or is_elementwise(equation)):
            return False
        queue.extend(equation.inputs)
    return True
