"""The index of a graph (`reading.index`), and what recognisers ask beside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Graph, Literal, Value
from relprop._core.operation import Operation, Propagator
from relprop.propagators.general import compares as compares
from relprop.propagators.general import is_elementwise as is_elementwise
from relprop.propagators.general import is_move as is_move
from relprop.propagators.sums import DeviceSum
from relprop.reading.algebra import Algebra
from relprop.reading.index import Index
from relprop.reading.primitives import algebra_of


class Dataflow(Index):
    """One graph as recognisers look at it.

    Attributes:
        graph: the graph.
        visible: values that somebody looks at.
        beyond: of a body, what its inputs are outside: the flow that they come from, and the value
            there. What a loop carries is not the same in all turns, and not among them.
    """

    def __init__(
        self,
        graph: Graph,
        dependent: set[Value],
        explained: set[Value],
        visible: Collection[Value] = (),
        beyond: Mapping[Atom, tuple[Dataflow, Atom]] | None = None,
    ):
        leaving = {*graph.explained_outputs, *visible}
        super().__init__(graph.equations, graph.constants, explained, leaving)
        self.graph = graph
        self.visible = visible
        self.dependent = dependent
        self.beyond = beyond or {}
        self._found: dict[Callable[..., Any], tuple[Operation, ...]] = {}

    def found(self, find: Callable[[Dataflow], Iterable[Operation]]) -> tuple[Operation, ...]:
        """What a recogniser finds here; it looks once, whoever asks."""
        if find not in self._found:
            self._found[find] = tuple(find(self))
        return self._found[find]

    @functools.cached_property
    def uncut(self) -> Dataflow:
        """The same graph, where what was cut off from the inputs still depends on them."""
        inexact = {a for a in self.touched if isinstance(a, Value) and a.inexact}
        if inexact <= self.dependent:
            return self
        explained = set(self._explained)
        dependent = inexact | self.dependent
        return Dataflow(self.graph, dependent, explained, self.visible, self.beyond)

    def is_number(self, atom: Atom) -> bool:
        """Whether it is a number in the code, or one that the function closes over."""
        if atom.shape == () and (isinstance(atom, Literal) or atom in self.constants):
            return True
        return self.number(atom) is not None

    def depends(self, atom: Atom) -> bool:
        """Whether a value depends on the explained inputs."""
        return atom in self.dependent

    @functools.cached_property
    def algebra(self) -> Algebra:
        """The terms of its values."""
        return algebra_of(self.producer, self.number)

    def is_only_for(self, value: Value, equation: Equation) -> bool:
        """Whether an equation alone reads a value, and nobody else looks at it."""
        return self.only_reader(value) is equation

    def consumers(self, value: Value) -> list[Equation]:
        """The equations that read a value."""
        return self.readers.get(value, [])[::-1]

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

    def order(self, atom: Atom) -> int:
        """The place in the order of evaluation at which a value is there."""
        maker = self.producer(atom)
        return -1 if maker is None else self.position[maker]

    def after(self, equation: Equation, count: int) -> tuple[Equation, ...]:
        """The next equations in order of evaluation."""
        position = self.position[equation] + 1
        return tuple(self.equations[position : position + count])

    def region(self, start: Value, equation: Equation, kind: Propagator, *more: Value) -> Operation:
        """Everything between some values and the result of an equation, as one operation.

        The first operands are the values; the others are what else the equations in between read.
        """
        makers = [self.producer(value) for value in (start, *more)]
        begin = min(0 if maker is None else self.position[maker] + 1 for maker in makers)
        window = self._leading_to(equation, begin)
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

    def _leading_to(self, equation: Equation, begin: int) -> list[Equation]:
        """What an equation is computed by, from a place in the order of evaluation on, in order."""
        found, queue = {equation}, [equation]
        while queue:
            for maker in map(self.producer, queue.pop().inputs):
                if maker is not None and maker not in found and self.position[maker] >= begin:
                    found.add(maker)
                    queue.append(maker)
        return sorted(found, key=self.position.__getitem__)


def is_device_sum(equation: Equation) -> bool:
    """Whether an equation adds up what several devices hold of one value."""
    kind = registry.lookup(equation.primitive)
    return isinstance(kind, DeviceSum) and len(equation.inputs) == 1
