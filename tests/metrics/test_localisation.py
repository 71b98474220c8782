"""Localisation against counting by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import metrics

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(1)
R = RNG.normal(size=(6, 5))
MASK = RNG.random((6, 5)) < 0.3


def test_against_counting():
    inside, outside = R[MASK], R[~MASK]
    wins = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    np.testing.assert_allclose(metrics.auc(R, MASK), np.mean(wins), atol=1e-12)
    mass = np.maximum(inside, 0).sum() / np.maximum(R, 0).sum()
    np.testing.assert_allclose(metrics.relevance_mass(R, MASK), mass, atol=1e-12)
    np.testing.assert_allclose(metrics.focus(R, MASK), mass, atol=1e-12)
    np.testing.assert_allclose(metrics.attribution_localisation(R, MASK), mass, atol=1e-12)
    weighted = metrics.attribution_localisation(R, MASK.astype(np.float32), weighted=True)
    np.testing.assert_allclose(weighted, mass * MASK.size / MASK.sum(), atol=1e-12)
    ranked = MASK.ravel()[np.argsort(-R.ravel())]
    np.testing.assert_allclose(metrics.relevance_rank(R, MASK), ranked[: MASK.sum()].mean())
    np.testing.assert_allclose(metrics.top_k_intersection(R, MASK, k=4), ranked[:4].mean())
    assert float(metrics.pointing_game(R, MASK)) == MASK.ravel()[R.argmax()]


def test_tolerance():
    R, mask = np.zeros((5, 5)), np.zeros((5, 5), bool)
    R[0, 3], mask[2, 2] = 1, True
    assert [float(metrics.pointing_game(R, mask, tolerance=t)) for t in (0, 1, 2)] == [0, 0, 1]


def test_ties_count_as_a_choice_by_chance_in_the_mean():
    mask = np.array([True, True, False, False])
    assert float(metrics.pointing_game(np.ones(4), mask)) == 0.5
    assert float(metrics.relevance_rank(np.array([1.0, 0, 0, 0]), mask)) == (1 + 1 / 3) / 2
    assert float(metrics.top_k_intersection(np.zeros(4), mask, k=3)) == 0.5
    assert float(metrics.auc(np.ones(4), mask)) == 0.5
    assert float(metrics.relevance_mass(-np.ones(4), mask)) == 0


@pytest.mark.parametrize(
    "metric",
    [
        metrics.pointing_game,
        metrics.relevance_mass,
        metrics.relevance_rank,
        metrics.auc,
        metrics.mean_iou,
        metrics.pixel_accuracy,
        metrics.average_precision,
        lambda R, mask: metrics.top_k_intersection(R, mask, k=3),
    ],
)
def test_many_samples_and_what_cannot_be_measured(metric):
    Rs, masks = np.stack([R, R, R]), np.stack([MASK, MASK, np.zeros_like(MASK)])
    Rs[1, 0, 0] = np.nan
    found = jax.jit(jax.vmap(metric))(jnp.asarray(Rs), jnp.asarray(masks))
    np.testing.assert_allclose(found[0], metric(R, MASK), atol=1e-12)
    assert np.isnan(np.asarray(found)).tolist() == [False, True, True]
    Rs[1, 0, 0] = np.inf
    assert np.isnan(jax.jit(metric)(jnp.asarray(Rs[1]), MASK)), "infinity has no order either"
    with pytest.raises(relprop.InputError, match="The mask has no positive"):
        metric(R, np.zeros_like(MASK))
    with pytest.raises(relprop.InputError, match=r"shape of R, \[6, 5\], but has \[5\]"):
        metric(R, MASK[0])
    with pytest.raises(relprop.InputError, match="NaN or infinite"):
        metric(Rs[1], MASK)


@pytest.mark.parametrize("metric", [metrics.auc, metrics.mean_iou])
def test_nothing_outside_is_not_defined(metric):
    assert np.isnan(jax.jit(metric)(jnp.asarray(R), jnp.ones_like(MASK)))
    with pytest.raises(relprop.InputError, match="covers everything"):
        metric(R, np.ones_like(MASK))


def test_evaluate_tells_of_masks_that_cover_everything():
    masks = np.stack([MASK, np.ones_like(MASK)])
    data = {"x": np.stack([R, R]), "mask": masks}
    table = relprop.evaluate(jnp.sum, ["gradient_times_input"], data, ["mean_iou"])
    values = table["gradient_times_input", "mean_iou"]
    assert np.isnan(values).tolist() == [False, True]
    assert "mean_iou is not defined for 1 explanations" in str(table)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.pointing_game,
        metrics.relevance_mass,
        metrics.relevance_rank,
        metrics.auc,
        metrics.mean_iou,
        metrics.pixel_accuracy,
        metrics.average_precision,
        metrics.sparseness,
        metrics.entropy,
        metrics.effective_complexity,
        metrics.spearman,
        metrics.pearson,
        metrics.cosine,
    ],
)
def test_half_precision_of_images(metric):
    """There are more pixels than half precision counts."""
    half = RNG.normal(size=(260, 260)).astype(np.float16)
    mask = np.arange(260)[:, None] < np.full(260, 240)[None]
    other = () if metric.__module__.endswith("_complexity") else (mask,)
    if metric.__module__.endswith("_similarity"):
        other = (jnp.asarray(half + half.T),)
    found = metric(jnp.asarray(half), *other)
    wanted = metric(jnp.asarray(half.astype(np.float32)), *other)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_nothing_is_above_the_mean_of_what_is_alike():
    """The mean of tenths rounds to less than a tenth."""
    alike, mask = np.full(100, 0.1, np.float32), np.arange(100) < 10
    assert np.mean(alike) != alike[0] or jnp.mean(alike) != alike[0]
    assert float(metrics.pixel_accuracy(alike, mask)) == pytest.approx(0.9)
    assert float(metrics.mean_iou(alike, mask)) == pytest.approx(0.45)


def test_other_bad_input():
    with pytest.raises(relprop.InputError, match="covers everything"):
        metrics.auc(R, np.ones_like(MASK))
    with pytest.raises(relprop.InputError, match="`k` must be from 1"):
        metrics.top_k_intersection(R, MASK, k=31)
    with pytest.raises(relprop.InputError, match="`tolerance`"):
        metrics.pointing_game(R, MASK, tolerance=-1)


def test_segmentation_against_sets():
    for values in (R, np.round(R)):  # also with ties
        found = values > values.mean()
        sides = [(found, MASK), (~found, ~MASK)]
        iou = np.mean([(a & b).sum() / (a | b).sum() for a, b in sides])
        np.testing.assert_allclose(metrics.mean_iou(values, MASK), iou, atol=1e-12)
        np.testing.assert_allclose(metrics.pixel_accuracy(values, MASK), (found == MASK).mean())
        precision = np.mean([MASK[values >= value].mean() for value in values[MASK]])
        np.testing.assert_allclose(metrics.average_precision(values, MASK), precision, atol=1e-12)
    assert float(metrics.pixel_accuracy(R, MASK, threshold=99)) == pytest.approx(1 - MASK.mean())
