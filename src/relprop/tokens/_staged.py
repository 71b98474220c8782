"""Functions of arrays as graphs that are evaluated again, with some of it in another way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from relprop import _compat
from relprop._core.forward import forward
from relprop._core.graph import Atom, Environment, Equation, Graph
from relprop._core.plan import Plan
from relprop._core.trace import Trace, trace

__all__ = ["Other", "Trace", "evaluated", "in_turn", "needed", "trace"]

#: What is done in place of an equation: its operands to its results.
Other = Callable[[Sequence[Any]], Sequence[Any]]


def evaluated(
    graph: Graph,
    arrays: Sequence[Any],
    wanted: Sequence[Atom],
    others: Mapping[Equation, Other],
    equations: Iterable[Equation] | None = None,
) -> list[Any]:
    """Some values of a graph, with scopes and lines of source as they were.

    Args:
        graph: of a function.
        arrays: its arguments.
        wanted: the values.
        others: what is done in place of some equations.
        equations: those to be evaluated, all of them by default.
    """
    known = Environment(graph.constants)
    known.update(zip(graph.inputs, arrays, strict=True))
    for equation in graph.equations if equations is None else equations:
        values = known.read_all(equation.inputs)
        with jax.named_scope(equation.scope), _compat.at_source(equation.traced):
            other = others.get(equation)
            results = equation.evaluate(values) if other is None else other(values)
        known.update(zip(equation.outputs, results, strict=True))
    return known.read_all(wanted)


def in_turn(function: Callable[..., Any], array: Any) -> Any:
    """What a function returns for an array, by the forward pass of explanations.

    There CPUs read one weight in half precision after the other, see `relprop._core.cpu.in_turn`.
    """
    traced = trace(function, [array], (0,))
    outputs, _ = forward(Plan(traced.graph, (), frozenset()), traced.arrays)
    return traced.returned(outputs)


def needed(graph: Graph, wanted: Iterable[Atom]) -> list[Equation]:
    """The equations that some values are computed by."""
    missing = set(wanted)
    found = []
    for equation in reversed(graph.equations):
        if missing.intersection(equation.outputs):
            missing.update(equation.inputs)
            found.append(equation)
    return found[::-1]
