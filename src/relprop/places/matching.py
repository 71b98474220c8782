"""Matching of scopes: the values that leave the parts of a function that have a name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from relprop._core.graph import Atom, Equation, Graph, Value
from relprop._core.plan import Plan
from relprop._globs import glob


def tag(equation: Equation) -> str:
    """The name that a value was given with `relprop.named`."""
    return str(equation.params["name"])


def _parts(equation: Equation) -> tuple[str, ...]:
    return tuple(equation.scope.split("/")) if equation.scope else ()


def _base(graph: Graph) -> int:
    """How many parts of the scope belong to what is around a body, and not to the body."""
    return len(graph.scope.split("/")) if graph.scope else 0


def all_scopes(plan: Plan) -> Iterator[tuple[str, ...]]:
    """The parts of every scope in which something active is computed."""
    for equation in plan.graph.equations:
        if any(out in plan.active for out in equation.outputs):
            parts = _parts(equation)
            yield from (parts[:n] for n in range(_base(plan.graph) + 1, len(parts) + 1))


def leaving(plan: Plan, pattern: tuple[str, ...]) -> Iterator[tuple[str, list[Value]]]:
    """Per run of equations in a scope that matches, the active values that others read."""
    readers: dict[Atom, list[int]] = {}
    for i, equation in enumerate(plan.graph.equations):
        for atom in equation.inputs:
            readers.setdefault(atom, []).append(i)
    for scope, (begin, end) in _runs(plan, lambda parts: _matches(parts, pattern)):
        leaving = []
        for equation in plan.graph.equations[begin:end]:
            for out in equation.outputs:
                outside = any(not begin <= i < end for i in readers.get(out, ()))
                if out.inexact and out.touched and (outside or out in plan.graph.outputs):
                    leaving.append(out)
        # Of what rules have made a constant of, relevance is asked only where nothing else is.
        leaving = [out for out in leaving if out in plan.active] or leaving
        if leaving:
            yield "/".join(scope), leaving


def _runs(
    plan: Plan, wanted: Callable[[tuple[str, ...]], bool]
) -> Iterator[tuple[tuple[str, ...], tuple[int, int]]]:
    """Each wanted scope with the first and the end of a run of equations inside it."""
    open_since: dict[tuple[str, ...], int] = {}
    base = _base(plan.graph)
    count = len(plan.graph.equations)
    for i in range(count + 1):
        parts = _parts(plan.graph.equations[i]) if i < count else ()
        around = {parts[:n] for n in range(base + 1, len(parts) + 1)}
        for scope in [scope for scope in open_since if scope not in around]:
            yield scope, (open_since.pop(scope), i)
        for scope in sorted(around, key=len):
            if scope not in open_since and wanted(scope):
                open_since[scope] = i


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[n:], pattern[1:]) for n in range(len(parts) + 1))
    if not parts:
        return False
    # Under a transformation a scope is called `vmap(layer)`.
    bare = re.sub(r"^(?:\w+\()+(.*?)\)+$", r"\1", parts[0])
    named = glob(parts[0], pattern[0]) or glob(bare, pattern[0])
    return named and _matches(parts[1:], pattern[1:])
