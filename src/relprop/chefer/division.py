"""How the reference divides, and what stands for infinity."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from relprop._core.relevance import alike, nothing_of_nan


def safe_divide(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Division as the reference does it.

    .. math:: \frac{a}{b + 10^{-9}} \cdot [b \neq 0]

    The stabiliser is not aware of the sign of b: just below zero it makes the denominator smaller,
    and at -1e-9, where it would make it zero, the denominator becomes 1e-9. Where b is exactly
    zero the result is zero, and of nothing no part is NaN.

    Args:
        a: numerator.
        b: denominator, of the same shape.

    Returns:
        The quotient.

    >>> import jax.numpy as jnp
    >>> print(safe_divide(jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0])))
    [0.5 0. ]

    Source: ``modules/layers_ours.py`` of the reference implementation.
    """
    a, b = alike(a, b)
    b = nothing_of_nan(a, b)
    zeros, least = lax.full_like(b, 0), lax.full_like(b, 1e-9)
    denominator = lax.add(lax.max(b, least), lax.min(b, least))
    denominator = lax.select(lax.eq(denominator, zeros), least, denominator)
    return lax.mul(lax.div(a, denominator), lax.ne(b, zeros).astype(b.dtype))


def finite(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Infinite numbers as the largest that there are.

    A mask adds minus infinity to what is not to be attended to, or the least number, and relevance
    in proportion to either is nothing times infinity, which is not a number. With the largest
    number in its place it is the limit of larger and larger masks: what is masked takes no
    relevance, and the mask what would arrive there. The reference has no masks in its graph.

    Args:
        x: any numbers; NaN stays NaN.

    Returns:
        The same numbers, within what their dtype can hold.

    >>> import jax.numpy as jnp
    >>> bool(finite(jnp.asarray(-jnp.inf, "float32")) == jnp.finfo("float32").min)
    True
    """
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return lax.complex(finite(jnp.real(x)), finite(jnp.imag(x)))
    least, most = jnp.finfo(x.dtype).min, jnp.finfo(x.dtype).max
    return lax.min(lax.max(x, jnp.asarray(least, x.dtype)), jnp.asarray(most, x.dtype))
