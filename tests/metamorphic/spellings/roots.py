"""Roots, quotients and distances that normalise nothing: their relevance must not be lost."""

import jax
import jax.numpy as jnp
from jax import lax

from ..grammar import D, T, each, normal, piece, positive
from ..wrappers import WRAPPERS, bodies

BODIES = ("jit", "checkpoint", "checkpoint_of_jit", "custom_jvp", "custom_vjp", "cond",
          "cond_of_array", "switch", "vmap", "map_over_batch", "scan_of_length_one",
          "carried_once")  # fmt: skip


def _length(x):
    return jnp.sqrt(jnp.sum(x**2, -1, keepdims=True))


@jax.custom_jvp
def _safe_length(x):
    return _length(x)


@_safe_length.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    length = _safe_length(x)
    return length, jnp.sum(x * t, -1, keepdims=True) / length


@piece(w=normal(D, D))
def length_beside_a_layer(w):
    """The length of each token, added to a layer."""
    return {
        "sqrt(sum(x**2)) + x @ w": lambda x: _length(x) + x @ w,
        "norm": lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True) + x @ w,
        "custom_jvp": lambda x: _safe_length(x) + x @ w,
        "sum**.5": lambda x: jnp.sum(x**2, -1, keepdims=True) ** 0.5 + x @ w,
        "sqrt(x @ x)": lambda x: jax.vmap(lambda r: jnp.sqrt(r @ r))(x)[:, None] + x @ w,
        "einsum": lambda x: jnp.sqrt(jnp.einsum("ti,ti->t", x, x))[:, None] + x @ w,
        "where": lambda x: (
            lambda q: jnp.where(q > 0, jnp.sqrt(jnp.where(q > 0, q, 1.0)), 0.0) + x @ w
        )(jnp.sum(x**2, -1, keepdims=True)),
        "vmap of rows": lambda x: jax.vmap(_length)(x) + x @ w,
        "map of rows": lambda x: lax.map(_length, x) + x @ w,
        **each(lambda wrap: lambda x: wrap(_length)(x) + x @ w, bodies("length", *BODIES)),
        "root outside of checkpoint": lambda x: (
            jnp.sqrt(jax.checkpoint(lambda x: jnp.sum(x**2, -1, keepdims=True))(x)) + x @ w
        ),
        "all in a checkpoint": jax.checkpoint(lambda x: _length(x) + x @ w),
    }


@piece(p=normal(3, D), a=normal(3, D))
def prototypes(p, a):
    """Distances to prototypes, and a layer of these."""

    def distance(r):
        return jnp.sqrt(((r - p) ** 2).sum(-1))

    return {
        "broadcast": lambda x: jnp.sqrt(((x[:, None] - p) ** 2).sum(-1)) @ a,
        "norm": lambda x: jnp.linalg.norm(x[:, None] - p, axis=-1) @ a,
        "vmap over tokens": lambda x: jax.vmap(distance)(x) @ a,
        "map over tokens": lambda x: lax.map(distance, x) @ a,
        "map over prototypes": lambda x: (
            lax.map(lambda c: jnp.linalg.norm(x - c, axis=-1), p).T @ a
        ),
        "vmap over prototypes": lambda x: (
            jax.vmap(lambda c: jnp.linalg.norm(x - c, axis=-1))(p).T @ a
        ),
        "checkpoint": lambda x: jax.checkpoint(jax.vmap(distance))(x) @ a,
        "cond": lambda x: lax.cond(True, jax.vmap(distance), lambda x: x @ p.T, x) @ a,
    }


@piece(w=normal(3, D))
def over_a_distance(w):
    """Features divided by a length that they are not the vector of: Coulomb terms."""

    def parts(x):
        return x[:, :3], x[:, 3:]

    def divided(divide):
        def f(x):
            position, h = parts(x)
            return divide(h, jnp.sum(position**2, -1, keepdims=True) + 1.0) @ w

        return f

    return {
        "h/sqrt": divided(lambda h, q: h / jnp.sqrt(q)),
        "h*rsqrt": divided(lambda h, q: h * lax.rsqrt(q)),
        "h*(1/sqrt)": divided(lambda h, q: h * (1 / jnp.sqrt(q))),
        "h*q**-.5": divided(lambda h, q: h * q**-0.5),
        "h*exp(-.5 log q)": divided(lambda h, q: h * jnp.exp(-0.5 * jnp.log(q))),
        "h*reciprocal(sqrt)": divided(lambda h, q: h * jnp.reciprocal(jnp.sqrt(q))),
        "h/checkpoint(sqrt)": divided(lambda h, q: h / jax.checkpoint(jnp.sqrt)(q)),
        "checkpoint(h/sqrt)": divided(jax.checkpoint(lambda h, q: h / jnp.sqrt(q))),
        "custom_jvp(h/sqrt)": divided(WRAPPERS["custom_jvp"](lambda h, q: h / jnp.sqrt(q))),
        "cond(h/sqrt)": divided(WRAPPERS["cond"](lambda h, q: h / jnp.sqrt(q))),
        "vmap": divided(jax.vmap(lambda h, q: h / jnp.sqrt(q))),
        "map": divided(lambda h, q: lax.map(lambda a: a[0] / jnp.sqrt(a[1]), (h, q))),
    }


@piece(w=normal(3, D))
def over_a_square(w):
    """Features divided by a squared length of others: gravity."""

    def divided(divide):
        return lambda x: divide(x[:, 3:], 1.0 + jnp.sum(x[:, :3] ** 2, -1, keepdims=True)) @ w

    return {
        "h/q": divided(lambda h, q: h / q),
        "h*(1/q)": divided(lambda h, q: h * (1 / q)),
        "h*reciprocal": divided(lambda h, q: h * jnp.reciprocal(q)),
        "h*q**-1": divided(lambda h, q: h * q**-1),
        "h*power(q, -1.)": divided(lambda h, q: h * jnp.power(q, -1.0)),
        "h*exp(-log q)": divided(lambda h, q: h * jnp.exp(-jnp.log(q))),
        "einsum": divided(lambda h, q: jnp.einsum("ti,tj->ti", h, 1 / q)),
        "checkpoint": divided(jax.checkpoint(lambda h, q: h / q)),
        "jit": divided(jax.jit(lambda h, q: h / q)),
        "cond": divided(WRAPPERS["cond"](lambda h, q: h / q)),
    }


@piece(w=normal(D, D))
def weighted_mean(w):
    """A mean with weights that are no exponentials: nothing here is a softmax."""

    def weights(x):
        return jax.nn.relu(x @ w) + 0.1

    return {
        "a/sum": lambda x: (lambda a: a / a.sum(-1, keepdims=True))(weights(x)) @ w,
        "a*(1/sum)": lambda x: (lambda a: a * (1 / a.sum(-1, keepdims=True)))(weights(x)) @ w,
        "(a @ w)/sum": lambda x: (lambda a: (a @ w) / a.sum(-1, keepdims=True))(weights(x)),
        "checkpoint": lambda x: (
            jax.checkpoint(lambda a: a / a.sum(-1, keepdims=True))(weights(x)) @ w
        ),
        "computed twice": lambda x: weights(x) / weights(x).sum(-1, keepdims=True) @ w,
        "einsum": lambda x: (lambda a: a / jnp.einsum("tj->t", a)[:, None])(weights(x)) @ w,
    }


@piece(s=positive(T, 1), w=normal(D, D))
def known_scale(s, w):
    """Divided by a root of what is no function of the input at all."""
    return {
        "x/sqrt(s) @ w": lambda x: x / jnp.sqrt(s) @ w,
        "x*rsqrt(s) @ w": lambda x: x * lax.rsqrt(s) @ w,
        "x*s**-.5 @ w": lambda x: x * s**-0.5 @ w,
        "checkpoint": lambda x: jax.checkpoint(lambda x: x / jnp.sqrt(s))(x) @ w,
        "x*exp": lambda x: x * jnp.exp(-0.5 * jnp.log(s)) @ w,
    }
