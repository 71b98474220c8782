"""Axes followed from one value onwards: where those of a map or of a projection are then."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from relprop._core.graph import Value
from relprop._core.plan import Step
from relprop.anatomy.axes import Axes, Dim, Laid
from relprop.anatomy.laying import through
from relprop.anatomy.wiring import Wiring


class Arrival(NamedTuple):
    """A step that reads what was followed.

    Attributes:
        step: the step.
        passed: the steps that led there.
        known: where the axes are, for all values on the way.
    """

    step: Step
    passed: tuple[Step, ...]
    known: Mapping[Value, Laid]


class Tracked:
    """The axes of a value, and of all that steps of some kind make of it.

    Args:
        wiring: the steps.
        start: the value.
        passing: which steps are gone through.
        keeping: an axis of it without which nothing is followed any further.
    """

    def __init__(
        self,
        wiring: Wiring,
        start: Value,
        passing: Callable[[Step], bool],
        keeping: int | None = None,
    ):
        self.axes = Axes()
        self.start: tuple[Dim, ...] = self.axes.of(start.shape)
        self._known: dict[Value, Laid] = {start: Laid(self.start)}
        self._passed: dict[Value, tuple[Step, ...]] = {start: ()}
        self._wiring, self._passing = wiring, passing
        self._kept: Dim = () if keeping is None else self.start[keeping]

    def arrivals(self) -> Iterator[Arrival]:
        """Each step that reads one of these values and is not gone through, in their order."""
        wiring = self._wiring
        queue: list[int] = []
        self._wait(queue, next(iter(self._known)))
        done: set[int] = set()
        while queue:
            number = heapq.heappop(queue)
            step = wiring.steps[number]
            if number in done:
                continue
            done.add(number)
            known = [a for a in wiring.active(step) if a in self._passed]
            passed = dict.fromkeys(s for a in known for s in (*self._passed[a], step))
            if not self._passing(step):
                yield Arrival(step, tuple(passed)[:-1], self._known)
                continue
            self._through(step)
            for out in step.operation.outputs:
                if out in self._known and self._keeps(self._known[out]):
                    self._passed[out] = tuple(passed)
                    self._wait(queue, out)

    def are_of(self, dim: Dim, starts: Dim) -> bool:
        """Whether entries along a dim are those along one that was started from."""
        return bool(starts) and bool(self.axes.ancestry(dim) & set(self.axes.find(starts)))

    def _keeps(self, laid: Laid) -> bool:
        return not self._kept or any(self.are_of(dim, self._kept) for dim in laid.shape)

    def _wait(self, queue: list[int], value: Value) -> None:
        for step in self._wiring.readers(value):
            heapq.heappush(queue, self._wiring.order(step))

    def _through(self, step: Step) -> None:
        for equation in step.operation.equations:
            operands = [self._known.get(a) for a in equation.inputs]  # type: ignore[arg-type]
            if any(operand is not None for operand in operands):
                found = through(self.axes, equation, operands, lambda atom: None)
                self._known.update(zip(equation.outputs, found, strict=True))
