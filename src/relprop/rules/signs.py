r"""Positive and negative contributions, without a product for each sign of x and of w.

Term by term :math:`(x_i w_{ij})^\pm = (x_i w_{ij} \pm |x_i| |w_{ij}|) / 2`, so that the product
:math:`|x||w|`, beside the one of the forward pass, has the sums of both signs in it.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop._core.order import after
from relprop._core.site import LinearMap

#: Below that many terms per output, sums of one sign are often small beside those of the other.
FEW = 32


def magnitudes(linear: LinearMap, given: Array) -> LinearMap:
    """The map of absolute values, :math:`|x||w|`, without bias.

    Args:
        linear: the map.
        given: relevance of its output; nothing here is made before that has arrived.
    """
    inputs = tuple(jnp.abs(after(x, given)) for x in linear.inputs)
    weight = jnp.abs(after(linear.weight, given))
    sizes = dataclasses.replace(linear, inputs=inputs, weight=weight, bias=None)
    return dataclasses.replace(sizes, output=linear.apply(inputs, weight))


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
