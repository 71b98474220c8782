"""Operations: equations, or several of them recognised as one thing; and what is known of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relprop import _compat
from relprop._core.graph import Atom, Environment, Equation, Value
from relprop._core.linear_map import LinearMap, cotangent
from relprop._core.relevance import precise, summed_to, where_read


@dataclasses.dataclass(frozen=True)
class Propagator:
    """How one kind of operation looks to a rule. Knows its primitive, and no rule.

    Class attributes say what recognition of structure needs:

    Attributes:
        structural: moves or copies numbers and changes none; each output is one of the inputs.
        elementwise: output and (non-scalar) inputs have one shape, and entries do not mix.
        reduces: sums over axes, so that its result is a statistic of the input.
        cuts: relevance never passes, whatever the rule (comparisons, stop_gradient).
        inline: a call that only groups equations; it is copied into the caller.
        bodies: the names of the parameters that hold sub-computations.
        calls: a call of one body that is evaluated as it stands.
        native: must be evaluated in the dtype it was traced in, not in higher precision.
        of_first: a function of the entries of its first operand, of which others are the scale.
        transposable: linear in the active operands together, if `linear` says so, and JAX can
            transpose it.
        extreme: 1 where the result is the largest of some entries, -1 where the smallest.
        multiplies: a product of its active operands, linear in each of them.
        factored: it knows what each factor has in its result, see `by_factors`, though it is no
            product that is linear in each of them.
        hides_weights: linear, but by weights that are no operand and cannot be looked at.
        main: of several equations, the position of the one that does the work.
        note: what a reader of the plan should know about every such operation.
        mutates: changes arrays in place, which no data flow shows.
        differentiable: JAX has a vector-Jacobian product for it.
        calls_back: runs code of the user's outside of JAX, which may give something else each time.
    """

    structural: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    reduces: ClassVar[bool] = False
    cuts: ClassVar[bool] = False
    inline: ClassVar[bool] = False
    bodies: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    calls: ClassVar[bool] = False
    native: ClassVar[bool] = True
    of_first: ClassVar[bool] = False
    transposable: ClassVar[bool] = False
    extreme: int = dataclasses.field(default=0, kw_only=True)
    multiplies: ClassVar[bool] = False
    factored: ClassVar[bool] = False
    hides_weights: ClassVar[bool] = False
    main: int = dataclasses.field(default=-1, kw_only=True)
    note: ClassVar[str] = ""
    mutates: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    calls_back: ClassVar[bool] = False

    def structure(self, operation: Operation, active: Sequence[bool]) -> str | None:
        """The name of the structure, given which operands depend on the explained inputs.

        None means that nobody has said how relevance passes here.
        """
        raise NotImplementedError

    def detached_structure(self, operation: Operation, active: Sequence[bool]) -> str | None:
        """The structure where an operand depends on the inputs and a rule made it a constant."""
        return self.structure(operation, active)

    def linear(self, operation: Operation, active: Sequence[bool]) -> bool:
        """Whether the outputs are an affine function of the active operands."""
        del operation, active
        return False

    def linear_map(self, site: Numbers) -> LinearMap:
        """The affine function, for rules that look at weight and bias."""
        raise NotImplementedError

    def constants(self, operation: Operation, active: Sequence[bool]) -> Mapping[int, str]:
        """Of a linear operation, the positions of its constants: ``"weight"`` or ``"bias"``.

        That of a weight has its shape (one of `linear_map`), that of a bias broadcasts to the
        output. What is none of both is not there, and cannot be credited with relevance.
        """
        del operation, active
        return {}

    def summands(self, operation: Operation, active: Sequence[bool]) -> Collection[int]:
        """The positions of the constants that are a part of the result, and of its relevance."""
        roles = self.constants(operation, active)
        return [position for position, role in roles.items() if role == "bias"]

    def factors(self, site: Numbers) -> Any:
        """How many factors each output entry is a product of; a number or an array."""
        return len(site.inputs)

    def by_factors(self, site: Numbers, coefficients: Any) -> tuple[Any, ...]:
        """The vector-Jacobian product of which each factor of a product has an equal part.

        Args:
            site: one operation, of one result.
            coefficients: per unit of the result.

        Returns:
            Per active operand: what it is to be multiplied with.
        """
        return site.vjp([coefficients / self.factors(site)])

    def repeats(self, inputs: Sequence[Atom], dtype: Any) -> Atom | None:
        """The operand that the result always equals, or None: x, of the product of x and 1.

        Args:
            inputs: the operands.
            dtype: of the only result.
        """
        del inputs, dtype
        return None

    def rectifies(self, operation: Operation) -> bool:
        """Whether it is a ReLU, `max(x, 0)` and nothing more."""
        del operation
        return False

    def unread(self, operation: Operation, position: int, arriving: Any) -> Any:
        """Where an operand has only results at which nothing has arrived.

        There its multiplier is zero, and not the product of zero with a derivative that may be
        infinite or NaN.

        Args:
            operation: the operation, of one result.
            position: of the operand.
            arriving: per unit of the result.

        Returns:
            Truth values that broadcast to the operand; None where nobody can tell.
        """
        if not self.elementwise:
            return None
        shape = operation.inputs[position].shape
        return arriving == 0 if arriving.shape == shape else summed_to(shape, arriving != 0) == 0

    def evaluate(self, operation: Operation, values: Sequence[Any]) -> list[Any]:
        """The outputs, from the values of all operands."""
        return operation.evaluate(values)

    def transposed(
        self, operation: Operation, active: Sequence[bool], values: Sequence[Any], given: Array
    ) -> Sequence[Array] | None:
        """The vector-Jacobian product of an operation that is affine, by the rule of its primitive.

        That is traced in a twentieth of the time that JAX takes to derive it from `evaluate`. A
        kind that evaluates in a way of its own, or has several equations, says so here.

        Args:
            operation: of one result.
            active: of the operands, those in which it is linear.
            values: the operands.
            given: per unit of the result, of its shape and type.

        Returns:
            One array per active operand; None leaves it to JAX.
        """
        as_traced = self.transposable and type(self).evaluate is Propagator.evaluate
        return operation.transposed(active, values, given) if as_traced else None


@dataclasses.dataclass(frozen=True)
class Unknown(Propagator):
    """A primitive that nobody registered."""

    def structure(self, operation, active):
        del operation, active
        return None


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

    propagator: Propagator
    equations: tuple[Equation, ...]
    inputs: tuple[Atom, ...]
    outputs: tuple[Value, ...]

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

    def transposed(
        self, active: Sequence[bool], values: Sequence[Any], given: Array, **overrides: Any
    ) -> list[Array] | None:
        """As `_compat.transposed`, of an operation that is one equation; else None."""
        if self.inputs is not self.last.inputs:
            return None
        return self.last.transposed(active, values, given, **overrides)

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


class Numbers:
    """An operation at run time, as its propagator sees it.

    Attributes:
        operation: the operation; its `propagator` and `last.params` describe it.
        active: per operand, whether it depends on the explained inputs.
        values: the values of all operands, half precision raised to float32.
        inputs: those of the active operands.
        outputs: the values of the results, likewise.
    """

    def __init__(
        self,
        operation: Operation,
        active: Sequence[bool],
        values: Sequence[Any],
        outputs: Sequence[Any],
    ):
        self.operation = operation
        self.active = tuple(active)
        self._given = tuple(values)
        self._outputs = tuple(outputs)

    @functools.cached_property
    def values(self) -> tuple[Any, ...]:
        inexact = (jnp.issubdtype(jnp.result_type(v), jnp.inexact) for v in self._given)
        return tuple(precise(v) if ok else v for v, ok in zip(self._given, inexact, strict=True))

    @functools.cached_property
    def inputs(self) -> tuple[Array, ...]:
        """The active operands."""
        return tuple(v for v, on in zip(self.values, self.active, strict=True) if on)

    @functools.cached_property
    def outputs(self) -> tuple[Array, ...]:
        return tuple(
            precise(v) if jnp.issubdtype(jnp.result_type(v), jnp.inexact) else v
            for v in self._outputs
        )

    @property
    def output(self) -> Array:
        """The only result."""
        (out,) = self.outputs
        return out

    def function(self, *inputs: Array) -> tuple[Array, ...]:
        """The results, of their shapes, as a function of the active operands, the others fixed."""
        propagator = self.operation.propagator
        fixed = self._given if propagator.native else self.values
        supply = iter(inputs)
        values = []
        for value, on in zip(fixed, self.active, strict=True):
            # A native operation gets the dtype it was traced with; the transpose of this cast
            # brings its cotangent back to the precision of relevance.
            values.append(next(supply).astype(jnp.result_type(value)) if on else value)
        return tuple(propagator.evaluate(self.operation, values))

    @property
    def is_linear(self) -> bool:
        return self.operation.propagator.linear(self.operation, self.active)

    def vjp(
        self, cotangents: Sequence[Array | None], at: Sequence[Array] | None = None
    ) -> tuple[Array, ...]:
        """The vector-Jacobian product with respect to the active operands.

        Args:
            cotangents: one per result, of its shape; None stands for zeros.
            at: where the derivative is taken, instead of at the active operands.

        Returns:
            One array per active operand, of its shape.
        """
        kind = self.operation.propagator
        exact = all(jnp.issubdtype(y.dtype, jnp.inexact) for y in self.outputs)
        found = self._transposed(cotangents) if exact and at is None else None
        if found is not None:
            if kind.structural:
                return found
        elif exact and kind.transposable and (kind.structural or self.is_linear):
            # Transposing spares the evaluation that `jax.vjp` would begin with.
            types = [_compat.type_of(x) for x in self.inputs]
            found = jax.linear_transpose(self.function, *types)(
                tuple(cotangent(c, y) for c, y in zip(cotangents, self.outputs, strict=True))
            )
            if kind.structural:
                return found
        else:
            outputs, pull = jax.vjp(self.function, *(self.inputs if at is None else at))
            found = pull(tuple(cotangent(c, y) for c, y in zip(cotangents, outputs, strict=True)))
        if len(self.outputs) > 1 or not exact:
            return found
        (arriving,) = cotangents
        return tuple(
            where_read(m, kind.unread(self.operation, position, arriving))
            for m, position in zip(found, self._positions, strict=True)
        )

    def _transposed(self, cotangents: Sequence[Array | None]) -> tuple[Array, ...] | None:
        """The vector-Jacobian product by rules of JAX's primitives; None where these don't do."""
        kind = self.operation.propagator
        linear = kind.structural or self.is_linear
        if kind.native or len(self.outputs) > 1 or not (linear or kind.multiplies):
            return None
        given = cotangent(cotangents[0], self.output)
        # A product is linear in one factor at a time.
        alone = [[i == position for i in range(len(self.active))] for position in self._positions]
        found: list[Array] = []
        for active in [self.active] if linear else alone:
            part = kind.transposed(self.operation, active, self.values, given)
            if part is None:
                return None
            found.extend(part)
        return tuple(found)

    @property
    def _positions(self) -> list[int]:
        """Of the active operands."""
        return [i for i, on in enumerate(self.active) if on]
