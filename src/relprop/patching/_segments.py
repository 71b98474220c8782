"""Parts of a function between two of its values, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Array

from relprop._core.backward import requested
from relprop._core.graph import Environment, Graph, Value
from relprop._core.passage import passed
from relprop._core.plan import Plan
from relprop._core.recall import recallable
from relprop._core.relevance import Relevance, add
from relprop._core.tape import Tape


def all_values(graph: Graph, inputs: Sequence[Any]) -> Environment:
    """All values of a graph, without those inside of bodies."""
    known = Environment(graph.constants)
    known.update(zip(graph.inputs, inputs, strict=True))
    for equation in graph.equations:
        if equation.outputs:
            out = equation.evaluate(known.read_all(equation.inputs))
            known.update(zip(equation.outputs, out, strict=True))
    return known


def segment(
    graph: Graph, known: Environment, starts: Sequence[Value], stop: Value
) -> Callable[..., Array] | None:
    """One value as a function of others, all that does not depend on these being as it is known.

    None where it does not depend on them.
    """
    reached, equations = set(starts), []
    for equation in graph.equations:
        if any(atom in reached for atom in equation.inputs):
            fresh = [out for out in equation.outputs if out not in reached]
            reached.update(fresh)
            equations.append(equation)
    needed, path = {stop}, []
    for equation in reversed(equations):
        if any(out in needed and out not in starts for out in equation.outputs):
            needed.update(equation.inputs)
            path.append(equation)
    if stop not in reached or not any(start in needed for start in starts):
        return None

    def run(*arrays: Any) -> Array:
        inside = Environment(zip(starts, arrays, strict=True))

        def read(atom: Any) -> Any:
            return inside[atom] if atom in inside else known.read(atom)

        for equation in reversed(path):
            out = equation.evaluate([read(atom) for atom in equation.inputs])
            inside.update(
                (v, array) for v, array in zip(equation.outputs, out, strict=True)
                if v not in starts
            )  # fmt: skip
        return inside[stop]

    return run


def pulled(
    plan: Plan,
    tape: Tape,
    given: Mapping[Value, Relevance],
    watched: Sequence[Value],
    stop: Value | None = None,
) -> dict[Value, Relevance | None]:
    """Relevance that is given to some values, at others from which those are computed.

    Args:
        plan: the plan; bodies are passed as a whole.
        tape: of the forward pass.
        given: relevance to start from.
        watched: the values where it is wanted.
        stop: the value behind which nobody looks.
    """
    tape, request = recallable(plan, tape), requested(plan)
    found: dict[Any, Relevance | None] = dict(given)
    seen: dict[Value, Relevance | None] = {}
    for step in reversed(plan.steps):
        outputs = step.operation.outputs
        for out in outputs:
            if out in watched:
                seen[out] = found.get(out)
        if stop in outputs or all(found.get(out) is None for out in outputs):
            continue
        passage = passed(plan, tape, step, [found.pop(out, None) for out in outputs], request)
        for atom, relevance in passage.handed():
            if plan.receives(atom):
                found[atom] = add(found.get(atom), relevance)
    return {value: seen.get(value, found.get(value)) for value in watched}
