"""Propagators for what moves numbers, changes them one by one, or lets nothing through."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Literal
from relprop._core.operation import Operation, Propagator
from relprop._core.relevance import precise


def inner(equation: Equation) -> list[Equation]:
    """The equations of its bodies, or itself where it has none."""
    return [e for body in equation.bodies for e in body.equations] or [equation]


def is_maximum_with_zero(equation: Equation) -> bool:
    """Whether it is `max(x, 0)`."""
    numbers = [np.asarray(a.array) for a in equation.inputs if isinstance(a, Literal)]
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
        return x if isinstance(x, Literal) and x.shape == () else None


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

    def unread(self, operation, position, arriving):
        return None  # Nothing is multiplied.


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
        if self.folds and isinstance(x, Literal) and x.shape == ():
            return Literal(np.asarray(x.array).astype(dtype))
        return None

    def evaluate(self, operation, values):
        (x,) = values
        (out,) = operation.outputs
        if jnp.issubdtype(out.dtype, jnp.complexfloating) or not _real(x):
            return operation.evaluate(values)
        return [x.astype(precise(jnp.empty((), out.dtype)).dtype)]

    def transposed(self, operation, active, values, given):
        (x,) = values
        return [given.astype(x.dtype)] if _real(x) and _real(given) else None


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

    def unread(self, operation, position, arriving):
        return back_over(operation, position, arriving == 0)


@dataclasses.dataclass(frozen=True)
class WindowMaximum(Maximum):
    """The largest or smallest of each window; of several that tie, the first."""

    def evaluate(self, operation, values):
        params = operation.last.params
        names = ("base_dilation", "window_dilation")
        if all(n == 1 for name in names for n in params.get(name) or ()):
            return operation.evaluate(values)
        # JAX has no derivative of a pooling with holes; it has one of what is chosen out of slices.
        (x,) = values
        (out,) = operation.outputs
        entries = jnp.stack(list(_windows(x, out.shape, params, -self.extreme * jnp.inf)))
        winner = jnp.expand_dims((jnp.argmax if self.extreme > 0 else jnp.argmin)(entries, 0), 0)
        order = jnp.arange(len(entries)).reshape((-1,) + (1,) * x.ndim)
        return [jnp.sum(jnp.where(order == winner, entries, 0), axis=0)]


def _windows(x: Array, shape: Sequence[int], params: Mapping, beyond: float) -> Iterator[Array]:
    """Per place in a window what is there in all windows, as arrays of the shape of the result."""
    sizes, strides = params["window_dimensions"], params["window_strides"]
    holes = params["window_dilation"]
    padding = [
        (*sides, base - 1)
        for sides, base in zip(params["padding"], params["base_dilation"], strict=True)
    ]
    padded = lax.pad(x, jnp.asarray(beyond, x.dtype), padding)
    for place in np.ndindex(*sizes):
        starts = np.multiply(place, holes)
        ends = starts + np.multiply(np.subtract(shape, 1), strides) + 1
        yield lax.slice(padded, starts.tolist(), ends.tolist(), strides)


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


@dataclasses.dataclass(frozen=True)
class Callback(Kernel):
    """Python code outside of JAX."""

    calls_back: ClassVar[bool] = True


def back_over(operation: Operation, position: int, array: Array) -> Array | None:
    """An array like the result of a reduction, as it broadcasts to an operand; None if it can't."""
    shape = operation.inputs[position].shape
    if array.ndim == len(shape):
        fits = all(n in (1, m) for n, m in zip(array.shape, shape, strict=True))
        return array if fits else None
    for equation in operation.equations:
        axes = tuple(equation.params.get("axes") or ())
        rest = tuple(n for axis, n in enumerate(shape) if axis not in axes)
        if axes and rest == array.shape:
            return jnp.expand_dims(array, axes)
    return None


def is_move(equation: Equation) -> bool:
    """Whether an equation only moves, copies or converts numbers."""
    kind = registry.lookup(equation.primitive)
    return kind.structural or isinstance(kind, Conversion)


def is_elementwise(equation: Equation) -> bool:
    """Whether each output entry depends on the input entries of its position only."""
    kind = registry.lookup(equation.primitive)
    if kind.elementwise:
        return True
    if len(equation.bodies) != 1 or len(equation.outputs) != 1:
        return False
    # A function with a custom derivative, such as relu, is element-wise if all that it does is.
    (body,) = equation.bodies
    reading: set[Atom] = set(body.inputs)
    for inner in body.equations:
        if not any(atom in reading for atom in inner.inputs):
            continue
        if not (is_elementwise(inner) or compares(inner)):
            return False
        reading.update(inner.outputs)
    return not _loops(equation)


def compares(equation: Equation) -> bool:
    """Whether an equation looks at numbers entry by entry and lets no relevance through."""
    if equation.name == "stop_gradient" or not registry.lookup(equation.primitive).cuts:
        return False
    shapes = {a.shape for a in equation.inputs if a.shape}
    return all(out.shape in shapes or not shapes for out in equation.outputs)


def _loops(equation: Equation) -> bool:
    return registry.lookup(equation.primitive).bodies != ("call_jaxpr",)


def _real(x) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)
