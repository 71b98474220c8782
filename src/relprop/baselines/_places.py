"""The same methods for values inside of a function, at places as `relprop.relevance` takes them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array, ArrayLike, Float, PyTree

from relprop._core.forward import forward
from relprop._core.graph import Environment, Value
from relprop._core.record import Inside
from relprop._errors import InputError
from relprop._run import Run, closed
from relprop._transform import relevance
from relprop.composites import composite_of
from relprop.places.kinds import places_of
from relprop.rules import Gradient


def gradients_at(
    f: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    at: Any,
    make: Callable[[Array, Array], Array],
) -> Callable[..., Any]:
    """Explains places by what is made of their gradients and values."""
    explain = relevance(f, Gradient(), argnums, has_aux, places=at)

    @functools.wraps(f)
    def at_places(*args: Any, **kwargs: Any) -> Any:
        out = explain(*args, **kwargs)
        (_, inside), *aux = out if has_aux else (out,)
        made = {
            name: Inside(make(place.relevance, place.value), place.value)
            for name, place in inside.items()
        }
        return (made, *aux) if has_aux else made

    return at_places


@dataclasses.dataclass(frozen=True, eq=False)
class Inner:
    """A function cut open at places.

    Attributes:
        run: the function on its arguments, with the places marked.
        x: the explained arguments, structured as in `Problem`.
    """

    run: Run
    x: PyTree[Float[ArrayLike, "..."]]

    @property
    def places(self) -> Mapping[Value, tuple[str, ...]]:
        return self.run.plan.watched

    def inputs(self, x: PyTree[Float[ArrayLike, "..."]]) -> list[Any]:
        """All array leaves of the arguments, with others for those that are explained."""
        arrays = list(self.run.trace.arrays)
        positions = [i for group in self.run.trace.explained for i in group]
        for i, leaf in zip(positions, jax.tree.leaves(x), strict=True):
            arrays[i] = leaf
        return arrays

    def values(self, x: PyTree[Float[ArrayLike, "..."]]) -> dict[str, Array]:
        """The values at the places, by the names of these."""
        _, tape = forward(self.run.plan, self.inputs(x), replay=True)
        return {names[0]: tape[value] for value, names in self.places.items()}

    def score(self, inputs: Sequence[Any], given: Mapping[str, Array]) -> Float[Array, ""]:
        """The score with given values at the places."""
        graph = self.run.plan.graph
        replaced = {value: given[names[0]] for value, names in self.places.items()}
        known = Environment(graph.constants)
        known.update(zip(graph.inputs, inputs, strict=True))
        known.update(replaced)
        for equation in graph.equations:
            if equation.outputs:
                out = equation.evaluate(known.read_all(equation.inputs))
                known.update(zip(equation.outputs, out, strict=True))
                known.update((v, replaced[v]) for v in equation.outputs if v in replaced)
        return known.read(graph.outputs[0])


def explaining_places(
    f: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    at: Any,
    method: Callable[[Inner], Any],
) -> Callable[..., Any]:
    """A function with the arguments of f that returns what a method makes of places in it.

    Raises:
        InputError: one of them is inside of a loop, a branch or a checkpointed function, is a
            parameter, or changes relevance.
    """
    composite, places = composite_of(Gradient()), places_of(at)
    changed = [place for place in places if place.edits("")]
    if changed:
        raise InputError(
            f"The values at places are replaced here, there is no relevance that {changed} could "
            "change. Name the places as they are, without `Masked` and `Seeded`."
        )

    @functools.wraps(f)
    def explain(*args: Any, **kwargs: Any) -> Any:
        run = Run.start(
            closed(f, kwargs), args, argnums, composite, "error", has_aux, places=places
        )
        _check_values(run)
        _check_outside(run)
        arrays = [[run.trace.arrays[i] for i in group] for group in run.trace.explained]
        result = method(Inner(run, run.unflatten(arrays, argnums)))
        if not has_aux:
            return result
        outputs, _ = forward(run.plan, run.trace.arrays)
        return result, run.trace.returned(outputs)[1]

    return explain


def _check_values(run: Run) -> None:
    fixed = [names[0] for value, names in run.plan.watched.items() if not value.touched]
    if fixed:
        raise InputError(
            f"The line goes from the values of the baseline to those of the input, but {fixed} do "
            "not depend on the input. Explain them as arguments, by `argnums`."
        )


def _check_outside(run: Run) -> None:
    bodies = [inner for s in run.plan.steps for body in s.bodies for inner in body.nested()]
    inside = [name for body in bodies for names in body.watched.values() for name in names]
    if inside:
        raise InputError(
            f"Values can be replaced only where they are computed once, but {inside} are computed "
            "inside of a loop, a branch or a checkpointed function. Name a place outside of it."
        )
