"""Robustness, randomisation and axioms against NumPy, and on models where the answer is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import relprop
from relprop import metrics
from relprop.metrics._robustness import _near

from .models import RNG, W1, W2, R, X, naive_score, score

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(5)
NEAR = {"radius": 0.3, "samples": 6, "key": KEY}


def explain(x):
    return jnp.sin(x) * x


def naive_explain(x):
    return np.sin(x) * x


def test_robustness():
    near = np.asarray(_near(X, 0.3, 6, KEY)[1])
    assert np.abs(near - X).max() <= 0.3
    change = np.array([naive_explain(n) - naive_explain(X) for n in near])
    sizes = np.sqrt((change**2).sum((1, 2)))
    moved = np.sqrt(((near - X) ** 2).sum((1, 2)))
    size = np.linalg.norm(naive_explain(X))
    for metric, expected in [
        (metrics.max_sensitivity, sizes.max() / size),
        (metrics.avg_sensitivity, sizes.mean() / size),
        (metrics.local_lipschitz, (sizes / moved).max()),
        (metrics.continuity, (np.abs(change).sum((1, 2)) / moved).max()),
    ]:
        np.testing.assert_allclose(metric(explain, X, **NEAR), expected, atol=1e-12)
    found = metrics.max_sensitivity(explain, X, relative=False, **NEAR, batch_size=4)
    np.testing.assert_allclose(found, sizes.max(), atol=1e-12)


def test_relative_stability():
    near = np.asarray(_near(X, 0.3, 6, KEY)[1])

    def norm(a):
        return np.sqrt((a**2).sum())

    def relative(a, b):
        return norm((a - b) / a)

    same = [np.sign(n[0, 0] + 0.2) == np.sign(X[0, 0] + 0.2) for n in near]
    inputs, outputs, layers = [], [], []
    for n in near:
        above = relative(naive_explain(X), naive_explain(n))
        inputs.append(above / relative(X, n))
        outputs.append(above / norm(X @ np.eye(4)[:, :2] - n @ np.eye(4)[:, :2]))
        layers.append(above / relative(np.exp(X), np.exp(n)))
    found = metrics.relative_input_stability(explain, X, **NEAR)
    np.testing.assert_allclose(found, max(inputs), atol=1e-9)
    found = metrics.relative_output_stability(explain, X, logits=lambda x: x[:, :2], **NEAR)
    np.testing.assert_allclose(found, max(outputs), atol=1e-9)
    predict = lambda x: jnp.sign(x[0, 0] + 0.2)  # noqa: E731
    found = metrics.relative_representation_stability(
        explain, X, layer=jnp.exp, predict=predict, **NEAR
    )
    np.testing.assert_allclose(found, max(np.array(layers)[same]), atol=1e-9)
    other = metrics.relative_input_stability(explain, X, predict=lambda x: jnp.sum(x), **NEAR)
    assert np.isnan(other)  # no neighbour is of the same class


PARAMS = {"first": {"w": W1}, "second": {"w": W2, "b": np.zeros(7)}}


def of_params(params, x):
    value = lambda x: jnp.tanh(x.ravel() @ params["first"]["w"]) @ params["second"]["w"]  # noqa: E731
    return jax.grad(value)(jnp.asarray(x))


def test_randomisation():
    draw = lambda key, leaf: 2 - leaf  # noqa: E731
    names = ["first", "second"]
    first, second = PARAMS["first"], PARAMS["second"]
    new = jax.tree.map(lambda leaf: 2 - leaf, PARAMS)
    for order, steps in [
        ("cascading", [{"first": first, "second": new["second"]}, new]),
        ("bottom_up", [{"first": new["first"], "second": second}, new]),
        (
            "independent",
            [{"first": new["first"], "second": second}, {"first": first, "second": new["second"]}],
        ),
    ]:
        found = metrics.mprt(of_params, PARAMS, X, layers=names, order=order, draw=draw)
        before = np.asarray(of_params(PARAMS, X)).ravel()
        expected = [
            scipy.stats.spearmanr(before, np.asarray(of_params(p, X)).ravel()).statistic
            for p in steps
        ]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_explanation_that_does_not_look_at_the_model_is_found_out():
    edges = lambda params, x: x**2  # noqa: E731
    np.testing.assert_allclose(metrics.mprt(edges, PARAMS, X, order="independent"), 1)
    drawn = metrics.mprt(of_params, PARAMS, X, layers=["first"], key=KEY)
    assert abs(float(drawn[0])) < 0.9
    smooth = metrics.smooth_mprt(edges, PARAMS, X, layers=["first"], samples=3)
    np.testing.assert_allclose(smooth, 1)
    zeros = lambda params, x: jnp.where(params["first"]["w"].ravel()[:12] > 9, 1.0, 0.0)  # noqa: E731
    assert np.isnan(metrics.mprt(zeros, PARAMS, X, layers=["first"])[0])


def test_efficient_randomisation():
    f = lambda params, x: x * params["w"]  # noqa: E731
    x = jnp.asarray(RNG.normal(size=50))
    draw = lambda key, leaf: jax.random.normal(key, leaf.shape)  # noqa: E731
    found = metrics.efficient_mprt(f, {"w": jnp.ones(50)}, x, bins=8, draw=draw, key=KEY)
    after = x * draw(jax.random.fold_in(KEY, 0), jnp.ones(50))

    def complexity(a):
        shares = np.histogram(a, 8)[0] / 50
        return -sum(p * np.log(p) for p in shares if p)

    expected = complexity(after) / complexity(x) - 1
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_random_logit():
    weights = jnp.asarray(RNG.normal(size=(3, 5)))
    explain = lambda x, target: x * weights[target]  # noqa: E731
    x = jnp.asarray(RNG.normal(size=5))
    pairs = [np.corrcoef(x * weights[1], x * weights[k])[0, 1] for k in (0, 2)]
    found = {
        round(float(metrics.random_logit(explain, x, 1, classes=3, agreement="pearson", key=k)), 9)
        for k in jax.random.split(KEY, 12)
    }
    assert found == {round(p, 9) for p in pairs}
    with pytest.raises(relprop.InputError, match="at least two"):
        metrics.random_logit(explain, x, 0, classes=1)


def test_axioms():
    np.testing.assert_allclose(
        metrics.completeness(score, X, R), abs(R.sum() - naive_score(X)), atol=1e-12
    )
    base = np.ones(4)
    np.testing.assert_allclose(
        metrics.completeness(score, X, R, baseline=base),
        abs(R.sum() - naive_score(X) + naive_score(np.ones((3, 4)))),
        atol=1e-12,
    )
    ledger = relprop.ledger(lambda x: jnp.sum(x) + 3.0, relprop.rules.Epsilon(0.0))(jnp.ones(2))
    assert metrics.unexplained(ledger)["bias"] == pytest.approx(0.6)
    zero = relprop.ledger(lambda x: jnp.sum(x), relprop.rules.Epsilon(0.0))(jnp.zeros(2))
    with pytest.raises(relprop.InputError, match="seed of this explanation is 0"):
        metrics.unexplained(zero)
    times_input = lambda f: lambda x: x * jax.grad(f)(x)  # noqa: E731
    assert float(metrics.input_invariance(jax.grad, score, X, shift=0.5)) < 1e-9
    slope = np.asarray(jax.grad(score)(jnp.asarray(X)))
    expected = np.linalg.norm(0.5 * slope) / np.linalg.norm(X * slope)
    found = metrics.input_invariance(times_input, score, X, shift=0.5)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_bad_input():
    with pytest.raises(relprop.InputError, match="needs `layers`.*first/w"):
        metrics.mprt(of_params, PARAMS, X)
    with pytest.raises(relprop.InputError, match=r"No parameters belong to the layers \['fir'\]"):
        metrics.mprt(of_params, PARAMS, X, layers=["fir"])
    with pytest.raises(relprop.InputError, match="`radius` must be positive"):
        metrics.continuity(explain, X, radius=0.0)
    with pytest.raises(relprop.InputError, match="windows of 7 by 7"):
        metrics.ssim(jnp.ones((3, 3)), jnp.ones((3, 3)))
