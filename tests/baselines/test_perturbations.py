"""Occlusion, ablation, Kernel SHAP and LIME against naive NumPy and closed forms."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relprop import baselines

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
W = RNG.normal(size=(5, 4))


def score(x):
    return jnp.tanh(x * W).sum() + x[0, 0] * x[1, 1] * x[2, 3]


X, BASE = RNG.normal(size=(2, 5, 4))


def naive_occlusion(f, x, base, window, strides):
    total, count = np.zeros(x.shape), np.zeros(x.shape)
    along = [
        range(1 + math.ceil(max(n - w, 0) / s))
        for n, w, s in zip(x.shape, window, strides, strict=True)
    ]
    for place in itertools.product(*along):
        box = tuple(slice(p * s, p * s + w) for p, s, w in zip(place, strides, window, strict=True))
        hidden = x.copy()
        hidden[box] = base[box]
        total[box] += f(x) - f(hidden)
        count[box] += 1
    return total / np.maximum(count, 1)


@pytest.mark.parametrize(
    ("window", "strides"),
    [((2, 2), (1, 1)), ((2, 3), (3, 1)), ((1, 4), (2, 2)), ((7, 2), (1, 3)), ((2, 1), (4, 2))],
)
def test_occlusion(window, strides):
    explain = baselines.occlusion(
        score, window=window, strides=strides, baseline=BASE, batch_size=4
    )
    np.testing.assert_allclose(
        explain(jnp.asarray(X)), naive_occlusion(score, X, BASE, window, strides), atol=1e-12
    )


def test_ablation_of_groups_across_arguments():
    f = lambda a, b: a[0] * b[1] + (a**2).sum() - b[0]  # noqa: E731
    a, b = jnp.array([2.0, 3.0]), jnp.array([5.0, 7.0])
    mask = (jnp.array([4, 9]), jnp.array([9, 4]))
    by_a, by_b = baselines.feature_ablation(f, (0, 1), feature_mask=mask, baseline=1.0)(a, b)
    first, second = (
        f(a, b) - f(a.at[0].set(1), b.at[1].set(1)),
        f(a, b) - f(a.at[1].set(1), b.at[0].set(1)),
    )
    np.testing.assert_allclose(by_a, [first, second])
    np.testing.assert_allclose(by_b, [second, first])


def shapley(f, x, base):
    """By the definition: the mean gain over all orders."""
    count = x.size
    out = np.zeros(count)
    for order in itertools.permutations(range(count)):
        at = base.copy()
        for i in order:
            before = float(f(at))
            at[i] = x[i]
            out[i] += float(f(at)) - before
    return out / math.factorial(count)


def game(x):
    return np.prod(x[:3]) + x[3] * max(x[0], x[4]) - x[1] ** 2


def traced_game(x):
    return jnp.prod(x[:3]) + x[3] * jnp.maximum(x[0], x[4]) - x[1] ** 2


def test_all_coalitions_give_shapley_values():
    x, base = RNG.normal(size=(2, 5))
    explain = jax.jit(baselines.kernel_shap(traced_game, baseline=base))
    np.testing.assert_allclose(explain(x), shapley(game, x, base), atol=1e-10)


def test_drawn_coalitions_come_near():
    x, base = RNG.normal(size=(2, 5))

    def explain(key):
        return baselines.kernel_shap(traced_game, baseline=base, key=key, samples=28)(x)

    drawn = jax.jit(jax.vmap(explain))(jax.random.split(KEY, 100))
    np.testing.assert_allclose(drawn.sum(axis=1), game(x) - game(base), atol=1e-10)
    np.testing.assert_allclose(drawn.mean(axis=0), shapley(game, x, base), atol=0.05)


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_drawn_coalitions_are_exact_where_features_add_up(values):
    x = np.array(values)
    np.testing.assert_allclose(additive(x), np.sin(x) * np.arange(6), atol=1e-7)


@jax.jit
def additive(x):
    f = lambda x: jnp.sum(jnp.sin(x) * jnp.arange(6.0)) + 2  # noqa: E731
    return baselines.kernel_shap(f, key=KEY, samples=20, batch_size=6)(x)


def naive_ridge(z, y, weight, alpha):
    design = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    penalty = alpha * np.diag([1.0] * z.shape[1] + [0.0])
    return np.linalg.solve(
        design.T @ (design * weight[:, None]) + penalty, design.T @ (weight * y)
    )[:-1]


DATA = RNG.normal(size=(30, 4)), RNG.normal(size=30), RNG.uniform(0.1, 1, size=30)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 10.0])
def test_ridge(alpha):
    got = baselines.Ridge(alpha).coefficients(*map(jnp.asarray, DATA))
    np.testing.assert_allclose(got, naive_ridge(*DATA, alpha), atol=1e-10)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 10.0])
def test_lasso_is_optimal(alpha):
    # At the minimum the gradient of the loss is alpha where a coefficient isn't zero, else less.
    z, y, weight = DATA
    got = np.asarray(baselines.Lasso(alpha).coefficients(*map(jnp.asarray, DATA)))
    share = weight / weight.sum()
    rest = y - z @ got
    rest -= share @ rest
    slope = z.T @ (share * rest) - (share @ z) * (share @ rest)
    used = got != 0
    np.testing.assert_allclose(slope[used], alpha * np.sign(got[used]), atol=1e-9)
    assert (np.abs(slope[~used]) <= alpha + 1e-9).all()
    assert used.any() == (alpha < 1)


@pytest.mark.parametrize("distance", ["features", "cosine", "euclidean"])
def test_lime(distance):
    # The same parts drawn again, and the regression of the paper by hand.
    explain = baselines.lime(
        score,
        key=KEY,
        samples=60,
        distance=distance,
        kernel_width=2.0,
        baseline=0.1,
        feature_mask=np.arange(5)[:, None],
    )
    z = np.asarray(jax.random.bernoulli(KEY, 0.5, (60, 5)), float)
    parts = z[:, :, None] * X + (1 - z[:, :, None]) * 0.1
    y = np.asarray(jax.jit(jax.vmap(score))(parts))
    flat = parts.reshape(60, -1)
    d = {
        "features": 1 - np.sqrt(z.mean(axis=1)),
        "cosine": 1 - flat @ X.ravel() / np.linalg.norm(flat, axis=1) / np.linalg.norm(X),
        "euclidean": np.linalg.norm(flat - X.ravel(), axis=1),
    }[distance]
    expected = naive_ridge(z, y, np.exp(-((d / 2.0) ** 2)), 1.0)
    got = jax.jit(explain)(jnp.asarray(X))
    np.testing.assert_allclose(got, np.broadcast_to(expected[:, None], X.shape), atol=1e-8)
