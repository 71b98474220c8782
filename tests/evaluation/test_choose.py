"""Choices of rules: found where one is better, refused where none is."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import metrics
from relprop.evaluation import Family, Metric
from relprop.rules import Epsilon, Flat, Gamma, Zero

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6)).astype(np.float32)
W = jnp.asarray(RNG.normal(size=(6, 2)), jnp.float32)
ABPC = functools.partial(metrics.abpc, steps=3)


def linear(x):
    return x @ W


def test_a_better_setting_is_found():
    """Of a linear model LRP-0 is the truth, gamma the less of it the larger it is."""
    family = Family(lambda gamma: Gamma(gamma), {"gamma": [0.0, 100.0]}, Flat())
    choice = relprop.choose(linear, X, family, metrics.faithfulness_estimate)
    assert choice.setting == choice.winner == {"gamma": 0.0}
    assert choice.composite.entries[0].rule == Gamma(0.0)
    assert "Winner: gamma=0, better than the default" in str(choice)
    best, other, default = choice
    assert default.setting is None and len(best.reported) == 8
    assert best.gain[0] > 0 and other.lag[0] > 0


def test_what_cannot_be_told_apart_is_said():
    family = Family(lambda gamma: Gamma(gamma), {"gamma": [0.0, 1e-6]}, Flat())
    choice = relprop.choose(linear, X, family, metrics.faithfulness_estimate)
    assert choice.winner is None and choice.setting is not None
    assert "No single winner" in choice.verdict and "cannot be told from" in choice.verdict


def test_the_default_stays_where_nothing_is_better():
    family = Family(Epsilon, {"epsilon": [1e-3, 10.0], "bias": ["absorb", "ignore"]}, Zero())
    choice = relprop.choose(linear, X, family, metrics.faithfulness_estimate, finalists=2)
    assert choice.winner is None and choice.setting is None
    assert choice.composite.entries[0].rule == Zero()
    assert "The default stays" in choice.verdict and len(choice) == 3


def test_a_hundred_numbers_are_one_compiled_call():
    traces = []

    def counted(x):
        traces.append(isinstance(x, jax.core.Tracer))
        return jnp.sum(jnp.tanh(x @ W))

    few, many = [0.1, 0.2], np.linspace(0.0, 2.0, 100).tolist()
    counts = []
    for grid in (few, many):
        before = len(traces)
        family = Family(lambda gamma: Gamma(gamma), {"gamma": grid}, Zero())
        relprop.choose(counted, X, family, ABPC, at_a_time=50)
        counts.append(len(traces) - before)
    assert counts[0] == counts[1]


def test_values_are_those_of_single_evaluations():
    family = Family(lambda gamma: Gamma(gamma), {"gamma": [0.5]}, Zero())
    choice = relprop.choose(linear, X, family, ABPC, batch_size=3)
    table = relprop.evaluate(linear, {"gamma": Gamma(0.5)}, X, {"abpc": ABPC})
    order = np.random.default_rng(0).permutation(16)
    np.testing.assert_allclose(choice[0].reported, table["gamma", "abpc"][order[8:]], atol=1e-4)
    np.testing.assert_allclose(
        choice[0].searched, table["gamma", "abpc"][order[:8]].mean(), atol=1e-4
    )


def test_bad_input():
    family = Family(lambda gamma: Gamma(gamma), {"gamma": [0.0]}, Zero())
    with pytest.raises(relprop.InputError, match="3 samples are split into 2 .* and 1 to report"):
        relprop.choose(linear, X[:3], family)
    with pytest.raises(relprop.InputError, match="by one metric, got abpc, aopc"):
        relprop.choose(linear, X, family, {"abpc": "abpc", "aopc": "aopc"})
    with pytest.raises(relprop.InputError, match=r"no values to try for \['gamma'\]"):
        Family(Gamma, {"gamma": []}, Zero())
    with pytest.raises(relprop.InputError, match="need masks"):
        relprop.choose(linear, X, family, "auc")
    with pytest.raises(relprop.InputError, match="`search` must be between"):
        relprop.choose(linear, X, family, search=1.0)
    nothing = Metric(lambda R: jnp.nan * jnp.sum(R), "higher", "relevance")
    with pytest.raises(relprop.InputError, match="all its values are NaN"):
        relprop.choose(linear, X, family, {"nothing": nothing})
