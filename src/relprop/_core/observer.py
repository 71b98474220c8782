"""Observers of the way back, which know what `backward` need not: edits, places, the ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from relprop import _compat
from relprop._core.compared import value_of
from relprop._core.graph import Atom, Value
from relprop._core.plan import Step
from relprop._core.record import Account, Record
from relprop._core.relevance import Relevance

MaybeRelevance = Relevance | None


@dataclasses.dataclass(frozen=True, eq=False)
class Passage:
    """Relevance that has gone through one step.

    Attributes:
        step: the step.
        values: of its operands.
        outputs: the values of its results.
        arriving: relevance of each result.
        leaving: per operand, what goes on; None where it is not active.
        credits: per operand, the second reading of parameters.
        handed_back: of a step with bodies, what these hand to every operand, active or not.
        account: what the rule has absorbed, if the ledger is kept.
        inner: of a step with bodies, what the way back through those has left behind.
        booked: whether it goes into the ledger: that is about the way from the inputs to the score.
    """

    step: Step
    values: Sequence[Any]
    outputs: Sequence[Any]
    arriving: Sequence[MaybeRelevance]
    leaving: Sequence[MaybeRelevance]
    credits: Sequence[MaybeRelevance]
    handed_back: Sequence[MaybeRelevance] = ()
    account: Account = dataclasses.field(default_factory=dict)
    inner: Record | None = None
    booked: bool = False

    def handed(self) -> Iterator[tuple[Atom, Relevance]]:
        """What operands are given, laid out over devices as they are."""
        operands = zip(self.step.operation.inputs, self.values, strict=True)
        both = zip(operands, self.leaving, self.credits, strict=True)
        for (atom, value), *relevances in both:
            like = value_of(value)
            for relevance in relevances:
                if relevance is not None:
                    yield atom, relevance.map(lambda r, like=like: _compat.alike(r, like))


class Observer:
    """One who is told what happens on the way back through a graph."""

    def begins(self, outputs: Sequence[Atom], seeds: Sequence[MaybeRelevance]) -> None:
        """Relevance has been given to the outputs of the graph."""

    def arrives(self, value: Value, relevance: MaybeRelevance) -> MaybeRelevance:
        """All relevance has arrived at a value; what is returned goes on in its place."""
        del value
        return relevance

    def passes(self, passage: Passage) -> None:
        """Relevance has gone through a step."""
