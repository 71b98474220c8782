"""Selections that depend on one another: the first layers, the last one, one at a position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

from relprop._core.graph import Atom
from relprop._core.plan import Plan, Step
from relprop.composites import Composite

# Per entry of a composite, the keys of the operations that it means, if it has a position.
Chosen = Sequence[set[Any] | None]


def none_chosen(composite: Composite) -> Chosen:
    """No operation for any selection that has a position."""
    return [None] * len(composite.entries)


def positions(composite: Composite, plan: Plan) -> Chosen:
    """Per entry with a position, the operations that it means, of all those of a plan."""
    known = set(plan.walk())
    steps = [step for step in _in_order(plan) if step in known]
    chosen = [*none_chosen(composite)]
    for number, entry in enumerate(composite.entries):
        if entry.where.is_ordinal:
            matching = [step.key for step in steps if entry.where.matches(step)]
            if entry.where.first:
                foremost, _ = _foremost(plan, set(matching), set())
                matching = [key for key in matching if key in foremost]
            chosen[number] = set(entry.where.pick(matching))
    return chosen


def _in_order(plan: Plan) -> Iterator[Step]:
    """All steps, layers in the order of their products, wherever their biases are added."""
    at = {equation: i for i, equation in enumerate(plan.graph.equations)}

    def position(step: Step) -> int:
        return at.get(step.operation.main, at.get(step.operation.last, len(at)))

    for step in sorted(plan.steps, key=position):
        yield step
        for body in step.bodies:
            yield from _in_order(body)


def _foremost(plan: Plan, among: Set[Any], behind: Set[Atom]) -> tuple[set[Any], set[Atom]]:
    """Of some steps, those that read nothing that another one of them made.

    Args:
        plan: the operations.
        among: the keys of the steps.
        behind: inputs of the plan that one of them made, outside.

    Returns:
        their keys, and all that is computed from what one of the steps made.
    """
    found: set[Any] = set()
    behind = set(behind)
    for step in plan.steps:
        inputs, outputs = step.operation.inputs, step.operation.outputs
        reads = any(atom in behind for atom in inputs)
        if step.key in among:
            found.update(() if reads else (step.key,))
            behind.update(outputs)
        elif reads and not step.bodies:
            behind.update(outputs)
        for body in step.bodies:
            # What bodies are given are the last operands. What a turn of a loop hands to the next
            # one is not looked at: a layer does not come before itself.
            given = zip(reversed(body.graph.inputs), reversed(inputs), strict=False)
            inner, made = _foremost(body, among, {value for value, a in given if a in behind})
            found |= inner
            results = zip(outputs, body.graph.outputs, strict=False)
            behind.update(out for out, result in results if result in made)
    return found, behind
