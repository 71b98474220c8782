"""Rules that normalise positive and negative contributions apart."""

from __future__ import annotations

import dataclasses
import warnings

import jax.tree_util as jtu
import numpy as np

from relprop._errors import ConservationWarning
from relprop.rules.base import Bias, Stabilizer
from relprop.rules.linear_rule import LinearRule
from relprop.rules.parameters import Number, check_number, is_zero, known, text
from relprop.rules.signs import of_sign


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class AlphaBeta(LinearRule):
    r"""Alpha-beta rule: positive and negative contributions, each normalised by itself.

    .. math::
        R_i = \sum_j \left( \alpha \frac{(x_i w_{ij})^+}{z_j^+}
                          - \beta \frac{(x_i w_{ij})^-}{z_j^-} \right) R_j

    with :math:`z^\pm` the sums of the positive and of the negative contributions, b among them.

    Three products are all it needs, as for `Gamma`: half of :math:`xw \pm |x||w|` is the sum of the
    positive, or of the negative contributions. Such a difference has rounding errors of the size of
    :math:`|x||w|`, and counts as zero where it is no larger than they are. Layers of fewer than 32
    terms take a product for each sign instead, which is exact. Where inputs are known never to be
    negative, as after a ReLU, positive contributions alone, as for `ZPlus`, are :math:`x w^+`.

    Args:
        alpha: weight of what speaks for the output, not negative.
        beta: weight of what speaks against it. Relevance is conserved if alpha - beta is 1; only
            then may beta be negative, which gives both kinds of contributions a share.
        epsilon: stabiliser of both denominators, in units of z. The default is that of the
            reference code of Chefer et al. 2021; zennit takes 1e-6.
        bias: whether b is a contribution (``"absorb"``) or left out (``"ignore"``).

    Raises:
        ValueError: alpha and beta are both 0, one of them is not finite, alpha or epsilon is
            negative, or beta is where alpha - beta is not 1.

    Warns:
        ConservationWarning: alpha - beta is not 1, so that the rule multiplies relevance by it.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 4.0])
    >>> print(relprop.relevance(f, relprop.rules.AlphaBeta(2, 1, epsilon=0))(jnp.ones(4)))
    [ 1.5  4.5 -6.   6. ]

    Source: Bach et al. 2015, eq. 60.
    """

    alpha: Number = 2.0
    beta: Number = 1.0
    epsilon: Number | Stabilizer = 1e-9
    bias: Bias = "absorb"

    def __post_init__(self):
        super().__post_init__()
        check_number("alpha", self.alpha)
        check_number("beta", self.beta, least=-np.inf)
        alpha, beta = known(self.alpha), known(self.beta)
        if alpha is None or beta is None:
            return
        if is_zero(alpha) and is_zero(beta):
            raise ValueError("alpha and beta are both 0, so that no relevance passes; see Stop.")
        conserves = np.isclose(alpha - beta, 1)
        if not np.all(conserves | (beta >= 0)):
            raise ValueError(
                "beta must not be negative unless alpha - beta is 1, got "
                f"alpha={text(self.alpha)}, beta={text(self.beta)}."
            )
        if not np.all(conserves):
            warnings.warn(
                f"alpha - beta is {text(alpha - beta)} and not 1: relevance is not conserved, but "
                "multiplied by that at each operation of the rule.",
                ConservationWarning,
                stacklevel=3,
            )

    def conserves(self, operation, active):
        alpha, beta = known(self.alpha), known(self.beta)
        return alpha is not None and beta is not None and bool(np.allclose(alpha - beta, 1))

    def contributions(self, site):
        pairs = ((self.alpha, 1), (-self.beta, -1))
        wanted = [(share, sign) for share, sign in pairs if not is_zero(share)]
        for share, sign in wanted:
            yield of_sign(site.linear, sign, share, alone=len(wanted) == 1)


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class ZPlus(AlphaBeta):
    r"""z+ rule: positive contributions only; alpha-beta with alpha 1 and beta 0.

    .. math:: R_i = \sum_j \frac{(x_i w_{ij})^+}{\sum_k (x_k w_{kj})^+ + b_j^+}\, R_j

    Args:
        epsilon: stabiliser, in units of z.
        bias: whether the positive part of b is a contribution or left out.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 4.0])
    >>> print(relprop.relevance(f, relprop.rules.ZPlus(0))(jnp.ones(4)))
    [0.75 2.25 0.   3.  ]

    Source: Bach et al. 2015, eq. 60 with beta 0; Montavon et al. 2017, eq. 6 for inputs >= 0.
    """

    alpha: Number = dataclasses.field(default=1.0, init=False, repr=False)
    beta: Number = dataclasses.field(default=0.0, init=False, repr=False)
    epsilon: Number | Stabilizer = 1e-6
