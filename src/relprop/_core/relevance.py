"""Relevance on its way through a function, in the two forms that the rules produce.

What every rule does at every step is written in `jax.lax`: `jax.numpy` takes two to three times as
long to trace, which is most of what one waits for before the first explanation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact


def precise(x: Any) -> Any:
    """Half precision becomes float32, the precision relevance is kept in; others stay."""
    dtype = jnp.result_type(x)
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        return jnp.asarray(x, jnp.float32)
    return jnp.asarray(x)


def common_dtype(*arrays: Any) -> Any:
    """The dtype that holds all of them; meant, so also where users forbid implicit promotion."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*arrays)


def safe_divide(a: Array, b: Array) -> Array:
    r"""`a / b` where b is not zero, else 0; its derivatives are finite as well.

    No part of NaN is 0, too: nothing has arrived there.
    """
    a, b = alike(a, b)
    zeros = lax.full_like(b, 0)
    nothing = (lax.eq(a, zeros), lax.ne(b, b))  # Only NaN is not equal to itself.
    zero = lax.bitwise_or(lax.eq(b, zeros), lax.bitwise_and(*nothing))
    return lax.div(lax.select(zero, zeros, a), lax.select(zero, lax.full_like(b, 1), b))


def nothing_of_nan(a: Array, b: Array) -> Array:
    """b, with zero for NaN where a is zero: of nothing, no part is NaN."""
    a, b = alike(a, b)
    zeros = lax.full_like(b, 0)
    return lax.select(lax.bitwise_and(lax.eq(a, zeros), lax.ne(b, b)), zeros, b)


def scaled(x: Array, multiplier: Array) -> Array:
    """Their product, in which a multiplier of zero wins over infinity and NaN, as where masked."""
    x, multiplier = alike(x, multiplier)
    zeros = lax.full_like(x, 0)
    masked = lax.bitwise_and(lax.eq(multiplier, zeros), lax.bitwise_not(_is_finite(x)))
    return lax.mul(lax.select(masked, zeros, x), multiplier)


def where_read(multiplier: Array, unread: Array | None) -> Array:
    """A multiplier, zero where no output was read though the way there was infinite or NaN."""
    if unread is None:
        return multiplier
    lost = unread & lax.bitwise_not(_is_finite(multiplier))
    return lax.select(lost, lax.full_like(multiplier, 0), multiplier)


def alike(a: Any, b: Any) -> tuple[Array, Array]:
    """Two arrays in one shape and dtype, as `jax.numpy` brings them there."""
    if jnp.shape(a) == jnp.shape(b) and jnp.result_type(a) == jnp.result_type(b):
        return jnp.asarray(a), jnp.asarray(b)
    a, b = jnp.broadcast_arrays(*map(jnp.asarray, (a, b)))
    dtype = jnp.result_type(a, b)
    return a.astype(dtype), b.astype(dtype)


def _is_finite(x: Array) -> Array:
    complex_ = jnp.issubdtype(x.dtype, jnp.complexfloating)
    return jnp.isfinite(x) if complex_ else lax.is_finite(x)


def summed_to(shape: tuple[int, ...], x: Array) -> Array:
    """Sums over what was broadcast from a shape."""
    if x.shape == shape:
        return x
    x = jnp.sum(x, axis=tuple(range(x.ndim - len(shape))))
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and x.shape[i] != 1)
    return jnp.sum(x, axis=axes, keepdims=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Relevance:
    r"""The relevance :math:`R = s + x \odot m` of an array x.

    A *share* s is relevance itself. A *multiplier* m is relevance per unit of x: in this form
    LRP-0 is the plain vector-Jacobian product, without a division, and nothing is lost where two
    summands cancel. Rules whose result is not proportional to x (flat, w-square, z-box) need
    shares. A value may receive both, from different consumers; neither is converted before a rule
    asks for it.
    """

    share: Inexact[Array, "*shape"] | None = None
    multiplier: Inexact[Array, "*shape"] | None = None

    def total(self, x: Array) -> Array:
        """Relevance as one array of the shape of x."""
        parts = []
        if self.share is not None:
            parts.append(self.share)
        if self.multiplier is not None:
            made = scaled(x, self.multiplier)
            parts.append(jnp.real(made) if jnp.iscomplexobj(made) else made)
        return sum(parts[1:], parts[0]) if parts else jnp.zeros_like(jnp.real(x))

    def over(self, z: Array) -> Array:
        """Relevance per unit of z, without a stabiliser: the coefficient of LRP-0."""
        if self.share is None:
            return self.multiplier if self.multiplier is not None else jnp.zeros_like(z)
        dtype = common_dtype(z, self.share)
        divided = safe_divide(self.share.astype(dtype), z.astype(dtype))
        return divided if self.multiplier is None else self.multiplier + divided

    def map(self, function: Callable[[Array], Array]) -> Relevance:
        """Both forms with the same done to them, which must be linear."""
        parts = (self.share, self.multiplier)
        return Relevance(*(None if part is None else function(part) for part in parts))


def add(a: Relevance | None, b: Relevance | None) -> Relevance | None:
    """Relevance of a value that was used twice; None stands for none at all."""
    if a is None or b is None:
        return b if a is None else a
    return Relevance(_plus(a.share, b.share), _plus(a.multiplier, b.multiplier))


def _plus(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return b if a is None else a
    return lax.add(*alike(a, b))
