"""The forward pass: every equation as it was traced, with its values kept on a tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relprop import _compat
from relprop._core.compared import is_compared, paired, paired_trees, reference_of, value_of
from relprop._core.cpu import in_turn
from relprop._core.graph import Equation
from relprop._core.plan import Plan, Step
from relprop._core.registry import lookup, operation_of
from relprop._core.tape import Tape


@_compat.as_one()
def forward(plan: Plan, inputs: Sequence[Any], replay: bool = False) -> tuple[list[Any], Tape]:
    """Evaluates a graph once, keeping its values.

    Args:
        plan: the plan of the graph.
        inputs: values of the graph's inputs; if some are `Compared`, so is all that follows.
        replay: the graph has been evaluated before: don't print or log a second time.
    """
    if is_compared(inputs):
        return _forward_twice(plan, inputs, replay)
    tape = Tape()
    tape.update(plan.graph.constants)
    tape.update(zip(plan.graph.inputs, inputs, strict=True))
    evaluate(plan, plan.graph.evaluated, tape, replay)
    return tape.read_all(plan.graph.results), tape


def evaluate(plan: Plan, equations: Sequence[Equation], tape: Tape, replay: bool) -> None:
    """Evaluates equations of a plan, onto a tape that holds what they read."""
    nested = {step.operation.outputs[0]: step for step in plan.steps if step.bodies}
    for equation in equations:
        if replay and not equation.outputs:
            continue
        values = tape.read_all(equation.inputs)
        step = nested.get(equation.outputs[0]) if equation.bodies and equation.outputs else None
        # What a call returns may be what the last loop inside of it returns.
        if step is not None and step.operation.last.traced is equation.traced:
            outputs, tape.inner[step] = step.nested.forward(step, values, replay)
        elif replay and equation.bodies and equation.has_effects:
            outputs, _ = (quiet := _unplanned(equation)).nested.forward(quiet, values, replay)
        else:
            outputs = equation.evaluate(_in_turn(equation, values))
        tape.update(zip(equation.outputs, outputs, strict=True))


def _in_turn(equation: Equation, values: Sequence[Any]) -> Sequence[Any]:
    """The operands; of products, and of calls that may have some, as CPUs had better read them."""
    kind = lookup(equation.primitive)
    copies = kind.calls or (kind.multiplies and not kind.elementwise)
    return in_turn(equation.inputs, values) if copies else values


def _forward_twice(plan: Plan, inputs: Sequence[Any], replay: bool) -> tuple[list[Any], Tape]:
    """The runs of inputs and references, value by value."""
    outputs, tape = forward(plan, [*map(value_of, inputs)], replay)
    others, reference = forward(plan, [*map(reference_of, inputs)], replay=True)
    both = Tape()
    both.update((value, paired(tape[value], reference[value])) for value in reference)
    both.inner = {
        step: paired_trees(tape.inner[step], reference.inner[step]) for step in tape.inner
    }
    return [*map(paired, outputs, others)], both


def _unplanned(equation: Equation) -> Step:
    """A step without rules, to evaluate the bodies of an equation by hand."""
    bodies = tuple(Plan(body, (), frozenset()) for body in equation.bodies)
    return Step(operation_of(equation), (), None, bodies=bodies)
