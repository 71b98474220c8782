"""Relevance through one step: by its rule, or by the rules of what is inside of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from relprop._core.bookkeeping import noting, severed_part
from relprop._core.compared import amount_of, is_compared, reference_of, value_of
from relprop._core.observer import MaybeRelevance, Passage
from relprop._core.plan import Plan, Step
from relprop._core.recall import recall
from relprop._core.record import Account, Request
from relprop._core.relevance import Relevance
from relprop._core.returned import checked
from relprop._core.site import Site
from relprop._core.tape import Tape


def passed(
    plan: Plan, tape: Tape, step: Step, arriving: Sequence[MaybeRelevance], request: Request
) -> Passage:
    """Takes the relevance of the results of a step to its operands."""
    operation = step.operation
    if all(relevance is None for relevance in arriving):
        # Nothing arrives, which is what those who look inside are to be told.
        recall(plan, tape, operation.outputs, jnp.zeros(()))
        zeros = [jnp.zeros_like(amount_of(tape[out])) for out in operation.outputs]
        on = plan.is_active(operation.outputs)
        arriving = [Relevance(share=z) if a else None for z, a in zip(zeros, on, strict=True)]
    recall(plan, tape, (*operation.outputs, *operation.inputs), arriving)
    if step.bodies and step not in tape.inner:
        recall(plan, tape, operation.outputs[:1], arriving, inside=True)
    values, outputs = tape.read_all(operation.inputs), tape.read_all(operation.outputs)
    keep = "" if step.off_path else request.keep
    with jax.named_scope(_scope_name(step)):
        if not step.bodies:
            done = request.leaf(step, bool(keep), values, outputs, arriving)
            return Passage(step, values, outputs, arriving, *done, booked=bool(keep))
        own = dataclasses.replace(request, keep=keep)
        handed, inner = step.nested.backward(step, values, tape.inner[step], arriving, own)
    pairs = [*zip(operation.inputs, handed, strict=True)]
    leaving = [r if atom in plan.active else None for atom, r in pairs]
    credits = [r if atom in plan.credited else None for atom, r in pairs]
    return Passage(
        step, values, outputs, arriving, leaving, credits, handed, inner=inner, booked=bool(keep)
    )


def by_rule(
    step: Step, keep: bool, values: Sequence[Any], outputs: Sequence[Any], arriving: Sequence[Any]
) -> tuple[list[MaybeRelevance], list[MaybeRelevance], tuple[()], Account]:
    """What the rule of a step hands to active operands and to parameters, and what is absorbed."""
    account: Account = {}
    site = _site(step, values, outputs, arriving, noting(account) if keep else None)
    leaving = checked(step, "propagate", step.active, step.rule.propagate(site, arriving))
    if keep and any(step.severed):
        bias = account.get("bias", 0.0)
        cut = severed_part(step, values, outputs, arriving, bias)
        account.update(cut=cut, bias=bias - cut)
    credited = step.rule.credit(site, arriving) if any(step.credited) else ()
    credited = checked(step, "credit", step.credited, credited)
    return _spread(step.active, leaving), _spread(step.credited, credited), (), account


def _site(
    step: Step,
    values: Sequence[Any],
    outputs: Sequence[Any],
    arriving: Sequence[MaybeRelevance],
    note: Any,
) -> Site:
    """What the rule of a step is to see."""
    against = None
    if is_compared(values) or is_compared(outputs):
        theirs = [*map(reference_of, values)], [*map(reference_of, outputs)]
        against = Site(step.operation, step.active, theirs[0], theirs[1])
    ours = [*map(value_of, values)], [*map(value_of, outputs)]
    awaited = jax.tree.leaves(arriving)[0]
    shared = any(relevance is not None and relevance.share is not None for relevance in arriving)
    return Site(
        step.operation,
        step.active,
        ours[0],
        ours[1],
        note,
        against,
        step.credited,
        step.never_negative,
        step.rectified and not shared,
        awaited,
    )


def _spread(mask: Sequence[bool], relevances: Sequence[MaybeRelevance]) -> list[MaybeRelevance]:
    """One entry per operand, from one per operand that a mask selects."""
    supply = iter(relevances)
    return [next(supply) if on else None for on in mask]


def _scope_name(step: Step) -> str:
    # Profiles of the compiled explanation then name the user's layer and the rule.
    rule = type(step.rule).__name__ if step.rule is not None else step.structure
    return "/".join(part for part in (step.scope, f"relprop.{rule}") if part)
