"""What rises through zero as a tanh does is one.

So is a sigmoid about zero, ``2 * sigmoid(2 * z) - 1``, in any units and however scaled, and the
difference of two exponentials over their sum.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.general import is_move
from relprop.propagators.linear import Addition, Division, Multiplication, Negation
from relprop.reading.draft import Draft
from relprop.reading.turns import moved


def centred(draft: Draft) -> None:
    """Writes as a tanh what is one."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        new = _tanh(draft, equation) or _ratio(draft, equation)
        if new:
            made[equation] = new
    if made:
        draft.put(made)


def _tanh(draft: Draft, equation: Equation) -> list[Equation]:
    kind, operands = registry.lookup(equation.primitive), draft.index.operands(equation)
    if not isinstance(kind, Addition) or len(operands) != 1:
        return []
    (value,), (out,) = operands, equation.outputs
    left = equation.inputs[0] is value
    offset = draft.index.number(equation.inputs[1 if left else 0])
    found = None if offset is None else _scaled_sigmoid(draft, value)
    if offset is None or found is None:
        return []
    argument, height, moves = found
    height *= kind.sign if not left else 1
    offset *= kind.sign if left else 1
    if height == 0 or abs(offset + height / 2) > 1e-6 * abs(height):
        return []

    # Signs on both sides of an odd function cancel.
    argument, scale = _unscaled(draft, argument) if height < 0 else (argument, 1.0)
    scale *= math.copysign(0.5, height)

    def tanh(x: Array) -> Array:
        x = moved(x, moves)
        scaled = jnp.tanh(x * jnp.asarray(scale, x.dtype)) * jnp.asarray(abs(height) / 2, x.dtype)
        return jnp.broadcast_to(scaled, out.shape)

    return draft.derived(tanh, [argument], equation, out)


def _ratio(draft: Draft, equation: Equation) -> list[Equation]:
    """The tanh of half the difference, where that of two exponentials is divided by their sum."""
    if not isinstance(registry.lookup(equation.primitive), Division):
        return []
    above, below = (_exponentials(draft, atom) for atom in equation.inputs)
    if above.keys() != below.keys() or len(above) != 2:
        return []
    (first, second), (out,) = above, equation.outputs
    rises, falls, total, same = above[first], above[second], below[first], below[second]
    (x, a), (y, b) = _unscaled(draft, first[0]), _unscaled(draft, second[0])
    # Of two values they would be the two entries of a softmax.
    if x is not y or not rises or rises != -falls or total != same:
        return []
    scale, height = (first[1] * a - second[1] * b) / 2, rises / total

    def tanh(x: Array) -> Array:
        return jnp.tanh(x * jnp.asarray(scale, x.dtype)) * jnp.asarray(height, x.dtype)

    return draft.derived(tanh, [x], equation, out)


def _exponentials(draft: Draft, atom: Atom) -> dict[tuple[Value, int], float]:
    """The factors of two exponentials in their sum; none where it is no such sum.

    An exponential is given by what it is of, and -1 where it is one over that.
    """
    if atom not in draft.index.dependent:
        return {}
    value, height = _unscaled(draft, atom)  # type: ignore[arg-type]
    maker = draft.index.maker.get(value)
    kind = None if maker is None else registry.lookup(maker.primitive)
    if maker is None or not isinstance(kind, Addition):
        return {}
    found: dict[tuple[Value, int], float] = {}
    for term, sign in zip(maker.inputs, (1, kind.sign), strict=True):
        if term not in draft.index.dependent or term.shape != value.shape:
            return {}
        one, factor = _unscaled(draft, term)  # type: ignore[arg-type]
        exponent = _exponent(draft, one)
        if exponent is None:
            return {}
        found[exponent] = height * sign * factor
    return found


def _exponent(draft: Draft, atom: Atom) -> tuple[Value, int] | None:
    """What an exponential is of, and -1 where it is under one."""
    sign, maker = 1, draft.index.maker.get(atom)
    if maker is not None and maker.name == "integer_pow" and maker.params["y"] == -1:
        sign, maker = -1, draft.index.maker.get(maker.inputs[0])
    elif maker is not None and isinstance(registry.lookup(maker.primitive), Division):
        one = draft.index.number(maker.inputs[0]) == 1
        sign, maker = -1, draft.index.maker.get(maker.inputs[1]) if one else None
    if maker is None or maker.name != "exp" or maker.inputs[0] not in draft.index.dependent:
        return None
    return maker.inputs[0], sign  # type: ignore[return-value]


def _unscaled(draft: Draft, value: Value) -> tuple[Value, float]:
    """A value before it was multiplied with numbers, and their product."""
    scale = 1.0
    while (maker := draft.index.maker.get(value)) is not None:
        operands, kind = draft.index.operands(maker), registry.lookup(maker.primitive)
        if len(operands) != 1 or operands[0].shape != value.shape:
            break
        others = [a for a in maker.inputs if a is not operands[0]]
        number = draft.index.number(others[0]) if len(others) == 1 else None
        if isinstance(kind, Negation):
            scale = -scale
        elif isinstance(kind, Division) and number and maker.inputs[0] is operands[0]:
            scale /= number
        elif isinstance(kind, Multiplication) and not isinstance(kind, Division) and number:
            scale *= number
        else:
            break
        (value,) = operands
    return value, scale


def _scaled_sigmoid(draft: Draft, atom: Atom) -> tuple[Value, float, list[Equation]] | None:
    """The argument of a sigmoid, what its result was multiplied with, and how it was moved."""
    height, moves = 1.0, []
    while (maker := draft.index.maker.get(atom)) is not None:
        kind, operands = registry.lookup(maker.primitive), draft.index.operands(maker)
        if maker.name == "logistic" and operands:
            return operands[0], height, moves
        if len(operands) != 1 or len(maker.outputs) != 1:
            return None
        (atom,) = operands
        others = [a for a in maker.inputs if a is not atom]
        number = draft.index.number(others[0]) if len(others) == 1 else None
        if isinstance(kind, Negation):
            height = -height
        elif isinstance(kind, Division):
            if not number or maker.inputs[0] is not atom:
                return None
            height /= number
        elif isinstance(kind, Multiplication):
            if number is None:
                return None
            height *= number
        elif is_move(maker) and not others:
            moves.insert(0, maker)
        else:
            return None
    return None
