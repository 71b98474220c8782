"""Rules that replace the derivative of a ReLU in back-propagation."""

from __future__ import annotations

import dataclasses

import jax
import jax.tree_util as jtu

from relprop._core.relevance import scaled
from relprop._core.site import Site, shares
from relprop.rules.base import Arriving, Leaving, irreversible
from relprop.rules.general import Pass
from relprop.rules.parameters import Number, check_number, number
from relprop.rules.parts import positive


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class GuidedBackprop(Pass):
    r"""Guided back-propagation: what is positive passes, where the ReLU passed something forward.

    .. math:: R_i = f'(x_i)\, \max(R_j, 0), \qquad f' \in \{0, 1\} \text{ for ReLU}

    Does not conserve relevance.

    >>> import jax, relprop
    >>> rules = relprop.Composite().at(structure="activation").use(GuidedBackprop())
    >>> x = jax.numpy.array([-1.0, 2.0, 3.0])
    >>> y, back = relprop.vrp(jax.nn.relu, x, rules=rules)
    >>> back(jax.numpy.array([1.0, 1.0, -1.0]))[0].tolist()
    [0.0, 1.0, 0.0]

    Source: Springenberg et al. 2015, section 3.4.
    """

    def problem(self, operation, active):
        return super().problem(operation, active) or irreversible(operation)

    def conserves(self, operation, active):
        return False

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        return shares(site.vjp([positive(relevance.total(site.output))]))


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Deconvnet(Pass):
    r"""Deconvolutional network: what is positive passes, whatever the activation passed forward.

    .. math:: R_i = \max(R_j, 0)

    Does not conserve relevance.

    >>> import jax, relprop
    >>> rules = relprop.Composite().at(structure="activation").use(Deconvnet())
    >>> x = jax.numpy.array([-1.0, 2.0, 3.0])
    >>> y, back = relprop.vrp(jax.nn.relu, x, rules=rules)
    >>> back(jax.numpy.array([1.0, 1.0, -1.0]))[0].tolist()
    [1.0, 1.0, 0.0]

    Source: Zeiler and Fergus 2014, section 2.1.
    """

    def conserves(self, operation, active):
        return False

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        return shares([positive(relevance.total(site.output))])


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class BetaSmooth(Pass):
    r"""The derivative of a softplus in place of that of a ReLU.

    .. math:: R_i = \sigma(\beta x_i)\, R_j

    Does not conserve relevance.

    Args:
        beta: sharpness, in units of 1 / x; as it grows, the rule becomes the gradient of ReLU.

    >>> import jax, relprop
    >>> rules = relprop.Composite().at(structure="activation").use(BetaSmooth(1.0))
    >>> y, back = relprop.vrp(jax.nn.relu, jax.numpy.zeros(2), rules=rules)
    >>> back(jax.numpy.array([1.0, -2.0]))[0].tolist()
    [0.5, -1.0]

    Raises:
        ValueError: beta is no finite number from 0.

    Source: Dombrowski et al. 2019, section 3.2 (beta-smoothed explanations).
    """

    beta: Number = 10.0

    def __post_init__(self):
        check_number("beta", self.beta)

    def conserves(self, operation, active):
        return False

    def propagate(self, site: Site, arriving: Arriving) -> Leaving:
        (relevance,) = arriving
        assert relevance is not None
        (x,) = site.inputs
        return shares(
            [scaled(jax.nn.sigmoid(number(self.beta, x) * x), relevance.total(site.output))]
        )
