"""The ledger: where relevance went, and where numbers stopped being numbers."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop._core.plan import Plan, Step
from relprop._core.record import PLACES, Accounts
from relprop._core.relevance import precise
from relprop._core.trace import Trace
from relprop._growth import A_LOT, times_the_score
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
        not_conserved: lost, or if negative made, by a rule that does not conserve relevance here,
            such as the gradient of a softmax; see `relprop.rules.Rule.conserves`.
        size_arrived: the sum of the absolute values of what arrived, entry by entry.
        size_left: likewise of what left.
        cut: of a cut, what arrived, which is lost; of what has a body, likewise inside.
    """

    operation: PlannedOperation
    arrived: float
    left: float
    bias: float
    epsilon: float
    stopped: float
    entered: float = 0.0
    not_conserved: float = 0.0
    size_arrived: float = 0.0
    size_left: float = 0.0
    cut: float = 0.0

    @property
    def gap(self) -> float:
        """What is not accounted for: rounding, unless a rule conserves less than it says."""
        given = self.arrived + self.entered - self.not_conserved
        return given - self.left - self.bias - self.epsilon - self.stopped - self.cut


@dataclasses.dataclass(frozen=True)
class Growth:
    """The operation where relevance grows most.

    Attributes:
        operation: the operation.
        factor: what it hands on by what arrives there, in absolute values.
    """

    operation: PlannedOperation
    factor: float

    def __str__(self) -> str:
        op = self.operation
        place = " ".join(part for part in (op.scope, op.path, f"at {op.source}") if part)
        what = f"operation {op.number}, {op.structure} ({op.primitive})"
        return f"{what} {place}, {self.factor:.3g} times"


@dataclasses.dataclass(frozen=True)
class Fault:
    """The first operation that turned numbers into NaN or infinity.

    Attributes:
        where: ``"forward"``, ``"backward"``, or ``"inputs"`` if no operation is to blame.
        operation: the operation; None for inputs.
        entries: how many entries are NaN or infinite.
        inputs: of ``"inputs"``, what the arguments are called that are.
    """

    where: str
    operation: PlannedOperation | None
    entries: int
    inputs: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.operation is None:
            named = ", ".join(map(repr, self.inputs))
            return f"An input is NaN or infinite: {self.entries} entries of {named}."
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
        growth: where relevance grows most, in absolute values; None if it is nowhere more than the
            score.
    """

    def __init__(
        self,
        rows: Sequence[LedgerRow],
        totals: Mapping[str, float],
        score: Any,
        seed: Any,
        relevance: Any,
        fault: Fault | None,
        growth: Growth | None = None,
    ):
        self._rows = tuple(rows)
        self._totals = dict(totals)
        self.score = score
        self.seed = seed
        self.relevance = relevance
        self.fault = fault
        self.growth = growth
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
    def not_conserved(self) -> float:
        """All that rules have lost that do not conserve relevance; negative what they have made."""
        return sum(self.not_conserved_by.values())

    @property
    def not_conserved_by(self) -> dict[str, float]:
        """The same by the structure of the operations."""
        found: dict[str, float] = {}
        for row in self:
            if row.operation.rule is not None and row.not_conserved:
                structure = row.operation.structure
                found[structure] = found.get(structure, 0.0) + row.not_conserved
        return found

    @property
    def gap(self) -> float:
        """What is not accounted for, which is rounding."""
        given = float(self.seed) + self.entered - self.not_conserved
        return given - self.left - self.bias - self.epsilon - self.stopped - self.cut

    @property
    def explained(self) -> float:
        """The relevance of the explained inputs, summed: what other results call so, too."""
        return self.left

    @property
    def absorbed(self) -> float:
        """All of the score that the inputs do not have."""
        return float(self.seed) - self.left

    def columns(self) -> Sequence[str]:
        return (
            "#", "structure", "primitive", "rule", "arrived", "left", "bias", "epsilon", "stopped",
            "cut", "not conserved", "gap", "parameter", "source",
        )  # fmt: skip

    def cells(self) -> list[list[str]]:
        return [
            [
                str(row.operation.number),
                "  " * row.operation.depth + row.operation.structure,
                row.operation.primitive,
                row.operation.rule_name,
                *map(_number, (row.arrived, row.left, row.bias, row.epsilon, row.stopped)),
                *map(_number, (row.cut, row.not_conserved, row.gap)),
                row.operation.path,
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
            "not conserved": self.not_conserved,
            "gap": self.gap,
        }
        lines = [", ".join(f"{name} {_number(value)}" for name, value in parts.items())]
        if self.not_conserved_by:
            by = (f"{name} {_number(value)}" for name, value in self.not_conserved_by.items())
            lines.append(f"not conserved by: {', '.join(by)}")
        if self.fault:
            lines.append(str(self.fault))
        times = times_the_score(self.seed, self.relevance)
        if self.growth and times > A_LOT:
            lines.append(f"Relevance grows to {times:.3g} times the score, most at {self.growth}.")
        return "\n".join(lines)

    __repr__ = Table.__str__


def ledger_of(
    plan: Plan, accounts: Accounts, score: Any, seed: Any, relevance: Any, faulty: Trace | None
) -> Ledger:
    """A ledger from the accounts of a backward pass; `faulty` is what has made NaN or infinity."""
    rows = [_row(*pair, accounts) for pair in walk(plan) if pair[0].number in accounts]
    rows = _with_cuts(rows, plan, accounts)
    names = ("bias", "epsilon", "stopped", "cut")
    totals = {n: sum(float(a.get(n, 0.0)) for a in accounts.values()) for n in names}
    changes = accounts.get(PLACES, {})
    totals["stopped"] += float(changes.get("mask", 0.0))
    totals["entered"] = -float(changes.get("seed", 0.0))
    fault = None if faulty is None else _fault(rows, accounts, score, faulty)
    return Ledger(rows, totals, score, seed, relevance, fault, _growth(rows, float(seed)))


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
        not_conserved=_not_conserved(step, accounts),
        size_arrived=float(account["size_arrived"]),
        size_left=float(account["size_left"]),
    )


def _not_conserved(step: Step, accounts: Accounts) -> float:
    """What the rule of a step, or those inside of it, make or lose that do not conserve."""
    if step.bodies:
        return sum(_not_conserved(s, accounts) for body in step.bodies for s in body.steps)
    account = accounts.get(step.number)
    if account is None or step.rule is None or step.off_path:
        return 0.0
    if step.rule.conserves(step.operation, step.active):
        return 0.0
    noted = ("left", "bias", "epsilon", "stopped", "cut")
    return float(account["arrived"]) - sum(float(account.get(name, 0.0)) for name in noted)


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


def _growth(rows: Sequence[LedgerRow], seed: float) -> Growth | None:
    """Where relevance grows most, of the operations that hand on more than the score.

    That is where most comes to it, not where the factor is largest: in a loop that is in the last
    turns of the way back, and a moderate factor in each of many turns is what makes it explode.
    """

    def added(row: LedgerRow) -> float:
        return row.size_left - row.size_arrived

    leaves = (row for row in rows if row.operation.rule is not None)
    large = [row for row in leaves if row.size_left > abs(seed) and added(row) > 0]
    if not large:
        return None
    most = max(large, key=added)
    return Growth(most.operation, most.size_left / max(most.size_arrived, sys.float_info.min))


def _fault(rows: Sequence[LedgerRow], accounts: Accounts, score: Any, trace: Trace) -> Fault:
    """The first operation that made NaN or infinity, or the inputs that are."""

    def first(name: str, rows: Iterable[LedgerRow], where: str) -> Fault | None:
        for row in rows:
            count = int(accounts[row.operation.number].get(name, 0))
            if count:
                return Fault(where, row.operation, count)
        return None

    leaves = [row for row in rows if row.operation.rule is not None]
    found = None
    # While the score is finite, NaN and infinities on the way to it are masks and do no harm.
    if not np.isfinite(score).all():
        # NaN of an operand has come with an input, or is a constant and so in its way.
        given = first("nan_given", leaves, "forward")
        found = _of_inputs(trace, np.isnan) if given and np.isnan(score).any() else None
        if np.isnan(score).any():
            found = found or first("nan_made", leaves, "forward") or given
        found = found or _of_inputs(trace, np.isinf) or first("bad_values", leaves, "forward")
    backwards = leaves[::-1]
    # Where no operation has made it, relevance from several places has been added up.
    found = found or first("bad_made", backwards, "backward")
    found = found or first("bad_arrived", backwards, "backward")
    found = found or _of_inputs(trace, lambda x: ~np.isfinite(x))
    return found or Fault("backward", leaves[0].operation if leaves else None, 0)


def _of_inputs(trace: Trace, wrong: Callable[[np.ndarray], np.ndarray]) -> Fault | None:
    found = {
        name: int(np.sum(wrong(np.asarray(precise(array)))))
        for name, array in zip(trace.names, trace.arrays, strict=True)
        if jnp.issubdtype(array.dtype, jnp.inexact)
    }
    found = {name: count for name, count in found.items() if count}
    return Fault("inputs", None, sum(found.values()), tuple(found)) if found else None


def _number(value: float) -> str:
    return f"{value:.6g}"
