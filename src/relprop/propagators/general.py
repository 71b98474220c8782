"""Propagators for what moves numbers, changes them one by one, or lets nothing through."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from relprop._core import registry
from relprop._core.graph import Constant, Equation
from relprop._core.registry import Propagator
from relprop._core.relevance import precise


def inner(equation: Equation) -> list[Equation]:
    """The equations of its bodies, or itself where it has none."""
    return [e for body in equation.bodies for e in body.equations] or [equation]


def is_maximum_with_zero(equation: Equation) -> bool:
    """Whether it is `max(x, 0)`."""
    numbers = [np.asarray(a.array) for a in equation.inputs if isinstance(a, Constant)]
    return equation.name == "max" and any(n.ndim == 0 and n == 0 for n in numbers)


@dataclasses.dataclass(frozen=True)
class Cut(Propagator):
    """Relevance never passes: comparisons, integer results, random numbers, `stop_gradient`."""

    cuts: ClassVar[bool] = True

    def structure(self, operation, active):
        return "cut"


@dataclasses.dataclass(frozen=True)
class Inline(Propagator):
    """A call that only groups equations."""

    inline: ClassVar[bool] = True
    bodies: tuple[str, ...] = dataclasses.field(default=("jaxpr", "call_jaxpr"), kw_only=True)


@dataclasses.dataclass(frozen=True)
class Structural(Propagator):
    """Moves or copies numbers: reshape, slice, gather, concatenate."""

    structural: ClassVar[bool] = True
    native: ClassVar[bool] = False
    transposable: ClassVar[bool] = True

    def structure(self, operation, active):
        return "structural"

    def summands(self, operation, active):
        return [position for position, on in enumerate(active) if not on]


@dataclasses.dataclass(frozen=True)
class Replication(Structural):
    """The same on more devices."""

    def repeats(self, inputs, dtype):
        (x,) = inputs
        return x if isinstance(x, Constant) and x.shape == () else None


@dataclasses.dataclass(frozen=True)
class Rearrangement(Structural):
    """Moves numbers to where other numbers say: sort, top-k, overwriting."""

    transposable: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class Selection(Structural):
    """Takes each output from one of several operands of its shape: `select_n`.

    Element by element, so that it may be part of an activation function.
    """

    structural: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Conversion(Structural):
    """Changes the precision; relevance is kept in its own.

    Args:
        folds: whether the conversion of a number in the code is a number, too.
    """

    elementwise: ClassVar[bool] = True
    folds: bool = False

    def repeats(self, inputs, dtype):
        (x,) = inputs
        if self.folds and isinstance(x, Constant) and x.shape == ():
            return Constant(np.asarray(x.array).astype(dtype))
        return None

    def evaluate(self, operation, values):
        (x,) = values
        (out,) = operation.outputs
        if jnp.issubdtype(out.dtype, jnp.complexfloating) or not _real(x):
            return operation.evaluate(values)
        return [x.astype(precise(jnp.empty((), out.dtype)).dtype)]


@dataclasses.dataclass(frozen=True)
class Naming(Conversion):
    """Gives a value a name and nothing else."""

    def evaluate(self, operation, values):
        return list(values)


@dataclasses.dataclass(frozen=True)
class Maximum(Propagator):
    """The largest or smallest: relevance to the winner.

    Args:
        extreme: 1 for the largest, -1 for the smallest.
    """

    extreme: int = dataclasses.field(default=1, kw_only=True)
    native: ClassVar[bool] = False

    def structure(self, operation, active):
        return "maximum"


@dataclasses.dataclass(frozen=True)
class ScatteredMaximum(Maximum):
    """Updates that replace what is smaller; its comparison was traced for one precision."""

    native: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Extremum(Maximum):
    """Largest of two arrays, or of an array and a constant; the latter is an activation."""

    elementwise: ClassVar[bool] = True

    def structure(self, operation, active):
        return "maximum" if sum(active) > 1 else "activation"

    def rectifies(self, operation):
        return is_maximum_with_zero(operation.last)


@dataclasses.dataclass(frozen=True)
class Elementwise(Propagator):
    """A function of each entry by itself: an activation, if one operand is active."""

    elementwise: ClassVar[bool] = True

    def structure(self, operation, active):
        return "activation" if sum(active) == 1 else None


@dataclasses.dataclass(frozen=True)
class Mutation(Propagator):
    """Makes, reads or writes an array that can be changed in place."""

    mutates: ClassVar[bool] = True

    def structure(self, operation, active):
        return None


@dataclasses.dataclass(frozen=True)
class Differentiable(Propagator):
    """Nothing better is known than the derivative, which nobody takes unasked.

    For such operations (eigenvectors, determinants) a composite has to name a rule.
    """

    def structure(self, operation, active):
        return None


@dataclasses.dataclass(frozen=True)
class Irreversible(Differentiable):
    """Not even a derivative is known to JAX."""

    differentiable: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class Kernel(Irreversible):
    """Code of which JAX sees only the call: kernels, foreign functions, callbacks."""


def is_move(equation: Equation) -> bool:
    """Whether an equation only moves, copies or converts numbers."""
    kind = registry.lookup(equation.primitive)
    return kind.structural or isinstance(kind, Conversion)


def _real(x) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)
