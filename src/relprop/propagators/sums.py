"""Propagators for sums, and for linear maps whose weights are no operand of theirs."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import lax

from relprop._core.linear_map import LinearMap
from relprop._core.operation import Propagator
from relprop.propagators.linear import only


@dataclasses.dataclass(frozen=True)
class Linear(Propagator):
    """Linear in some operands, by weights of its own: transforms, solutions.

    Rules that look at weights are refused; those that need only the function are not.

    Args:
        operands: positions in which it is linear (jointly); all of them by default.
        name: the structure.
    """

    operands: tuple[int, ...] | None = None
    name: str = "linear"

    native: ClassVar[bool] = False
    transposable: ClassVar[bool] = True
    hides_weights: ClassVar[bool] = True

    def structure(self, operation, active):
        return self.name if self.linear(operation, active) else None

    def linear(self, operation, active):
        allowed = self.operands
        return allowed is None or all(i in allowed for i, on in enumerate(active) if on)

    def linear_map(self, site):
        return LinearMap(
            site.inputs,
            site.output,
            apply=lambda xs, w: w * only(site.function(*xs)),
            weight=jnp.ones((), site.output.dtype),
            pull=lambda w, c: self.transposed(site.operation, site.active, site.values, w * c),
        )


@dataclasses.dataclass(frozen=True)
class Sum(Linear):
    """A sum of some entries of its input, each with the weight 1."""

    name: str = "sum"
    reduces: ClassVar[bool] = True
    hides_weights: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class DeviceSum(Sum):
    """A sum over devices, of what each of them has computed."""

    def linear(self, operation, active):
        return len(operation.outputs) == 1


@dataclasses.dataclass(frozen=True)
class WindowSum(Linear):
    """A running or windowed sum, of weights 1."""

    name: str = "sum"
    hides_weights: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class ScatteredSum(Propagator):
    """Updates added to (or subtracted from) some entries of an array.

    Args:
        sign: the weight of the updates.
    """

    sign: int = 1
    native: ClassVar[bool] = False
    transposable: ClassVar[bool] = True

    def structure(self, operation, active):
        return "sum"

    def linear(self, operation, active):
        return True

    def summands(self, operation, active):
        return [position for position in (0, 2) if not active[position]]

    def linear_map(self, site):
        target, indices, updates = site.values
        on_target, _, on_updates = site.active

        def scattered(target, updates):
            return only(self.evaluate(site.operation, [target, indices, self.sign * updates]))

        def apply(xs, w):
            supply = iter(xs)
            to = w[0] * next(supply) if on_target else jnp.zeros_like(target)
            return scattered(to, w[1] * next(supply) if on_updates else jnp.zeros_like(updates))

        weight = jnp.array([1, self.sign], site.output.dtype)
        bias = None
        if not (on_target and on_updates):
            rest = jnp.zeros_like(target) if on_target else target
            bias = scattered(rest, jnp.zeros_like(updates) if on_updates else self.sign * updates)
        return LinearMap(site.inputs, site.output, apply, weight, bias)

    def evaluate(self, operation, values):
        # Made anew: the traced one holds an addition in the precision of its operands.
        target, indices, updates = values
        params = operation.last.params
        names = ("indices_are_sorted", "unique_indices", "mode")
        return [
            lax.scatter_add(
                target,
                indices,
                self.sign * updates,
                params["dimension_numbers"],
                **{name: params[name] for name in names},
            )
        ]
