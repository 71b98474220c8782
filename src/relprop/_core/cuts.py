"""Cuts: where the way from the explained inputs to the score ends.

`round`, comparisons, conversions to integers and `stop_gradient` let no relevance through. What is
computed from their results and from nothing else that depends on the inputs counts as a constant:
it is *severed*. Which values are is a matter of the function alone and of no rule. A severed value
that enters an operation as a number is a place to tell; one that only chooses, as an index or a
condition, is not.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

import jax.numpy as jnp

from relprop import _compat
from relprop._core import registry
from relprop._core.graph import Atom, Equation, Graph, Value
from relprop._core.plan import CUT, Plan, Step
from relprop._core.registry import operation_of


class Grade(enum.IntEnum):
    """What a severed value is, from what says least about the inputs to what says most."""

    CHOSEN = 0  # one of several constants, by an index or a condition
    TRUTH = 1  # computed from nothing but the results of comparisons
    NUMBER = 2


@dataclasses.dataclass(frozen=True)
class Severed:
    """What is known of a severed value.

    Attributes:
        cuts: the equations where the way to it ends, in order of evaluation.
        grade: what it tells of the inputs.
    """

    cuts: tuple[Equation, ...]
    grade: Grade


def _merged(found: Iterable[Severed | None]) -> Severed | None:
    known = [one for one in found if one is not None]
    if not known:
        return None
    cuts = dict.fromkeys(cut for one in known for cut in one.cuts)
    return Severed(tuple(cuts), max(one.grade for one in known))


class Ways:
    """What depends on the explained values, in a graph and in its bodies, and what is severed.

    Args:
        graph: the graph.
        explained: the values that relevance is wanted of, in whatever graph they are.

    Attributes:
        dependent: all values that a way without a cut leads to.
        severed: all others that were computed from the explained values, with what is known.
        around: for each cut, the equations whose bodies it lies in, the outermost first.
    """

    @classmethod
    def of(cls, plan: Plan, explained: set[Value]) -> Ways:
        """Those of a plan: what is active depends on the inputs, whatever is inside of it."""
        active = (body.active for body in plan.nested())
        return cls(plan.graph, explained.union(*active))

    def __init__(self, graph: Graph, explained: Set[Value]):
        self.dependent: set[Atom] = set(explained)
        self.severed: dict[Atom, Severed] = {}
        self.around: dict[Equation, tuple[Equation, ...]] = {}
        self._follow(graph, ())

    def _follow(self, graph: Graph, around: tuple[Equation, ...]) -> None:
        for equation in graph.equations:
            if equation.bodies:
                self._enter(equation, around)
            elif self._reads(equation):
                for out in equation.outputs:
                    self._mark(out, equation, around)

    def _reads(self, equation: Equation) -> bool:
        return any(a in self.dependent or a in self.severed for a in equation.inputs)

    def _mark(self, out: Value, equation: Equation, around: tuple[Equation, ...]) -> None:
        kind = registry.lookup(equation.primitive)
        depends = any(a in self.dependent for a in equation.inputs)
        if out in self.dependent:
            return
        if depends and out.inexact and not kind.cuts:
            self.dependent.add(out)
            return
        before = [(a, self.severed[a]) for a in equation.inputs if a in self.severed]
        known = _merged(one for _, one in before)
        cuts = known.cuts if known else ()
        if depends:
            self.around[equation] = around
            cuts = (*cuts, equation)
        if out.dtype == bool:
            grade = Grade.TRUTH
        elif depends:
            grade = Grade.NUMBER
        elif out.inexact and any(jnp.issubdtype(a.dtype, jnp.inexact) for a in equation.inputs):
            # By which index or condition numbers were chosen says nothing about what they are.
            grade = max((one.grade for a, one in before if a.inexact), default=Grade.CHOSEN)
        else:
            grade = known.grade if known else Grade.NUMBER
        self.severed[out] = Severed(cuts, grade)

    def _enter(self, equation: Equation, around: tuple[Equation, ...]) -> None:
        """Follows the bodies of an equation; what a loop carries, until nothing changes."""
        if not registry.lookup(equation.primitive).differentiable:
            # Nothing passes a while loop, of which it is not known how often it runs.
            for out in equation.outputs if self._reads(equation) else ():
                self._mark(out, equation, around)
            return
        carried = _compat.carried_operands(equation.traced)
        for body in equation.bodies:
            operands = equation.inputs[len(equation.inputs) - len(body.inputs) :]
            self._pass(zip(operands, body.inputs, strict=True))
            while True:
                self._follow(body, (*around, equation))
                back = zip(body.outputs, (body.inputs[i] for i in carried), strict=False)
                if not self._pass(back):
                    break
        for position, out in enumerate(equation.outputs):
            self._pass((body.outputs[position], out) for body in equation.bodies)
        # Of a condition, the operand in front of those of the branches says which.
        chosen = [a for a in equation.inputs[:1] if a in self.severed and not a.inexact]
        if chosen and len(equation.bodies) > 1:
            for out in equation.outputs:
                if out.inexact and out not in self.dependent and out not in self.severed:
                    self.severed[out] = Severed(self.severed[chosen[0]].cuts, Grade.CHOSEN)

    def _pass(self, pairs: Iterable[tuple[Atom, Value]]) -> bool:
        """What is known of a value is known of its copy; whether anything was new."""
        changed = False
        for value, copy in pairs:
            if copy in self.dependent:
                continue
            if value in self.dependent:
                self.dependent.add(copy)
                self.severed.pop(copy, None)
                changed = True
            elif value in self.severed:
                found = _merged([self.severed.get(copy), self.severed[value]])
                assert found is not None
                changed |= found != self.severed.get(copy)
                self.severed[copy] = found
        return changed


@dataclasses.dataclass(frozen=True)
class Use:
    """A severed value that enters an operation as a number.

    Attributes:
        reader: the operation.
        value: the severed value.
        severed: what is known of it.
        lost: whether relevance that it would have got is lost, as that of a summand is; a factor
            takes none.
    """

    reader: Step
    value: Atom
    severed: Severed
    lost: bool

    @property
    def note(self) -> str:
        """How the value is used; a factor of 0 or 1 by a condition is but a choice."""
        factor = FACTOR if self.severed.grade > Grade.TRUTH else CHOICE
        return SUMMAND if self.lost else factor


#: How what a cut returns is used: its relevance is lost; it scales; it switches on and off.
SUMMAND, FACTOR, CHOICE = "summand", "factor", "choice"


def with_cuts(plan: Plan, ways: Ways) -> Plan:
    """The plan with a step for each cut that numbers come from, and with what reads them marked."""
    found = [*_uses(plan, ways)]
    if not found:
        return plan
    notes: dict[Equation, str] = {}
    for use in sorted(found, key=lambda use: (CHOICE, FACTOR, SUMMAND).index(use.note)):
        notes.update(dict.fromkeys(use.severed.cuts, use.note))
    # A body without a step is not shown; a cut in it is shown in place of what holds it.
    owners = {e: body.graph for body in plan.nested() for e in body.graph.equations}
    rows: dict[Equation, list[Step]] = {}
    for cut, note in notes.items():
        place = next(e for e in (cut, *reversed(ways.around[cut])) if e in owners)
        rows.setdefault(place, []).append(_row(cut, ways, note))
    lost: dict[Step, list[Use]] = {}
    for use in found:
        if use.lost:
            lost.setdefault(use.reader, []).append(use)
    return _marked(plan, rows, lost)


def _row(cut: Equation, ways: Ways, note: str) -> Step:
    active = tuple(atom in ways.dependent for atom in cut.inputs)
    return Step(operation_of(cut), active, CUT, note=note)


def _marked(
    plan: Plan, rows: Mapping[Equation, Sequence[Step]], lost: Mapping[Step, Sequence[Use]]
) -> Plan:
    last = {step.operation.last: step for step in plan.steps}
    steps: list[Step] = []
    for equation in plan.graph.equations:
        steps.extend(rows.get(equation, ()))
        step = last.get(equation)
        if step is None:
            continue
        severed = {use.value for use in lost.get(step, ())}
        bodies = (_marked(body, rows, lost) for body in step.bodies)
        steps.append(
            dataclasses.replace(
                step,
                bodies=tuple(
                    dataclasses.replace(body, severed=frozenset(severed & {*body.graph.outputs}))
                    for body in bodies
                ),
                severed=tuple(atom in severed for atom in step.operation.inputs),
                cuts=tuple(cut for use in lost.get(step, ()) for cut in use.severed.cuts),
            )
        )
    return dataclasses.replace(plan, steps=tuple(steps))


def _uses(plan: Plan, ways: Ways) -> Iterator[Use]:
    """All severed values that operations of a plan read as numbers."""
    steps = [*plan.walk()]
    # The maximum that is taken off in a softmax is a part of it, whatever else reads it.
    inside = {
        equation
        for step in steps
        for equation in step.operation.equations[:-1]
        if not step.operation.propagator.elementwise
    }
    for step in steps:
        for atom, lost in _constants(step):
            known = ways.severed.get(atom)
            if known is None or known.grade is Grade.CHOSEN or not atom.inexact:
                continue
            cuts = tuple(cut for cut in known.cuts if cut not in inside)
            if cuts:
                yield Use(step, atom, Severed(cuts, known.grade), lost)


def _constants(step: Step) -> Iterator[tuple[Atom, bool]]:
    """What a step reads as constants, and whether relevance that is given to it is lost."""
    operation = step.operation
    kind = operation.propagator
    if not step.bodies:
        if step.structure is None:
            return  # Of what nothing is known, not even what an operand is for is known.
        if len(operation.equations) > 1 and not (
            kind.elementwise or kind.linear(operation, step.active)
        ):
            return  # Of a softmax or a norm: masks, and the maximum that is taken off.
        summands = kind.summands(operation, step.active)
        for i, (atom, on) in enumerate(zip(operation.inputs, step.active, strict=True)):
            if not on:
                yield atom, i in summands
        return
    reached = step.nested.outputs_in(step, lambda body: body.active)
    for body in step.bodies:
        count = len(body.graph.inputs)
        own = zip(operation.inputs[-count:], step.active[-count:], body.graph.inputs, strict=True)
        # What a loop starts from, and what one branch returns where another returns a variable.
        for atom, on, value in own if count else ():
            if value in body.active and not on:
                yield atom, True
        for atom, out in zip(body.graph.outputs, operation.outputs, strict=True):
            if out in reached and atom not in body.active:
                yield atom, True
