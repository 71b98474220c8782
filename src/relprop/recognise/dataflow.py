"""Who makes and who reads which value of a graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from relprop._core import registry
from relprop._core.graph import Atom, Constant, Equation, Graph, Value, computed_from
from relprop._core.operation import Operation
from relprop._core.registry import Propagator
from relprop.propagators.general import compares as compares
from relprop.propagators.general import is_elementwise as is_elementwise
from relprop.propagators.general import is_move as is_move
from relprop.propagators.linear import DeviceSum
from relprop.reading.numbers import is_literal, number
from relprop.reading.terms import Algebra


class Dataflow:
    """The equations of one graph with their producers, as recognisers ask for them.

    Attributes:
        equations: in order of evaluation.
        dependent: values that depend on the explained inputs.
        graph: the graph.
        visible: values that somebody looks at.
    """

    def __init__(
        self,
        graph: Graph,
        dependent: set[Value],
        explained: set[Value],
        visible: Collection[Value] = (),
    ):
        equations = graph.equations
        self.graph = graph
        self.visible = visible
        self.equations = equations
        self.dependent = dependent
        self._explained = explained
        #: What recognisers have found out about the whole graph.
        self.memory: dict[str, Any] = {}
        self._found: dict[Callable[..., Any], tuple[Operation, ...]] = {}
        self._producer: dict[Any, Equation] = {
            out: equation for equation in equations for out in equation.outputs
        }
        self._position = {equation: i for i, equation in enumerate(equations)}

    def found(self, find: Callable[[Dataflow], Iterable[Operation]]) -> tuple[Operation, ...]:
        """What a recogniser finds here; it looks once, whoever asks."""
        if find not in self._found:
            self._found[find] = tuple(find(self))
        return self._found[find]

    @functools.cached_property
    def touched(self) -> set[Atom]:
        """Values computed from the explained inputs at all, also where no relevance passes."""
        return computed_from(self.equations, self._explained)

    def is_number(self, atom: Atom) -> bool:
        """Whether it is a number in the code, or one that the function closes over."""
        if atom.shape == () and (isinstance(atom, Constant) or atom in self.graph.constants):
            return True
        return number(self._producer, self.graph.constants, atom) is not None

    def number(self, atom: Atom) -> float | None:
        """The number that all entries of a constant are, if that can be seen in the code."""
        return number(self._producer, self.graph.constants, atom)

    def is_literal(self, atom: Atom) -> bool:
        """Whether a constant is made of numbers in the code and of positions alone."""
        return is_literal(self._producer, atom)

    def depends(self, atom: Atom) -> bool:
        """Whether a value depends on the explained inputs."""
        return atom in self.dependent

    @functools.cached_property
    def algebra(self) -> Algebra:
        """The terms of its values."""
        return Algebra(self.producer, self.number)

    def is_only_for(self, value: Value, equation: Equation) -> bool:
        """Whether an equation alone reads a value, and nobody else looks at it."""
        if value in self.visible or value in self.graph.explained_outputs:
            return False
        uses = self.consumers(value)
        return len(uses) == 1 and uses[0] is equation

    @functools.cached_property
    def _consumers(self) -> dict[Atom, list[Equation]]:
        # What nobody reads in the end is no use: updated running means, for example.
        read = set(self.graph.explained_outputs)
        live = []
        for equation in reversed(self.equations):
            if any(out in read for out in equation.outputs):
                read.update(equation.inputs)
                live.append(equation)
        found: dict[Atom, list[Equation]] = {}
        for equation in reversed(live):
            for atom in dict.fromkeys(equation.inputs):
                found.setdefault(atom, []).append(equation)
        return found

    def consumers(self, value: Value) -> list[Equation]:
        """The equations that read a value."""
        return self._consumers.get(value, [])

    def producer(self, atom: Atom) -> Equation | None:
        return self._producer.get(atom)  # type: ignore[arg-type]

    def operands(self, equation: Equation) -> list[Value]:
        """The operands that depend on the explained inputs."""
        return [a for a in equation.inputs if a in self.dependent]  # type: ignore[misc]

    def origin(
        self, atom: Atom, through: Callable[[Equation], bool] | None = None
    ) -> tuple[Atom, list[Equation]]:
        """Walks back over operations that move numbers and change none.

        Returns the value they start from and the equations passed, in order of evaluation.
        """
        passed: list[Equation] = []
        while True:
            equation = self.producer(atom)
            if equation is None or len(self.operands(equation)) != 1:
                break
            # Padding, gathering and the like bring numbers of their own into the result.
            moves = is_move(equation) and len(equation.inputs) == 1
            moves = moves or (through is not None and through(equation))
            if not moves or len(equation.outputs) != 1:
                break
            passed.append(equation)
            (atom,) = self.operands(equation)
        return atom, passed[::-1]

    def makers_behind(self, atom: Atom) -> Iterator[Equation]:
        """All equations that a value is computed by."""
        makers = (self.producer(a) for a in (atom, *self.behind(atom)))
        yield from dict.fromkeys(maker for maker in makers if maker is not None)

    def behind(self, value: Atom) -> set[Atom]:
        """All that a value is computed from."""
        found: set[Atom] = set()
        queue: list[Atom] = [value]
        while queue:
            equation = self.producer(queue.pop())
            fresh = [] if equation is None else [a for a in equation.inputs if a not in found]
            found.update(fresh)
            queue.extend(fresh)
        return found

    def after(self, equation: Equation, count: int) -> tuple[Equation, ...]:
        """The next equations in order of evaluation."""
        position = self._position[equation] + 1
        return self.equations[position : position + count]

    def region(self, start: Value, equation: Equation, kind: Propagator, *more: Value) -> Operation:
        """Everything between some values and the result of an equation, as one operation.

        The first operands are the values; the others are what else the equations in between read.
        """
        makers = [self.producer(value) for value in (start, *more)]
        begin = min(0 if maker is None else self._position[maker] + 1 for maker in makers)
        window = self.equations[begin : self._position[equation] + 1]
        reading: set[Atom] = {start, *more}
        for candidate in window:
            if any(atom in reading for atom in candidate.inputs):
                reading.update(candidate.outputs)
        needed: set[Atom] = set(equation.outputs)
        inside: list[Equation] = []
        for candidate in reversed(window):
            produces = any(out in needed for out in candidate.outputs)
            if candidate in makers:
                continue  # One of the values may be computed from another.
            if produces and any(atom in reading for atom in candidate.inputs):
                inside.append(candidate)
                needed.update(atom for atom in candidate.inputs if atom in reading)
        inside.reverse()
        outside = {
            atom: None
            for candidate in inside
            for atom in candidate.inputs
            if isinstance(atom, Value) and atom not in reading
        }
        return Operation(kind, tuple(inside), (start, *more, *outside), equation.outputs)


def is_device_sum(equation: Equation) -> bool:
    """Whether an equation adds up what several devices hold of one value."""
    kind = registry.lookup(equation.primitive)
    return isinstance(kind, DeviceSum) and len(equation.inputs) == 1
