"""The plan: which operations relevance passes, and by which rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Graph, Value, depends_on
from relprop._core.operation import Operation, Propagator
from relprop._core.registry import operation_of

#: The structure of a step that tells where the way from the explained inputs ends.
CUT = "cut"


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One operation of the backward pass.

    Attributes:
        operation: what was done.
        active: per operand, whether it depends on the explained inputs.
        structure: what it was recognised as, or None.
        rule: the rule it was given; None for loops and the like, whose bodies have rules, and
            where a rule is missing.
        bodies: the plans of its sub-computations.
        number: position in the whole program, those of bodies included.
        note: what a user should know about it, such as that a policy chose the rule.
        credited: per operand, whether it is computed from parameters that are to be credited with
            what they contribute.
        off_path: nothing here depends on the explained inputs; the step only leads to parameters,
            and its `active` operands are those computed from them.
        severed: per operand, whether it is a summand that is computed from the explained inputs by
            way of cuts only.
        cuts: the equations where the way to those ends, and to what branches return.
        never_negative: per operand, whether it is known that no entry is below zero.
        rectified: all that reads its result are ReLUs that pass relevance on: a multiplier that
            arrives is zero where the result is negative.
    """

    operation: Operation
    active: tuple[bool, ...]
    structure: str | None
    rule: Any = None
    bodies: tuple[Plan, ...] = ()
    number: int = -1
    note: str = ""
    credited: tuple[bool, ...] = ()
    off_path: bool = False
    severed: tuple[bool, ...] = ()
    cuts: tuple[Equation, ...] = ()
    never_negative: tuple[bool, ...] = ()
    rectified: bool = False

    @property
    def primitive(self) -> str:
        return self.operation.primitive

    @property
    def scope(self) -> str:
        return self.operation.main.scope

    @property
    def source(self) -> str:
        return self.operation.main.source

    @property
    def region(self) -> str:
        """The name its author marked it with, or an empty string."""
        return self.operation.last.region

    @property
    def path(self) -> str:
        """The path of its weight in the parameters; empty where it has none or is unknown."""
        paths = (a.path for a, on in zip(self.operation.inputs, self.active, strict=True) if not on)
        return next((path for path in paths if path), "")

    @property
    def key(self) -> Value:
        """What identifies the step between two plans of the same graph."""
        return self.operation.outputs[0]

    @property
    def detaches(self) -> bool:
        """Whether its results count as constants."""
        return self.cut or getattr(self.rule, "detaches", False)

    @property
    def cut(self) -> bool:
        """Whether it only tells where the way from the explained inputs ends."""
        return self.structure == CUT

    @property
    def nested(self) -> Nested:
        """The propagator of a step with bodies."""
        assert isinstance(self.operation.propagator, Nested)
        return self.operation.propagator

    @property
    def has_inside(self) -> bool:
        """Whether relevance passes by the rules of what is inside, if it has no rule itself."""
        return isinstance(self.operation.propagator, Nested)

    @property
    def watches(self) -> bool:
        """Whether relevance is asked for inside."""
        return any(body.watches for body in self.bodies)

    @property
    def missing(self) -> bool:
        return self.rule is None and not self.bodies and not self.cut


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The steps of a graph, in order of evaluation.

    Attributes:
        graph: the graph.
        steps: what relevance passes.
        active: the values that depend on the explained ones.
        dependent: the same, with those that a rule has made constants of.
        credited: constants computed from parameters that are to be credited. Their relevance is a
            second reading: it takes nothing from that of active values.
        watched: the values whose relevance is asked for, with the names of their places.
        edits: masks and seeds for values, those of bodies among them; in the outermost plan.
        severed: outputs that are computed from the explained inputs by way of cuts only.
    """

    graph: Graph
    steps: tuple[Step, ...]
    active: frozenset[Value]
    dependent: frozenset[Value] = frozenset()
    credited: frozenset[Value] = frozenset()
    watched: Mapping[Value, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    edits: Mapping[Value, Sequence[Any]] = dataclasses.field(default_factory=dict)
    severed: frozenset[Atom] = frozenset()

    @property
    def watches(self) -> bool:
        """Whether relevance is asked for anywhere inside."""
        return bool(self.watched) or any(step.watches for step in self.steps)

    def is_active(self, atoms: Sequence[Atom]) -> tuple[bool, ...]:
        return tuple(atom in self.active for atom in atoms)

    def receives(self, atom: Atom) -> bool:
        """Whether relevance is kept of a value."""
        return atom in self.active or atom in self.credited

    def walk(self, off_path: bool = False) -> Iterator[Step]:
        """All steps but cuts, those of bodies after the step that holds them.

        Args:
            off_path: also those that only lead to credited parameters.
        """
        for step in self.steps:
            if step.cut or (step.off_path and not off_path):
                continue
            yield step
            for body in step.bodies:
                yield from body.walk(off_path)

    def nested(self) -> Iterator[Plan]:
        """Itself and the plans of all bodies."""
        yield self
        for step in self.steps:
            for body in step.bodies:
                yield from body.nested()


Choose = Callable[[Step], tuple[Any, str]]
Read = Callable[..., Graph]
Recognise = Callable[[Graph, set[Value], set[Value]], Sequence[Operation]]


class Planner:
    """Assigns rules to the operations of a graph and of all graphs inside it.

    Args:
        read: gives a graph its normal form, from what explained values are computed from and from
            whether an equation with bodies has a rule as a whole, so that it is not to be opened.
        recognise: turns a graph, its dependent and its explained values into operations.
        choose: the rule for a step, or None if it has none, and a note. A step with bodies is
            asked for as well: a rule then applies to it as a whole instead of inside.
        sources: values that are explained beside the inputs, in whatever graph they are.
    """

    def __init__(
        self,
        read: Read,
        recognise: Recognise,
        choose: Choose,
        sources: Set[Value] = frozenset(),
    ):
        self.read = read
        self.recognise = recognise
        self.choose = choose
        self.sources = sources
        #: Of the graph around: all that leads to what is explained.
        self.live: Set[Atom] = frozenset()

    def assign(
        self,
        graph: Graph,
        explained: set[Value],
        dependent: Set[Value] = frozenset(),
        credited: Set[Value] = frozenset(),
        asked: Sequence[bool] | None = None,
    ) -> Plan:
        """A plan with all steps that depend on the explained values.

        Args:
            graph: the graph.
            explained: the inputs that relevance is wanted of.
            dependent: inputs that were computed from such values, and made constants of.
            credited: inputs that are parameters, or computed from them, to be credited.
            asked: per output, whether it is explained; all of them by default.
        """
        explained = explained | self.sources
        starting = explained | dependent
        graph = self.read(graph, starting, self._closed(graph, starting), asked)
        inside = self.around(_leading_to(graph))
        dependent = depends_on(graph.equations, starting, _cuts)
        active, parameters = set(explained), set(credited)
        steps = []
        for operation in self.recognise(graph, dependent, explained):
            if operation.propagator.cuts:
                continue
            mask = tuple(atom in active for atom in operation.inputs)
            held = tuple(a in parameters and a not in active for a in operation.inputs)
            loose = tuple(a in dependent and a not in active for a in operation.inputs)
            off_path = not (any(mask) or self._starts(operation))
            if off_path and not any(held):
                continue
            masks = (held, loose, ()) if off_path else (mask, loose, held)
            step = inside._step(operation, *masks, off_path=off_path)
            steps.append(step)
            if step.detaches:
                continue
            reached, constant = list(step.operation.outputs), []
            if step.bodies:
                reached = step.nested.outputs_in(step, lambda body: body.active)
                constant = step.nested.outputs_in(step, lambda body: body.credited)
            (parameters if off_path else active).update(out for out in reached if out.inexact)
            parameters.update(out for out in constant if out.inexact and out not in active)
        return Plan(
            graph,
            tuple(steps),
            frozenset(active),
            frozenset(dependent),
            frozenset(parameters),
        )

    def around(self, live: Iterable[Atom]) -> Planner:
        """The planner of bodies, outside of which these values lead to what is explained."""
        inside = Planner(self.read, self.recognise, self.choose, self.sources)
        inside.live = self.live | set(live)
        return inside

    def _closed(self, graph: Graph, starting: Set[Value]) -> Callable[[Equation], bool]:
        """Which equations with bodies have a rule as a whole."""
        dependent = depends_on(graph.equations, set(starting), _cuts)

        def closed(equation: Equation) -> bool:
            operation = operation_of(equation)
            mask = tuple(atom in dependent for atom in operation.inputs)
            structure = operation.propagator.structure(operation, mask)
            return self.choose(Step(operation, mask, structure))[0] is not None

        return closed

    def _starts(self, operation: Operation) -> bool:
        """Whether relevance is wanted of something inside that no operand leads to."""
        bodies = [*operation.last.bodies] if self.sources else []
        while bodies:
            body = bodies.pop()
            for equation in body.equations:
                if any(out in self.sources for out in equation.outputs):
                    return True
                bodies.extend(equation.bodies)
        return False

    def _step(
        self,
        operation: Operation,
        mask: tuple[bool, ...],
        detached: tuple[bool, ...],
        credited: tuple[bool, ...],
        off_path: bool,
    ) -> Step:
        kind = operation.propagator
        structure = kind.detached_structure if any(detached) else kind.structure
        credited = credited or (False,) * len(mask)
        step = Step(
            operation, mask, structure(operation, mask), credited=credited, off_path=off_path
        )
        rule, note = self.choose(step)
        if rule is None and isinstance(kind, Nested):
            bodies = kind.plan(operation, (mask, detached, credited), self)
            return dataclasses.replace(step, bodies=bodies)
        return dataclasses.replace(step, rule=rule, note=note)


def _leading_to(graph: Graph) -> Set[Atom]:
    """All values that the explained outputs of a graph are computed from, and those."""
    found: set[Atom] = set(graph.explained_outputs)
    for equation in reversed(graph.equations):
        if any(out in found for out in equation.outputs):
            found.update(equation.inputs)
    return found


def reach(plan: Plan, outputs: Sequence[bool]) -> tuple[Plan, tuple[bool, ...]]:
    """Keeps the steps from which the given outputs can be reached.

    Returns the smaller plan and, per input of the graph, whether relevance can arrive there.
    """
    wanted: set[Atom] = {
        atom
        for atom, on in zip(plan.graph.outputs, outputs, strict=True)
        if on and plan.receives(atom)
    }
    kept: dict[Step, Step] = {}
    for step in reversed(plan.steps):
        reached = tuple(out in wanted for out in step.operation.outputs)
        if not any(reached) or step.detaches:
            continue
        passing = [a or c for a, c in zip(step.active, step.credited, strict=True)]
        kept[step] = step
        if step.bodies:
            bodies, passing = step.nested.reach(step, reached)
            kept[step] = dataclasses.replace(step, bodies=bodies)
        receives = map(plan.receives, step.operation.inputs)
        wanted.update(
            atom
            for atom, on, through in zip(step.operation.inputs, receives, passing, strict=True)
            if on and through
        )
    # Relevance won't arrive at constants; those in use are kept for who reads the plan.
    used = _constants(plan, kept, outputs)
    steps = (
        step if step.detaches else kept.get(step)
        for step in plan.steps
        if not step.detaches or any(out in used for out in step.operation.outputs)
    )
    smaller = dataclasses.replace(plan, steps=tuple(step for step in steps if step is not None))
    return smaller, tuple(value in wanted for value in plan.graph.inputs)


def _constants(plan: Plan, steps: Iterable[Step], outputs: Sequence[bool]) -> set[Atom]:
    """All constants that some steps and the given outputs are computed from."""
    atoms = [a for a, on in zip(plan.graph.outputs, outputs, strict=True) if on]
    atoms += [atom for step in steps for atom in step.operation.inputs]
    used: set[Atom] = {atom for atom in atoms if atom not in plan.active}
    for equation in reversed(plan.graph.equations):
        if any(out in used for out in equation.outputs):
            used.update(atom for atom in equation.inputs if atom not in plan.active)
    return used


def numbered(plan: Plan, start: int = 0) -> tuple[Plan, int]:
    """Gives every step its number; returns the next free one as well."""
    steps = []
    for step in plan.steps:
        number, bodies = start, []
        start += 1
        for body in step.bodies:
            body, start = numbered(body, start)
            bodies.append(body)
        steps.append(dataclasses.replace(step, number=number, bodies=tuple(bodies)))
    return dataclasses.replace(plan, steps=tuple(steps)), start


# Per operand: active, detached, credited.
Masks = tuple[Sequence[bool], Sequence[bool], Sequence[bool]]


class Nested(Propagator):
    """An operation with bodies: relevance passes by the rules of what is inside."""

    def plan(self, operation: Operation, masks: Masks, planner: Planner) -> tuple[Plan, ...]:
        """The plans of the bodies.

        Args:
            operation: the operation.
            masks: which operands are active; which are detached, that is, made constants by a rule;
                which are credited parameters.
            planner: for the bodies.
        """
        raise NotImplementedError

    def outputs_in(self, step: Step, values: Callable[[Plan], Set[Value]]) -> list[Value]:
        """The outputs that are, in any of the bodies, among some values of its plan."""
        return [
            out
            for i, out in enumerate(step.operation.outputs)
            if any(body.graph.outputs[i] in values(body) for body in step.bodies)
        ]

    def reach(self, step: Step, outputs: Sequence[bool]) -> tuple[tuple, tuple[bool, ...]]:
        """The plans of the bodies without unreached steps, and the operands that are reached."""
        raise NotImplementedError

    def forward(self, step: Step, values: Sequence[Any], replay: bool) -> tuple[list[Any], Any]:
        """The outputs and what the backward pass needs besides operands and outputs.

        In a replay nothing is printed, logged or called back: that has been done.
        """
        raise NotImplementedError

    def rounds(self, step: Step) -> tuple[int, ...]:
        """How often its bodies are evaluated, if they are a loop: the axes in front of a record."""
        del step
        return ()

    def backward(self, step: Step, values, tape, arriving, request: Any) -> tuple[list, Any]:
        """Relevance of every operand (None for inactive ones), and the record of the bodies."""
        raise NotImplementedError


def _cuts(equation: Equation) -> bool:
    return registry.lookup(equation.primitive).cuts
