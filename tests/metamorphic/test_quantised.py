"""Products of integers with scales: the relevance of the layer that they stand for.

The values are those of the layer but for rounding, and so is the relevance: here it has to
correlate with that of the layer, as it is not equal.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop

from .explainers import RULES
from .grammar import D, T, as_users
from .judge import quiet

pytestmark = pytest.mark.usefixtures("unoptimised")
EXPLAINED = ("zero", "epsilon", "gamma", "z_plus", "epsilon_plus", "attn_lrp", "cp_lrp", "lstm")


def _numbers(*shape, seed):
    return 0.5 * np.random.default_rng(seed).standard_normal(shape)


W, B, V, X = (
    _numbers(D, D, seed=1),
    _numbers(D, seed=2),
    _numbers(D, seed=3),
    _numbers(T, D, seed=4),
)
SCALE = np.abs(W).max(0) / 127
Q = np.round(W / SCALE).astype(np.int8)


def _integers(z):
    return jnp.clip(jnp.round(z), -128, 127).astype(jnp.int8)


def _product(q):
    return lax.dot_general(
        q, jnp.asarray(Q), (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32
    )


def per_token(x):
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return _product(_integers(x / scale)).astype(x.dtype) * scale * SCALE + B


def per_tensor(x):
    scale = jnp.abs(x).max() / 127
    return _product(_integers(x / scale)).astype(x.dtype) * (scale * SCALE) + B


def times_the_inverse(x):
    scale = 127 / jnp.abs(x).max(-1, keepdims=True)
    return _product(_integers(x * scale)).astype(x.dtype) / scale * SCALE + B


def known_scale(x):
    return _product(_integers(x / 0.02)).astype(x.dtype) * (0.02 * SCALE) + B


def stopped_scale(x):
    scale = lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True) / 127)
    return _product(_integers(x / scale)).astype(x.dtype) * scale * SCALE + B


def in_a_jit(x):
    return jax.jit(per_token)(x)


def in_a_checkpoint(x):
    return jax.checkpoint(per_token)(x)


def rounded_floats(x):
    """As AQT: integers, but of a type that has none."""
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return (jnp.round(x / scale) @ Q.astype(x.dtype)) * scale * SCALE + B


def own_derivative(x):
    """As in training: the rounding passes what it gets."""
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return _passing(x / scale) * scale @ (Q * SCALE) + B


@jax.custom_vjp
def _passing(z):
    return jnp.clip(jnp.round(z), -128, 127)


_passing.defvjp(lambda z: (_passing(z), None), lambda _, cotangent: (cotangent,))


def one_scale_for_both(x):
    scale = jnp.abs(x).max() / 127
    return _product(_integers(x * (1 / scale))).astype(x.dtype) * (SCALE * scale) + B


def with_a_zero_point(x):
    low, high = x.min(), x.max()
    scale = (high - low) / 255
    zero = jnp.round(-low / scale)
    return (jnp.clip(jnp.round(x / scale + zero), 0, 255) - zero) * scale @ (Q * SCALE) + B


def eight_bit_floats(x):
    scale = jnp.abs(x).max() / 448
    return (x / scale).astype(jnp.float8_e4m3fn).astype(x.dtype) @ (Q * SCALE) * scale + B


SPELLINGS = (per_token, per_tensor, times_the_inverse, known_scale,
             stopped_scale, in_a_jit, in_a_checkpoint, rounded_floats, own_derivative,
             one_scale_for_both, with_a_zero_point, eight_bit_floats)  # fmt: skip


def dequantised(x):
    return x @ (Q * SCALE) + B


@functools.cache
def relevance(layer, name):
    def score(x):
        with as_users():
            return jnp.sum(jax.nn.relu(layer(x)) @ V)

    with quiet():
        return np.asarray(relprop.relevance(score, RULES[name])(jnp.asarray(X)))


@pytest.mark.parametrize("name", EXPLAINED)
@pytest.mark.parametrize("layer", SPELLINGS, ids=lambda f: f.__name__)
def test_relevance_is_that_of_the_layer(layer, name):
    with quiet(), as_users():
        x = jnp.asarray(X)
        coarse = 0.2 if layer is eight_bit_floats else 0.05
        np.testing.assert_allclose(layer(x), dequantised(x), atol=coarse)
    got, wanted = relevance(layer, name), relevance(dequantised, name)
    assert np.isfinite(got).all()
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99
    # Relevance through the scale alone would all be where the largest number is.
    others = np.abs(X) < np.abs(X).max(-1, keepdims=True)
    assert np.corrcoef(got[others], wanted[others])[0, 1] > 0.99
