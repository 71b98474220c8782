"""What only CPUs need: an order of evaluation, large weights in parts, sums computed once.

XLA for CPUs keeps apart in memory whatever might run at the same time, and computes again for every
consumer what it can fuse into it. Other devices run one operation after the other and weigh what
fusing costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from relprop import _compat
from relprop._core.graph import Atom, Value
from relprop._core.observer import MaybeRelevance, Observer, Passage
from relprop._core.plan import Plan

#: Entries of a weight of which a copy is better not made as a whole.
LARGE = 2**25
#: Entries of a weight from which on it matters when a copy of it is made.
NOTABLE = 2**16


def after(array: Array, awaited: Array) -> Array:
    """The same array, made when another one is there.

    What depends on weights alone, such as their absolute values, can be computed at any time: for a
    rule that needs ``abs(w)`` that is a second copy of all weights of a model.
    `lax.optimization_barrier` is gone by the time that buffers are assigned; a dependence on
    numbers stays.
    """
    condition = once_there(awaited)
    return array if condition is None else held(array, condition)


def once_there(awaited: Array) -> Bool[Array, ""] | None:
    """The condition for several arrays that are made when another one is there, see `held`.

    None where nothing has to wait.
    """
    if jax.default_backend() != "cpu" or not awaited.size:
        return None
    if _compat.varying(_compat.type_of(awaited)):
        return None  # Inside of `shard_map`, where it would become another one on each device.
    return _never(lax.stop_gradient(awaited))


def held(array: Array, condition: Bool[Array, ""]) -> Array:
    """The same array, made when what the condition was made of is there."""
    return lax.select(condition, lax.full_like(array, 0), array)


def in_turn(atoms: Sequence[Atom], values: Sequence[Any], awaited: Any = None) -> Sequence[Any]:
    """Operands, of which weights in half precision are read when something else is there.

    XLA for CPUs makes a copy in float32 of what it multiplies in half precision. Those of weights
    could be made at any time, and are all made first: beside a model, a second one of twice its
    size. In turn, each takes the place of the one before.

    Args:
        atoms: the operands.
        values: what they are.
        awaited: an array; by default the first operand that is computed from explained inputs.
    """
    late = [not atom.touched and _is_copied(atom) for atom in atoms]
    if jax.default_backend() != "cpu" or not any(late) or not _compat.is_staged():
        return values
    if awaited is None:
        pairs = zip(atoms, values, strict=True)
        awaited = next((v for atom, v in pairs if atom.touched and atom.inexact), None)
    if awaited is None:
        return values
    return [after(v, awaited) if on else v for v, on in zip(values, late, strict=True)]


def _is_copied(atom: Atom) -> bool:
    if not atom.inexact or math.prod(atom.shape) < NOTABLE:
        return False
    return jnp.finfo(atom.dtype).bits < 32


def never(value: Array) -> Bool[Array, ""] | None:
    """What no compiler knows to be false, for `once`; None where that has nothing to do.

    Args:
        value: that it is read from: small, and best one that all devices hold.
    """
    if jax.default_backend() != "cpu" or not value.size or not _compat.is_staged():
        return None
    return _never(lax.stop_gradient(value))


def is_large(weight: Array) -> bool:
    """Whether what is made of a weight is better made in parts, one after the other."""
    return weight.size >= LARGE and jax.default_backend() == "cpu"


def once(array: Array, condition: Bool[Array, ""]) -> Array:
    """The same array, computed once for all who use it; the condition is that of `never`.

    Relevance that goes several ways, as at a residual sum, would be computed again on each of them,
    and with it all that lies above, up to the last layer: work and code that grow with the square
    of the depth. XLA does not fuse through a condition, even one that is never true.
    """
    return lax.cond(condition, jnp.zeros_like, lambda array: array, array)


@jax.custom_batching.custom_vmap
def _never(awaited: Array) -> Bool[Array, ""]:
    """False, after looking at an array."""
    awaited = jnp.real(awaited)
    largest = lax.reduce_max(awaited, range(awaited.ndim))
    zero = lax.full_like(largest, 0)
    return lax.bitwise_and(lax.lt(largest, zero), lax.gt(largest, zero))


@_never.def_vmap
def _never_of_any(size: int, batched: list[bool], awaited: Array) -> tuple[Array, bool]:
    # One answer for the whole batch, so that weights don't become as many as there are examples.
    del size, batched
    return _never(awaited), False


class SummedOnce(Observer):
    """Relevance that has been added up from several consumers is computed once, by `once`.

    Wherever it goes several ways again: at an operation entry by entry with several active
    operands, or behind such with one.

    Args:
        plan: of the graph.
        never: the condition for `once`.
    """

    def __init__(self, plan: Plan, never: Array) -> None:
        self._never = never
        self._arrived: set[Atom] = set()
        self._summed: set[Atom] = set()
        self._makers = {
            out: step
            for step in plan.steps
            for out in step.operation.outputs
            if step.operation.propagator.elementwise or step.operation.propagator.structural
        }

    def begins(self, outputs: Sequence[Atom], seeds: Sequence[MaybeRelevance]) -> None:
        self._arrived.update(a for a, r in zip(outputs, seeds, strict=True) if r is not None)

    def arrives(self, value: Value, relevance: MaybeRelevance) -> MaybeRelevance:
        maker = self._makers.get(value)
        if relevance is None or maker is None or value not in self._summed:
            return relevance
        if sum(maker.active) > 1:
            return relevance.map(lambda array: once(array, self._never))
        self._summed.update(maker.operation.inputs)
        return relevance

    def passes(self, passage: Passage) -> None:
        inputs = passage.step.operation.inputs
        for atom, *both in zip(inputs, passage.leaving, passage.credits, strict=True):
            for relevance in both:
                if relevance is not None:
                    (self._summed if atom in self._arrived else self._arrived).add(atom)
