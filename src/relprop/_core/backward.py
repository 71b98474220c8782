"""The way back: relevance from the outputs of a graph to its inputs, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relprop import _compat
from relprop._core.at_places import Editor, Watcher
from relprop._core.bookkeeping import Bookkeeper
from relprop._core.cpu import SummedOnce
from relprop._core.graph import Atom, Value
from relprop._core.observer import MaybeRelevance, Observer
from relprop._core.passage import by_rule, passed
from relprop._core.plan import Plan
from relprop._core.recall import recallable
from relprop._core.record import Keep, Record, Request
from relprop._core.relevance import add
from relprop._core.repeated import Shared
from relprop._core.tape import Tape


@_compat.as_one()
def backward(
    plan: Plan, tape: Tape, seeds: Sequence[MaybeRelevance], request: Request
) -> tuple[list[MaybeRelevance], Record]:
    """Takes relevance from the outputs of a graph to its inputs.

    Args:
        plan: the plan of the graph.
        tape: of the forward pass.
        seeds: relevance of each output; None where there is none.
        request: what is wanted beside.

    Returns:
        Relevance of each input (None where none arrives), and what observers have recorded.
    """
    tape = recallable(plan, tape)
    record = Record({}, {})
    watcher = Watcher(plan, tape, request, record.inside)
    observers = _observers(plan, tape, request, record, watcher)
    found: dict[Atom, MaybeRelevance] = {}

    def give(atom: Atom, relevance: MaybeRelevance) -> None:
        if relevance is not None and plan.receives(atom):
            found[atom] = add(found.get(atom), relevance)

    def take(value: Value) -> MaybeRelevance:
        relevance = found.pop(value, None)
        for observer in observers:
            relevance = observer.arrives(value, relevance)
        return relevance

    for observer in observers:
        observer.begins(plan.graph.outputs, seeds)
    # An output may be an input, a constant, or the same value twice: seeds accumulate.
    for atom, seed in zip(plan.graph.outputs, seeds, strict=True):
        give(atom, seed)
    for step in reversed(plan.steps):
        arriving = [take(out) for out in step.operation.outputs]
        if all(relevance is None for relevance in arriving) and not step.watches:
            continue
        passage = passed(plan, tape, step, arriving, request)
        for observer in observers:
            observer.passes(passage)
        for atom, relevance in passage.handed():
            give(atom, relevance)
    leaving = [take(value) for value in plan.graph.inputs]
    for value in watcher.unseen:
        take(value)
    return leaving, record


def _observers(
    plan: Plan, tape: Tape, request: Request, record: Record, watcher: Watcher
) -> list[Observer]:
    """Who looks on, in the order in which they are told."""
    book = Bookkeeper(plan, tape, request.keep, record.accounts) if request.keep else None
    observers: list[Observer] = [Editor(plan, tape, request, book)] if request.edits else []
    observers.append(watcher)
    if request.never is not None:
        observers.append(SummedOnce(plan, request.never))
    return [*observers, book] if book is not None else observers


def requested(plan: Plan, keep: Keep = "", **wanted: Any) -> Request:
    """A request, by which the rules of those steps of a plan that are alike are traced once."""
    return Request(Shared(by_rule, plan), keep, **wanted)
