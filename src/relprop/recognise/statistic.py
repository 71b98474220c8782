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
    """Each root of a reduction of dependent values."""
    for equation in flow.equations:
        if _is_root(equation) and flow.operands(equation) and _reduced(flow, equation.inputs[0]):
            yield Operation(Statistic(), (equation,), equation.inputs, equation.outputs)


def _is_root(equation: Equation) -> bool:
    if equation.name in ("rsqrt", "sqrt"):
        return True
    if equation.name != "pow" or not isinstance(equation.inputs[1], Constant):
        return False
    exponent = np.asarray(equation.inputs[1].array)
    return exponent.ndim == 0 and abs(float(exponent)) == 0.5


def _reduced(flow: Dataflow, atom: Atom, cache: dict[Value, bool] | None = None) -> bool:
    """Whether all that a value depends on has been summed over some axis on the way."""
    cache = {} if cache is None else cache
    if not isinstance(atom, Value) or atom not in flow.dependent:
        return True
    if atom not in cache:
        equation = flow.producer(atom)
        if equation is None:
            cache[atom] = False
        elif registry.lookup(equation.primitive).reduces:
            cache[atom] = True
        else:
            between = is_move(equation) or is_elementwise(equation)
            cache[atom] = between and all(_reduced(flow, a, cache) for a in equation.inputs)
    return cache[atom]
