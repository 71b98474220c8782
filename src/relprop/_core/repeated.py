"""Steps that are alike are traced once: the twelve layers of a model have the rules of one.

Nearly all time before the first run of an explanation goes into tracing what the rules compute.
That depends on what kind of operation a step is and on its numbers, and never on where in the model
it stands, so that steps which differ in their numbers alone can share one traced function.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

from relprop import _compat
from relprop._core.graph import Atom, Literal
from relprop._core.plan import Plan, Step


class Shared:
    """What a function makes of steps, traced once for all that are alike; for one backward pass.

    Args:
        function: of a step, of whether to keep the ledger, of the values of the operands, and of
            other trees of arrays; it returns a tree of arrays.
        plan: of the pass; its steps that are like no other are traced in place, and not those in
            bodies, which JAX traces several times. None where more may follow than one plan has.
    """

    def __init__(self, function: Callable[..., Any], plan: Plan | None = None) -> None:
        self._function = function
        self._plan = plan
        self._traced: dict[Hashable, Callable[..., Any]] = {}

    @functools.cached_property
    def _alone(self) -> set[Hashable]:
        """The kinds of which the plan has one step."""
        if self._plan is None:
            return set()
        plans = self._plan.nested()
        counts = collections.Counter(_kind_or_none(step) for plan in plans for step in plan.steps)
        return {kind for kind in map(_kind_or_none, self._plan.steps) if counts[kind] == 1}

    def __call__(self, step: Step, keep: bool, values: Sequence[Any], *more: Any) -> Any:
        if not _compat.is_staged():  # Each operation is executed as it comes.
            return self._function(step, keep, values, *more)
        kind = _kind_or_none(step)
        if kind is None or kind in self._alone:
            return self._function(step, keep, values, *more)
        key = (keep, kind)
        traced = self._traced.get(key)
        # Numbers stay numbers, for rules to look at and for XLA to simplify.
        inputs = step.operation.inputs
        numbers = [v if _is_number(a) else None for v, a in zip(values, inputs, strict=True)]
        if traced is None:
            traced = self._traced[key] = self._trace(step, keep, numbers)
        arrays = [v if n is None else None for v, n in zip(values, numbers, strict=True)]
        return traced(arrays, more)

    def _trace(self, step: Step, keep: bool, numbers: Sequence[Any]) -> Callable[..., Any]:
        def function(arrays: Sequence[Any], more: Sequence[Any]) -> Any:
            values = [n if a is None else a for a, n in zip(arrays, numbers, strict=True)]
            return self._function(step, keep, values, *more)

        function.__name__ = type(step.rule).__name__  # which profiles then show
        return jax.jit(function)


def _kind_or_none(step: Step) -> Hashable:
    """The kind of a step; None where something in it can't be compared: it is like no other."""
    kind = _kind(step)
    try:
        hash(kind)
    except TypeError:
        return None
    return kind


def _kind(step: Step) -> tuple[Any, ...]:
    """All that a step does, but for its numbers: equal for steps that are alike."""
    operation = step.operation
    order: dict[Atom, int] = {}

    def name(atom: Atom) -> Hashable:
        if not isinstance(atom, Literal):
            return order.setdefault(atom, len(order)), atom.shape, atom.dtype
        if not _is_number(atom):
            return "array", id(atom.array)
        return np.asarray(atom.array).tobytes(), _compat.type_of(atom.array)

    equations = (
        (
            equation.primitive,
            _compat.context(equation.traced),
            tuple(sorted(equation.params.items())),
            tuple(map(name, equation.inputs)),
            tuple(map(name, equation.outputs)),
        )
        for equation in operation.equations
    )
    masks = step.active, step.credited, step.severed, step.never_negative, step.rectified
    operands = tuple(map(name, operation.inputs))
    return step.rule, operation.propagator, *masks, operands, *equations


def _is_number(atom: Atom) -> bool:
    return isinstance(atom, Literal) and atom.shape == ()
