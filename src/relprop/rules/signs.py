r"""Positive and negative contributions, without a product for each sign of x and of w.

Term by term :math:`(x_i w_{ij})^\pm = (x_i w_{ij} \pm |x_i| |w_{ij}|) / 2`, so that the product
:math:`|x||w|`, beside the one of the forward pass, has the sums of both signs in it.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from relprop import _compat
from relprop._core.order import after
from relprop._core.site import LinearMap

#: Below that many terms per output, sums of one sign are often small beside those of the other.
FEW = 32
#: Entries of a weight from which on its absolute values are made in parts, and those of a part.
LARGE, PART = 2**25, 2**23


@dataclasses.dataclass(frozen=True)
class Magnitudes:
    """The map of absolute values, :math:`|x||w|`, without bias.

    As `after` is about CPUs, so is this: the absolute values of a large weight, of which they would
    be a copy, are made and used in parts there, one after the other.

    Attributes:
        linear: the map.
        given: relevance of its output; nothing here is made before that has arrived.
    """

    linear: LinearMap
    given: Float[Array, "*s"]

    @functools.cached_property
    def output(self) -> Float[Array, "*s"]:
        """The sums of the sizes of all contributions."""
        linear = self.linear
        inputs = tuple(jnp.abs(after(x, self.given)) for x in linear.inputs)
        parts = self._parts
        if parts is None:
            return linear.apply(inputs, self._weight)

        def of_part(start: Array | int, length: int) -> Array:
            return linear.apply(inputs, parts.weight(start, length))

        _, made = lax.scan(
            lambda _, at: (None, of_part(at, parts.length)), None, after(parts.starts, self.given)
        )
        # The parts side by side, along the axis that they are parts of.
        made = jnp.moveaxis(made, 0, parts.to)
        made = made.reshape(*made.shape[: parts.to], -1, *made.shape[parts.to + 2 :])
        if parts.rest:
            made = jnp.concatenate([made, of_part(parts.end, parts.rest)], parts.to)
        return made

    def transpose(self, coefficients: Float[Array, "*s"]) -> tuple[Array, ...]:
        r""":math:`|w|^\top c`, one array per active operand."""
        linear, parts = self.linear, self._parts
        if parts is None:
            return linear.transpose(self._weight, coefficients)

        def of_part(start: Array | int, length: int) -> tuple[Array, ...]:
            own = lax.dynamic_slice_in_dim(coefficients, start, length, parts.to)
            return dataclasses.replace(linear, output=own).transpose(
                parts.weight(start, length), own
            )

        def step(totals: tuple[Array, ...], start: Array) -> tuple[tuple[Array, ...], None]:
            return tuple(map(jnp.add, totals, of_part(start, parts.length))), None

        totals = tuple(_compat.zeros(x) for x in linear.inputs)
        if parts.rest:
            totals = of_part(parts.end, parts.rest)
        totals, _ = lax.scan(step, totals, after(parts.starts, self.given))
        return totals

    @functools.cached_property
    def _weight(self) -> Array:
        return jnp.abs(after(self.linear.weight, self.given))

    @functools.cached_property
    def _parts(self) -> _Parts | None:
        """Parts of the weight; None where it is taken as a whole."""
        linear = self.linear
        if linear.free is None or linear.gate is not None or not is_large(linear.weight):
            return None
        return _Parts(linear.weight, *linear.free)


@dataclasses.dataclass(frozen=True, eq=False)
class _Parts:
    """The absolute values of a large weight in parts, equally long but for the last.

    Attributes:
        whole: the weight.
        own: the axis along which they are parts of it.
        to: the axis of the output that it becomes.
    """

    whole: Array
    own: int
    to: int

    @property
    def length(self) -> int:
        """Of a part along its axis."""
        whole = self.whole.shape[self.own]
        return min(max(whole * PART // self.whole.size, 1), whole)

    @property
    def count(self) -> int:
        return self.whole.shape[self.own] // self.length

    @property
    def end(self) -> int:
        """Where the last one begins, the shorter one."""
        return self.count * self.length

    @property
    def rest(self) -> int:
        """The length of that one."""
        return self.whole.shape[self.own] - self.end

    @property
    def starts(self) -> Array:
        return self.length * jnp.arange(self.count)

    def weight(self, start: Array | int, length: int) -> Array:
        """The absolute values of a part."""
        return jnp.abs(lax.dynamic_slice_in_dim(self.whole, start, length, self.own))


def is_large(weight: Array) -> bool:
    """Whether a copy of a weight is better not made as a whole."""
    return weight.size >= LARGE and jax.default_backend() == "cpu"


def number_of_terms(linear: LinearMap) -> float:
    """How many contributions an output has; of a convolution, per pixel of its kernel and more."""
    entries = sum(x.size for x in linear.inputs) / max(linear.output.size, 1)
    # Of x (.., n), W (m, n) and their product (.., m).
    return math.sqrt(entries * linear.weight.size) if linear.weight.ndim else entries


def sum_of_sign(
    total: Float[Array, "*s"], size: Float[Array, "*s"], sign: int, terms: float
) -> Float[Array, "*s"]:
    r"""The sum of all terms of one sign, :math:`(z \pm a) / 2`; zero where that is rounding.

    Args:
        total: z, the sum of all terms.
        size: a, the sum of their absolute values.
        sign: 1 or -1.
        terms: how many they are.
    """
    # Never negative, but for rounding errors.
    twice = size + total if sign > 0 else size - total
    rounding = 2 * jnp.finfo(total.dtype).eps * (1 + math.sqrt(terms))
    return jnp.where(twice <= rounding * size, jnp.zeros_like(twice), sign / 2 * twice)
