"""The steps of a plan by the values between them, as those ask who look for blocks."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from relprop._core.graph import Atom, Equation, Value
from relprop._core.plan import Plan, Step
from relprop.anatomy.blocks import Block
from relprop.reading.index import Index

#: What leaves the entries of a value what they are, or changes all of them alike.
LINEAR_LINKS = ("structural", "scale", "offset", "average", "linear")
#: So many steps lie at most between what belongs together.
_FARTHEST = 100


Found = TypeVar("Found", bound=Block)


class Link(NamedTuple):
    """A step found on the way back from a value.

    Attributes:
        step: the step.
        copies: how often each of its numbers was repeated on the way.
        passed: the steps in between, the nearest to the start first.
    """

    step: Step
    copies: int
    passed: tuple[Step, ...]


class Wiring:
    """The steps of one plan, without those of its bodies, by the values between them."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.steps = plan.steps
        self._maker = {out: step for step in plan.steps for out in step.operation.outputs}
        explained = [v for v in plan.graph.inputs if v in plan.active]
        graph = plan.graph
        self._index = Index(graph.equations, graph.constants, explained, graph.explained_outputs)
        self._order = {step.operation.last: number for number, step in enumerate(plan.steps)}
        self._readers: dict[Value, list[Step]] = {}
        for step in plan.steps:
            for value in self.active(step):
                self._readers.setdefault(value, []).append(step)

    @property
    def touched(self) -> set[Atom]:
        """All values computed from the explained inputs, those that count as constants too."""
        return self._index.touched

    def equation(self, atom: Atom) -> Equation | None:
        """The equation that makes a value."""
        return self._index.producer(atom)

    def maker(self, atom: Atom) -> Step | None:
        """The step that makes a value."""
        return self._maker.get(atom)  # type: ignore[arg-type]

    def nearest(self, value: Value) -> Value:
        """The value, or what it was computed from that is on the way to the outputs."""
        while self.maker(value) is None:
            equation = self.equation(value)
            operands = [a for a in equation.inputs if a in self.touched] if equation else []
            if not operands:
                break
            (value, *_) = operands  # type: ignore[assignment]
        return value

    def readers(self, value: Value) -> list[Step]:
        """The steps that read a value."""
        return self._readers.get(value, [])

    def order(self, step: Step) -> int:
        """The number of a step among all steps."""
        return self._order[step.operation.last]

    def active(self, step: Step) -> list[Value]:
        """The operands of a step that depend on the explained inputs and count as variable."""
        pairs = zip(step.operation.inputs, step.active, strict=True)
        return [a for a, on in pairs if on and isinstance(a, Value)]

    def constants(self, step: Step) -> list[Atom]:
        """Its other operands."""
        return [a for a, on in zip(step.operation.inputs, step.active, strict=True) if not on]

    def back(self, value: Value, passing: Callable[[Step], bool]) -> Iterator[Link]:
        """The nearest steps behind a value that are not passing, the nearest first.

        No further back than `_FARTHEST` steps: a residual stream leads to all layers before.
        """
        queue: collections.deque[tuple[Value, int, tuple[Step, ...]]]
        queue = collections.deque([(value, 1, ())])
        seen: set[Value] = set()
        while queue and len(seen) < _FARTHEST:
            value, copies, passed = queue.popleft()
            step = self.maker(value)
            if step is None or value in seen:
                continue
            seen.add(value)
            if not passing(step) and _copied(step, value) is None:
                yield Link(step, copies, passed)
                continue
            copied = _copied(step, value)
            operands = self.active(step) if copied is None else [copied]
            for operand in operands:
                repeats = _size(value) // max(_size(operand), 1) if len(operands) == 1 else 1
                queue.append((operand, copies * max(repeats, 1), (*passed, step)))

    def origin(self, value: Value, *structures: str) -> Value:
        """The value behind steps of some structures that have one variable operand."""
        while True:
            step = self.maker(value)
            copied = None if step is None else _copied(step, value)
            if copied is not None:
                value = copied
                continue
            if step is None or step.structure not in structures or len(self.active(step)) != 1:
                return value
            (value,) = self.active(step)

    def behind(self, atom: Atom) -> Iterator[Equation]:
        """All equations that a constant was computed from, in this graph."""
        return self._index.makers_behind(atom)

    def is_behind(self, value: Atom, atom: Atom) -> bool:
        """Whether something is a value, or was computed from it."""
        return value is atom or self._index.leads(value, atom)

    def equations_reading(self, atom: Atom) -> Iterable[Equation]:
        """All equations that read a value."""
        return self._index.readers.get(atom, ())

    def in_order(self, equations: Iterable[Equation]) -> list[Equation]:
        """Equations in their order of evaluation."""
        return sorted(equations, key=self._index.position.__getitem__)


def in_all_bodies(plan: Plan, find: Callable[[Wiring], Iterable[Found]]) -> Iterator[Found]:
    """What is found, with a `value`, in a plan and in all bodies in it, in order of evaluation."""
    found = {block.value: block for block in find(Wiring(plan))}
    for step in plan.steps:
        for out in step.operation.outputs:
            if out in found:
                yield found[out]
        for body in step.bodies:
            yield from in_all_bodies(body, find)


def passes(*structures: str) -> Callable[[Step], bool]:
    """Whether a step is of one of the structures."""
    return lambda step: step.structure in structures


def _copied(step: Step, value: Value) -> Value | None:
    """The operand that a result of a region or call is a mere copy of."""
    if len(step.bodies) != 1 or step.structure not in ("region", "custom_derivative", "remat"):
        return None
    (body,) = step.bodies
    out = body.graph.outputs[step.operation.outputs.index(value)]
    if out not in body.graph.inputs:
        return None
    operands = step.operation.inputs[len(step.operation.inputs) - len(body.graph.inputs) :]
    operand = operands[body.graph.inputs.index(out)]
    return operand if isinstance(operand, Value) else None


def _size(value: Value) -> int:
    return math.prod(value.shape)
