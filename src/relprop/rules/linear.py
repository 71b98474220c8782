r"""The classical rules for linear operations :math:`z_j = \sum_i x_i w_{ij} + b_j`.

Each says what its inputs contribute to an output; `LinearRule` does all the rest.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from relprop._core.relevance import Relevance
from relprop._core.site import LinearMap, Site, multipliers
from relprop.rules.base import Arriving, Bias, Leaving, Stabilizer, irreversible
from relprop.rules.linear_rule import Contributions, LinearRule, Term
from relprop.rules.parameters import Number, check_number, is_zero, number
from relprop.rules.parts import Favouring, negative, nonzero, positive, whole


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Zero(LinearRule):
    r"""LRP-0, the basic rule: relevance in proportion to the contributions.

    .. math:: R_i = x_i \sum_j w_{ij} \frac{R_j}{z_j}

    Without a stabiliser. Carried as a multiplier it is the plain vector-Jacobian product, so that
    nothing is divided and nothing lost where z is zero; where relevance arrives as a share and z
    is exactly zero, it ends there and the ledger says so.

    On an operation that isn't linear it is the first-order Taylor expansion, gradient times input,
    which for softmax is the rule of AttnLRP (Achtibat et al. 2024, eq. 13) and in general does not
    conserve relevance.

    Args:
        bias: ``"absorb"``: b is part of z and takes its share; ``"ignore"``: z is without b.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 4.0])
    >>> print(relprop.relevance(f, relprop.rules.Zero())(jnp.ones(4)))
    [ 1.  3. -2.  4.]

    Source: Bach et al. 2015, eq. 56; Montavon et al. 2019, section 10.2.1.
    """

    bias: Bias = "absorb"

    weighs: ClassVar[bool] = False

    def terms(self, site):
        return [Term(b=whole)]

    def problem(self, operation, active):
        return irreversible(operation)

    def conserves(self, operation, active):
        kind = operation.propagator
        return kind.structural or (kind.linear(operation, active) and len(operation.outputs) == 1)

    def propagate(self, site, arriving):
        if not site.is_linear or len(site.outputs) > 1:
            return self._expanded(site, arriving)
        linear = site.linear
        if linear.diagonal and (linear.bias is None or self.bias == "ignore"):
            (relevance,) = arriving
            assert relevance is not None
            return self._diagonal(site, linear, self._of_product(site, relevance))
        return super().propagate(site, arriving)

    def share_out(self, site, relevance, z):
        relevance = self._of_product(site, relevance)
        site.absorb_zeros(relevance, z)
        return relevance.over(z)

    def _of_product(self, site: Site, relevance: Relevance) -> Relevance:
        """Where biases are ignored, what arrived per unit of the output is no multiple of z."""
        if self.bias == "absorb" or site.linear.bias is None:
            return relevance
        return Relevance(share=relevance.total(site.output))

    @staticmethod
    def _expanded(site: Site, arriving: Arriving) -> Leaving:
        pairs = list(zip(arriving, site.outputs, strict=True))
        for relevance, y in pairs:
            if relevance is not None:
                site.absorb_zeros(relevance, y)
        return multipliers(site.vjp([None if r is None else r.over(y) for r, y in pairs]))

    @staticmethod
    def _diagonal(site: Site, linear: LinearMap, relevance: Relevance) -> Leaving:
        # One input per output: it is the only contribution, so its share is all of it, also where
        # x and z are zero. Where the weight is zero there's no contribution to be found.
        share, multiplier = relevance.share, relevance.multiplier
        if share is not None:
            given, kept = share, jnp.broadcast_to(linear.weight != 0, share.shape)
            site.absorb("stopped", lambda: jnp.where(kept, 0, given))
            share = jnp.where(kept, share, 0)
        if multiplier is not None:
            (multiplier,) = linear.transpose(linear.weight, multiplier)
        return [Relevance(share, multiplier)]


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Epsilon(LinearRule):
    r"""Epsilon rule: LRP-0 with a stabiliser, which takes up small or contradictory relevance.

    .. math:: R_i = x_i \sum_j w_{ij} \frac{R_j}{z_j + \epsilon\,\mathrm{sign}(z_j)}

    Of complex numbers it is the value of the real block form: real and imaginary parts are outputs
    of their own, each with its stabiliser.

    Args:
        epsilon: in units of z; a number or a `Stabilizer`.
        bias: whether b is part of z (``"absorb"``) or left out (``"ignore"``).

    Raises:
        ValueError: epsilon is no finite number from 0.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 4.0])
    >>> print(relprop.relevance(f, relprop.rules.Epsilon(6.0))(jnp.ones(4)))
    [ 0.5  1.5 -1.   2. ]

    Source: Bach et al. 2015, eq. 58; Montavon et al. 2019, section 10.2.2.
    """

    epsilon: Number | Stabilizer = 1e-6
    bias: Bias = "absorb"
    weighs: ClassVar[bool] = False

    def terms(self, site):
        return [Term(b=whole)]


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Norm(Epsilon):
    r"""Normalises contributions, for operations without weights (sums and average poolings).

    .. math:: R_i = x_i \frac{R_j}{z_j + \epsilon\,\mathrm{sign}(z_j)}, \qquad z_j = \sum_i x_i

    `Epsilon` under the name that zennit gives it; it stays so that composites of zennit read the
    same here, and plans say which operations are meant to have no weights.

    Source: zennit (Anders et al. 2021), rule ``Norm``.
    """


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Gamma(LinearRule):
    r"""Generalised gamma rule: favours contributions of the sign of the output.

    .. math::
        R_i = \sum_j \frac{x_i w_{ij} + \gamma\,(x_i w_{ij})^{\pm}}
                          {\sum_k x_k w_{kj} + \gamma\,(x_k w_{kj})^{\pm}}\, R_j

    with the positive parts where :math:`z_j > 0` and the negative parts where :math:`z_j < 0`,
    the bias being one of the contributions. Inputs and weights may have either sign. Where z is
    exactly zero no relevance passes.

    Args:
        gamma: strength, not negative; 0 is the epsilon rule, and as it grows the rule becomes z+
            on positive outputs.
        epsilon: stabiliser, in units of z.
        bias: whether b is a contribution (``"absorb"``) or left out (``"ignore"``); the sign of
            the output is that of the real one, with b, either way.

    Raises:
        ValueError: gamma or epsilon is no finite number from 0.

    Needs three products: with :math:`a = |x||w|`, the sums of the positive and negative parts are
    :math:`(xw \pm a) / 2`. Between ReLUs two are enough, those with :math:`w + \gamma w^+`: there
    inputs are known never to be negative, and nothing arrives at negative outputs.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 4.0])
    >>> print(relprop.relevance(f, relprop.rules.Gamma(0.75, epsilon=0.0))(jnp.ones(4)))
    [ 0.875  2.625 -1.     3.5  ]

    Source: Montavon et al. 2019, section 10.2.3; Andéol et al. 2021 for all signs.
    """

    gamma: Number = 0.25
    epsilon: Number | Stabilizer = 1e-6
    bias: Bias = "absorb"

    def __post_init__(self):
        super().__post_init__()
        check_number("gamma", self.gamma)

    def contributions(self, site):
        if site.rectified and site.linear.never_negative and np.ndim(self.gamma) == 0:
            # Of positive outputs alone, and the weight has the sign of the contribution.
            favoured = Favouring(self.gamma)
            return [Contributions([Term(nonzero, favoured, favoured)], where=~(site.output <= 0))]
        # On the side of the output's sign: xw + gamma (xw)^+- = (1 + gamma/2) xw +- gamma/2 |xw|.
        sign, half = jnp.sign(site.output), number(self.gamma, site.output) / 2
        plain = Term(whole, whole, whole, factor=1 + half)
        sizes = Term(jnp.abs, jnp.abs, jnp.abs, factor=half * sign)
        return [Contributions([plain, sizes], where=sign != 0)]


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class WSquare(LinearRule):
    r"""w-square rule: relevance by squared weights, whatever the inputs.

    .. math:: R_i = \sum_j \frac{w_{ij}^2}{\sum_k w_{kj}^2 + b_j^2}\, R_j

    Args:
        epsilon: stabiliser, in units of z.
        bias: whether b takes its share (``"absorb"``) or is left out (``"ignore"``).

    Raises:
        ValueError: epsilon is no finite number from 0.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 1.0, 1.0])
    >>> print(relprop.relevance(f, relprop.rules.WSquare(0))(jnp.ones(5)))
    [0.25 2.25 1.   0.25 0.25]

    Source: Montavon et al. 2017, eq. 5.
    """

    epsilon: Number | Stabilizer = 1e-6
    bias: Bias = "absorb"

    def terms(self, site):
        return [Term(1, jnp.square, jnp.square)]


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Flat(LinearRule):
    r"""Flat rule: relevance in equal parts to all inputs that an output is connected to.

    .. math:: R_i = \sum_j \frac{1}{\sum_k 1}\, R_j

    Args:
        epsilon: stabiliser, in units of the number of inputs.

    Raises:
        ValueError: epsilon is no finite number from 0.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 4.0])
    >>> print(relprop.relevance(f, relprop.rules.Flat(0))(jnp.ones(4)))
    [1.5 1.5 1.5 1.5]

    Source: Lapuschkin et al. 2019 (Unmasking Clever Hans), supplementary note 1.
    """

    epsilon: Number | Stabilizer = 1e-6

    def terms(self, site):
        return [Term(1, 1)]


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
        super().__post_init__()
        check_number("positive", self.positive)
        check_number("negative", self.negative)
        if is_zero(self.positive) and is_zero(self.negative):
            raise ValueError("positive and negative are both 0, so that no weight is left.")

    def terms(self, site):
        def scale(w):
            return number(self.positive, w) * positive(w) + number(self.negative, w) * negative(w)

        return [Term(w=scale, b=whole)]
