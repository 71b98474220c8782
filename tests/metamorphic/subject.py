"""One function that is explained by many rules: what they have in common is computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from relprop._core.backward import backward
from relprop._core.forward import forward
from relprop._core.passage import by_rule
from relprop._core.plan import Plan
from relprop._core.repeated import Shared
from relprop._core.trace import trace
from relprop._run import Run
from relprop.composites import composite_of
from relprop.recognise.findings import Findings

from ..uncompiled import evaluated

# Tracing what rules do takes most of the time. The networks of the sample differ in a few steps
# each, so that all of them share what has been traced; users get that within one explanation.
_shared = Shared(by_rule)


class Subject:
    """What `relprop.relevance` does with one function, rules apart, done once.

    The function is traced once, what is found in it is shared by all plans, and rules that come to
    the same plan are not evaluated twice: relevance is computed of the plan and of nothing else.

    Args:
        f: a function that returns its score and anything else.
        args: its arguments; `argnums` of them are explained.
        argnums: as for `relprop.relevance`.
        on_missing: as for `relprop.relevance`.
    """

    def __init__(
        self,
        f: Callable[..., tuple[Any, Any]],
        args: Sequence[Any],
        argnums: int | tuple[int, ...] = 0,
        on_missing: Any = "error",
    ):
        self.argnums = argnums
        self.on_missing = on_missing
        numbers = (argnums,) if isinstance(argnums, int) else argnums
        self.traced = trace(f, args, numbers, has_aux=True)
        self.findings = Findings()
        self._relevance: dict[Hashable, Any] = {}

    def score(self, f: Callable[..., tuple[Any, Any]], args: Sequence[Any]) -> float:
        """The value of the function, by the function itself."""
        return float(evaluated(f, args)[0])

    def relevance(self, rules: Any) -> Any:
        """What `relprop.relevance(f, rules, argnums, has_aux=True)(*args)` returns, without aux."""
        run = Run.planned(
            self.traced, composite_of(rules), self.on_missing, True, True, (), "ignore",
            self.findings,
        )  # fmt: skip

        def explained(*arrays: Any) -> Any:
            outputs, tape = forward(run.plan, arrays)
            request = dataclasses.replace(run.request(tape), leaf=_shared)
            leaving, _ = backward(run.plan, tape, run.seed(outputs[0]), request)
            return run.result(leaving, tape, self.argnums)

        key = (run.composite.seed, *_alike(run.plan))
        if key not in self._relevance:
            self._relevance[key] = evaluated(explained, self.traced.arrays)
        return self._relevance[key]


def _alike(plan: Plan) -> Iterator[Hashable]:
    """All that relevance depends on: equal for plans that are."""
    yield plan.graph
    for step in plan.steps:
        operation = step.operation
        yield step.rule, step.active, step.credited, step.severed, step.cut
        yield operation.propagator, operation.equations, operation.inputs, operation.outputs
        for body in step.bodies:
            yield tuple(_alike(body))
