"""Correlations of relevance with what the score loses, and complexity, against naive NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import relprop
from relprop import metrics
from relprop.metrics._removal import subsets

from .models import FILL, RNG, R, X, naive_score, score

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(5)


def without(chosen, fill=0.0):
    return np.where(chosen.reshape(3, 4), fill, X)


def lost(sets, fill=0.0):
    return np.array([naive_score(X) - naive_score(without(s, fill)) for s in sets])


def test_sets_of_features():
    sets = np.asarray(subsets(KEY, [5], 20, 12))[0]
    assert (sets.sum(axis=1) == 5).all() and len(np.unique(sets, axis=0)) > 10
    said = sets @ R.ravel()
    found = metrics.faithfulness_correlation(
        score, X, R, size=5, samples=20, fill=FILL, key=KEY, batch_size=8
    )
    np.testing.assert_allclose(found, np.corrcoef(said, lost(sets, FILL))[0, 1], atol=1e-12)
    by_rank = metrics.faithfulness_correlation(
        score, X, R, size=5, samples=20, key=KEY, agreement="spearman"
    )
    expected = scipy.stats.spearmanr(said, lost(sets)).statistic
    np.testing.assert_allclose(by_rank, expected, atol=1e-12)
    found = metrics.infidelity(score, X, R, size=5, samples=20, key=KEY)
    np.testing.assert_allclose(found, np.mean((said - lost(sets)) ** 2), atol=1e-12)
    scale = (said @ lost(sets)) / (said @ said)
    found = metrics.infidelity(score, X, R, size=5, samples=20, key=KEY, scaled=True)
    np.testing.assert_allclose(found, np.mean((scale * said - lost(sets)) ** 2), atol=1e-12)


def test_sizes():
    found = metrics.sensitivity_n(score, X, R, sizes=[2, 7], samples=20, key=KEY)
    for sets, one in zip(np.asarray(subsets(KEY, [2, 7], 20, 12)), found, strict=True):
        expected = np.corrcoef(sets @ R.ravel(), lost(sets))[0, 1]
        np.testing.assert_allclose(one, expected, atol=1e-12)
    assert metrics.sensitivity_n(score, X, R, samples=2).shape == (7,)  # 1 to 9 of 12


def test_single_features():
    drops = lost(np.eye(12, dtype=bool))
    np.testing.assert_allclose(
        metrics.faithfulness_estimate(score, X, R), np.corrcoef(R.ravel(), drops)[0, 1], atol=1e-12
    )


def test_drawn_values():
    def draw(key, x):
        return jax.random.normal(key, x.shape)

    values = [np.asarray(draw(k, X)) for k in jax.random.split(KEY, 4)]
    scores = np.zeros((12, 4))
    for i in range(12):
        for k, value in enumerate(values):
            x = X.copy()
            x.ravel()[i] = value.ravel()[i]
            scores[i, k] = naive_score(x)
    change = np.mean((scores - naive_score(X)) ** 2, axis=1)
    options = {"samples": 4, "draw": draw, "key": KEY}
    np.testing.assert_allclose(
        metrics.monotonicity_correlation(score, X, R, **options),
        scipy.stats.spearmanr(np.abs(R.ravel()), change).statistic,
        atol=1e-12,
    )
    still = np.abs(scores - naive_score(X)).max(axis=1) <= 0.5
    quiet = np.abs(R.ravel()) <= 0.5
    assert 0 < np.sum(still != quiet) < 12
    found = metrics.non_sensitivity(score, X, R, threshold=0.5, **options)
    assert float(found) == np.sum(still != quiet)


def test_gradients_have_no_infidelity_near_by():
    slope = jax.grad(score)(jnp.asarray(X))
    near = metrics.infidelity(score, X, slope, noise=1e-3, samples=20)
    wrong = metrics.infidelity(score, X, 2 * slope, noise=1e-3, samples=20)
    assert 0 < float(near) < 1e-3 * float(wrong)


def test_monotonicity():
    weights = RNG.normal(size=12) ** 2
    f = lambda x: x.ravel() @ jnp.asarray(weights)  # noqa: E731
    right = (weights * np.abs(X.ravel())).reshape(3, 4)
    assert float(metrics.monotonicity(f, np.abs(X), right)) == 1
    assert float(metrics.monotonicity(lambda x: -f(x), np.abs(X), right)) == 0


def test_f_fidelity():
    """Of a sum it is known in the mean: chance times what is in the part, less the other part."""
    f = lambda x: x.sum()  # noqa: E731
    top = np.sort(R.ravel())[::-1][:3].sum()
    rest = R.sum() - top
    found = metrics.f_fidelity(f, R, R, fractions=[0.25], beta=0.1, samples=4000, key=KEY)
    np.testing.assert_allclose(found, 0.4 * top - 0.1 * 12 / 9 * rest, atol=0.1)
    removed = metrics.remove_at_random(KEY, np.ones(1000), 0.5)
    assert 0 < float(jnp.mean(1 - removed)) < 0.5


def test_complexity():
    sizes = np.sort(np.abs(R.ravel()))
    gini = sum(abs(a - b) for a in sizes for b in sizes) / (2 * 12 * sizes.sum())
    np.testing.assert_allclose(metrics.sparseness(R), gini, atol=1e-12)
    p = sizes / sizes.sum()
    np.testing.assert_allclose(metrics.entropy(R), -sum(q * np.log(q) for q in p), atol=1e-12)
    assert float(metrics.effective_complexity(R, threshold=0.5)) == (sizes > 0.5).sum()
    relative = metrics.effective_complexity(1e-9 * R, threshold=0.5, relative=True)
    assert float(relative) == (sizes > 0.5 * sizes[-1]).sum()
    assert np.isnan(metrics.sparseness(np.zeros(3))) and np.isnan(metrics.entropy(np.zeros(3)))
    assert float(metrics.entropy(np.array([0.0, 1.0]))) == 0


def test_bad_input():
    with pytest.raises(relprop.InputError, match="size must be from 1 to it"):
        metrics.faithfulness_correlation(score, X, R, size=13)
    with pytest.raises(relprop.InputError, match="`samples` must be at least 1"):
        metrics.infidelity(score, X, R, samples=0)
    with pytest.raises(relprop.InputError, match="one of .*'pearson'"):
        metrics.faithfulness_estimate(score, X, R, agreement="tau")
    with pytest.raises(relprop.InputError, match="`alpha` and `beta`"):
        metrics.f_fidelity(score, X, R, beta=0.0)
    with pytest.raises(relprop.InputError, match="NaN"):
        metrics.sparseness(np.array([np.nan]))
