"""What is found out about the graphs of one function, once for all plans of it."""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import Any

from relprop._core.graph import Graph, Value
from relprop._core.operation import Operation
from relprop.reading import Readings
from relprop.recognise import Beyond, Recogniser, outside, recognise


class Findings:
    """Readings, and the operations recognised in them, that plans of one function share.

    They don't depend on rules, but for what rules make constants of. So a plan for another
    composite, or for the same one with more known about positions, has most of them made already.

    Attributes:
        readings: the graphs in their normal form.
    """

    def __init__(self) -> None:
        self.readings = Readings()
        self._operations: dict[Any, tuple[list[Operation], Beyond]] = {}
        self._beyond: Beyond = {}

    def recognised(
        self,
        graph: Graph,
        dependent: Set[Value],
        explained: Set[Value],
        recognisers: tuple[Recogniser, ...],
        visible: Collection[Value] = (),
    ) -> list[Operation]:
        """As `recognise`."""
        around = outside(graph, self._beyond)
        seen = frozenset(visible), frozenset(around.items())
        key = (graph, frozenset(dependent), frozenset(explained), recognisers, *seen)
        if key not in self._operations:
            known = dict(around)
            found = recognise(graph, set(dependent), set(explained), recognisers, visible, known)
            self._operations[key] = found, known
        # Of the bodies in it, which are asked for next: another plan may know other things.
        found, known = self._operations[key]
        self._beyond.update(known)
        return found
