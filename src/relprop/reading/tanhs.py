"""A sigmoid about zero is a tanh: ``2 * sigmoid(2 * z) - 1``, in any units and however scaled."""

from __future__ import annotations

import functools
import math

import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.general import is_move
from relprop.propagators.linear import Addition, Division, Multiplication, Negation
from relprop.reading.draft import Draft


def centred(draft: Draft) -> None:
    """Writes sigmoids from which half of their height is taken as what rises through zero."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        new = _tanh(draft, equation)
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
        x = functools.reduce(lambda array, move: move.evaluate([array])[0], moves, x)
        scaled = jnp.tanh(x * jnp.asarray(scale, x.dtype)) * jnp.asarray(abs(height) / 2, x.dtype)
        return jnp.broadcast_to(scaled, out.shape)

    return draft.derived(tanh, [argument], equation, out)


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
