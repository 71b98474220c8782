"""What happens at places inside a function: relevance is changed there, and looked at."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from relprop import _compat
from relprop._core.bookkeeping import Bookkeeper
from relprop._core.compared import amount_of, value_of
from relprop._core.graph import Value
from relprop._core.observer import MaybeRelevance, Observer, Passage
from relprop._core.plan import Plan
from relprop._core.recall import recall
from relprop._core.record import Inside, Request
from relprop._core.relevance import Relevance
from relprop._core.tape import Tape


class Editor(Observer):
    """Changes relevance by the masks and seeds of a request, and has the ledger told."""

    def __init__(self, plan: Plan, tape: Tape, request: Request, book: Bookkeeper | None) -> None:
        self._plan, self._tape, self._edits, self._book = plan, tape, request.edits, book

    def arrives(self, value: Value, relevance: MaybeRelevance) -> MaybeRelevance:
        for edit in self._edits.get(value, ()):
            recall(self._plan, self._tape, [value], _awaited(relevance))
            before, array = relevance, amount_of(self._tape[value])
            relevance = edit.apply(before, array)
            if self._book is not None:
                self._book.changed(edit.kind, before, relevance, array)
        return relevance


class Watcher(Observer):
    """Keeps the relevance of watched values, by the names of their places."""

    def __init__(self, plan: Plan, tape: Tape, request: Request, inside: dict[str, Inside]) -> None:
        self._plan, self._tape, self._inside = plan, tape, inside
        self._derivative = request.derivative

    def arrives(self, value: Value, relevance: MaybeRelevance) -> MaybeRelevance:
        if value in self._plan.watched:
            recall(self._plan, self._tape, [value], _awaited(relevance))
            array = value_of(self._tape[value])
            found = relevance or Relevance()
            total = _compat.alike(found.total(amount_of(self._tape[value])), array)
            per_unit = total if self._derivative else _per_unit(found, total)
            if per_unit is not None:
                per_unit = _compat.alike(per_unit, array)
            for name in self._plan.watched[value]:
                self._inside[name] = Inside(total, array, per_unit)
        return relevance

    def passes(self, passage: Passage) -> None:
        if passage.inner is not None:
            self._inside.update(passage.inner.inside)

    @property
    def unseen(self) -> list[Value]:
        """The watched values that no step and no input is."""
        return [v for v, names in self._plan.watched.items() if names[0] not in self._inside]


def _per_unit(relevance: Relevance, total: Any) -> Any:
    """Relevance per unit of a value; None where shares of it have arrived."""
    if relevance.share is not None:
        return None
    return jnp.zeros_like(total) if relevance.multiplier is None else relevance.multiplier


def _awaited(relevance: MaybeRelevance) -> Any:
    return jnp.zeros(()) if relevance is None else relevance
