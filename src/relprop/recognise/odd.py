"""Limits on both sides of zero: ``5 * tanh(z / 5)``, also as ``10 * sigmoid(2 * z / 5) - 5``."""

from __future__ import annotations

import numpy as np

from relprop._core.graph import Atom, Equation
from relprop._core.operation import Operation
from relprop.propagators.recognised import ActivationFunction
from relprop.recognise.dataflow import Dataflow, is_elementwise
from relprop.recognise.probe import GRID, probed

_BENT = ("logistic", "tanh", "exp", "exp2", "expm1", "erf", "atan", "sinh", "cosh")
# A function of more equations is none.
_MOST = 16


def is_odd(flow: Dataflow, value: Atom) -> bool:
    """Whether a value is a function of another one, entry by entry, with f(-x) = -f(x)."""
    waiting = [value]
    passed: list[Equation] = []
    while len(passed) < _MOST:
        last = max(waiting, key=flow.order)
        equation = flow.producer(last)
        if equation is None or not is_elementwise(equation) or len(equation.outputs) != 1:
            return False
        operands = flow.operands(equation)
        if any(a not in operands and flow.number(a) is None for a in equation.inputs):
            return False
        passed.insert(0, equation)
        waiting = [*dict.fromkeys([a for a in waiting if a is not last] + operands)]
        bent = any(e.name in _BENT for e in passed)
        if len(waiting) == 1 and bent:
            (start,) = waiting
            outside = (start, *(a for e in passed for a in e.inputs if a not in flow.dependent))
            function = Operation(ActivationFunction(), tuple(passed), outside, passed[-1].outputs)
            curve = probed(function, flow.number)
            if curve is not None and _is_odd(curve):
                return True
    return False


def _is_odd(curve: np.ndarray) -> bool:
    assert np.array_equal(GRID, -GRID[::-1])
    largest = np.abs(curve).max()
    return bool(largest > 0 and np.abs(curve + curve[::-1]).max() <= 1e-5 * largest)
