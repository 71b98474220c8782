"""The plan as its reader sees it: one row per operation, nothing is run."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from relprop._core.graph import Atom, Value
from relprop._core.plan import CUT, Plan, Step
from relprop._table import Table
from relprop.anatomy import (
    Activation,
    Attention,
    Block,
    Gate,
    Recurrence,
    Router,
    Stack,
    blocks,
)
from relprop.anatomy.streams import TokenFlow
from relprop.rules import Rule


@dataclasses.dataclass(frozen=True)
class PlannedOperation:
    """One operation that relevance passes.

    Attributes:
        number: position in the whole program, in order of evaluation.
        depth: how many loops, branches or calls it lies inside of.
        primitive: the JAX primitive that does the work.
        structure: what it was recognised as, such as ``"dense"`` or ``"softmax"``.
        rule: its rule; None where relevance passes by the rules of its body.
        shapes_in: shapes of the operands that depend on the explained inputs.
        shapes_out: shapes of the results.
        scope: named scopes around it.
        region: the name that its author marked it with, by `relprop.region`.
        path: path of its weight in the parameters, where they were an argument.
        source: the line of the user's code.
        equations: how many equations of the jaxpr it comprises.
        note: ``"on_missing"`` where that policy chose the rule; of a cut, how its result is used:
            as a ``"summand"``, a ``"factor"``, or for a ``"choice"``, a factor of 0 or 1.
        reads: numbers of the operations whose results it reads; -1 for an explained input. What
            the body of a loop, branch or call is given counts as if it were read from outside, and
            what a loop carries from turn to turn as a result of the loop.
    """

    number: int
    depth: int
    primitive: str
    structure: str
    rule: Rule | None
    shapes_in: tuple[tuple[int, ...], ...]
    shapes_out: tuple[tuple[int, ...], ...]
    scope: str
    region: str
    path: str
    source: str
    equations: int
    note: str
    reads: tuple[int, ...] = ()

    @property
    def rule_name(self) -> str:
        """The name of its rule; ``"inside"`` by those of its body, ``"none"`` where it is a cut."""
        if self.structure == CUT:
            return "none"
        return type(self.rule).__name__ if self.rule is not None else "inside"


class Inspection(Table, Sequence[PlannedOperation]):
    """The plan of a function: a sequence of `PlannedOperation` that prints as a table.

    Attributes:
        blocks: what the model is made of: attention, norms, activations, gates, routers,
            recurrences, residual additions, and suspicions of those.
        flow: the streams of tokens in it, and which of them look at which.
    """

    def __init__(
        self,
        operations: Sequence[PlannedOperation],
        name: str = "",
        find: Callable[[], Iterable[Block]] = tuple,
        follow: Callable[[], TokenFlow] = TokenFlow,
    ):
        self._operations = tuple(operations)
        self._name = name
        self._find = find
        self._follow = follow

    def __getstate__(self) -> dict[str, Any]:
        # What is looked for when asked is found now: how to find it holds the traced function.
        found = {"blocks": self.blocks, "flow": self.flow}
        return {"_operations": self._operations, "_name": self._name, **found}

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(self._find())

    @functools.cached_property
    def flow(self) -> TokenFlow:
        return self._follow()

    def __getitem__(self, index):
        return self._operations[index]

    def __len__(self) -> int:
        return len(self._operations)

    def title(self) -> str:
        return f"{len(self)} operations, rules: {self._name}" if self._name else ""

    def columns(self) -> Sequence[str]:
        return ("#", "structure", "primitive", "rule", "from", "to", "parameter", "scope", "source")

    def cells(self) -> list[list[str]]:
        return [
            [
                str(op.number),
                "  " * op.depth + op.structure + (f" {op.region!r}" if op.region else ""),
                op.primitive,
                (op.rule_name if op.rule is None else str(op.rule))
                + (f" ({op.note})" * bool(op.note)),
                " ".join(map(_shape, op.shapes_in)),
                " ".join(map(_shape, op.shapes_out)),
                op.path,
                op.scope,
                op.source,
            ]
            for op in self
        ]

    def footer(self) -> str:
        counts = collections.Counter(map(_described, self.blocks))
        lines = [f"  {count} x {what}" for what, count in counts.items()]
        return "\n".join(["made of:", *lines]) if lines else ""

    __repr__ = Table.__str__


def inspection(
    plan: Plan, name: str, anatomy: Callable[[], Plan], flow: Callable[[], TokenFlow]
) -> Inspection:
    """The rows of a plan; `anatomy` makes the plan in which blocks are looked for."""
    rows = [operation for _, operation in walk(plan)]
    return Inspection(rows, name, lambda: blocks(anatomy()), flow)


def _described(block: Block) -> str:
    # Of most blocks only what they have in common is of interest in a summary.
    if isinstance(block, (Attention, Activation, Gate, Router, Recurrence, Stack)):
        return str(block)
    return block.kind


def planned(step: Step, depth: int, made_by: Mapping[Atom, int]) -> PlannedOperation:
    """A step as its reader sees it; `made_by` has the number of the operation behind a value."""
    operation = step.operation
    active = [a for a, on in zip(operation.inputs, step.active, strict=True) if on]
    return PlannedOperation(
        number=step.number,
        depth=depth,
        primitive=step.primitive,
        structure=step.structure or "unknown",
        rule=step.rule,
        shapes_in=tuple(a.shape for a in active if isinstance(a, Value)),
        shapes_out=tuple(out.shape for out in operation.outputs),
        scope=step.scope,
        region=step.region,
        path=step.path,
        source=step.source,
        equations=len(operation.equations),
        note=step.note,
        reads=tuple(dict.fromkeys(made_by.get(a, -1) for a in active)),
    )


def walk(
    plan: Plan, depth: int = 0, given: Mapping[Atom, int] = MappingProxyType({})
) -> Iterator[tuple[Step, PlannedOperation]]:
    """All steps, and how their reader sees them.

    Args:
        plan: the plan.
        depth: how many loops, branches or calls are around it.
        given: the numbers of the operations that made the inputs of its graph.
    """
    made_by = dict(given)
    for step in plan.steps:
        yield step, planned(step, depth, made_by)
        operands = [*zip(step.operation.inputs, step.active, strict=True)]
        for body in step.bodies:
            own = operands[len(operands) - len(body.graph.inputs) :]
            # What a loop starts from a constant has come from an earlier turn where it is active.
            makers = (made_by.get(a, -1 if on else step.number) for a, on in own)
            yield from walk(body, depth + 1, dict(zip(body.graph.inputs, makers, strict=True)))
        made_by.update((out, step.number) for out in step.operation.outputs)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
