"""A loop, turn by turn or all at once: what each turn computes without what the loop carries."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relprop import _compat
from relprop._core.graph import Atom, Environment, Equation, Graph, Value
from relprop.reading.algebra import Algebra
from relprop.reading.bodies import opened
from relprop.reading.draft import Draft
from relprop.reading.numbers import Numbers
from relprop.reading.primitives import algebra_of
from relprop.reading.primitives.reductions import contraction


class Loop:
    """A loop, and what its body computes without what it carries."""

    def __init__(self, draft: Draft, equation: Equation):
        self.body = _opened(draft, equation.bodies[0])
        consts, carried = _compat.scan_sizes(equation.params)
        self.length, self.reverse = equation.params["length"], equation.params["reverse"]
        self.constants = self.body.inputs[:consts]
        self.starts = self.body.inputs[consts : consts + carried]
        self.entries = self.body.inputs[consts + carried :]
        self.given = equation.inputs[consts : consts + carried]
        self.makers: dict[Any, Equation] = {
            out: inner for inner in self.body.equations for out in inner.outputs
        }
        self.number = Numbers(self.makers, self.body.constants)
        counted = zip(self.starts, self.body.outputs, self.given, strict=False)
        #: Numbers of turns, each with the first.
        self.counters = {
            start: int(first)
            for start, result, given in counted
            if (first := draft.index.number(given)) is not None and self._counts(start, result)
        }

    def _counts(self, start: Value, result: Atom) -> bool:
        maker = self.makers.get(result)
        if start.inexact or start.shape or maker is None or maker.name != "add":
            return False
        return start in maker.inputs and any(self.number(atom) == 1 for atom in maker.inputs)

    def is_free(self, value: Atom, given: Collection[Atom] = ()) -> bool:
        """Whether a turn computes a value without what is carried, others being given."""
        queue: list[Atom] = [value]
        seen: set[Atom] = set()
        while queue:
            atom = queue.pop()
            if atom in given or atom in seen:
                continue
            seen.add(atom)
            if atom in self.starts and atom not in self.counters:
                return False
            maker = self.makers.get(atom)
            queue.extend(() if maker is None else maker.inputs)
        return True

    def turns(self, value: Value, arrays: Sequence[Array], given: Mapping[Atom, Array]) -> Array:
        """A value of the body in each turn.

        Args:
            value: the value.
            arrays: what the loop closes over, and what it goes over.
            given: what is not computed but given.
        """
        needed: set[Atom] = {value}
        chosen: list[Equation] = []
        for inner in reversed(self.body.equations):
            if any(out in needed and out not in given for out in inner.outputs):
                needed.update(inner.inputs)
                chosen.insert(0, inner)
        count = len(self.constants)

        def turn(number: Array, *entries: Array) -> Array:
            known = Environment(self.body.constants)
            known.update(zip(self.constants, arrays[:count], strict=True))
            known.update(zip(self.entries, entries, strict=True))
            for start, first in self.counters.items():
                known[start] = (number + first).astype(start.dtype)
            known.update(given)
            for inner in chosen:
                results = inner.evaluate(known.read_all(inner.inputs))
                pairs = zip(inner.outputs, results, strict=True)
                known.update((out, array) for out, array in pairs if out not in given)
            return known[value]

        numbers = jnp.arange(self.length)  # Of the turns, in the order of what is gone over.
        if self.reverse:
            numbers = self.length - 1 - numbers
        return jax.vmap(turn)(numbers, *arrays[count:])


def algebra_of_turn(loop: Loop) -> Algebra:
    """The terms of what a turn computes, with contractions as sums of products."""
    return algebra_of(loop.makers.get, loop.number, {"dot_general": contraction})


def _opened(draft: Draft, body: Graph) -> Graph:
    """A body with those inside of it as a part of it: `logaddexp` is one, and `jnp.add`."""
    if not any(inner.bodies for inner in body.equations):
        return body
    inside = Draft(body, {*body.inputs}, draft.closed, None, ())
    opened(inside)
    return dataclasses.replace(
        body,
        equations=tuple(inside.equations),
        outputs=tuple(inside.outputs),
        constants=inside.constants,
    )
