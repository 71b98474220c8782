"""What is known of a value in place of the value, while tokens are followed through a function."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from relprop._core.graph import Graph, Value
from relprop._core.plan import Plan
from relprop.anatomy.axes import Dim, Laid, Shape


@dataclasses.dataclass(frozen=True)
class Known(Laid):
    """What is known of a value beside its axes.

    Attributes:
        applications: those that made its tokens.
        origins: where the tokens come from.
        at: what the steps of loops around it are along: it is of the present one only.
        maps: the maps of attention that it is made of.
    """

    applications: frozenset[int] = frozenset()
    origins: frozenset[Value] = frozenset()
    at: frozenset[Dim] = frozenset()
    maps: frozenset[Value] = frozenset()

    def laid(self, laid: Laid) -> Known:
        return dataclasses.replace(self, shape=laid.shape, pooled=laid.pooled)


@dataclasses.dataclass(frozen=True)
class TokenMap:
    """A map of attention before it is applied.

    Attributes:
        shape: its axes, no two of which are one, so that it is known where each goes.
        tokens: the axes of what it was made from.
        compared: queries and keys.
        at: what the steps of loops around it are along.
    """

    shape: Shape
    tokens: Shape
    compared: tuple[Known, ...]
    at: frozenset[Dim]


@dataclasses.dataclass(frozen=True)
class Seen:
    """A look, before it is known which axes are the same.

    Attributes:
        map: its number.
        rounds: the steps of the loops around it.
        shape: the axes of the map, loops first whose steps are parts of it.
        axes: where those of queries and keys are in it.
        queries: what looks.
        keys: what is looked at.
        looking: the axis of the tokens that look.
        looked: of those that are looked at.
        rows: which of those that are looked at look, where it is some of them.
        chunks: loops that are along the queries.
        columns: the keys that are tokens.
        obstacle: why it cannot be told.
    """

    map: int
    rounds: tuple[int | None, ...]
    shape: Shape
    axes: tuple[int | None, int]
    queries: Known
    keys: Known
    looking: Dim
    looked: Dim
    rows: tuple[int, ...] | None
    chunks: tuple[int, ...]
    columns: tuple[int, ...] | None
    obstacle: str


def known_together(operands: Sequence[Known | None]) -> Known:
    """What several operands are pooled of, mixed by and read from together."""
    there = [operand for operand in operands if operand is not None]
    return Known(
        (),
        {axis: by for operand in there for axis, by in operand.pooled.items()},
        frozenset().union(*(operand.applications for operand in there)),
        frozenset().union(*(operand.origins for operand in there)),
        frozenset().union(*(operand.at for operand in there)),
        frozenset().union(*(operand.maps for operand in there)),
    )


def known_of(known: Mapping[Value, Known], atoms) -> list[Known | None]:
    """What is known of some values; None where nothing is."""
    return [known.get(atom) for atom in atoms]


def placed(graph: Graph, given: Sequence[Known | None]) -> dict[Value, Known]:
    """What is known of the inputs of a graph, by these."""
    pairs = zip(graph.inputs, given, strict=True)
    return {value: known for value, known in pairs if known is not None}


def values_of(plan: Plan):
    """All results of a plan and of its bodies."""
    for step in plan.walk():
        yield from step.operation.outputs
