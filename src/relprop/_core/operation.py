"""Operations: equations, or several of them recognised as one thing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from relprop._core import registry
from relprop._core.graph import Atom, Environment, Equation, Value


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """What the backward pass takes as one step.

    An operation makes the outputs of its last equation, from `inputs` that may lie several
    equations earlier: the whole of a GELU is one operation from its argument to its result. The
    forward pass never sees operations, so recognising structure cannot change a function's value.

    Attributes:
        propagator: what the rules may know about it.
        equations: what lies between inputs and outputs, in order of evaluation.
        inputs: operands; those that it was recognised from first, then what else it reads.
        outputs: results, those of the last equation.
    """

    propagator: registry.Propagator
    equations: tuple[Equation, ...]
    inputs: tuple[Atom, ...]
    outputs: tuple[Value, ...]

    @classmethod
    def of(cls, equation: Equation) -> Operation:
        """An equation as it stands."""
        kind = registry.lookup(equation.primitive)
        return cls(kind, (equation,), equation.inputs, equation.outputs)

    @property
    def last(self) -> Equation:
        return self.equations[-1]

    @property
    def main(self) -> Equation:
        """The equation that does the work: of a layer with a bias the product, else the last."""
        return self.equations[self.propagator.main]

    @property
    def primitive(self) -> str:
        """The primitive it is named by."""
        return self.main.name

    def evaluate(self, values: Sequence[Any], **overrides: Any) -> list[Any]:
        """The outputs, from the values of the inputs."""
        if self.inputs is self.last.inputs:
            return self.last.evaluate(values, **overrides)
        environment = Environment(
            {a: v for a, v in zip(self.inputs, values, strict=True) if isinstance(a, Value)}
        )
        for equation in self.equations:
            out = equation.evaluate(environment.read_all(equation.inputs))
            environment.update(zip(equation.outputs, out, strict=True))
        return environment.read_all(self.outputs)
