r"""Contributions of one sign.

Of each contribution :math:`c = x_i w_{ij}` the positive part is :math:`(c + |c|) / 2` and the
negative one :math:`(c - |c|) / 2`. Summed up, that is half of :math:`xw \pm |x||w|`: the product of
the forward pass and a single other one have the sums of both signs in them.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from relprop._core.site import LinearMap
from relprop.rules.linear_rule import Contributions, Term
from relprop.rules.parameters import Number
from relprop.rules.parts import negative, nonzero, positive, whole

#: Below that many terms per output, sums of one sign are often small beside those of the other.
FEW = 32


def of_sign(linear: LinearMap, sign: int, share: Number, alone: bool = False) -> Contributions:
    """The contributions of one sign, which get a share of the relevance.

    Args:
        linear: the map.
        sign: 1 or -1.
        share: how much of the relevance.
        alone: whether nobody asks for those of the other sign.
    """
    terms = number_of_terms(linear)
    same, opposite = (positive, negative) if sign > 0 else (negative, positive)
    if linear.never_negative and (alone or terms < FEW):
        # The weight alone decides: one product, where both signs together need another one.
        return Contributions([Term(nonzero, same, same)], share, z=whole)
    if terms < FEW:
        # A product for each sign of x: exact where nearly everything cancels.
        signed = [Term(positive, same, same), Term(negative, opposite)]
        return Contributions(signed, share, z=jnp.add)
    halves = [
        Term(nonzero, whole, whole, factor=0.5),
        Term(jnp.abs, jnp.abs, jnp.abs, factor=sign / 2),
    ]
    return Contributions(halves, share, z=lambda z, a: sum_of_sign(z, a, sign, terms))


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
    small = lax.le(twice, lax.mul(lax.full_like(size, rounding), size))
    return lax.select(
        small, lax.full_like(twice, 0), lax.mul(lax.full_like(twice, sign / 2), twice)
    )
