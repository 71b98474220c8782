"""DeepLIFT: what sums to the difference, in every kind of function, and its rules by themselves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import relprop
from relprop import Composite, RuleError, baselines
from relprop.rules import MeanGradient, Rescale

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
W = RNG.normal(size=(3, 4, 4))
X, BASE = RNG.normal(size=(2, 5, 4))


def layer(x, w):
    return x + jnp.tanh(x @ w)


def scanned(x):
    return lax.scan(lambda x, w: (layer(x, w), x.sum()), x, jnp.asarray(W))


def attention(x):
    q, k, v = (x @ w for w in W)
    return jax.nn.softmax(q @ k.T / 4) @ v


def norm(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 0.1)


FUNCTIONS = {
    "activations": lambda x: (jax.nn.gelu(x) * 2 - jax.nn.sigmoid(x) + jnp.abs(x)).sum(),
    "scan": lambda x: scanned(x)[0].sum() + (scanned(x)[1] ** 2).sum(),
    "checkpoint": lambda x: jax.checkpoint(lambda x: layer(layer(x, W[0]), W[1]))(x).sum(),
    "cond": lambda x: lax.cond(x.shape[0] > 2, jnp.tanh, jnp.sin, x).sum(),
    "fori": lambda x: lax.fori_loop(0, 3, lambda i, x: layer(x, W[0]), x).sum(),
    "custom": lambda x: jax.nn.relu(jax.nn.silu(x) @ W[0]).sum(),
    "norm": lambda x: (norm(x) ** 3).sum(),
    "attention": lambda x: (attention(x) ** 2).sum(),
    "products": lambda x: jnp.prod(x, axis=1).sum() + (x * jnp.roll(x, 1, axis=0)).sum(),
    "quotient": lambda x: (x / (2 + jnp.roll(x, 1, axis=0) ** 2)).sum(),
    "maxima": lambda x: (
        jnp.max(x, axis=1).sum()
        + jnp.min(x, axis=0).sum()
        + jnp.maximum(x, jnp.roll(x, 1, axis=0)).sum()
        + lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (1, 1), "VALID").sum()
    ),
    "logsumexp": lambda x: jax.nn.logsumexp(x, axis=1).sum(),
    "two powers": lambda x: ((x**2 + 0.5) ** jnp.roll(x, 1, axis=0)).sum(),
}
EXACT = Composite().at(structure="softmax", optional=True).use(MeanGradient(16))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_contributions_sum_to_the_difference(name):
    f = FUNCTIONS[name]
    rules = EXACT.then(baselines.rescale())
    explain = jax.jit(baselines.deeplift(f, baseline=BASE, rules=rules, return_delta=True))
    found, delta = explain(jnp.asarray(X))
    change = f(X) - f(BASE)
    np.testing.assert_allclose(found.sum(), change, rtol=1e-6)
    np.testing.assert_allclose(found.sum() - change, delta, atol=1e-12)
    assert float(jnp.abs(found).sum()) > 1e-3


def test_loops_and_calls_change_nothing():
    def unrolled(x):
        for w in W:
            x = layer(x, w)
        return x.sum()

    looped = jax.checkpoint(lambda x: jax.jit(scanned)(x)[0].sum())
    a, b = jax.jit(lambda x: [baselines.deeplift(f, baseline=BASE)(x) for f in (unrolled, looped)])(
        X
    )
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_the_branch_of_the_input_is_explained():
    f = lambda x: lax.cond(x.sum() > 0, lambda x: 2 * x[0], lambda x: 3 * x[1], x)  # noqa: E731
    explain = jax.jit(baselines.deeplift(f, baseline=-1.0))
    np.testing.assert_allclose(explain(jnp.array([2.0, 1.0])), [6.0, 0.0])


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.floats(-3, 3))
def test_a_layer_by_hand(values, baseline):
    # C_i = dx_i sum_j w_ij (f(z_j) - f(z'_j)) / (z_j - z'_j), or f'(z_j) where there is none.
    x, base = np.array(values), np.full(4, baseline)
    z, before = x @ W[0] + 0.3, base @ W[0] + 0.3
    near = np.abs(z - before) < 1e-10
    slope = np.where(
        near, 1 - np.tanh(z) ** 2, (np.tanh(z) - np.tanh(before)) / np.where(near, 1, z - before)
    )
    np.testing.assert_allclose(by_rescale(x, baseline), (x - base) * (W[0] @ slope), atol=1e-7)


@jax.jit
def by_rescale(x, baseline):
    return baselines.deeplift(lambda x: jnp.tanh(x @ W[0] + 0.3).sum(), baseline=baseline)(x)


def test_softmax_as_captum_normalises_it():
    x, base = X[0], BASE[0]
    soft = lambda z: np.exp(z) / np.exp(z).sum()  # noqa: E731
    m = np.eye(4)[1] * (soft(x) - soft(base)) / (x - base)
    found = baselines.deeplift(lambda x: jax.nn.softmax(x)[1], baseline=base)(jnp.asarray(x))
    np.testing.assert_allclose(found, (x - base) * (m - m.mean()), atol=1e-12)


def test_places_inside():
    def f(x):
        h = relprop.named(jnp.tanh(x @ W[0]), "hidden")
        return (h**2).sum()

    inside = baselines.deeplift(f, baseline=BASE, at="hidden")(jnp.asarray(X))
    h, before = np.tanh(X @ W[0]), np.tanh(BASE @ W[0])
    np.testing.assert_allclose(inside["hidden"].value, h)
    np.testing.assert_allclose(inside["hidden"].relevance, h**2 - before**2, atol=1e-12)


def test_a_batch_is_explained_sample_by_sample():
    f = FUNCTIONS["norm"]
    one = baselines.deeplift(f, baseline=0.5)
    alone, several = jax.jit(lambda x, xs: (one(x), jax.vmap(one)(xs)))(X, np.stack([X, BASE]))
    np.testing.assert_allclose(several[0], alone, atol=1e-10)


def test_a_rule_without_its_reference():
    with pytest.raises(RuleError, match="compares with a reference"):
        relprop.relevance(jnp.tanh, Composite().at(primitive="tanh").use(Rescale()))(0.5)


def naive_reveal_cancel(x, base, layers, head):
    """Two-layer network by hand, with the contributions of each pair of units in loops."""

    def multipliers(dx, w, z_base, f, m_out):
        m_in = np.zeros(len(dx))
        for j in range(w.shape[1]):
            parts = w[:, j] * dx
            rise, fall = parts[parts > 0].sum(), parts[parts < 0].sum()
            g = lambda z, j=j: f(z_base[j] + z)  # noqa: E731
            y_rise = (g(rise) - g(0)) / 2 + (g(fall + rise) - g(fall)) / 2
            y_fall = (g(fall) - g(0)) / 2 + (g(rise + fall) - g(rise)) / 2
            m_rise, m_fall = (y / z if z else 0.0 for y, z in ((y_rise, rise), (y_fall, fall)))
            for i in range(len(dx)):
                mean = (m_rise + m_fall) / 2
                m = m_rise if parts[i] > 0 else m_fall if parts[i] < 0 else mean
                m_in[i] += m_out[j] * m * w[i, j]
        return m_in

    (w1, b1), (w2, b2) = layers
    relu = lambda z: np.maximum(z, 0)  # noqa: E731
    z1, z1_base = x @ w1 + b1, base @ w1 + b1
    h, h_base = np.tanh(z1), np.tanh(z1_base)
    m_hidden = multipliers(h - h_base, w2, h_base @ w2 + b2, relu, head)
    return (x - base) * multipliers(x - base, w1, z1_base, np.tanh, m_hidden)


def test_reveal_cancel():
    (w1, w2), (b1, b2) = RNG.normal(size=(2, 4, 4)), RNG.normal(size=(2, 4))
    head = RNG.normal(size=4)

    def f(x):
        h = jnp.tanh((x @ w1).reshape(2, 2) + b1.reshape(2, 2)).reshape(4)
        return jax.nn.relu(w2.T @ h + b2) @ head

    x, base = X[0], BASE[0].copy()
    base[2] = x[2]  # an input without a difference
    explain = jax.jit(
        lambda x: baselines.deeplift(
            f, baseline=base, rules=baselines.reveal_cancel(), return_delta=True
        )(x)
    )
    found, delta = explain(x)
    expected = naive_reveal_cancel(x, base, [(w1, b1), (w2, b2)], head)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert abs(delta) < 1e-12
    plan = relprop.inspect(f, baselines.reveal_cancel())(jnp.asarray(x))
    assert [op.structure for op in plan].count("neuron") == 2


def test_reveal_cancel_sees_what_rescale_does_not():
    # Of min(a, b) = a - relu(a - b) Rescale gives all to one of them (section 3.5.3 of the paper).
    def smallest(x):
        return x[0] - jax.nn.relu(x @ jnp.array([[1.0], [-1.0]]))[0]

    x = jnp.array([3.0, 2.0])
    rules = baselines.reveal_cancel(), baselines.rescale()
    explain = jax.jit(lambda x: [baselines.deeplift(smallest, rules=r)(x) for r in rules])
    np.testing.assert_allclose(explain(x), [[1.0, 1.0], [0.0, 2.0]], atol=1e-12)
