"""The order of evaluation, where it decides what is in memory at the same time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from relprop import _compat


def after(array: Array, awaited: Array) -> Array:
    """The same array, made when another one is there.

    What depends on weights alone, such as their absolute values, can be computed at any time, and
    XLA for CPUs keeps apart in memory whatever might run at the same time: for a rule that needs
    ``abs(w)`` that is a second copy of all weights of a model. `lax.optimization_barrier` is gone
    by the time that buffers are assigned; a dependence on numbers stays. Other devices run one
    operation after the other, in an order that needs little memory.
    """
    if jax.default_backend() != "cpu" or not awaited.size:
        return array
    if _compat.varying(_compat.type_of(awaited)):
        return array  # Inside of `shard_map`, where it would become another one on each device.
    return jnp.where(_never(lax.stop_gradient(awaited)), jnp.zeros_like(array), array)


def never(value: Array) -> Bool[Array, ""] | None:
    """What no compiler knows to be false, for `once`; None where that has nothing to do.

    Args:
        value: that it is read from: small, and best one that all devices hold.
    """
    if jax.default_backend() != "cpu" or not value.size or not _compat.is_staged():
        return None
    return _never(lax.stop_gradient(value))


def once(array: Array, condition: Bool[Array, ""]) -> Array:
    """The same array, computed once for all who use it; the condition is that of `never`.

    Relevance that goes several ways, as at a residual sum, would be computed again on each of them:
    XLA for CPUs fuses what is made entry by entry into every consumer, and with it all that lies
    above, up to the last layer. That is work and code that grows with the square of the depth. It
    does not fuse through a condition, even one that is never true. Other devices weigh what fusing
    costs.
    """
    return lax.cond(condition, jnp.zeros_like, lambda array: array, array)


@jax.custom_batching.custom_vmap
def _never(awaited: Array) -> Bool[Array, ""]:
    """False, after looking at an array."""
    largest = jnp.max(jnp.real(awaited))
    return (largest < 0) & (largest > 0)


@_never.def_vmap
def _never_of_any(size: int, batched: list[bool], awaited: Array) -> tuple[Array, bool]:
    # One answer for the whole batch, so that weights don't become as many as there are examples.
    del size, batched
    return _never(awaited), False
