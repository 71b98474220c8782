"""Polynomials and other loops over entries: the same relevance by a loop and by a primitive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.rules import Epsilon

X = jnp.array([0.3, -1.2, 2.5])
C = jnp.array([1.0, -2.0, 0.5, 3.0])  # the highest power first
POWERS = X[None] ** jnp.arange(3.0, -1, -1)[:, None]


def by_loop(c, x):
    return lax.scan(lambda y, k: (x * y + k, None), jnp.zeros_like(x), c)[0]


def by_primitive(c, x):
    return lax.polynomial(x, [c[k] for k in range(3, -1, -1)])


SPELLINGS = [by_loop, jnp.polyval, jax.checkpoint(jnp.polyval)]
SPELLINGS += [by_primitive] if hasattr(lax, "polynomial") else []  # since JAX 0.12


def relevance(f, *args, argnums=0, rules=None):
    return relprop.relevance(lambda *a: f(*a).sum(), rules or Epsilon(1e-9), argnums)(*args)


@pytest.mark.parametrize("polynomial", SPELLINGS)
def test_a_polynomial_is_a_function_of_each_entry(polynomial):
    R = relevance(polynomial, C, X, argnums=1)
    np.testing.assert_allclose(R, jnp.polyval(C, X), rtol=1e-5)


@pytest.mark.parametrize("polynomial", SPELLINGS)
def test_coefficients_have_their_terms(polynomial):
    R = relevance(polynomial, C, X)
    np.testing.assert_allclose(R, C * POWERS.sum(1), rtol=1e-4)


@pytest.mark.parametrize("polynomial", SPELLINGS)
def test_both_share_each_product(polynomial):
    to_c, to_x = relevance(polynomial, C, X, argnums=(0, 1))
    # A coefficient is multiplied with x as often as its power says; each product halves its part.
    left = 0.5 ** jnp.arange(3.0, -1, -1)
    np.testing.assert_allclose(to_c, left * C * POWERS.sum(1), rtol=1e-4)
    np.testing.assert_allclose(to_x, ((1 - left) * C) @ POWERS, rtol=1e-4, atol=1e-6)
    gradient = relevance(polynomial, C, X, argnums=1, rules=relprop.presets.gradient())
    want = jax.grad(lambda x: jnp.polyval(C, x).sum())(X)
    np.testing.assert_allclose(gradient, want, rtol=1e-5)


def test_coefficients_per_entry():
    c = jnp.stack([C, 2 * C, -C], axis=1)
    R = relevance(lambda x: jnp.polyval(c, x), X)
    np.testing.assert_allclose(R, jnp.polyval(c, X), rtol=1e-5)
    several = relevance(lambda x: jnp.polyval(c.T[..., None].swapaxes(0, 1), x[None]), X)
    assert several.shape == X.shape
    assert jnp.isfinite(several).all()


def test_the_method_of_newton_is_a_function():
    def root(x):
        return lax.scan(lambda y, _: ((y + x / y) / 2, None), x, None, length=6)[0]

    x = jnp.array([0.5, 2.0, 9.0])
    np.testing.assert_allclose(relevance(root, x), jnp.sqrt(x), rtol=1e-5)


def test_loops_that_only_scale_keep_their_rules():
    def decayed(x):
        return lax.scan(lambda y, b: (0.5 * y + b, None), x, jnp.ones(2))[0]

    kept = 0.25 * X / decayed(X) * decayed(X)
    np.testing.assert_allclose(relevance(decayed, X), kept, rtol=1e-5)


def test_loops_that_mix_entries_are_no_functions_of_entries():
    def mixed(x):
        return lax.scan(lambda y, _: (jnp.tanh(y + y[::-1]), None), x, None, length=2)[0]

    plan = relprop.inspect(lambda x: mixed(x).sum(), Epsilon(1e-9))(X)
    assert "scan" in str(plan)
