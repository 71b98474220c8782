"""What is known of signs where rules are given: inputs that are never negative, closed ReLUs."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Set

from relprop._core.graph import Atom
from relprop._core.plan import Plan, Step
from relprop.recognise.nonnegative import Sign, Signs, sign_of, signs_of
from relprop.rules import Pass


def with_signs(plan: Plan, given: Signs | None = None, edited: Set[Atom] = frozenset()) -> Plan:
    """A plan whose steps say what is known of the signs of their operands and results.

    Args:
        plan: the plan.
        given: the signs of the inputs of its graph, as far as they are known.
        edited: values whose relevance is changed by masks and seeds.
    """
    edited = edited | plan.edits.keys()
    known = signs_of(plan.graph, given or {})
    readers: dict[Atom, list[Step]] = collections.defaultdict(list)
    for step in plan.steps:
        for atom in step.operation.inputs:
            readers[atom].append(step)
    leaving = {*plan.graph.outputs, *edited}
    steps = []
    for step in plan.steps:
        if step.bodies:
            bodies = tuple(with_signs(body, _inputs(body, known), edited) for body in step.bodies)
            step = dataclasses.replace(step, bodies=bodies)
        never = tuple(sign_of(a, known) is not Sign.UNKNOWN for a in step.operation.inputs)
        (out, *more) = step.operation.outputs
        rectified = not more and out not in leaving and all(map(_closes, readers[out]))
        steps.append(dataclasses.replace(step, never_negative=never, rectified=rectified))
    return dataclasses.replace(plan, steps=tuple(steps))


def _inputs(body: Plan, known: Signs) -> Signs:
    """The signs of the inputs of a body, as the graph around says."""
    return {value: known[value] for value in body.graph.inputs if value in known}


def _closes(step: Step) -> bool:
    """Whether a step gives its operand a multiplier of zero where that is negative: a ReLU."""
    return type(step.rule) is Pass and step.operation.propagator.rectifies(step.operation)
