"""Tapes: the values of a forward pass that the way back reads, and how loops stack them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Any

from relprop._core.graph import Environment, Value
from relprop._core.plan import Plan, Step


class Tape(Environment):
    """All values of a forward pass, and what steps with bodies kept for the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.inner: dict[Step, Any] = {}

    def copy(self) -> Tape:
        tape = Tape()
        tape.update(self)
        tape.inner.update(self.inner)
        return tape


def mentioned(plan: Plan, known: Set[Any] = frozenset()) -> list[Value]:
    """The values that the way back reads, without those that are known anyway."""
    kept: dict[Value, None] = {}
    for step in plan.steps:
        if step.detaches:
            continue
        for atom in (*step.operation.inputs, *step.operation.outputs):
            if isinstance(atom, Value) and atom not in known:
                kept[atom] = None
    kept.update((value, None) for value in plan.watched if value not in known)
    return _on_tape(plan, kept, known)


def made_inside(plan: Plan) -> list[Value]:
    """The values that the way back reads, without the inputs of the graph."""
    inputs = set(plan.graph.inputs)
    kept: dict[Any, None] = dict.fromkeys(mentioned(plan, inputs))
    # Relevance arrives at a constant as well, where another branch returns something active.
    kept.update((out, None) for out in plan.graph.outputs if out not in plan.active)
    return _on_tape(plan, (value for value in kept if isinstance(value, Value)), inputs)


def packed(plan: Plan, tape: Tape, values: Sequence[Value]) -> tuple[list[Any], list[Any]]:
    """A tape as a tree of arrays, for loops to stack."""
    return tape.read_all(values), [tape.inner[step] for step in _taped(plan)]


def unpacked(plan: Plan, packed: tuple[list[Any], list[Any]], values: Sequence[Value]) -> Tape:
    """The tape that `packed` has made a tree of."""
    tape = Tape()
    tape.update(plan.graph.constants)
    arrays, inner = packed
    tape.update(zip(values, arrays, strict=True))
    tape.inner.update(zip(_taped(plan), inner, strict=True))
    return tape


def _on_tape(plan: Plan, values: Iterable[Value], known: Set[Any]) -> list[Value]:
    """What has to be kept so that some values can be read: what is computed again is not."""
    kept: dict[Value, None] = {}
    queue, seen = list(values), set()
    while queue:
        value = queue.pop(0)
        group = plan.graph.recalls.get(value)
        if group is None:
            if value not in known and value not in plan.graph.constants:
                kept[value] = None
        elif group not in seen:
            seen.add(group)
            queue.extend(group.reads)
    return list(kept)


def _taped(plan: Plan) -> list[Step]:
    """The steps whose bodies have a tape of the forward pass."""
    recalls = plan.graph.recalls
    return [s for s in plan.steps if s.bodies and s.operation.outputs[0] not in recalls]
