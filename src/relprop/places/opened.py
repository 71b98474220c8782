"""A function opened at places: which values are meant, whatever rules somebody chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from relprop._arguments import argument_numbers
from relprop._core.graph import Graph, Value
from relprop._core.plan import Plan, Step, reach
from relprop._core.registry import operation_of
from relprop._core.replaced import Replacing
from relprop._core.trace import Trace, trace
from relprop._errors import InputError, NothingMatchedError
from relprop.anatomy import anatomy_of
from relprop.places.kinds import Place
from relprop.places.location import idle_message, unique


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A function on given arguments, whose values can be looked at and replaced.

    Attributes:
        trace: the function as it was traced.
        anatomy: its plan, in which operations are recognised.
        written: a plan of what was traced, in which they are not.
        loops: how often the loops around each value are run; None where that is not known.
    """

    trace: Trace
    anatomy: Plan
    written: Plan
    loops: Mapping[Value, tuple[int | None, ...]]

    @classmethod
    def of(
        cls,
        f: Callable[..., Any],
        args: Sequence[Any],
        argnums: int | Sequence[int],
        has_aux: bool,
    ) -> Opened:
        """A function whose explained arguments may be integers."""
        numbers = argument_numbers(argnums, len(args))
        traced = trace(f, args, numbers, has_aux, integers=True)
        begin = _begins(traced.graph, traced.explained_values)
        explained = {v for v in traced.explained_values if v.inexact}
        everything = [True] * len(traced.graph.outputs)
        found = anatomy_of(traced.graph, explained, sources=begin)
        anatomy, _ = reach(found, everything)
        loops: dict[Value, tuple[int | None, ...]] = {}
        _count(traced.graph, (), loops)
        _count_plan(anatomy, (), loops)
        return cls(traced, anatomy, _as_written(traced.graph), loops)

    def find(self, place: Place) -> list[tuple[str, Value]]:
        """The values that a place means, with its names for them."""
        beside = [*place.sources(self.anatomy.graph), *place.parameters(self.anatomy.graph)]
        found = [*place.values(self.anatomy), *beside] or [*place.values(self.written)]
        return [*dict.fromkeys(found)]

    def find_all(self, places: Sequence[Place]) -> list[list[tuple[str, Value]]]:
        """The values of each of several places.

        Raises:
            NothingMatchedError: one of them is not there.
            InputError: one of them changes relevance, of which there is none.
        """
        changing = [place for place in places if place.edits("")]
        if changing:
            raise InputError(
                f"{changing} change relevance, but here values are meant. Name the places as they "
                "are, without `Masked` and `Seeded`."
            )
        found = [self.find(place) for place in places]
        idle = [place for place, values in zip(places, found, strict=True) if not values]
        if idle:
            raise NothingMatchedError(idle_message(idle, self.anatomy))
        return found

    def named(self, places: Sequence[Place]) -> dict[Value, tuple[str, ...]]:
        """The values of places with their names, of which each means one."""
        return unique(pair for found in self.find_all(places) for pair in found)

    def evaluated(self, replacing: Replacing) -> tuple[list[Any], dict[str, Any]]:
        """The outputs with some values replaced, and the values that are kept.

        What is evaluated is the function as it was written. Only where a value is meant that it
        does not compute as such (a layer with its bias, which is added later) its normal form is.
        """
        graph, wanted = self.trace.graph, {*replacing.replace, *replacing.kept}
        if not wanted <= {*_all_values(graph)}:
            graph = self.anatomy.graph
            replacing = dataclasses.replace(replacing, bodies=_bodies(self.anatomy))
        return replacing.evaluate(graph, self.trace.arrays)


def _begins(graph: Graph, explained: set[Value]) -> set[Value]:
    """The first numbers that are computed from explained integers, such as embeddings.

    They and what is computed from them count as touched: for that integers explain nothing.
    """
    whole = {value for value in explained if not value.inexact}
    found: set[Value] = set()
    if whole:
        _touch(graph, whole, found)
    return found


def _touch(graph: Graph, reached: set[Any], begin: set[Value]) -> None:
    reached |= {v for v in graph.inputs if v.touched}
    for equation in graph.equations:
        operands = [atom for atom in equation.inputs if atom in reached]
        if not operands:
            continue
        for body in equation.bodies:
            given = equation.inputs[len(equation.inputs) - len(body.inputs) :]
            inside = {own for atom, own in zip(given, body.inputs, strict=True) if atom in reached}
            for value in inside:
                value.touched = True
            _touch(body, inside, begin)
        reached.update(equation.outputs)
        first = not any(atom.inexact for atom in operands) and not equation.bodies
        for out in equation.outputs:
            out.touched, out.path = True, ""
            if first and out.inexact:
                begin.add(out)


def _as_written(graph: Graph) -> Plan:
    """A plan of a graph as it was traced, without rules."""
    steps = tuple(
        Step(operation_of(e), (), None, bodies=tuple(map(_as_written, e.bodies)))
        for e in graph.equations
        if e.bodies and e.outputs
    )
    touched = frozenset(value for value in graph.values() if value.touched and value.inexact)
    return Plan(graph, steps, touched)


def _all_values(graph: Graph) -> Iterator[Value]:
    yield from graph.values()
    for equation in graph.equations:
        for body in equation.bodies:
            yield from _all_values(body)


def _bodies(plan: Plan) -> dict[Value, list[Graph]]:
    """The graphs that are read in place of the bodies of equations."""
    found: dict[Value, list[Graph]] = {}
    for step in plan.steps:
        if step.bodies:
            found[step.operation.outputs[0]] = [body.graph for body in step.bodies]
            for body in step.bodies:
                found |= _bodies(body)
    return found


Loops = dict[Value, tuple[int | None, ...]]


def _count(graph: Graph, around: tuple[int | None, ...], loops: Loops) -> None:
    loops.update(dict.fromkeys(graph.values(), around))
    for equation in graph.equations:
        for body in equation.bodies:
            _count(body, (*around, *_rounds(equation)), loops)


def _count_plan(plan: Plan, around: tuple[int | None, ...], loops: Loops) -> None:
    for value in plan.graph.values():
        loops.setdefault(value, around)
    for step in plan.steps:
        for body in step.bodies:
            _count_plan(body, (*around, *_rounds(step.operation.last)), loops)


def _rounds(equation: Any) -> tuple[int | None, ...]:
    """How often the bodies of an equation are run, if it is a loop."""
    if equation.name == "while":
        return (None,)
    return (equation.params["length"],) if equation.name == "scan" else ()
