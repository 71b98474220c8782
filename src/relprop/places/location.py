"""Places found in a plan, and refused where they have no relevance of their own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

from relprop._core.edit import Edit
from relprop._core.graph import Graph, Value
from relprop._core.plan import Plan
from relprop._errors import InputError, NothingMatchedError
from relprop.places.changes import fitted_to, knowing_channels
from relprop.places.kinds import Place
from relprop.places.matching import all_scopes, tag


def sources(graph: Graph, places: Sequence[Place], explained: set[Value]) -> dict[Value, str]:
    """The values that are to be active although they don't depend on the explained inputs."""
    found = [pair for place in places for pair in place.sources(graph)]
    return {value: name for name, value in found if value not in explained}


def parameters(graph: Graph, places: Sequence[Place], explained: set[Value]) -> dict[Value, str]:
    """The constants that are to be credited with what they contribute."""
    found = [pair for place in places for pair in place.parameters(graph)]
    return {value: name for name, value in found if value not in explained}


def located(plan: Plan, places: Sequence[Place], extra: Mapping[Value, str]) -> Plan:
    """The plan with the places marked in it.

    Args:
        plan: the plan.
        places: the places.
        extra: values that are no part of the way from the inputs, with their names.

    Raises:
        NothingMatchedError: a place isn't there.
        InputError: a mask does not fit.
    """
    here = {value for body in plan.nested() for value in body.graph.values()}
    found: list[tuple[str, Value]] = [(n, v) for v, n in extra.items() if v in here]
    edits: dict[Value, list[Edit]] = {}
    idle = []
    for place in places:
        inside = [*place.values(plan)]
        found.extend(inside)
        beside = itertools.chain(place.sources(plan.graph), place.parameters(plan.graph))
        starting = [(n, v) for n, v in beside if v in here and v in extra]
        if not inside and not starting:
            idle.append(place)
        for name, value in dict.fromkeys([*inside, *starting]):
            changes = (knowing_channels(e, plan, value) for e in place.edits(name))
            edits.setdefault(value, []).extend(changes)
    if idle:
        raise NothingMatchedError(idle_message(idle, plan))
    marked = _mark(plan, unique(found))
    return dataclasses.replace(marked, edits=fitted_to(plan, edits))


def hidden(plan: Plan) -> dict[Value, str]:
    """Watched values that the backward pass goes around, with what to say about them."""
    watched = {v: names for body in plan.nested() for v, names in body.watched.items()}
    found = {}
    for step in plan.walk():
        inputs = set(step.operation.inputs)
        for equation in step.operation.equations:
            for atom in equation.inputs:
                if isinstance(atom, Value) and atom in watched and atom not in inputs:
                    merged = step.operation.propagator.note
                    where = f"inside of {step.structure} at {step.source}"
                    reason = f" ({merged}; `composite.canonized()` leaves it apart)"
                    found[atom] = f"  {watched[atom][0]}: {where}{reason if merged else ''}"
    return found


def check_visible(plan: Plan) -> None:
    """Raises an InputError for places that have no relevance of their own."""
    found = hidden(plan)
    if found:
        raise InputError(
            f"{len(found)} place(s) have no relevance of their own, because they lie inside of "
            "what was recognised as one operation:\n"
            + "\n".join(found.values())
            + "\nName the input or the output of that operation instead."
        )


def _mark(plan: Plan, names: Mapping[Value, tuple[str, ...]]) -> Plan:
    steps = [
        dataclasses.replace(step, bodies=tuple(_mark(body, names) for body in step.bodies))
        for step in plan.steps
    ]
    own = {value: names[value] for value in plan.graph.values() if value in names}
    return dataclasses.replace(plan, steps=tuple(steps), watched=own)


def unique(pairs: Iterable[tuple[str, Value]]) -> dict[Value, tuple[str, ...]]:
    """The names of each value; what has a name already taken gets a number behind it."""
    names: dict[Value, tuple[str, ...]] = {}
    given: dict[tuple[str, Value], str] = {}
    for name, value in pairs:
        if (name, value) in given:
            continue
        free = name
        for count in itertools.count(1):
            if free not in given.values():
                break
            free = f"{name}#{count}"
        given[name, value] = free
        names[value] = (*names.get(value, ()), free)
    return names


def idle_message(idle: Sequence[Place], plan: Plan) -> str:
    """What to say about places that are not there."""
    scopes = sorted({"/".join(parts) for body in plan.nested() for parts in all_scopes(body)})
    tags = sorted(
        {tag(e) for body in plan.nested() for e in body.graph.equations if e.name == "name"}
    )
    shown = ", ".join(scopes[:40]) + (f" and {len(scopes) - 40} more" if len(scopes) > 40 else "")
    return (
        f"{len(idle)} place(s) are not on the way from the explained inputs to the score:\n"
        + "\n".join(f"  {place!r}" for place in idle)
        + f"\nNames given with `relprop.named`: {', '.join(tags) or 'none'}. Scopes: "
        f"{shown or 'none'}. Operations are listed by `relprop.inspect(f, rules)(*args)`; what a "
        "region or loop that has a rule of its own consists of is not there. Parameters must be "
        "positional arguments that are not explained themselves."
    )
