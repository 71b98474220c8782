"""A rule that changes the weights by their sign, and leaves the inputs as they are."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import jax.tree_util as jtu

from relprop._core.relevance import scaled
from relprop._core.site import multipliers
from relprop.rules.base import Bias, Stabilizer, check_bias, negative, positive, stabilizer
from relprop.rules.linear import LinearRule
from relprop.rules.parameters import Number, check_number, is_zero, number


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Reweighted(LinearRule):
    r"""LRP with other weights: positive and negative ones are scaled apart.

    .. math::
        R_i = x_i \sum_j \frac{w'_{ij}}{\sum_k x_k w'_{kj} + b_j}\, R_j, \qquad
        w' = p\, w^+ + n\, w^-

    For inputs that are not negative: with p = 1 + gamma it is the gamma rule in its first form,
    with n = 0 the z+ rule with the whole bias. `Gamma` and `ZPlus` look at the signs of inputs and
    outputs as well, so that their denominators stay away from zero for any input.

    Args:
        positive: factor p of positive weights.
        negative: factor n of negative weights.
        epsilon: stabiliser, in units of z.
        bias: whether b is part of the denominator (``"absorb"``) or left out (``"ignore"``).

    Raises:
        ValueError: a factor or epsilon is no finite number from 0, or both factors are 0.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, -1.0])
    >>> relprop.relevance(f, Reweighted(4.0))(jnp.array([1.0, 2.0])).tolist()
    [-2.0, 1.0]

    Source: Montavon et al. 2019, section 10.2.3; ``GammaRule`` and ``Alpha1_Beta0_Rule`` of Captum.
    """

    positive: Number = 1.25
    negative: Number = 1.0
    epsilon: Number | Stabilizer = 1e-9
    bias: Bias = "absorb"

    def __post_init__(self):
        check_bias(self.bias)
        stabilizer(self.epsilon)
        check_number("positive", self.positive)
        check_number("negative", self.negative)
        if is_zero(self.positive) and is_zero(self.negative):
            raise ValueError("positive and negative are both 0, so that no weight is left.")

    def through(self, site, linear, relevance):
        weight = linear.weight
        up, down = number(self.positive, weight), number(self.negative, weight)
        weight = up * positive(weight) + down * negative(weight)
        z = linear.apply(site.inputs, weight)
        given = relevance.total(site.output)
        bias = None
        if self.bias == "absorb" and linear.bias is not None:
            bias = jnp.broadcast_to(linear.bias, z.shape)
            z = z + bias
        coefficients = stabilizer(self.epsilon).divide(given, z)
        if bias is not None:
            site.absorb("bias", lambda: coefficients * bias)
        site.absorb("epsilon", lambda: given - scaled(z, coefficients))
        return multipliers(linear.transpose(weight, coefficients))
