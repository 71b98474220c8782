r"""Positive and negative contributions, without a product for each sign of x and of w.

Term by term :math:`(x_i w_{ij})^\pm = (x_i w_{ij} \pm |x_i| |w_{ij}|) / 2`, so that the product
:math:`|x||w|`, beside the one of the forward pass, has the sums of both signs in it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

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
        inputs = tuple(jnp.abs(after(x, self.given)) for x in self.linear.inputs)
        sums, made = [], self.given
        for part, _ in self._parts():
            made = self.linear.apply(inputs, jnp.abs(after(part, made)))
            sums.append(made)
        if len(sums) == 1:
            return made
        assert self.linear.free is not None
        _, axis = self.linear.free
        return jnp.concatenate(sums, axis)

    def transpose(self, coefficients: Float[Array, "*s"]) -> tuple[Array, ...]:
        r""":math:`|w|^\top c`, one array per active operand."""
        totals, made = None, self.given
        for part, window in self._parts():
            own = dataclasses.replace(self.linear, output=self.linear.output[window])
            leaving = own.transpose(jnp.abs(after(part, made)), coefficients[window])
            made = leaving[0]
            totals = leaving if totals is None else [*map(jnp.add, totals, leaving)]
        assert totals is not None
        return tuple(totals)

    def _parts(self) -> Iterator[tuple[Array, tuple[slice, ...]]]:
        """Parts of the weight, and what they become parts of in the output."""
        linear = self.linear
        if linear.free is None or linear.gate is not None or not is_large(linear.weight):
            yield linear.weight, ()
            return
        own, to = linear.free
        length = linear.weight.shape[own]
        step = -(-length * PART // linear.weight.size)
        for start in range(0, length, step):
            stop = min(start + step, length)
            part = lax.slice_in_dim(linear.weight, start, stop, axis=own)
            yield part, (*[slice(None)] * to, slice(start, stop))


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
    twice = total + sign * size
    rounding = 2 * jnp.finfo(total.dtype).eps * (1 + math.sqrt(terms)) * size
    return jnp.where(jnp.abs(twice) <= rounding, 0, twice / 2)
