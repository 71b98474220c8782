"""A graph while it is being rewritten."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np

from relprop import _compat
from relprop._core.graph import (
    Atom,
    Equation,
    Graph,
    Literal,
    Recall,
    Value,
)
from relprop._core.trace import Origin, graph_of
from relprop.reading.index import Index

# Constants of more entries are not computed.
_SMALL = 1 << 12


class Draft:
    """The equations of a reading, and who makes and reads what.

    Attributes:
        graph: the graph as it was traced.
        explained: what the explained values are computed from.
        closed: whether an equation with bodies has a rule as a whole.
        visible: values that must stay.
        equations: the reading so far.
        outputs: the values that stand for the outputs of the graph.
        constants: arrays that it closes over, those of opened bodies among them.
        recalled: of values that are computed again on the way back, the call that asks for it.
        makers: of values that have come in and are not in the index yet, what makes them.
        entered: loops and the like that were inside of a call, by their first result, with that.
    """

    def __init__(
        self,
        graph: Graph,
        explained: Set[Value],
        closed: Callable[[Equation], bool],
        asked: Sequence[bool] | None,
        visible: Collection[Value],
    ):
        self.graph = graph
        self.explained = explained
        self.closed = closed
        self.visible = {*visible, *explained}
        self.equations = list(graph.equations)
        self.outputs = list(graph.outputs)
        self.constants = dict(graph.constants)
        self.recalled: dict[Value, Equation] = {}
        self.entered: dict[Value, Equation | None] = {}
        self._asked = [True] * len(graph.outputs) if asked is None else list(asked)
        self._traced = {out for equation in graph.equations for out in equation.outputs}
        self._index: Index | None = None
        self.makers: dict[Atom, Equation] = {}

    # What is asked of the reading so far.

    @property
    def index(self) -> Index:
        """Who makes and reads what, and what depends on what; made anew after each change."""
        if self._index is None:
            self._index = Index(
                self.equations, self.constants, self.explained, {*self.asked, *self.visible}
            )
        return self._index

    @property
    def asked(self) -> list[Atom]:
        """The outputs that are explained."""
        return [a for a, on in zip(self.outputs, self._asked, strict=True) if on]

    def is_made(self, value: Value) -> bool:
        """Whether the function as it was traced computes a value."""
        return value in self._traced

    def known(self, atom: Atom, depth: int = 12) -> np.ndarray | None:
        """The value of a small constant that is known when the function is traced."""
        if isinstance(atom, Literal):
            return np.asarray(atom.array)
        if atom in self.constants:
            array = self.constants[atom]
            return None if _compat.is_traced(array) else np.asarray(array)
        equation = self.index.maker.get(atom) or self.makers.get(atom)
        if equation is None or depth == 0 or equation.bodies or equation.has_effects:
            return None
        if any(np.prod(out.shape) > _SMALL for out in equation.outputs):
            return None
        if equation.name == "pvary":  # Which only devices can evaluate; the same is on all.
            return self.known(equation.inputs[0], depth - 1)
        values = [self.known(a, depth - 1) for a in equation.inputs]
        if any(value is None for value in values):
            return None
        with jax.ensure_compile_time_eval():
            outputs = equation.evaluate(values)
        found = outputs[equation.outputs.index(atom)]
        return None if _compat.is_traced(found) else np.asarray(found)

    # What is done to it.

    def replace(self, equations: Iterable[Equation], same: dict[Value, Atom]) -> None:
        """Takes other equations, in which some values are to be read as others."""
        self.equations = [rewired(equation, same) for equation in equations]
        self.outputs = [resolved(atom, same) for atom in self.outputs]
        self._index = None

    def put(self, made: Mapping[Equation, Sequence[Equation]]) -> None:
        """Takes others in the place of some equations."""
        self.replace([new for e in self.equations for new in made.get(e, (e,))], {})

    def sorted(self, equations: Iterable[Equation]) -> list[Equation]:
        """Equations in their order, but each after those that make what it reads."""
        given = list(equations)
        makers: dict[Any, Equation] = {out: e for e in given for out in e.outputs}
        done: dict[Equation, None] = {}
        for equation in given:
            stack = [equation]
            while stack:
                top = stack[-1]
                first = [
                    maker
                    for atom in top.inputs
                    if (maker := makers.get(atom)) is not None and maker not in done
                ]
                if first:
                    stack.extend(first)
                else:
                    done.setdefault(stack.pop())
        return list(done)

    def derived(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Atom],
        like: Equation,
        out: Value | None = None,
    ) -> list[Equation]:
        """Equations of `function(*inputs)`, in place of another one that they are named after.

        Args:
            function: of arrays, to one array.
            inputs: the values that it is a function of.
            like: the equation whose scope and line of source they get.
            out: the value that they make, or None for a new one.
        """
        values = [atom for atom in inputs if isinstance(atom, Value)]
        types = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values]

        def of_values(*arrays: Any) -> Any:
            supply = iter(arrays)
            return function(*(next(supply) if isinstance(a, Value) else a.array for a in inputs))

        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            jaxpr, _ = _compat.make_jaxpr(of_values, *types)
        origins = [Origin.of(value) for value in values]
        small = graph_of(jaxpr, origins, callers=(like.traced, *like.callers))
        same: dict[Value, Atom] = dict(zip(small.inputs, values, strict=True))
        self.constants.update(small.constants)
        (result,) = small.outputs
        assert isinstance(result, Value) and result not in same
        if out is not None:
            same[result] = out
        made = []
        for equation in small.equations:
            equation = rewired(equation, same)
            outputs = tuple(same.get(value, value) for value in equation.outputs)
            made.append(
                dataclasses.replace(
                    equation,
                    outputs=outputs,
                    scope=like.scope,
                    line=like.source,
                    callers=(like.traced, *like.callers),
                )
            )
        self._note(made)
        return made

    def again(self, equation: Equation, inputs: Sequence[Atom], out: Value | None) -> Equation:
        """The same operation on other operands of the same kind."""
        (old,) = equation.outputs
        made = out or Value(old.shape, old.dtype, old.path, old.distance, old.touched)
        equation = dataclasses.replace(equation, inputs=tuple(inputs), outputs=(made,))
        self._note([equation])
        return equation

    def _note(self, equations: Iterable[Equation]) -> None:
        """What is computed from values that are computed again is so, too."""
        for equation in equations:
            for atom in equation.inputs:
                if atom in self.recalled:
                    for out in equation.outputs:
                        if not self.is_made(out):
                            self.recalled[out] = self.recalled[atom]  # type: ignore[index]

    def finished(self) -> Graph:
        """The reading as a graph, without what nobody reads."""
        if all(map(_is, self.equations, self.graph.equations)) and self._unchanged():
            return dataclasses.replace(
                self.graph, asked=tuple(self._asked), closed=self._closed_calls()
            )
        needed = {*self.outputs, *self.visible}
        kept = []
        for equation in reversed(self.equations):
            # What nobody reads any more would be read as something that is there.
            if equation.has_effects or any(out in needed for out in equation.outputs):
                needed.update(equation.inputs)
                kept.append(equation)
        kept.reverse()
        run = list(self.graph.equations)
        groups: dict[tuple[Equation, int], list[Equation]] = {}
        levels: dict[Atom, tuple[Equation, int]] = {}
        for equation in kept:
            if not self._is_own(equation):
                continue
            first = equation.outputs[0]
            call = self.recalled.get(first, self.entered.get(first))
            if call is None:
                run.append(equation)
                continue
            # Of a checkpoint inside another one, what comes before it and what comes after it are
            # two things: the one is there before it is, the other is not.
            before = [levels[atom] for atom in equation.inputs if atom in levels]
            level = max((n + (other is not call) for other, n in before), default=0)
            groups.setdefault((call, level), []).append(equation)
            levels.update(dict.fromkeys(equation.outputs, (call, level)))
        recalls = {}
        for (call, _), equations in groups.items():
            made = {out for equation in equations for out in equation.outputs}
            reads = {
                atom: None
                for equation in equations
                for atom in equation.inputs
                if isinstance(atom, Value) and atom not in made and atom not in self.constants
            }
            recalls.update(dict.fromkeys(made, Recall(call, tuple(equations), tuple(reads))))
        return dataclasses.replace(
            self.graph,
            equations=tuple(kept),
            outputs=tuple(self.outputs),
            constants=self.constants,
            run=tuple(run),
            returned=self.graph.results,
            recalls=recalls,
            asked=tuple(self._asked),
            closed=self._closed_calls(),
        )

    def _closed_calls(self) -> frozenset[Value]:
        """The results of calls that have a rule as a whole."""
        calls = (e for e in self.equations if e.bodies and e.outputs and self.closed(e))
        return frozenset(out for call in calls for out in call.outputs)

    def _is_own(self, equation: Equation) -> bool:
        """Whether only the reading has an equation; of loops inside a call, it needs the bodies."""
        if any(not self.is_made(out) for out in equation.outputs):
            return True
        inside = equation.outputs[:1] if equation.bodies else ()
        return any(out in self.entered for out in inside)

    def _unchanged(self) -> bool:
        return len(self.equations) == len(self.graph.equations) and all(
            map(_is, self.outputs, self.graph.outputs)
        )


def rewired(equation: Equation, same: dict[Value, Atom]) -> Equation:
    """An equation that reads other values."""
    if not same or not any(atom in same for atom in equation.inputs):
        return equation
    inputs = tuple(resolved(atom, same) for atom in equation.inputs)
    return dataclasses.replace(equation, inputs=inputs)


def resolved(atom: Atom, same: dict[Value, Atom]) -> Atom:
    """What a value is to be read as."""
    while isinstance(atom, Value) and atom in same:
        atom = same[atom]
    return atom


def _is(a: Any, b: Any) -> bool:
    return a is b
