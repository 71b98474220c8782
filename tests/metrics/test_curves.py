"""Perturbation curves and their areas against naive NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import metrics
from relprop.metrics import features, fills

from .models import FILL, RNG, R, X, naive_curve, naive_score, score, summed

pytestmark = pytest.mark.usefixtures("x64")
SINGLE = np.arange(12).reshape(3, 4)
COLUMNS = np.broadcast_to(np.arange(4) // 2 + 5, (3, 4))  # labels need not begin at 0


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize(
    ("labels", "steps", "fill"),
    [(None, 12, 0.0), (None, 5, FILL), (COLUMNS, 2, 1.0), (features.tokens((3, 4)), None, FILL)],
)
def test_curve(order, labels, steps, fill):
    used = SINGLE if labels is None else np.unique(labels, return_inverse=True)[1].reshape(3, 4)
    amounts = summed(R, used)
    ranked = np.argsort(-amounts if order == "most" else amounts)
    groups = np.array_split(ranked, steps or len(amounts))
    expected = naive_curve(naive_score, X, R, used, groups, fill)
    options = {"features": labels, "steps": steps, "fill": fill, "batch_size": 5}
    found = metrics.perturbation_curve(score, X, R, order=order, **options)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    fractions = np.cumsum([0, *map(len, groups)]) / len(amounts)
    area = metrics.deletion if order == "most" else metrics.insertion
    np.testing.assert_allclose(
        area(score, X, R, **options), np.trapezoid(expected, fractions), atol=1e-12
    )


def test_what_is_made_of_curves():
    most = naive_curve(naive_score, X, R, SINGLE, np.argsort(-R.ravel())[:, None], 0.0)
    least = naive_curve(naive_score, X, R, SINGLE, np.argsort(R.ravel())[:, None], 0.0)
    q = np.linspace(0, 1, 13)
    np.testing.assert_allclose(
        metrics.abpc(score, X, R), np.trapezoid(least, q) - np.trapezoid(most, q), atol=1e-12
    )
    np.testing.assert_allclose(metrics.aopc(score, X, R), np.mean(most[0] - most), atol=1e-12)
    # a tenth of twelve is rounded up to two features, a quarter is three
    np.testing.assert_allclose(
        metrics.comprehensiveness(score, X, R, fractions=[0.1, 0.25]),
        most[0] - (most[2] + most[3]) / 2,
        atol=1e-12,
    )
    np.testing.assert_allclose(
        metrics.sufficiency(score, X, R, fractions=[0.1, 0.25]),
        least[0] - (least[10] + least[9]) / 2,
        atol=1e-12,
    )
    by_patch = features.patches((3, 4), 2)
    amounts = summed(R, by_patch)
    sizes = np.bincount(by_patch.ravel())
    curve = naive_curve(
        naive_score, X, R, by_patch, np.argsort(-amounts / sizes)[:, None], FILL.mean()
    )
    expected = 1 - np.trapezoid(curve / curve[0], np.linspace(0, 1, 5))
    np.testing.assert_allclose(
        metrics.irof(score, X, R, features=by_patch, fill=FILL.mean()), expected, atol=1e-12
    )


def test_many_samples_in_one_call():
    xs, Rs = RNG.normal(size=(2, 3, 3, 4))
    found = jax.jit(jax.vmap(lambda x, R: metrics.abpc(score, x, R, steps=4)))(xs, Rs)
    one = [metrics.abpc(score, x, R, steps=4) for x, R in zip(xs, Rs, strict=True)]
    np.testing.assert_allclose(found, one, atol=1e-12)
    Rs[1, 0, 0] = np.nan
    found = jax.jit(jax.vmap(lambda x, R: metrics.abpc(score, x, R, steps=4)))(xs, Rs)
    assert np.isnan(np.asarray(found)).tolist() == [False, True, False]


def test_ties_are_told_and_broken_by_chance():
    with pytest.warns(relprop.TiesWarning, match="All 12 features have the relevance 2"):
        flat = metrics.perturbation_curve(score, X, np.full((3, 4), 2.0), key=jax.random.key(3))
    drawn = metrics.perturbation_curve(score, X, R, order="random", key=jax.random.key(3))
    np.testing.assert_allclose(flat, drawn)
    other = metrics.perturbation_curve(score, X, R, order="random", key=jax.random.key(4))
    assert not np.allclose(other, drawn)
    np.testing.assert_allclose(other[jnp.array([0, -1])], drawn[jnp.array([0, -1])])


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"R must have the shape of x, \[3, 4\], but has \[3\]", {"R": np.ones(3)}),
        (r"12 features and 13 steps", {"steps": 13}),
        (r"1 of 12 entries that are NaN or infinite, the first at \[1, 2\]", {"R": "nan"}),
        (r"array of integers, but has dtype float", {"features": np.ones((3, 4))}),
        (r"`features` must have the shape of x", {"features": np.arange(5)}),
        (r"The fill must have the shape of x", {"fill": np.ones(3)}),
        (r"What the fill returns must have", {"fill": lambda x, missing: np.ones(5)}),
        (r"`steps` must be at least 1", {"steps": 0}),
        (r"`order` must be one of", {"order": "first"}),
        (r"one real scalar", {"f": lambda x: x}),
        (r"x must hold real numbers", {"x": np.arange(12).reshape(3, 4)}),
        (r"an array; x is a dict", {"x": {"a": X}}),
    ],
)
def test_bad_input(message, change):
    given = {"f": score, "x": X, "R": R, **change}
    if isinstance(given["R"], str):
        given["R"] = R.copy()
        given["R"][1, 2] = np.nan
    with pytest.raises(relprop.InputError, match=message):
        metrics.perturbation_curve(given.pop("f"), given.pop("x"), given.pop("R"), **given)


def test_other_bad_input():
    with pytest.raises(relprop.InputError, match="order of this area is 'most'"):
        metrics.deletion(score, X, R, order="least")
    with pytest.raises(relprop.InputError, match=r"`fractions` must be in \(0, 1\]"):
        metrics.comprehensiveness(score, X, R, fractions=[0.0])
    with pytest.raises(relprop.InputError, match="must be known while tracing"):
        jax.jit(lambda labels: metrics.deletion(score, X, R, features=labels))(SINGLE)


def naive_imputation(x, missing):
    """The linear system, entry by entry."""
    height, width = x.shape
    places = [tuple(p) for p in np.argwhere(missing)]
    A, b = np.zeros((len(places), len(places))), np.zeros(len(places))
    for i, (row, column) in enumerate(places):
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                at = row + down, column + right
                if (down, right) == (0, 0) or not (0 <= at[0] < height and 0 <= at[1] < width):
                    continue
                weight = 1 / 6 if 0 in (down, right) else 1 / 12
                A[i, i] += weight
                if at in places:
                    A[i, places.index(at)] -= weight
                else:
                    b[i] += weight * x[at]
    out = x.copy()
    out[tuple(np.transpose(places))] = np.linalg.solve(A, b)
    return out


def test_fills():
    x, missing = RNG.normal(size=(6, 7)), RNG.random((6, 7)) < 0.6
    found = fills.linear_imputation()(jnp.asarray(x), jnp.asarray(missing))
    np.testing.assert_allclose(np.where(missing, found, x), naive_imputation(x, missing), atol=1e-5)
    everything = fills.linear_imputation()(jnp.asarray(x), jnp.ones((6, 7), bool))
    assert not np.any(everything)
    np.testing.assert_allclose(fills.mean(0)(jnp.asarray(x), None)[2], x.mean(0))
    wide = np.pad(x, ((4, 4), (0, 0)), mode="edge")
    weight = np.exp(-0.5 * np.arange(-4, 5) ** 2.0)
    blurred = sum(w * wide[i : i + 6] for i, w in enumerate(weight / weight.sum()))
    np.testing.assert_allclose(fills.blur(1.0, axes=(0,))(jnp.asarray(x), None), blurred)


def test_features():
    assert features.pixels((2, 2, 3)).tolist()[1][0] == [2, 2, 2]
    assert features.pixels((3, 2, 2), 0)[:, 1, 1].tolist() == [3, 3, 3]
    ragged = features.patches((5, 3, 2), (2, 3))
    assert ragged[:, 0, 0].tolist() == [0, 0, 1, 1, 2] and np.bincount(ragged.ravel())[2] == 6
    assert features.channels((2, 3), 0).tolist() == [[0, 0, 0], [1, 1, 1]]
    with pytest.raises(relprop.InputError, match="has no axis 4"):
        features.channels((2, 3), 4)
