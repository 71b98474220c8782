"""Pruning by relevance, against what it is by definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.pruning import accuracy_after, masks

RNG = np.random.default_rng(0)
TREE = {"a": RNG.normal(size=(3, 4)), "b": None, "c": [RNG.normal(size=5), RNG.normal(size=())]}


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 17 / 18, 1])
def test_the_least_relevant_go(share):
    found = masks(TREE, share)
    assert found["b"] is None
    strength, keep = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
        for tree in (jax.tree.map(np.abs, TREE), found)
    )
    assert (~keep).sum() == round(share * 18)
    assert max(strength[~keep], default=0) <= min(strength[keep], default=np.inf)


def test_one_none_leaves_out_all_below_it():
    params = {"w": jnp.eye(3), "b": [jnp.zeros(3), {"c": jnp.zeros(())}]}

    def predict(params, x):
        return x @ params["w"] + params["b"][0] + params["b"][1]["c"]

    relevance = {"w": np.eye(3), "b": None}
    with jax.numpy_rank_promotion("allow"):
        found = accuracy_after(predict, params, relevance, jnp.eye(3), np.arange(3), (2 / 3,))
    assert found.weights == (6,) and found.accuracy == (1.0,)


def test_of_equals_the_first():
    assert masks(np.zeros(4), 0.5).tolist() == [False, False, True, True]


def test_relevance_of_parameters_of_a_dataset(tmp_path):
    """Weights into nothing go first, and without them the model does as well as before."""
    pytest.importorskip("zarr", reason="stores are an extra")
    w = np.concatenate([2 * np.eye(3), np.zeros((3, 3))], 0).astype(np.float32)
    w[3:] = 5.0  # of features that are 0, large as they are
    x = np.concatenate([np.eye(3), np.zeros((3, 3))], 1).astype(np.float32)
    params = {"w": jnp.asarray(w), "bias": jnp.zeros(3)}

    def predict(params, x):
        return x @ params["w"] + params["bias"]

    found = relprop.jobs.explain(
        lambda params, x: jnp.max(x @ params["w"] + params["bias"]),
        relprop.rules.Zero(),
        x,
        tmp_path / "a",
        batch_size=8,
        params=params,
        places=relprop.places.Parameter("params/w"),
        reductions={"w": relprop.jobs.Total(of="places/params%2Fw", absolute=True)},
        progress=False,
    )
    relevance = {"w": found.reductions["w"], "bias": None}
    with jax.numpy_rank_promotion("allow"):
        pruned = accuracy_after(predict, params, relevance, x, np.arange(3), (0, 5 / 6, 1))
        by_size = accuracy_after(
            predict, params, {"w": np.abs(w), "bias": None}, x, np.arange(3), (0.5,), batch_size=2
        )
    assert pruned.accuracy == (1.0, 1.0, 1 / 3) and pruned.weights == (0, 15, 18)
    assert by_size.accuracy == (1 / 3,)
    assert "83%     15       1.000" in str(pruned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": (1.5,)}, "from 0 to 1"),
        ({"shares": (float("nan"),)}, "from 0 to 1"),
        ({"relevance": {"w": np.zeros((2, 2))}}, r"no weights: \['w'\] \[2, 2\]"),
        ({"relevance": {"v": np.zeros((2, 3))}}, "no weights"),
        ({"relevance": {"w": np.full((2, 3), np.nan)}}, "finite"),
        ({"relevance": {"w": None}}, "must be there"),
        ({"labels": np.zeros(3, int)}, "a label for each"),
        ({"params": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}}, r"no relevance: \['b'\]"),
        ({"params": {"w": jnp.ones((2, 3)), "b": [jnp.ones(3)]}}, r"no relevance: \['b'\]\[0\]"),
    ],
)
def test_refused(change, message):
    given = {
        "predict": lambda p, x: x @ p["w"],
        "params": {"w": jnp.ones((2, 3))},
        "relevance": {"w": np.ones((2, 3))},
        "inputs": jnp.ones((4, 2)),
        "labels": np.zeros(4, int),
    }
    with pytest.raises(relprop.InputError, match=message):
        accuracy_after(**(given | change))
