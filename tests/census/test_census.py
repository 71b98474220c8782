"""The promises of relprop for models as people use them; the census itself is `make census`.

The fast tier has a model of each kind. RELPROP_CENSUS=all runs every model, which takes half an
hour and packages that are in no extra (docs/how-to/census.md).
"""

from __future__ import annotations

import os

import jax
import numpy as np
import pytest

from census.entry import Entry, Model, counts
from census.measure import measure
from census.registry import chosen, models

pytestmark = [
    pytest.mark.frameworks,
    # The libraries warn about each other and about settings that are none of ours.
    pytest.mark.filterwarnings("ignore"),
]
TIER = "all" if os.environ.get("RELPROP_CENSUS") == "all" else "fast"


@pytest.mark.parametrize("entry", chosen(tier=TIER), ids=lambda entry: entry.label)
def test_promises_are_kept(entry):
    assert measure(entry).broken() == []


def test_names_are_unique_and_enough():
    labels = [entry.label for entry in models()]
    assert len(labels) == len(set(labels))
    assert len(labels) >= 220


def wrong(**changes):
    """A small model of which something is not as it should be."""
    x = np.ones(3, np.float32)
    parts = {
        "function": lambda params, x: params * x,
        "params": np.float32(2.0),
        "x": x,
        "reference": 2.0 * x,
        "expected": counts(),
    }
    return Entry("wrong", "test", lambda: Model(**{**parts, **changes}))


def test_a_faultless_model():
    row = measure(wrong())
    assert row.broken() == []
    assert (row.equations, row.active, row.coverage) == (3, 3, 1.0)
    assert row.balances["attn_lrp"].relative_gap < 1e-6


def impossible(params, x):
    return jax.lax.while_loop(lambda x: x[0] < 5.0, lambda x: 2.0 * x, params * x)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference": np.array([2.0, 2.0, 2.1])}, "forward differs by"),
        ({"expected": counts(norm=1)}, "norm: found 0 of 1"),
        ({"function": impossible, "reference": None}, "MissingRuleError"),
        ({"function": lambda params, x: x / 0.0}, "not finite"),
        ({"params": None}, "TypeError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_promises_are_told(changes, words):
    assert any(words in promise for promise in measure(wrong(**changes)).broken())
