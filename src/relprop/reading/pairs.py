"""The logarithm of a sum of exponentials that was computed two by two: ``logaddexp``.

``max(a, b) + log1p(exp(-|a - b|))`` is ``log(exp(a) + exp(b))``, and what is merged with that next
is a third summand. With zero, or another constant, it is a softplus and stays one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relprop._core.graph import Atom, Equation
from relprop.reading.draft import Draft
from relprop.reading.primitives.arithmetic import log_add_exp
from relprop.reading.terms import LONGEST


def paired(draft: Draft) -> None:
    """Writes logarithms of sums of exponentials that were computed two by two as such."""
    pairs: dict[Atom, tuple[Atom, Atom]] = {}
    for equation in draft.equations:
        pair = _pair(draft, equation)
        if pair is not None:
            pairs[equation.outputs[0]] = pair
    inside = {e for out, pair in pairs.items() for e in _between(draft, out, pair)}
    looked_at = {*draft.asked, *draft.visible}
    made: dict[Equation, list[Equation]] = {}
    counts: dict[Atom, int] = {}  # A pair of one pair twice has twice as many.
    for out, pair in pairs.items():
        counts[out] = sum(counts.get(atom, 1) for atom in pair)
        read = out in looked_at or not inside.issuperset(draft.index.readers.get(out, ()))
        if read and counts[out] <= LONGEST:
            summands = [*_summands(pair, pairs)]
            like = draft.index.maker[out]
            made[like] = draft.derived(_logarithm, summands, like, like.outputs[0])
    if made:
        draft.put(made)


def _pair(draft: Draft, equation: Equation) -> tuple[Atom, Atom] | None:
    """The two values that depend on the inputs of which an equation is the `logaddexp`."""
    inner: Equation | None = equation
    if equation.name == "select_n":  # Which passes on what is not a number.
        test = draft.index.maker.get(equation.inputs[0])
        if test is None or test.name != "ne" or test.inputs[0] is not test.inputs[1]:
            return None
        inner = draft.index.maker.get(equation.inputs[1])
    found = None if inner is None else log_add_exp(draft.index.maker.get, inner)
    if found is None or not all(a in draft.index.dependent for a in found.inputs):
        return None
    a, b = found.inputs
    return (a, b) if a.shape == b.shape == equation.outputs[0].shape else None


def _between(draft: Draft, out: Atom, pair: tuple[Atom, Atom]) -> Iterator[Equation]:
    """The equations that make a value of the pair that it is of."""
    queue, seen = [out], {*pair}
    while queue:
        atom = queue.pop()
        maker = draft.index.maker.get(atom)
        if atom not in seen and maker is not None:
            seen.add(atom)
            yield maker
            queue.extend(maker.inputs)


def _summands(pair: tuple[Atom, Atom], pairs: Mapping[Atom, tuple[Atom, Atom]]) -> Iterator[Atom]:
    """The pair, and those that one of it is made of in its place."""
    queue = [*pair]
    while queue:
        atom = queue.pop(0)
        if atom in pairs:
            queue[:0] = pairs[atom]
        else:
            yield atom


def _logarithm(*summands: Array) -> Array:
    """The logarithm of the sum of their exponentials."""
    largest = lax.stop_gradient(functools.reduce(jnp.maximum, summands))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    return jnp.log(functools.reduce(jnp.add, (jnp.exp(a - largest) for a in summands))) + largest
