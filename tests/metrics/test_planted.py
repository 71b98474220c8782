"""Where the right explanation is known, metrics must know it, and how far others are from it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relprop import metrics

RNG = np.random.default_rng(0)
WEIGHTS = jnp.asarray(np.sort(RNG.exponential(size=64)) + 0.1, jnp.float32)
SAMPLES = jnp.asarray(RNG.exponential(size=(40, 64)) + 0.1, jnp.float32)
SHARES = np.linspace(0, 1, 6)  # of entries that are shuffled
#: Name -> metric and the sign by which more is better.
FAITHFUL = {
    "deletion": (lambda f, x, R: metrics.deletion(f, x, R, steps=32), -1),
    "insertion": (lambda f, x, R: metrics.insertion(f, x, R, steps=32), 1),
    "abpc": (lambda f, x, R: metrics.abpc(f, x, R, steps=32), 1),
    "aopc": (lambda f, x, R: metrics.aopc(f, x, R, steps=32), 1),
    "comprehensiveness": (metrics.comprehensiveness, 1),
    "sufficiency": (metrics.sufficiency, -1),
    "pixel_flipping": (lambda f, x, R: metrics.pixel_flipping(f, x, R).mean(), -1),
    "region_perturbation": (lambda f, x, R: metrics.aopc(f, x, R, features=np.arange(64) // 2), 1),
    "selectivity": (lambda f, x, R: metrics.selectivity(f, x, R, features=np.arange(64) // 2), -1),
    "irof": (lambda f, x, R: metrics.irof(f, x, R, features=np.arange(64) // 2), 1),
    "road": (
        lambda f, x, R: metrics.road(
            lambda x: f(x.ravel()), x.reshape(8, 8), R.reshape(8, 8), percentages=(10, 30, 50)
        ).mean(),
        -1,
    ),
    "faithfulness_correlation": (metrics.faithfulness_correlation, 1),
    "faithfulness_estimate": (metrics.faithfulness_estimate, 1),
    "monotonicity_correlation": (
        lambda f, x, R: metrics.monotonicity_correlation(f, x, R / x, samples=4),
        1,
    ),
    "sensitivity_n": (lambda f, x, R: metrics.sensitivity_n(f, x, R, sizes=[4, 16]).mean(), 1),
    "infidelity": (lambda f, x, R: metrics.infidelity(f, x, R), -1),
    "f_fidelity": (metrics.f_fidelity, 1),
}


def score(x):
    return x @ WEIGHTS


@pytest.fixture(scope="module")
def found():
    """For each metric its means over samples: rows are shares of shuffled entries."""

    def shuffled(key, R, share):
        where, order = jax.random.split(key)
        chosen = jax.random.uniform(where, R.shape) < share
        places = jnp.argsort(~chosen)  # those that are chosen first
        count = jnp.sum(chosen)
        drawn = jnp.where(jnp.arange(64) < count, jax.random.uniform(order, R.shape), 2.0)
        source = jnp.where(jnp.arange(64) < count, jnp.argsort(drawn), jnp.arange(64))
        return R.at[places].set(R[places[source]])

    def of_sample(key, x, share):
        R = shuffled(key, x * WEIGHTS, share)
        return {name: metric(score, x, R) for name, (metric, _) in FAITHFUL.items()}

    keys = jax.random.split(jax.random.key(0), len(SAMPLES))
    over = jax.vmap(jax.vmap(of_sample, (0, 0, None)), (None, None, 0))
    values = jax.jit(over)(keys, SAMPLES, jnp.asarray(SHARES, jnp.float32))
    return {name: np.asarray(v).mean(axis=1) for name, v in values.items()}


@pytest.mark.parametrize("name", FAITHFUL)
def test_worse_explanations_rank_lower(found, name):
    """The fewer entries of the true relevance are shuffled, the better."""
    better = FAITHFUL[name][1] * found[name]
    assert (np.diff(better) < 0).all(), better


def test_the_truth_is_exact():
    x = SAMPLES[0]
    R = x * WEIGHTS
    assert float(metrics.faithfulness_estimate(score, x, R)) == pytest.approx(1, abs=1e-5)
    assert float(metrics.infidelity(score, x, R)) < 1e-6
    assert float(metrics.monotonicity(score, x, R)) == 1
    assert float(metrics.completeness(score, x, R)) < 1e-3
    mask = np.arange(64) >= 60
    planted = jnp.where(jnp.asarray(mask), R, 0)
    for metric in (metrics.pointing_game, metrics.relevance_mass, metrics.relevance_rank):
        assert float(metric(planted, mask)) == 1
    assert float(metrics.auc(planted, mask)) == 1


def test_random_explanations_are_at_chance():
    mask = np.arange(64) < 16
    drawn = jax.random.normal(jax.random.key(0), (3000, 64))
    for metric, chance in [
        (metrics.pointing_game, 0.25),
        (metrics.relevance_mass, 0.25),
        (metrics.relevance_rank, 0.25),
        (metrics.auc, 0.5),
    ]:
        values = jax.vmap(lambda R, metric=metric: metric(R, mask))(drawn)
        assert float(values.mean()) == pytest.approx(chance, abs=0.03)
    same = jnp.broadcast_to(SAMPLES[0], (3000, 64))
    areas = jax.jit(jax.vmap(lambda x, R: metrics.abpc(score, x, R, steps=16)))(same, drawn)
    assert abs(float(areas.mean())) < 0.02 * float(score(SAMPLES[0]))
