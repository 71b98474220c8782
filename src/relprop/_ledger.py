"""The ledger: where relevance went, and where numbers stopped being numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
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
        cut: of a cut, what arrived, which is lost; of what has a body, likewise inside.
    """

    operation: PlannedOperation
    arrived: float
    left: float
    bias: float
    epsilon: float
    stopped: float
    entered: float = 0.0
    cut: float = 0.0

    @property
    def gap(self) -> float:
        """What is not accounted for: made or lost by a rule that does not conserve relevance."""
        given = self.arrived + self.entered
        return given - self.left - self.bias - self.epsilon - self.stopped - self.cut


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
    def cut(self) -> float:
        """All that was lost at cuts: rounding, comparisons, `stop_gradient` and the like."""
        return self._totals["cut"]

    @property
    def entered(self) -> float:
        """All that was handed out at places inside, by `relprop.places.Seeded`."""
        return self._totals["entered"]

    @property
    def gap(self) -> float:
        """What is not accounted for."""
        given = float(self.seed) + self.entered
        return given - self.left - self.bias - self.epsilon - self.stopped - self.cut

    def columns(self) -> Sequence[str]:
        return (
            "#", "structure", "primitive", "rule", "arrived", "left", "bias", "epsilon", "stopped",
            "cut", "gap", "source",
        )  # fmt: skip

    def cells(self) -> list[list[str]]:
        return [
            [
                str(row.operation.number),
                "  " * row.operation.depth + row.operation.structure,
                row.operation.primitive,
                row.operation.rule_name,
                *map(_number, (row.arrived, row.left, row.bias, row.epsilon, row.stopped)),
                *map(_number, (row.cut, row.gap)),
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
            "cut": self.cut,
            "gap": self.gap,
        }
        sums = ", ".join(f"{name} {_number(value)}" for name, value in parts.items())
        return sums + (f"\n{self.fault}" if self.fault else "")

    __repr__ = Table.__str__


def ledger_of(plan: Plan, accounts: Accounts, score: Any, seed: Any, relevance: Any) -> Ledger:
    """A ledger from the accounts of a backward pass."""
    rows = [_row(*pair, accounts) for pair in walk(plan) if pair[0].number in accounts]
    rows = _with_cuts(rows, plan, accounts)
    names = ("bias", "epsilon", "stopped", "cut")
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


def _with_cuts(rows: Sequence[LedgerRow], plan: Plan, accounts: Accounts) -> list[LedgerRow]:
    """The rows with those of cuts among them: what arrived there has left who added it.

    Of several cuts that a value was computed by, the last one has the amount.
    """
    steps = [*walk(plan)]
    numbers = {step.operation.last: step.number for step, _ in steps if step.cut}
    lost = [  # by which operation, at which cut, how much
        (step.number, max(numbers[cut] for cut in step.cuts), float(account["cut"]))
        for step, _ in steps
        if step.cuts and "cut" in (account := accounts.get(step.number, {}))
    ]
    known = {row.operation.number: row for row in rows}
    out = []
    for step, operation in steps:
        if step.cut:
            amount = sum(part for _, cut, part in lost if cut == step.number)
            out.append(LedgerRow(operation, amount, 0.0, 0.0, 0.0, 0.0, cut=amount))
        elif step.number in known:
            inside = {inner.number for inner in _inside(step)}
            given = [(cut, part) for by, cut, part in lost if by == step.number or by in inside]
            row = known[step.number]
            left = row.left + sum(part for cut, part in given if cut not in inside)
            cut_inside = sum(part for cut, part in given if cut in inside)
            out.append(dataclasses.replace(row, left=left, cut=cut_inside))
    return out


def _inside(step: Step) -> Iterator[Step]:
    """All steps of its bodies, cuts among them."""
    for body in step.bodies:
        for inner in body.steps:
            yield inner
            yield from _inside(inner)


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
