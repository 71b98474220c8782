"""Rounding that stands for nothing but a number of bits."""

import jax
import jax.numpy as jnp
from jax import lax

from ..grammar import D, normal, piece, positive

STEP = 1 / 8


@jax.custom_vjp
def _rounded(z):
    return jnp.round(z)


_rounded.defvjp(lambda z: (jnp.round(z), None), lambda _, cotangent: (cotangent,))


@jax.custom_jvp
def _rounded_forward(z):
    return jnp.round(z)


_rounded_forward.defjvp(lambda primals, tangents: (_rounded_forward(*primals), tangents[0]))


@piece(w=normal(D, D), b=normal(D))
def fake_quantisation(w, b):
    """Between a division and a multiplication by one scale, rounding passes relevance."""

    def then(quantise):
        return lambda x: quantise(x) @ w + b

    return {
        "z + stop_gradient(q(z) - z)": then(
            lambda z: z + lax.stop_gradient(jnp.round(z / STEP) * STEP - z)
        ),
        "stop_gradient(q(z) - z) + z": then(
            lambda z: lax.stop_gradient(jnp.round(z / STEP) * STEP - z) + z
        ),
        "q(z) + (z - stop_gradient(z))": then(
            lambda z: lax.stop_gradient(jnp.round(z / STEP) * STEP) + (z - lax.stop_gradient(z))
        ),
        "custom_vjp(round)": then(lambda z: _rounded(z / STEP) * STEP),
        "custom_jvp(round)": then(lambda z: _rounded_forward(z / STEP) * STEP),
        "custom_vjp, times 1/step": then(lambda z: _rounded(z * (1 / STEP)) / (1 / STEP)),
        "round": then(lambda z: jnp.round(z / STEP) * STEP),
        "round, times 1/step": then(lambda z: jnp.round(z * (1 / STEP)) * STEP),
        "floor(. + .5)": then(lambda z: jnp.floor(z / STEP + 0.5) * STEP),
        "clipped": then(lambda z: jnp.clip(jnp.round(z / STEP), -128, 127) * STEP),
        "in a checkpoint": then(jax.checkpoint(lambda z: jnp.round(z / STEP) * STEP)),
        "integers": then(lambda z: jnp.round(z / STEP).astype(jnp.int32).astype(z.dtype) * STEP),
    }


@piece(w=normal(D, D), b=normal(D), u=normal(D, D))
def straight_through(w, b, u):
    """Estimators of a step: forward the step, backward the identity."""

    @jax.custom_vjp
    def binary(z):
        return jnp.sign(z)

    binary.defvjp(lambda z: (jnp.sign(z), None), lambda _, cotangent: (cotangent,))

    @jax.custom_jvp
    def forward(z):
        return jnp.sign(z)

    forward.defjvp(lambda primals, tangents: (forward(*primals), tangents[0]))

    def then(step):
        return lambda x: step(x @ w + b) @ u

    return {
        "custom_vjp": then(binary),
        "custom_jvp": then(forward),
        "z + stop_gradient(g(z) - z)": then(lambda z: z + lax.stop_gradient(jnp.sign(z) - z)),
        "stop_gradient(g(z) - z) + z": then(lambda z: lax.stop_gradient(jnp.sign(z) - z) + z),
        "z - stop_gradient(z - g(z))": then(lambda z: z - lax.stop_gradient(z - jnp.sign(z))),
        "in a checkpoint": then(jax.checkpoint(lambda z: z + lax.stop_gradient(jnp.sign(z) - z))),
    }


@piece(w=normal(D, D), b=normal(D), s=positive(D, low=0.02, high=0.05))
def integer_weights(w, b, s):
    """Weights kept as integers, with a scale for each channel."""
    q = jnp.round(w / s).astype(jnp.int8)

    return {
        "x @ (q*s) + b": lambda x: x @ (q.astype(x.dtype) * s) + b,
        "(x @ q)*s + b": lambda x: (x @ q.astype(x.dtype)) * s + b,
        "einsum": lambda x: jnp.einsum("ti,ij,j->tj", x, q.astype(x.dtype), s) + b,
        "vmap": jax.vmap(lambda r: (r @ q.astype(r.dtype)) * s + b),
    }
