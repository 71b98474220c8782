"""Relevance from one set of values to those before them, and no further."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from jaxtyping import Array

from relprop._core.backward import requested
from relprop._core.graph import Value
from relprop._core.passage import passed
from relprop._core.plan import Plan
from relprop._core.recall import recallable
from relprop._core.relevance import Relevance, add
from relprop._core.tape import Tape

Arrived = dict[Value, Relevance | None]


def arriving(
    plan: Plan,
    tape: Tape,
    given: Mapping[Value, Relevance],
    watched: Collection[Value],
    cut: bool,
) -> Arrived:
    """What relevance arrives at watched values.

    Args:
        plan: the plan; bodies are passed as a whole.
        tape: of the forward pass.
        given: relevance to start from: of outputs, and with `cut` of watched values.
        watched: the values where it is wanted.
        cut: whether what arrives at a watched value ends there. Then what is given to that value
            goes on in its place.
    """
    tape, request = recallable(plan, tape), requested(plan)
    found: Arrived = {value: r for value, r in given.items() if value not in watched or not cut}
    seen: Arrived = {}

    def take(value: Value) -> Relevance | None:
        relevance = found.pop(value, None)
        if value not in watched:
            return relevance
        seen[value] = relevance
        return given.get(value) if cut else relevance

    for step in reversed(plan.steps):
        outputs = [take(out) for out in step.operation.outputs]
        if all(relevance is None for relevance in outputs):
            continue
        for atom, relevance in passed(plan, tape, step, outputs, request).handed():
            if isinstance(atom, Value) and plan.receives(atom):
                found[atom] = add(found.get(atom), relevance)
    return {value: seen[value] if value in seen else found.get(value) for value in watched}


def coefficient(relevance: Relevance, derivative: bool) -> Array | None:
    """Relevance per unit of a value, or the derivative; None where there is none."""
    wanted, other = relevance.multiplier, relevance.share
    if derivative:
        wanted, other = other, wanted
    return None if other is not None else wanted


def contribution(relevance: Relevance, value: Array, derivative: bool) -> Array:
    """What a value contributes, entry by entry, to what relevance was given to."""
    total = relevance.total(value)
    return total * value if derivative else total


def starting(coefficient: Array, derivative: bool) -> Relevance:
    """Relevance to start from."""
    return Relevance(share=coefficient) if derivative else Relevance(multiplier=coefficient)
