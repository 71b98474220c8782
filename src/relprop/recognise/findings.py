"""What is found out about the graphs of one function, once for all plans of it."""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import Any

from relprop._core.graph import Graph, Value
from relprop._core.operation import Operation
from relprop.reading import Readings
from relprop.recognise import Recogniser, recognise


class Findings:
    """Readings, and the operations recognised in them, that plans of one function share.

    They don't depend on rules, but for what rules make constants of. So a plan for another
    composite, or for the same one with more known about positions, has most of them made already.

    Attributes:
        readings: the graphs in their normal form.
    """

    def __init__(self) -> None:
        self.readings = Readings()
        self._operations: dict[Any, list[Operation]] = {}

    def recognised(
        self,
        graph: Graph,
        dependent: Set[Value],
        explained: Set[Value],
        recognisers: tuple[Recogniser, ...],
        visible: Collection[Value] = (),
    ) -> list[Operation]:
        """As `recognise`."""
        key = (graph, frozenset(dependent), frozenset(explained), recognisers, frozenset(visible))
        if key not in self._operations:
            self._operations[key] = recognise(
                graph, set(dependent), set(explained), recognisers, visible
            )
        return self._operations[key]
