"""Propagators for constant affine maps per channel, alone or merged into the layer beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Environment, Equation, Value
from relprop._core.linear_map import LinearMap
from relprop._core.operation import Operation, Propagator
from relprop._core.registry import operation_of
from relprop.propagators.general import is_move
from relprop.propagators.linear import Addition, Contraction, Division, Multiplication, Negation


@dataclasses.dataclass(frozen=True)
class Affine(Propagator):
    r"""A batch normalisation by itself: :math:`y = s \odot x + t`, s and t per channel.

    The operands are x and what the factors and summands are read from.
    """

    native: ClassVar[bool] = False

    def structure(self, operation, active):
        return "batch_norm" if self.linear(operation, active) else None

    def linear(self, operation, active):
        return active[0] and not any(active[1:])

    def linear_map(self, site):
        chain = _Chain.of(site.operation, site.operation.equations, site.operation.inputs[0])
        (x,) = site.inputs
        shift, scale = chain.shift_and_scale(x, site.values)
        return LinearMap(
            site.inputs,
            site.output,
            apply=lambda xs, w: w * chain.moved(xs[0]),
            weight=scale,
            bias=shift,
            diagonal=not any(map(is_move, chain.equations)),
        )

    def evaluate(self, operation, values):
        chain = _Chain.of(operation, operation.equations, operation.inputs[0])
        return [chain(values[0], values)]


@dataclasses.dataclass(frozen=True)
class Merged(Propagator):
    r"""A layer with the affine maps before and after it, as one layer.

    .. math:: s' \odot ((s \odot x + t) W + b) + t' = x W' + b', \qquad
              W' = s W s', \quad b' = s' \odot (t W + b) + t'

    The operands are those of the layer, with x in place of its argument, and then what the factors
    and summands are read from. So many equations come before the layer as `main` says.
    """

    native: ClassVar[bool] = False
    note: ClassVar[str] = "batch_norm merged"

    def structure(self, operation, active):
        if not self.linear(operation, active):
            return None
        layer = operation_of(operation.main)
        return layer.propagator.structure(layer, active[: len(layer.inputs)])

    def linear(self, operation, active):
        return sum(active) == 1 and any(active[: len(operation.main.inputs)])

    def linear_map(self, site):
        before, layer, after = self._parts(site.operation)
        count = len(layer.inputs)
        kind = layer.propagator
        assert isinstance(kind, Contraction)
        (x,) = site.inputs
        shift, scale = before.shift_and_scale(x, site.values)
        apply, weight = kind.split(layer, site.active[:count], site.values[:count])
        # What the layer makes of the shift alone; zeros that a convolution pads with stay zero.
        product = (
            apply([shift], weight)
            if before.equations
            else jnp.zeros(layer.outputs[0].shape, site.output.dtype)
        )
        bias, pull = jax.vjp(lambda z: after(z, site.values), product)
        (scale_after,) = pull(jnp.ones_like(bias))
        position = 1 - site.active[:count].index(True)
        # An empty batch has no entry that a scale could be read from, and needs none.
        if scale.size:
            weight = kind.with_scaled_input(layer.last, position, weight, scale)
        if scale_after.size:
            weight = kind.with_scaled_result(layer.last, position, weight, scale_after)
        return LinearMap(
            site.inputs,
            site.output,
            apply=lambda xs, w: after.moved(apply([before.moved(xs[0])], w)),
            weight=weight,
            bias=bias,
            layout=None
            if any(map(is_move, before.equations))
            else kind.layout(layer, site.active[:count]),
        )

    def evaluate(self, operation, values):
        before, layer, after = self._parts(operation)
        operands = list(values[: len(layer.inputs)])
        position = operation.inputs.index(before.start)
        operands[position] = before(operands[position], values)
        (product,) = layer.propagator.evaluate(layer, operands)
        return [after(product, values)]

    def _parts(self, operation: Operation) -> tuple[_Chain, Operation, _Chain]:
        """The map before, the layer, and the map after it."""
        equations, main = operation.equations, operation.main
        # The one operand that is not the layer's own is what the map before starts from.
        mine = operation.inputs[: len(main.inputs)]
        start = next((a for a, b in zip(mine, main.inputs, strict=True) if a is not b), None)
        return (
            _Chain.of(operation, equations[: self.main], mine[0] if start is None else start),
            operation_of(main),
            _Chain.of(operation, equations[self.main + 1 :], main.outputs[0]),
        )


@dataclasses.dataclass(frozen=True)
class Scaled(Merged):
    r"""A layer with the numbers that it is scaled by and its biases, :math:`s (x W + b) + b'`."""

    note: ClassVar[str] = ""

    def constants(self, operation, active):
        layer = operation_of(operation.main)
        return layer.propagator.constants(layer, active[: len(layer.inputs)])


@dataclasses.dataclass(frozen=True)
class _Chain:
    """Affine maps of each entry and moves, one after another."""

    operands: tuple[Atom, ...]
    equations: tuple[Equation, ...]
    start: Atom

    @classmethod
    def of(cls, operation: Operation, equations: Sequence[Equation], start: Atom) -> _Chain:
        return cls(operation.inputs, tuple(equations), start)

    def __call__(self, value: Array, values: Sequence[Any]) -> Array:
        """The result, in the precision of the start, from that and the values of the operands."""
        known = Environment(
            (a, v) for a, v in zip(self.operands, values, strict=True) if isinstance(a, Value)
        )
        current = self.start
        for equation in self.equations:
            if is_move(equation):
                value = _move(equation, value)
            else:
                value = _affine(equation, current, value, known)
            (current,) = equation.outputs
        return value

    def moved(self, value: Array) -> Array:
        """The moves alone."""
        for equation in self.equations:
            if is_move(equation):
                value = _move(equation, value)
        return value

    def shift_and_scale(self, x: Array, values: Sequence[Any]) -> tuple[Array, Array]:
        """What is added and what is multiplied, both of the shape of the result."""
        return jax.jvp(lambda x: self(x, values), (jnp.zeros_like(x),), (jnp.ones_like(x),))


def _move(equation: Equation, value: Array) -> Array:
    step = operation_of(equation)
    (value,) = step.propagator.evaluate(step, [value])
    return value


def _affine(equation: Equation, current: Atom, value: Array, known: Environment) -> Array:
    kind = registry.lookup(equation.primitive)
    if isinstance(kind, Negation):
        return -value
    left = equation.inputs[0] is current
    other = jnp.asarray(known.read(equation.inputs[1 if left else 0])).astype(value.dtype)
    if isinstance(kind, Multiplication):
        return value * other
    if isinstance(kind, Division):
        return value / other
    assert isinstance(kind, Addition)
    return value + kind.sign * other if left else kind.sign * value + other
