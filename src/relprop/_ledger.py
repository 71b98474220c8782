"""The ledger: where relevance went, and where numbers stopped being numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from relprop._core.plan import Plan, Step
from relprop._core.run import PLACES, Accounts
from relprop._inspect import PlannedOperation, walk
from relprop._table import Table


@dataclasses.dataclass(frozen=True)
class LedgerRow:
    """What one operation did with relevance; all amounts are in the units of the score.

    Attributes:
        operation: the operation, as in the plan.
        arrived: relevance of its results.
        left: relevance handed to its operands.
        bias: absorbed by a bias or another constant that was added.
        epsilon: absorbed by a stabiliser, or by a denominator of exactly zero.
        stopped: ended by a rule that stops relevance, or at a weight of zero; of what has a body,
            by a mask inside.
        entered: of what has a body, handed out by seeds inside.
    """

    operation: PlannedOperation
    arrived: float
    left: float
    bias: float
    epsilon: float
    stopped: float
    entered: float = 0.0

    @property
    def gap(self) -> float:
        """What is not accounted for: made or lost by a rule that does not conserve relevance."""
        given = self.arrived + self.entered
        return given - self.left - self.bias - self.epsilon - self.stopped


@dataclasses.dataclass(frozen=True)
class Fault:
    """The first operation that turned numbers into NaN or infinity.

    Attributes:
        where: ``"forward"``, ``"backward"``, or ``"inputs"`` if no operation is to blame.
        operation: the operation; None for inputs.
        entries: how many entries are NaN or infinite.
    """

    where: str
    operation: PlannedOperation | None
    entries: int

    def __str__(self) -> str:
        if self.operation is None:
            return "An input or the score itself is NaN or infinite."
        op = self.operation
        what = "result" if self.where == "forward" else "relevance of the operands"
        place = " ".join(part for part in (op.scope, op.path, f"at {op.source}") if part)
        return (
            f"First NaN or infinity in the {self.where} pass: operation {op.number}, "
            f"{op.structure} ({op.primitive}) {place}: {self.entries} entries of the {what}."
        )


class Ledger(Table, Sequence[LedgerRow]):
    """All rows of an explanation, in order of evaluation.

    Attributes:
        score: value of the function.
        seed: relevance that the score was given, usually its value.
        relevance: what `relprop.relevance` returns.
        left: relevance of the explained inputs, summed.
        fault: where NaN or infinity came from, or None if every number is finite.
    """

    def __init__(
        self,
        rows: Sequence[LedgerRow],
        totals: Mapping[str, float],
        score: Any,
        seed: Any,
        relevance: Any,
        fault: Fault | None,
    ):
        self._rows = tuple(rows)
        self._totals = dict(totals)
        self.score = score
        self.seed = seed
        self.relevance = relevance
        self.fault = fault
        with np.errstate(invalid="ignore"):  # Infinities of both signs sum to NaN, as they should.
            self.left = sum(float(np.sum(np.asarray(r))) for r in jax.tree.leaves(relevance))

    def __getitem__(self, index):
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bias(self) -> float:
        """All that biases absorbed."""
        return self._totals["bias"]

    @property
    def epsilon(self) -> float:
        """All that stabilisers absorbed."""
        return self._totals["epsilon"]

    @property
    def stopped(self) -> float:
        """All that was stopped, by rules or by masks at places."""
        return self._totals["stopped"]

    @property
    def entered(self) -> float:
        """All that was handed out at places inside, by `relprop.places.Seeded`."""
        return self._totals["entered"]

    @property
    def gap(self) -> float:
        """What is not accounted for."""
        given = float(self.seed) + self.entered
        return given - self.left - self.bias - self.epsilon - self.stopped

    def columns(self) -> Sequence[str]:
        return (
            "#", "structure", "primitive", "rule", "arrived", "left", "bias", "epsilon", "stopped",
            "gap", "source",
        )  # fmt: skip

    def cells(self) -> list[list[str]]:
        return [
            [
                str(row.operation.number),
                "  " * row.operation.depth + row.operation.structure,
                row.operation.primitive,
                type(row.operation.rule).__name__ if row.operation.rule else "inside",
                *map(_number, (row.arrived, row.left, row.bias, row.epsilon, row.stopped, row.gap)),
                row.operation.source,
            ]
            for row in self
        ]

    def footer(self) -> str:
        parts = {
            "score": float(self.score),
            "handed out": float(self.seed),
            **({"inside": self.entered} if self.entered else {}),
            "explained": self.left,
            "bias": self.bias,
            "epsilon": self.epsilon,
            "stopped": self.stopped,
            "gap": self.gap,
        }
        sums = ", ".join(f"{name} {_number(value)}" for name, value in parts.items())
        return sums + (f"\n{self.fault}" if self.fault else "")

    __repr__ = Table.__str__


def ledger_of(plan: Plan, accounts: Accounts, score: Any, seed: Any, relevance: Any) -> Ledger:
    """A ledger from the accounts of a backward pass."""
    rows = [_row(*pair, accounts) for pair in walk(plan) if pair[0].number in accounts]
    names = ("bias", "epsilon", "stopped")
    totals = {n: sum(float(a.get(n, 0.0)) for a in accounts.values()) for n in names}
    changes = accounts.get(PLACES, {})
    totals["stopped"] += float(changes.get("mask", 0.0))
    totals["entered"] = -float(changes.get("seed", 0.0))
    return Ledger(rows, totals, score, seed, relevance, _fault(rows, accounts, score))


def _row(step: Step, operation: PlannedOperation, accounts: Accounts) -> LedgerRow:
    account = accounts[step.number]
    left = float(account["left"])
    amounts = {name: float(account.get(name, 0.0)) for name in ("bias", "epsilon", "stopped")}
    arrived = float(account["arrived"])
    if step.bodies:
        # Its own part is what constants took; what was absorbed inside has rows of its own, too.
        inner = [accounts.get(s.number, {}) for body in step.bodies for s in body.walk()]
        amounts = {k: own + sum(float(a.get(k, 0.0)) for a in inner) for k, own in amounts.items()}
        amounts["stopped"] += float(account.get("mask", 0.0))
    return LedgerRow(
        operation=operation,
        arrived=arrived,
        left=left,
        **amounts,
        entered=-float(account.get("seed", 0.0)),
    )


def _fault(rows: Sequence[LedgerRow], accounts: Accounts, score: Any) -> Fault | None:
    """The first operation that made NaN or infinity; accounts count those only if there are any."""

    def count(row: LedgerRow, name: str) -> int:
        return int(accounts[row.operation.number].get(name, 0))

    if not any("bad_values" in account for account in accounts.values()):
        return None
    leaves = [row for row in rows if row.operation.rule is not None]
    # While the score is finite, infinities on the way to it are masks and do no harm.
    for row in leaves if not np.isfinite(score).all() else ():
        if count(row, "bad_values"):
            return Fault("forward", row.operation, count(row, "bad_values"))
    for row in reversed(leaves):
        if count(row, "bad_left") and not count(row, "bad_arrived"):
            return Fault("backward", row.operation, count(row, "bad_left"))
    return Fault("inputs", None, 0)


def _number(value: float) -> str:
    return f"{value:.6g}"
