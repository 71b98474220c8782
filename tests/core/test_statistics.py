"""What is scaled by a statistic of itself is told, whatever functions that is computed by."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.rules import Epsilon

T, D = 3, 4
W = jnp.asarray(np.random.default_rng(0).standard_normal((2, D, D)))
X = jnp.asarray(np.random.default_rng(1).standard_normal((T, D)))


def newton(h):
    """The inverse root of the mean of squares by Newton's steps."""
    q, y = (h * h).mean(-1, keepdims=True), 0.3
    for _ in range(3):
        y = y * (1.5 - 0.5 * q * y * y)
    return h * y


def lengths(h):
    """By `hypot`, entry by entry."""
    length = h[:, :1]
    for i in range(1, D):
        length = jnp.hypot(length, h[:, i : i + 1])
    return h / length


def local(h):
    """Local response normalisation."""
    squares = lax.reduce_window(h * h, 0.0, lax.add, (1, 3), (1, 1), "SAME")
    return h / (1 + squares) ** 0.75


def divided_by_the_largest(h):
    """As linear algebra libraries do it, against an overflow."""
    largest = jnp.abs(h).max(-1, keepdims=True)
    length = largest * jnp.sqrt(((h / largest) ** 2).sum(-1, keepdims=True))
    return h / jnp.sqrt(length**2 / D + 1e-6)


TOLD = {
    "divided by the largest": divided_by_the_largest,
    "newton": newton,
    "hypot": lengths,
    "local response": local,
    "radial": lambda h: h * jnp.exp(-(h * h).sum(-1, keepdims=True)),
    "cubes": lambda h: h * (1 + (jnp.abs(h) ** 3).sum(-1, keepdims=True)) ** -0.3,
}
FINE = {
    "squeeze and excitation": lambda h: h * jax.nn.sigmoid(jnp.tanh(h.mean(0) @ W[1]) @ W[0]),
    "gated by another layer": lambda h: h * jax.nn.sigmoid(h @ W[1]),
    "the largest": lambda h: h / jnp.abs(h).max(-1, keepdims=True),
    "between the extremes": lambda h: (h - h.min()) / (h.max() - h.min()),
    "a context": lambda h: h + (jax.nn.softmax(h @ W[1][0])[:, None] * h).sum(0),
    "mixed entries": lambda h: h[:, ::-1] * 0.6 + h * 0.8,
    "a norm": lambda h: h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6),
}


def told(f):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with jax.numpy_rank_promotion("allow"):
            jax.eval_shape(relprop.relevance(lambda x: f(x @ W[0]).sum(), Epsilon()), X)
    messages = [str(w.message) for w in caught if w.category is relprop.SuspicionWarning]
    return [m for m in messages if "normalisation?" in m]


@pytest.mark.parametrize("name", TOLD)
def test_it_is_told(name):
    # Releases of JAX whose `hypot` is the root of a sum of squares show the norm that it is.
    assert told(TOLD[name]) or (name == "hypot" and is_the_norm(TOLD[name]))


def test_it_is_told_of_an_input():
    f = divided_by_the_largest
    with jax.numpy_rank_promotion("allow"), pytest.warns(relprop.SuspicionWarning, match="norm"):
        relprop.relevance(lambda x: f(x).sum(), Epsilon())(X)


def is_the_norm(f):
    by, expected = (
        relprop.relevance(lambda x, f=f: (f(x @ W[0]) @ W[1][0]).sum(), Epsilon())(X)
        for f in (f, lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True))
    )
    return np.allclose(by, expected, rtol=1e-4, atol=1e-5)


def test_a_norm_by_one_entry_is_a_block():
    found = relprop.inspect(lambda x: (x / jnp.sqrt(x[:, :1] ** 2 + 1e-6)).sum(), Epsilon())(X)
    assert "L2 norm" in [block.kind for block in found.blocks]


@pytest.mark.parametrize("name", FINE)
def test_what_is_fine_is_not_told(name):
    assert not told(FINE[name])
