"""The code of Chefer, Gur and Wolf, "Transformer Interpretability Beyond Attention Visualization".

Functions of the reference implementation of the CVPR 2021 paper, quirks and all; what the general
transform does by rules is here, as they wrote it, for comparison.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["linear_relprop", "safe_divide"]


def safe_divide(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Division as the reference does it.

    .. math:: \frac{a}{b + 10^{-9}} \cdot [b \neq 0]

    The stabiliser is not aware of the sign of b: just below zero it makes the denominator smaller,
    and at -1e-9, where it would make it zero, the denominator becomes 1e-9. Where b is exactly
    zero the result is zero.

    Args:
        a: numerator.
        b: denominator, of the same shape.

    >>> import jax.numpy as jnp
    >>> print(safe_divide(jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0])))
    [0.5 0. ]

    Source: ``modules/layers_ours.py`` of the reference implementation.
    """
    denominator = jnp.maximum(b, 1e-9) + jnp.minimum(b, 1e-9)
    denominator = jnp.where(denominator == 0, jnp.asarray(1e-9, b.dtype), denominator)
    return a / denominator * (b != 0).astype(b.dtype)


def linear_relprop(
    R: Float[Array, "*batch out"],
    x: Float[Array, "*batch in"],
    weight: Float[Array, "out in"],
    alpha: float = 1.0,
) -> Float[Array, "*batch in"]:
    r"""Relevance of the input of a linear layer, by the rule of the reference.

    With :math:`\beta = \alpha - 1` and both products of one sign in one denominator,

    .. math::
        R_i = \alpha \sum_j \frac{(x_i w_{ji})^+}{\sum_k (x_k w_{jk})^+} R_j
            - \beta \sum_j \frac{(x_i w_{ji})^-}{\sum_k (x_k w_{jk})^-} R_j

    The bias takes no part.

    Args:
        R: relevance of the output.
        x: input of the layer.
        weight: its weight, as PyTorch keeps it.
        alpha: weight of the contributions that speak for the output.

    Returns:
        Relevance of the input, of the shape of x.

    >>> import jax.numpy as jnp
    >>> x, W = jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.5]])
    >>> print(linear_relprop(x @ W.T, x, W, alpha=1))
    [1. 1.]

    Source: ``Linear.relprop`` in ``modules/layers_ours.py``; eq. 3 and 4 of the paper.
    """
    beta = alpha - 1
    w_plus, w_minus = jnp.maximum(weight, 0), jnp.minimum(weight, 0)
    x_plus, x_minus = jnp.maximum(x, 0), jnp.minimum(x, 0)

    def part(w1, w2):
        s = safe_divide(R, x_plus @ w1.T + x_minus @ w2.T)
        return x_plus * (s @ w1) + x_minus * (s @ w2)

    return alpha * part(w_plus, w_minus) - beta * part(w_minus, w_plus)
