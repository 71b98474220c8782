"""What a rule sees: one operation with the numbers that went through it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from relprop import _compat
from relprop._core.operation import Operation
from relprop._core.relevance import Relevance, precise, where_read


@dataclasses.dataclass(frozen=True)
class LinearMap:
    r"""An affine function :math:`y = \mathrm{apply}(x, w) + b` of the active operands.

    Attributes:
        inputs: x, the active operands.
        output: y, as the forward pass computed it.
        apply: linear in the list x for fixed w, and in w for fixed x.
        weight: w; a scalar 1 where an operation has none (sums, poolings).
        bias: b, broadcastable to y, or None.
        diagonal: every output depends on one input only, that of the same position.
        gate: a factor of each weight on the way back, 1 but for who asks what a weight contributes.
        free: an axis of w, and the axis of y that it becomes, along which w can be taken in parts:
            apply of a part gives that part of y. None where there is no such axis.
        unread: of coefficients of y, where x has none but zeros to come from; a weight that is
            infinite or NaN is no matter there. None where weights are finite, as parameters are.
        layout: of a convolution, the axes of x that count the samples and the channels, wherever
            its dimension numbers put them. None where x has no such axes.
    """

    inputs: tuple[Inexact[Array, "..."], ...]
    output: Inexact[Array, "..."]
    apply: Callable[[Sequence[Array], Array], Array]
    weight: Inexact[Array, "..."]
    bias: Inexact[Array, "..."] | None = None
    diagonal: bool = False
    gate: Float[Array, "..."] | None = None
    free: tuple[int, int] | None = None
    unread: Callable[[Array], Array | None] | None = None
    layout: tuple[int, int] | None = None

    @functools.cached_property
    def product(self) -> Inexact[Array, "..."]:
        """apply(x, w): the output without the bias.

        With a bias it is computed when asked for; compiled, that is the product of the forward
        pass again and costs nothing.
        """
        return self.output if self.bias is None else self.apply(self.inputs, self.weight)

    def transpose(self, weight: Array, coefficients: Array) -> tuple[Array, ...]:
        r""":math:`w^\top c`, one array per active operand."""
        if self.gate is not None:
            weight = weight * self.gate.astype(weight.dtype)
        types = [_compat.type_of(x) for x in self.inputs]
        (out,) = jax.linear_transpose(lambda xs: self.apply(xs, weight), types)(
            _cotangent(coefficients, self.output)
        )
        if self.unread is None:
            return tuple(out)
        (only,) = out
        return (where_read(only, self.unread(coefficients)),)


class Site:
    """One operation at run time.

    Attributes:
        operation: the operation; its `propagator` and `last.params` describe it.
        active: per operand, whether it depends on the explained inputs.
        credited: per operand, whether it is a parameter to be credited with what it contributes.
        values: the values of all operands, half precision raised to float32.
        outputs: the values of the results, likewise.
        reference: the same operation in the run of the reference, if there is one.
    """

    def __init__(
        self,
        operation: Operation,
        active: Sequence[bool],
        values: Sequence[Any],
        outputs: Sequence[Any],
        account: Callable[[str, Callable[[], Any]], None] | None = None,
        reference: Site | None = None,
        credited: Sequence[bool] = (),
    ):
        self.operation = operation
        self.active = tuple(active)
        self.credited = tuple(credited) or (False,) * len(self.active)
        self._given = tuple(values)
        self._outputs = tuple(outputs)
        self._account = account
        self.reference = reference

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

    @property
    def turned(self) -> Site:
        """The same with the roles exchanged: the credited operands are the inputs."""
        return Site(self.operation, self.credited, self._given, self._outputs)

    def gated(self, gate: Array, account: Callable[[str, Callable[[], Any]], None]) -> Site:
        """The same with a factor of each weight on the way back, and another account."""
        site = Site(
            self.operation, self.active, self._given, self._outputs, account, self.reference
        )
        site.linear = dataclasses.replace(self.linear, gate=gate)
        return site

    @functools.cached_property
    def linear(self) -> LinearMap:
        """The operation as an affine function of its active operands."""
        return self.operation.propagator.linear_map(self)

    @property
    def product(self) -> Array:
        """The output without the bias and never rounded to half precision.

        A rounding error of the output is no matter beside the output itself, but it is beside the
        small difference of that and another sum.
        """
        linear = self.linear
        if linear.bias is None and jnp.result_type(self._outputs[0]) != self.output.dtype:
            return linear.apply(linear.inputs, linear.weight)
        return linear.product

    @property
    def is_linear(self) -> bool:
        return self.operation.propagator.linear(self.operation, self.active)

    def function(self, *inputs: Array) -> tuple[Array, ...]:
        """The results as a function of the active operands, the others fixed."""
        propagator = self.operation.propagator
        fixed = self._given if propagator.native else self.values
        supply = iter(inputs)
        values = []
        for value, on in zip(fixed, self.active, strict=True):
            # A native operation gets the dtype it was traced with; the transpose of this cast
            # brings its cotangent back to the precision of relevance.
            values.append(next(supply).astype(jnp.result_type(value)) if on else value)
        return tuple(propagator.evaluate(self.operation, values))

    def vjp(
        self, cotangents: Sequence[Array | None], at: Sequence[Array] | None = None
    ) -> tuple[Array, ...]:
        """The vector-Jacobian product with respect to the active operands, or at others."""
        kind = self.operation.propagator
        exact = all(jnp.issubdtype(y.dtype, jnp.inexact) for y in self.outputs)
        if exact and kind.transposable and (kind.structural or self.is_linear):
            # Transposing spares the evaluation that `jax.vjp` would begin with.
            types = [_compat.type_of(x) for x in self.inputs]
            found = jax.linear_transpose(self.function, *types)(
                tuple(_cotangent(c, y) for c, y in zip(cotangents, self.outputs, strict=True))
            )
            if kind.structural:
                return found
        else:
            outputs, pull = jax.vjp(self.function, *(self.inputs if at is None else at))
            found = pull(tuple(_cotangent(c, y) for c, y in zip(cotangents, outputs, strict=True)))
        if len(self.outputs) > 1 or not exact:
            return found
        (arriving,) = cotangents
        return tuple(
            where_read(m, kind.unread(self.operation, position, arriving))
            for m, position in zip(found, self._positions, strict=True)
        )

    @property
    def _positions(self) -> list[int]:
        """Of the active operands."""
        return [i for i, on in enumerate(self.active) if on]

    def absorb_zeros(self, relevance: Relevance, z: Array) -> None:
        """Notes the share of outputs that are exactly zero, which no proportion can hand on."""
        share = relevance.share
        if share is not None:
            self.absorb("epsilon", lambda: jnp.where(z == 0, share, 0))

    def absorb(self, what: str, amount: Callable[[], Array]) -> None:
        """Notes relevance that ends here: ``"bias"``, ``"epsilon"`` or ``"stopped"``.

        `amount` is called only when somebody keeps the ledger.
        """
        if self._account is not None:
            self._account(what, amount)


def _cotangent(given: Array | None, output: Array) -> Any:
    if not jnp.issubdtype(output.dtype, jnp.inexact):
        return jnp.zeros(output.shape, jax.dtypes.float0)
    if given is None:
        return jnp.zeros_like(output)
    return _compat.alike(given.astype(output.dtype), output)


def shares(arrays: Sequence[Array]) -> tuple[Relevance, ...]:
    return tuple(Relevance(share=a) for a in arrays)


def multipliers(arrays: Sequence[Array]) -> tuple[Relevance, ...]:
    return tuple(Relevance(multiplier=a) for a in arrays)
