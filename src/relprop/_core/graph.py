"""The intermediate representation: a flat list of equations over values.

A jaxpr reuses the same variables each time a jitted function is called, hashes variables but not
literals, and nests its calls. A `Graph` does none of that: every `Value` is made once, calls
without a meaning of their own are inlined, and what has a body (loops, branches, rematerialised
or custom-derivative calls) holds it as a `Graph`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from relprop import _compat


class Value:
    """One array in a graph, known by identity.

    Attributes:
        shape: its shape.
        dtype: its type.
        path: of the parameter that it is or was computed from.
        distance: how many operations that is away; moves don't count.
        touched: whether it was computed from explained inputs, and not only chosen by them.
    """

    __slots__ = ("distance", "dtype", "path", "shape", "touched")

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        path: str = "",
        distance: int = 0,
        touched: bool = False,
    ):
        self.shape = shape
        self.dtype = dtype
        self.path = path
        self.distance = distance
        self.touched = touched

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @property
    def inexact(self) -> bool:
        """Whether it can carry relevance: real or complex numbers, not integers or keys."""
        return jnp.issubdtype(self.dtype, jnp.inexact)


class Literal:
    """A number or array written into the graph."""

    __slots__ = ("array",)
    path = ""
    inexact = False
    touched = False

    def __init__(self, array: Any):
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.array)

    @property
    def dtype(self) -> Any:
        return jnp.result_type(self.array)


Atom = Value | Literal


@dataclasses.dataclass(frozen=True)
class _Region:
    """In place of a primitive: a call that its user has marked as one thing."""

    name: str = "region"


REGION = _Region()


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One application of a primitive, as traced.

    Attributes:
        traced: the jaxpr equation, for `_compat.bind`.
        inputs: operands, in order.
        outputs: results, in order.
        scope: named scopes and jitted functions around it, as ``outer/inner``.
        bodies: the graphs of its sub-computations, for loops, branches and the like.
        callers: the jaxpr equations of the calls it was inlined from, the innermost first.
        region: the name that its user gave to it, for a call marked with `relprop.region`.
        line: the user's line, of an equation that stands in place of another one.
    """

    traced: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Value, ...]
    scope: str = ""
    bodies: tuple[Graph, ...] = ()
    callers: tuple[Any, ...] = ()
    region: str = ""
    line: str = ""

    @property
    def primitive(self) -> Any:
        return REGION if self.region else self.traced.primitive

    @property
    def name(self) -> str:
        return self.primitive.name

    @property
    def params(self) -> Mapping[str, Any]:
        return self.traced.params

    @property
    def has_effects(self) -> bool:
        """Whether it prints, logs or calls back, itself or in a body."""
        return bool(getattr(self.traced, "effects", ()))

    @property
    def source(self) -> str:
        """The user's line; of a call, where the equation lies in a library function."""
        if self.line:
            return self.line
        lines = (_compat.source_of(eqn) for eqn in (self.traced, *self.callers))
        return next((line for line in lines if line), "an unknown line")

    def evaluate(self, values: Sequence[Any], **overrides: Any) -> list[Any]:
        return _compat.bind(self.traced, values, **overrides)

    def transposed(
        self, active: Sequence[bool], values: Sequence[Any], given: Any, **overrides: Any
    ) -> list[Any] | None:
        """As `_compat.transposed`."""
        return _compat.transposed(self.traced, active, values, given, **overrides)


@dataclasses.dataclass(frozen=True, eq=False)
class Recall:
    """Equations that are evaluated again on the way back instead of being kept.

    Attributes:
        call: the `jax.checkpoint` that asks for it.
        equations: what was inside, in order of evaluation.
        reads: what they read from outside.
    """

    call: Equation
    equations: tuple[Equation, ...]
    reads: tuple[Value, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A function as equations in order of evaluation.

    Attributes:
        inputs: its arguments.
        constants: arrays that it closes over.
        equations: in order of evaluation.
        outputs: its results.
        inner: whether it is the body of an equation.
        scope: of a body, the named scopes around its equation.
        run: what the forward pass evaluates, where that is not what is read (`relprop.reading`):
            the equations as traced, and then those that only the reading has.
        returned: its results as traced, where they are read as other values: inside of a checkpoint
            these are there on the way back only.
        recalls: of values that are computed again on the way back, as `jax.checkpoint` asks for.
        asked: per output, whether it is explained, where not all are.
        closed: results of calls that have a rule as a whole.
    """

    inputs: tuple[Value, ...]
    constants: Mapping[Value, Any]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]
    inner: bool = False
    scope: str = ""
    run: tuple[Equation, ...] | None = None
    returned: tuple[Atom, ...] | None = None
    recalls: Mapping[Value, Recall] = dataclasses.field(default_factory=dict)
    asked: tuple[bool, ...] | None = None
    closed: frozenset[Value] = frozenset()

    @property
    def explained_outputs(self) -> tuple[Atom, ...]:
        """The outputs that are explained; what is returned beside them decides nothing."""
        if self.asked is None:
            return self.outputs
        return tuple(out for out, on in zip(self.outputs, self.asked, strict=True) if on)

    @property
    def evaluated(self) -> tuple[Equation, ...]:
        """What the forward pass evaluates."""
        return self.equations if self.run is None else self.run

    @property
    def results(self) -> tuple[Atom, ...]:
        """What the forward pass returns."""
        return self.outputs if self.returned is None else self.returned

    def values(self) -> Iterator[Value]:
        """All that its equations read and make, without constants and bodies."""
        yield from self.inputs
        for equation in self.equations:
            yield from equation.outputs


class Environment(dict):
    """What is known while a graph is evaluated: `Value` -> array; constants read as they are."""

    def read(self, atom: Atom) -> Any:
        return atom.array if isinstance(atom, Literal) else self[atom]

    def read_all(self, atoms: Sequence[Atom]) -> list[Any]:
        return [self.read(atom) for atom in atoms]


def computed_from(equations: Sequence[Equation], sources: Iterable[Atom]) -> set[Atom]:
    """The sources and all values that are computed from them, of whatever type, cut or not."""
    found = set(sources)
    for equation in equations:
        if any(atom in found for atom in equation.inputs):
            found.update(equation.outputs)
    return found


def depends_on(
    equations: Sequence[Equation], sources: set[Value], blocks: Any = lambda equation: False
) -> set[Value]:
    """All inexact values that depend on the sources; `blocks` says which equations cut."""
    found = set(sources)
    for equation in equations:
        if not blocks(equation) and any(atom in found for atom in equation.inputs):
            found.update(out for out in equation.outputs if out.inexact)
    return found
