"""Propagators for operations that were recognised from several equations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from relprop._core import registry
from relprop._core.graph import Equation
from relprop._core.linear_map import LinearMap
from relprop._core.operation import Operation, Propagator
from relprop._core.registry import operation_of
from relprop.propagators.general import back_over, inner, is_maximum_with_zero
from relprop.propagators.linear import Contraction, Multiplication, unread_at


@dataclasses.dataclass(frozen=True)
class ActivationFunction(Propagator):
    """A function of each entry of one array, however many equations it takes."""

    elementwise: ClassVar[bool] = True

    def structure(self, operation, active):
        return "activation"

    def rectifies(self, operation):
        equations = [e for equation in operation.equations for e in inner(equation)]
        return len(equations) == 1 and is_maximum_with_zero(equations[0])


@dataclasses.dataclass(frozen=True)
class Softmax(Propagator):
    """The softmax of its first operand; others are what else is in its denominator."""

    of_first: ClassVar[bool] = True

    def structure(self, operation, active):
        return "softmax"

    def unread(self, operation, position, arriving):
        return back_over(operation, position, arriving == 0)


@dataclasses.dataclass(frozen=True)
class LogSumExp(Propagator):
    """The logarithm of a sum of exponentials of its first operand."""

    def structure(self, operation, active):
        return "logsumexp"

    def unread(self, operation, position, arriving):
        return back_over(operation, position, arriving == 0)


@dataclasses.dataclass(frozen=True)
class WholeNorm(Propagator):
    """A whole normalisation of its first operand, where a composite asks for such."""

    def structure(self, operation, active):
        return "norm"

    def unread(self, operation, position, arriving):
        return back_over(operation, position, arriving == 0)


@dataclasses.dataclass(frozen=True)
class GatedProduct(Multiplication):
    """A gate times a signal, in this order; what is gated may be a constant."""

    def structure(self, operation, active):
        return "gate" if active[0] else super().structure(operation, active)


@dataclasses.dataclass(frozen=True)
class Fixed(Propagator):
    """A contraction with a matrix that is made of numbers in the code: linear, and no layer."""

    native: ClassVar[bool] = False
    transposable: ClassVar[bool] = True

    def structure(self, operation, active):
        return "linear" if self.linear(operation, active) else None

    def linear(self, operation, active):
        return sum(active) == 1

    def linear_map(self, site):
        return registry.lookup(site.operation.last.primitive).linear_map(site)

    def evaluate(self, operation, values):
        return registry.lookup(operation.last.primitive).evaluate(operation, values)

    def transposed(self, operation, active, values, given):
        kind = registry.lookup(operation.last.primitive)
        return kind.transposed(operation, active, values, given)


@dataclasses.dataclass(frozen=True)
class Normaliser(Propagator):
    """A standard deviation or norm, by which something is going to be divided."""

    def structure(self, operation, active):
        return "normaliser"

    def unread(self, operation, position, arriving):
        return back_over(operation, position, arriving == 0)


def _carried(equations: Sequence[Equation], value: Any) -> Any:
    """A value after equations that read nothing else."""
    for equation in equations:
        step = operation_of(equation)
        (value,) = step.propagator.evaluate(step, [value])
    return value


@dataclasses.dataclass(frozen=True)
class _Followed(Propagator):
    """A linear operation, moves of its result, and last a step with one more operand.

    A sum over devices may be among the moves. The operands are those of the linear operation and,
    last, the new one.
    """

    native: ClassVar[bool] = False
    main: int = dataclasses.field(default=0, kw_only=True)

    def first(self, operation: Operation) -> Operation:
        """The linear operation alone."""
        return operation_of(operation.equations[0])

    def moved(self, operation: Operation, value: Any) -> Any:
        """Its result as it reaches the last step."""
        return _carried(operation.equations[1:-1], value)

    def linear(self, operation, active):
        first = self.first(operation)
        return not active[-1] and first.propagator.linear(first, active[:-1])

    def result(self, operation: Operation, values: Sequence[Any]) -> Any:
        """What the last step starts from."""
        first = self.first(operation)
        (value,) = first.propagator.evaluate(first, values)
        return self.moved(operation, value)


@dataclasses.dataclass(frozen=True)
class Biased(_Followed):
    """A dense layer or convolution and the addition of its bias.

    Args:
        sign: -1 where the bias is subtracted.
    """

    sign: int = 1

    def structure(self, operation, active):
        first = self.first(operation)
        return first.propagator.structure(first, active[:-1])

    def constants(self, operation, active):
        first = self.first(operation)
        weight = first.propagator.constants(first, active[:-1])
        return {**weight, len(active) - 1: "bias"}

    def linear_map(self, site):
        *values, bias = site.values
        first = self.first(site.operation)
        assert isinstance(first.propagator, Contraction)
        apply, weight = first.propagator.split(first, site.active[:-1], values)
        unmoved = len(site.operation.equations) == 2
        return LinearMap(
            site.inputs,
            site.output,
            apply=lambda xs, w: self.moved(site.operation, apply(xs, w)),
            weight=weight,
            bias=self.sign * bias,
            free=first.propagator.free(first, site.active[:-1]) if unmoved else None,
            layout=first.propagator.layout(first, site.active[:-1]),
            pull=first.propagator.pull(first, site.active[:-1], values) if unmoved else None,
        )

    def evaluate(self, operation, values):
        *values, bias = values
        return [self.result(operation, values) + self.sign * bias]

    def transposed(self, operation, active, values, given):
        first = self.first(operation)
        if len(operation.equations) > 2 or active[-1]:
            return None
        return first.propagator.transposed(first, active[:-1], values[:-1], given)


@dataclasses.dataclass(frozen=True)
class ShardedLayer(Propagator):
    """A layer or a sum of which each device computes a part, and the sum over the devices.

    Only that sum is what the layer computes: a stabiliser or the sign of an output means it, and
    not the parts, as if all had been done on one device.
    """

    native: ClassVar[bool] = False
    transposable: ClassVar[bool] = True
    main: int = dataclasses.field(default=0, kw_only=True)

    def part(self, operation: Operation) -> Operation:
        """What each device does."""
        return operation_of(operation.equations[0])

    def structure(self, operation, active):
        part = self.part(operation)
        return part.propagator.structure(part, active)

    def linear(self, operation, active):
        part = self.part(operation)
        return part.propagator.linear(part, active)

    def linear_map(self, site):
        part, rest = self.part(site.operation), site.operation.equations[1:]
        if not isinstance(part.propagator, Contraction):
            return part.propagator.linear_map(site)
        apply, weight = part.propagator.split(part, site.active, site.values)
        return LinearMap(
            site.inputs,
            site.output,
            apply=lambda xs, w: _carried(rest, apply(xs, w)),
            weight=weight,
            layout=part.propagator.layout(part, site.active),
        )

    def evaluate(self, operation, values):
        part = self.part(operation)
        (value,) = part.propagator.evaluate(part, values)
        return [_carried(operation.equations[1:], value)]


@dataclasses.dataclass(frozen=True)
class Average(_Followed):
    """A sum divided by a number of entries: a mean or an average pooling.

    Args:
        divides: whether the last operand divides, or is a factor.
    """

    divides: bool = True
    transposable: ClassVar[bool] = True

    def structure(self, operation, active):
        return "average"

    def unread(self, operation, position, arriving):
        return back_over(operation, position, arriving == 0)

    def linear_map(self, site):
        # Its size scales all contributions alike; only its sign is a weight to be looked at.
        sign = jnp.sign(site.values[-1])
        return LinearMap(
            site.inputs,
            site.output,
            apply=lambda xs, w: w * (sign * site.function(*xs)[0]),
            weight=sign,
            unread=unread_at(site),
            pull=lambda w, c: self.transposed(
                site.operation, site.active, site.values, w * (sign * c)
            ),
        )

    def transposed(self, operation, active, values, given):
        if len(operation.equations) > 2:
            return None
        *values, factor = values
        first = self.first(operation)
        given = given / factor if self.divides else given * factor
        return first.propagator.transposed(first, active[:-1], values, given)

    def evaluate(self, operation, values):
        *values, factor = values
        total = self.result(operation, values)
        return [total / factor if self.divides else total * factor]
