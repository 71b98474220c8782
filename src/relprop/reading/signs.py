"""Signs: that of a layer is that of its weight; the smallest of negatives is a largest."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation
from relprop.propagators.general import is_move
from relprop.propagators.linear import Addition, Division, Multiplication, Negation
from relprop.reading.draft import Draft
from relprop.reading.sums import is_any_layer
from relprop.reading.turns import before_moves, moved


def signed(draft: Draft) -> None:
    """Adds the negative of a layer where it is subtracted: the sign is that of its weight.

    Two signs in a product cancel. What was made negative before is added as it was, and the
    negative of the smallest of negatives is the largest.
    """
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        kind = registry.lookup(equation.primitive)
        if isinstance(kind, Negation):
            new = _largest(draft, equation) or _twice_negated(draft, equation)
            if new:
                made[equation] = new
            continue
        if isinstance(kind, Multiplication | Division):
            new = _both_negated(draft, equation)
            if new:
                made[equation] = new
            continue
        if not (isinstance(kind, Addition) and kind.sign < 0):
            continue
        operands = draft.index.operands(equation)
        if len(operands) != 2 or operands[0].shape != operands[1].shape:
            continue
        left, right = equation.inputs
        before = draft.index.maker.get(right)
        if before is not None and isinstance(registry.lookup(before.primitive), Negation):
            made[equation] = draft.derived(
                lambda a, b: a + b, [left, before.inputs[0]], equation, equation.outputs[0]
            )
        elif is_any_layer(draft, right) and draft.index.only_reader(right):  # type: ignore[arg-type]
            made[equation] = draft.derived(
                lambda a, b: a + (-b), [left, right], equation, equation.outputs[0]
            )
    if made:
        draft.put(made)


# Products of more factors are not searched for a sign.
_DEEPEST = 4


def _twice_negated(draft: Draft, negation: Equation) -> list[Equation]:
    """The product of which one factor and the whole are made negative."""
    (value,), (out,) = negation.inputs, negation.outputs
    maker = draft.index.maker.get(value)
    if maker is None or isinstance(registry.lookup(maker.primitive), Negation):
        return []  # Which is nothing at all: see `repeats`.
    found = _without_sign(draft, value, negation) if out in draft.index.dependent else None
    if found is None:
        return []
    return draft.derived(found.function, found.inputs, negation, out)


def _both_negated(draft: Draft, product: Equation) -> list[Equation]:
    """The product of which two factors are made negative."""
    (out,) = product.outputs
    left, right = (
        _without_sign(draft, atom, product) if atom in draft.index.dependent else None
        for atom in product.inputs
    )
    if left is None or right is None or product.inputs[0] is product.inputs[1]:
        return []
    count = len(left.inputs)

    def function(*arrays: Array) -> Array:
        factors = [left.function(*arrays[:count]), right.function(*arrays[count:])]
        return product.evaluate(factors)[0]

    return draft.derived(function, [*left.inputs, *right.inputs], product, out)


@dataclasses.dataclass(frozen=True)
class _Negated:
    """A value as the negative of a function of others."""

    function: Callable[..., Array]
    inputs: list[Atom]


def _without_sign(draft: Draft, atom: Atom, reader: Equation, depth: int = 0) -> _Negated | None:
    """A product, moved about, without the sign of one of its factors; nobody else may read it."""
    maker = draft.index.maker.get(atom)
    if maker is None or depth > _DEEPEST or len(maker.outputs) != 1:
        return None
    if atom not in draft.index.dependent or draft.index.only_reader(atom) is not reader:
        return None
    kind = registry.lookup(maker.primitive)
    if isinstance(kind, Negation):
        return _Negated(lambda x: x, [maker.inputs[0]])
    if not isinstance(kind, Multiplication | Division) and not is_move(maker):
        return None
    for place, factor in enumerate(maker.inputs):
        found = _without_sign(draft, factor, maker, depth + 1)
        if found is not None:
            return _with_others(maker, place, found)
    return None


def _with_others(product: Equation, place: int, found: _Negated) -> _Negated:
    """A product of which one factor is the negative of something."""
    before, after = product.inputs[:place], product.inputs[place + 1 :]

    def function(*arrays: Array) -> Array:
        end = len(arrays) - len(after)
        factor = found.function(*arrays[place:end])
        return product.evaluate([*arrays[:place], factor, *arrays[end:]])[0]

    return _Negated(function, [*before, *found.inputs, *after])


_OPPOSITE = {"reduce_min": lax.max, "reduce_max": lax.min, "min": lax.max, "max": lax.min}


def _largest(draft: Draft, negation: Equation) -> list[Equation]:
    """The maximum that the negative of the minimum of negatives is, and the other way round."""
    (value,), (out,) = negation.inputs, negation.outputs
    chosen = draft.index.maker.get(value)
    if chosen is None or out not in draft.index.dependent:
        return []
    if chosen.name not in _OPPOSITE or draft.index.only_reader(value) is not negation:
        return []
    found = [_negated(draft, atom) for atom in chosen.inputs]
    before = [pair[0] for pair in found if pair is not None]
    if len(before) < len(found):
        return []
    opposite = _OPPOSITE[chosen.name]

    def function(*arrays: Array) -> Array:
        arrays = tuple(pair[1](x) for pair, x in zip(found, arrays, strict=True) if pair)
        if len(arrays) == 2:
            return opposite(*arrays)
        over = jnp.max if opposite is lax.max else jnp.min
        return over(arrays[0], axis=tuple(chosen.params["axes"]))

    return draft.derived(function, before, negation, out)


def _negated(draft: Draft, atom: Atom) -> tuple[Atom, Callable[[Array], Array]] | None:
    """What a value is the negative of, before it was moved about, and how it was."""
    before, moves = before_moves(draft.index, atom)
    maker = draft.index.maker.get(before)
    if maker is None or not isinstance(registry.lookup(maker.primitive), Negation):
        return None
    return maker.inputs[0], functools.partial(moved, moves=moves)
