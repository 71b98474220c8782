"""Linear maps that nobody has learnt: interpolation, differences, identities.

Their matrices are made of numbers in the code and of positions. They are no layers with weights:
the rule of a first layer is not for an interpolation before it.
"""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core import registry
from relprop._core.graph import Equation
from relprop._core.operation import Operation
from relprop.propagators.linear import Contraction
from relprop.propagators.recognised import Fixed
from relprop.recognise.dataflow import Dataflow


def fixed_maps(flow: Dataflow) -> Iterator[Operation]:
    """Each contraction with a matrix that is made of literals."""
    for equation in flow.equations:
        if is_fixed(flow, equation):
            yield Operation(Fixed(), (equation,), equation.inputs, equation.outputs)


def is_fixed(flow: Dataflow, equation: Equation) -> bool:
    """Whether what an operand that depends on the inputs is contracted with is made of literals."""
    kind = registry.lookup(equation.primitive)
    if not isinstance(kind, Contraction) or len(flow.operands(equation)) != 1:
        return False
    return all(flow.is_literal(a) for a in equation.inputs if a not in flow.dependent)
