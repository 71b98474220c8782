"""What rounds, and what values are as if numbers had all the bits in the world."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from relprop._core import registry
from relprop._core.control import Call
from relprop._core.graph import Equation, Literal
from relprop.reading.algebra import Algebra, Handler
from relprop.reading.draft import Draft
from relprop.reading.primitives import algebra_of
from relprop.reading.terms import ONE, Index, Term, plus, power, times

ROUNDINGS = ("round", "floor", "ceil", "convert_element_type")
LIMITS = ("clamp", "max", "min")
#: What may be done between a rounding and the scale.
BETWEEN = (
    "mul", "div", "add", "sub", "clamp", "max", "min", "convert_element_type", "round", "neg",
    "reshape", "broadcast_in_dim", "squeeze", "stop_gradient", "copy", "abs", "sign", "select_n",
)  # fmt: skip
#: So many operations before or after a rounding a scale is looked for.
REACH = 12


def rounds(draft: Draft, equation: Equation) -> bool:
    """Whether an equation rounds what depends on the explained inputs."""
    return any(atom in draft.index.dependent for atom in equation.inputs[:1]) and (
        is_rounding(equation)
    )


def is_rounding(equation: Equation) -> bool:
    """Whether an equation makes whole numbers, or numbers of few bits, of others."""
    if equation.bodies:
        return _only_rounds(equation)
    if equation.name == "convert_element_type":
        (out,) = equation.outputs
        return not out.inexact or np.dtype(out.dtype).itemsize == 1  # Of eight bits.
    return equation.name in ROUNDINGS


def _only_rounds(equation: Equation) -> bool:
    """Whether a function with a derivative of its own does nothing but round and limit."""
    if type(registry.lookup(equation.primitive)) is not Call or len(equation.bodies) != 1:
        return False
    (body,) = equation.bodies
    halves = [inner for inner in body.equations if inner.name == "add" and _adds_half(inner)]
    names = {inner.name for inner in body.equations if inner not in halves}
    # What only limits is an activation, such as a ReLU.
    return (
        len(body.inputs) == 1
        and names <= {*ROUNDINGS, *LIMITS}
        and any(is_rounding(inner) for inner in body.equations)
    )


def _adds_half(equation: Equation) -> bool:
    """Whether it adds what makes a floor one to the nearest."""
    literals = (a.array for a in equation.inputs if isinstance(a, Literal))
    return any(bool(np.all(np.asarray(array) == 0.5)) for array in literals)


def _first(number: int):
    def handler(algebra: Algebra, equation: Equation, index: Index) -> Term:
        return algebra.operand(equation, number, index)

    return handler


def _limit(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    numbers = [algebra.number(a) is not None for a in equation.inputs]
    if sum(numbers) != 1:
        return None
    return algebra.operand(equation, numbers.index(False), index)


def _floor(algebra: Algebra, equation: Equation, index: Index) -> Term:
    # To the nearest, by adding a half.
    term = algebra.operand(equation, 0, index)
    return plus(term, {ONE: -0.5}) if term.get(ONE) == 0.5 else term


def _rounded(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    return algebra.operand(equation, 0, index) if _only_rounds(equation) else None


def _magnitude(algebra: Algebra, equation: Equation, index: Index) -> Term:
    term = algebra.operand(equation, 0, index)
    return {frozenset({(("abs", frozenset(term.items())), 1.0)}): 1.0}


def _sign(algebra: Algebra, equation: Equation, index: Index) -> Term:
    return times(
        algebra.operand(equation, 0, index), power(_magnitude(algebra, equation, index), -1)
    )


def _either(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """What is chosen from values that are the same but for rounding."""
    terms = [algebra.operand(equation, n, index) for n in range(1, len(equation.inputs))]
    return terms[0] if all(term == terms[0] for term in terms) else None


def ideal(draft: Draft, more: Mapping[str, Handler] | None = None) -> Algebra:
    """The terms of values, as if numbers had all the bits in the world."""
    handlers = {
        "round": _first(0),
        "ceil": _first(0),
        "floor": _floor,
        "clamp": _first(1),
        "max": _limit,
        "min": _limit,
        "abs": _magnitude,
        "sign": _sign,
        "select_n": _either,
        **dict.fromkeys(("custom_vjp_call", "custom_vjp_call_jaxpr", "custom_jvp_call"), _rounded),
        **(more or {}),
    }
    return algebra_of(draft.index.maker.get, draft.index.number, handlers)
