"""Linear models of a score as a function of which features are present."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Ridge:
    r"""Least squares with squared coefficients as a penalty.

    .. math:: \min_{\beta, b} \sum_k w_k (y_k - z_k^\top \beta - b)^2 + \alpha \|\beta\|_2^2

    Args:
        alpha: strength of the penalty, as in scikit-learn.

    Source: Ribeiro et al. 2016, section 3.4, whose code has alpha = 1.
    """

    alpha: float = 1.0

    def coefficients(
        self, z: Float[Array, "n m"], y: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Float[Array, " m"]:
        """The minimising beta."""
        z, y = _centred(z, y, weight)
        gram = (z * weight[:, None]).T @ z + self.alpha * jnp.eye(z.shape[1], dtype=z.dtype)
        return jnp.linalg.lstsq(gram, (z * weight[:, None]).T @ y)[0]


@dataclasses.dataclass(frozen=True)
class Lasso:
    r"""Least squares with absolute coefficients as a penalty: few features, the rest zero.

    .. math:: \min_{\beta, b} \frac{1}{2 \sum_k w_k} \sum_k w_k (y_k - z_k^\top \beta - b)^2
              + \alpha \|\beta\|_1

    Args:
        alpha: strength of the penalty, as in scikit-learn, in the units of the score.
        sweeps: rounds of coordinate descent.

    Source: Tibshirani 1996, eq. 1; coordinate descent of Friedman et al. 2010, eq. 5.
    """

    alpha: float = 0.01
    sweeps: int = 200

    def coefficients(
        self, z: Float[Array, "n m"], y: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Float[Array, " m"]:
        """The minimising beta."""
        z, y = _centred(z, y, weight)
        share = weight / jnp.sum(weight)
        gram = (z * share[:, None]).T @ z
        moment = (z * share[:, None]).T @ y

        def coordinate(i, beta):
            rest = moment[i] - gram[i] @ beta + gram[i, i] * beta[i]
            soft = jnp.sign(rest) * jnp.maximum(jnp.abs(rest) - self.alpha, 0)
            return beta.at[i].set(jnp.where(gram[i, i] > 0, soft / gram[i, i], 0))

        def sweep(_, beta):
            return lax.fori_loop(0, beta.size, coordinate, beta)

        return lax.fori_loop(0, self.sweeps, sweep, jnp.zeros_like(moment))


def _centred(z: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """Both without their means, which the intercept takes."""
    share = weight / jnp.sum(weight)
    return z - (share @ z)[None], y - share @ y


def constrained(
    z: Float[Array, "n m"],
    y: Float[Array, " n"],
    weight: Float[Array, " n"],
    total: Float[Array, ""],
) -> Float[Array, " m"]:
    r"""Weighted least squares without an intercept, the coefficients of a given sum.

    .. math:: \min_\beta \sum_k w_k (y_k - z_k^\top \beta)^2
              \quad\text{where}\quad \sum_i \beta_i = \text{total}
    """
    count = z.shape[1]
    gram = (z * weight[:, None]).T @ z / jnp.sum(weight)
    moment = (z * weight[:, None]).T @ y / jnp.sum(weight)
    ones = jnp.ones((count, 1), z.dtype)
    system = jnp.block([[gram, ones], [ones.T, jnp.zeros((1, 1), z.dtype)]])
    return jnp.linalg.lstsq(system, jnp.append(moment, total))[0][:count]
