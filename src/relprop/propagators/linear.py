"""Propagators for what is linear in its active operands, and for products of two of them."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from relprop._core.registry import Propagator
from relprop._core.site import LinearMap


def _only(items):
    (item,) = items
    return item


@dataclasses.dataclass(frozen=True)
class Linear(Propagator):
    """Linear in some operands and without weights: sums, transforms, solutions.

    Args:
        operands: positions in which it is linear (jointly); all of them by default.
        name: the structure.
    """

    operands: tuple[int, ...] | None = None
    name: str = "linear"

    native: ClassVar[bool] = False
    additive: ClassVar[bool] = True

    def structure(self, operation, active):
        return self.name if self.linear(operation, active) else None

    def linear(self, operation, active):
        allowed = self.operands
        return allowed is None or all(i in allowed for i, on in enumerate(active) if on)

    def linear_map(self, site):
        # Without weights of its own an operation has the weight 1, which rules may square or clip.
        return LinearMap(
            site.inputs,
            site.output,
            apply=lambda xs, w: w * _only(site.function(*xs)),
            weight=jnp.ones((), site.output.dtype),
        )


@dataclasses.dataclass(frozen=True)
class Sum(Linear):
    """A sum of some entries of its input."""

    name: str = "sum"
    reduces: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class WindowSum(Linear):
    """A running or windowed sum."""

    name: str = "sum"


@dataclasses.dataclass(frozen=True)
class Negation(Linear):
    """`-x`, conjugation and the like: one entry to one entry."""

    name: str = "scale"
    elementwise: ClassVar[bool] = True

    def linear_map(self, site):
        return dataclasses.replace(super().linear_map(site), diagonal=True)


@dataclasses.dataclass(frozen=True)
class Solve(Linear):
    """The solution of a linear system, linear in its right-hand side."""

    def linear(self, operation, active):
        lengths = operation.last.params["const_lengths"]
        matrix = sum(getattr(lengths, "_fields", ()) and tuple(lengths))
        return not any(active[:matrix])


@dataclasses.dataclass(frozen=True)
class Addition(Propagator):
    """`a + b` or `a - b`: a residual sum, or an offset where one of them is inactive."""

    sign: int = 1
    native: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    additive: ClassVar[bool] = True

    def structure(self, operation, active):
        return "sum" if all(active) else "offset"

    def linear(self, operation, active):
        return True

    def linear_map(self, site):
        if all(site.active):
            return LinearMap(
                site.inputs,
                site.output,
                apply=lambda xs, w: w * (xs[0] + self.sign * xs[1]),
                weight=jnp.ones((), site.output.dtype),
            )
        left = site.active[0]
        sign = 1 if left else self.sign
        bias = self.sign * site.values[1] if left else site.values[0]
        shape = site.output.shape
        return LinearMap(
            site.inputs,
            site.output,
            apply=lambda xs, w: jnp.broadcast_to(sign * w * xs[0], shape),
            weight=jnp.ones((), site.output.dtype),
            bias=bias,
            diagonal=site.inputs[0].shape == shape,
        )


@dataclasses.dataclass(frozen=True)
class Multiplication(Propagator):
    """`a * b`: a product, or a scale where one of them is inactive."""

    native: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    multiplies: ClassVar[bool] = True

    def structure(self, operation, active):
        return "product" if all(active) else "scale"

    def linear(self, operation, active):
        return not all(active)

    def linear_map(self, site):
        (weight,) = (v for v, on in zip(site.values, site.active, strict=True) if not on)
        return _scale(site, weight)


@dataclasses.dataclass(frozen=True)
class Division(Propagator):
    """`a / b`: a scale by 1 / b, a function of b, or a quotient."""

    native: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True

    def structure(self, operation, active):
        if all(active):
            return "quotient"
        return "scale" if active[0] else "activation"

    def linear(self, operation, active):
        return not active[1]

    def linear_map(self, site):
        return _scale(site, 1 / site.values[1])


def _scale(site, weight):
    shape = site.output.shape
    return LinearMap(
        site.inputs,
        site.output,
        apply=lambda xs, w: jnp.broadcast_to(xs[0] * w, shape),
        weight=weight,
        diagonal=site.inputs[0].shape == shape,
    )


@dataclasses.dataclass(frozen=True)
class Contraction(Propagator):
    """`dot_general` and its kind: a dense layer, or a matrix product of two active operands.

    Which operand is the weight is a matter of which one is inactive, never of its position.

    Args:
        name: the structure with one active operand.
        operands: how many of the operands are factors; the rest are indices or sizes.
    """

    name: str = "dense"
    operands: int = 2
    native: ClassVar[bool] = False
    multiplies: ClassVar[bool] = True

    def structure(self, operation, active):
        return "product" if sum(active) > 1 else self.name

    def detached_structure(self, operation, active):
        # Attention times values stays a product where attention is taken as a constant.
        return "product"

    def linear(self, operation, active):
        return sum(active) == 1

    def linear_map(self, site):
        apply, weight = self.split(site.operation, site.active, site.values)
        return LinearMap(site.inputs, site.output, apply, weight)

    def split(self, operation, active, values):
        """The product as a function of input and weight, and the weight."""
        position = active[: self.operands].index(True)

        def apply(xs, w):
            operands = list(values)
            operands[position], operands[1 - position] = xs[0], w
            return _only(self.evaluate(operation, operands))

        return apply, values[1 - position]

    def evaluate(self, operation, values):
        if operation.last.params.get("preferred_element_type") is None:
            return operation.evaluate(values)
        # The traced result type would round a product that is meant to be in high precision.
        return operation.evaluate(values, preferred_element_type=jnp.result_type(*values[:2]))
