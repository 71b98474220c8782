"""Softmax, which arrives as ``exp(x - max(x)) / sum(exp(x - max(x)))``.

The maximum may be missing, stopped or not; the exponential may be converted, masked or moved
about before it is summed.
"""

from __future__ import annotations

from collections.abc import Iterator

from relprop import _compat
from relprop._core.graph import Atom, Equation, Value
from relprop._core.operation import Operation
from relprop.propagators.recognised import Softmax
from relprop.recognise.dataflow import Dataflow, is_device_sum, is_move


def softmaxes(flow: Dataflow) -> Iterator[Operation]:
    """Each division that completes a softmax, and each call of JAX's own softmax."""
    for equation in flow.equations:
        if equation.name == "custom_jvp_call" and len(flow.operands(equation)) == 1:
            if _compat.function_name(equation.params["call_jaxpr"]) == "_softmax":
                yield flow.region(flow.operands(equation)[0], equation, Softmax())
        elif equation.name == "div":
            start = _argument(flow, equation)
            if start is not None:
                yield flow.region(start, equation, Softmax())


def _argument(flow: Dataflow, division: Equation) -> Value | None:
    """What the softmax is taken of, if the division completes one."""
    if len(flow.operands(division)) != 2:
        return None
    numerator, denominator = division.inputs
    total, _ = flow.origin(denominator, is_device_sum)
    summation = flow.producer(total)
    if summation is None or summation.name != "reduce_sum":
        return None
    summed, _ = flow.origin(summation.inputs[0], _masks)
    above, _ = flow.origin(numerator, _masks)
    exponential = flow.producer(above)
    if summed is not above or exponential is None or exponential.name not in ("exp", "exp2"):
        return None
    start = unshifted(flow, exponential.inputs[0])
    return start if isinstance(start, Value) else None


def unshifted(flow: Dataflow, shifted: Atom) -> Atom:
    """The x of `x - max(x)`, or the value itself if it is not that."""
    subtraction = flow.producer(shifted)
    if subtraction is not None and subtraction.name == "sub":
        argument, maximum = subtraction.inputs
        if argument in flow.dependent and is_maximum_of(flow, maximum, argument):
            return argument
    return shifted


def is_maximum_of(flow: Dataflow, atom, argument) -> bool:
    """Whether a value is the maximum of another one along some axes, gradient stopped or not."""
    while True:
        equation = flow.producer(atom)
        if equation is None:
            return False
        if equation.name == "reduce_max":
            return _first_source(flow, equation.inputs[0]) is _first_source(flow, argument)
        values = [a for a in equation.inputs if isinstance(a, Value)]
        passing = is_move(equation) or equation.name in (
            "stop_gradient",
            "max",
            "pmax",
            "select_n",
        )
        # `max(-inf, m)` and `where(isfinite(m), m, 0)` guard rows that are masked completely.
        inexact = [a for a in values if a.inexact]
        if not passing or not inexact:
            return False
        atom = inexact[-1]


def _first_source(flow: Dataflow, atom):
    return flow.origin(atom, _masks)[0]


def _masks(equation: Equation) -> bool:
    return equation.name == "select_n"
