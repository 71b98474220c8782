"""What may stand around a function without changing it.

A wrapper takes a function of arrays and returns the same function of the same arrays. All of them
are things that people do for reasons of memory, of compilation or of style.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]
WRAPPERS: dict[str, Wrapper] = {}


def bodies(name: str, *wrappers: str) -> dict[str, Wrapper]:
    """Some wrappers, for a step that stands in each of them: their names with what is inside."""
    return {f"{wrapper}({name})": WRAPPERS[wrapper] for wrapper in wrappers}


def wrapper(make: Wrapper) -> Wrapper:
    """Adds a wrapper under its own name."""
    WRAPPERS[make.__name__] = make
    return make


@wrapper
def jit(f):
    return jax.jit(lambda *args: f(*args))


@wrapper
def checkpoint(f):
    return jax.checkpoint(lambda *args: f(*args))


@wrapper
def checkpoint_of_jit(f):
    return jax.checkpoint(jit(f), policy=jax.checkpoint_policies.nothing_saveable)


@wrapper
def custom_jvp(f):
    @jax.custom_jvp
    def plain(*args):
        return f(*args)

    plain.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return plain


@wrapper
def custom_vjp(f):
    @jax.custom_vjp
    def plain(*args):
        return f(*args)

    plain.defvjp(
        lambda *args: (f(*args), args), lambda args, cotangent: jax.vjp(f, *args)[1](cotangent)
    )
    return plain


@wrapper
def cond(f):
    return lambda *args: lax.cond(
        True, f, lambda *args: jax.tree.map(jnp.zeros_like, f(*args)), *args
    )


@wrapper
def cond_of_array(f):
    """A predicate that no compiler folds, though it is the same for all inputs."""
    return lambda *args: lax.cond(
        jnp.arange(3).sum() > 2, f, lambda *args: jax.tree.map(jnp.zeros_like, f(*args)), *args
    )


@wrapper
def switch(f):
    def zeros(*args):
        return jax.tree.map(jnp.zeros_like, f(*args))

    return lambda *args: lax.switch(1, [zeros, f, zeros], *args)


@wrapper
def cond_of_equals(f):
    """It depends on the input which branch is taken, and doesn't matter."""
    return lambda *args: lax.cond(args[0].sum() > 0, f, f, *args)


@wrapper
def vmap(f):
    return lambda *args: jax.vmap(f)(*(a[None] for a in args))[0]


@wrapper
def map_over_batch(f):
    return lambda *args: lax.map(lambda row: f(*row), tuple(a[None] for a in args))[0]


@wrapper
def scan_of_length_one(f):
    def wrapped(*args):
        return lax.scan(lambda _, __: (None, f(*args)), None, None, length=1)[1][0]

    return wrapped


@wrapper
def carried_once(f):
    """For functions that return what they are given in shape: a loop that runs once."""

    def wrapped(*args):
        out = jax.eval_shape(f, *args)
        start = jnp.zeros(out.shape, out.dtype)
        return lax.scan(lambda _, row: (f(*row), None), start, tuple(a[None] for a in args))[0]

    return wrapped


@wrapper
def named_scope(f):
    return jax.named_call(lambda *args: f(*args), name="block")


@wrapper
def checkpoint_name(f):
    return lambda *args: jax.ad_checkpoint.checkpoint_name(f(*args), "kept")


@wrapper
def casts(f):
    return lambda *args: lax.convert_element_type(
        f(*(lax.convert_element_type(a, a.dtype) for a in args)), args[0].dtype
    )


@wrapper
def leading_axis(f):
    """Through another shape and back, on both sides."""

    def wrapped(*args):
        out = f(*(a.reshape(-1).reshape(a.shape) for a in args))
        return jnp.squeeze(out[None], 0)

    return wrapped


@wrapper
def transposed(f):
    """Kept in the other layout before and after."""

    def wrapped(*args):
        return jnp.swapaxes(lax.optimization_barrier(jnp.swapaxes(f(*args), -1, -2)), -1, -2)

    return lambda *args: wrapped(*(jnp.swapaxes(jnp.swapaxes(a, -1, -2), -1, -2) for a in args))


@wrapper
def barrier(f):
    return lambda *args: lax.optimization_barrier(f(*lax.optimization_barrier(args)))


@wrapper
def unused_values(f):
    """Something more is computed, of which nothing reads the result."""

    def wrapped(*args):
        out = f(*args)
        _ = jnp.tanh(out).sum() + sum(jnp.exp(a).sum() for a in args)
        return out

    return wrapped


@wrapper
def unused_results(f):
    """A body that returns more than is read."""

    def wrapped(*args):
        return jax.checkpoint(lambda *args: (f(*args), [jnp.sin(a) for a in args]))(*args)[0]

    return wrapped


@wrapper
def always_where(f):
    def wrapped(*args):
        out = f(*args)
        return jnp.where(jnp.ones(out.shape, bool), out, 0.0)

    return wrapped


@wrapper
def unlimited(f):
    """Limits at infinity, and a choice between a value and itself."""

    def wrapped(*args):
        out = jnp.clip(f(*args), -jnp.inf, jnp.inf)
        return jnp.where(out > 0, out, out)

    return wrapped


@wrapper
def alone_in_a_mean(f):
    return lambda *args: jnp.stack([f(*args)]).mean(0)[None].sum(0)


@wrapper
def differences_of_running_sums(f):
    def wrapped(*args):
        running = jnp.cumsum(f(*args), -1)
        return running - jnp.pad(running, [(0, 0)] * (running.ndim - 1) + [(1, 0)])[..., :-1]

    return wrapped


@wrapper
def custom_gradient(f):
    return jax.custom_gradient(lambda *args: jax.vjp(f, *args))


@wrapper
def monitored(f):
    """As for a log: callbacks that look at the values."""

    def wrapped(*args):
        out = f(*args)
        jax.debug.callback(lambda _: None, out.mean())
        return out

    return wrapped


@wrapper
def times_one_plus_zero(f):
    return lambda *args: f(*(a * 1.0 for a in args)) + 0.0


@wrapper
def partial(f):
    return functools.partial(jax.jit(lambda factor, *args: f(*args) * factor), 1.0)
