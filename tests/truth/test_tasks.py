"""The trained networks of the planted tasks, and what is exact in them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

pytest.importorskip("safetensors")

import relprop  # noqa: E402
from relprop import metrics, presets, rules, truth  # noqa: E402
from relprop.truth import _tasks  # noqa: E402


@pytest.mark.parametrize("name", truth.names())
def test_the_network_has_learnt_its_task(name):
    task = truth.load(name)
    drawn = task.draw(64, seed=7)
    assert task.right(drawn).mean() > 0.75
    data = task.data(16, seed=7)
    assert len(data) == 16 and task.right(data).all()
    assert (data.words is not None) == (task.kind in ("encoder", "decoder", "compiled"))


def test_all_weights_are_small():
    folders = {_tasks.WEIGHTS, _tasks._DIGITS.parent}
    size = sum(f.stat().st_size for folder in folders for f in folder.glob("*.safetensors"))
    assert size < 3e6


@pytest.mark.parametrize(
    "by", [rules.Epsilon(1e-6), rules.Gamma(0.25), presets.epsilon_plus()], ids=str
)
def test_relevance_of_a_disconnected_head_stays_in_its_cell(by):
    """DiFull: the share of relevance in the cell is exactly 1."""
    task = truth.load("disconnected-grid")
    data = task.data(4)

    def explain(x, target):
        return relprop.relevance(lambda x: task.fn(task.params, x[None])[0][target], by)(x)

    R = jax.jit(jax.vmap(explain))(data.x, data.target)
    assert not np.any(np.asarray(R)[~data.mask])
    assert np.all(np.asarray(jax.vmap(metrics.relevance_mass)(R, data.mask)) == 1)


def test_evaluate_takes_a_task():
    task = truth.load("interactions")
    model = {"mlp": (task.fn, task.params)}
    table = relprop.evaluate(model, ["gamma", "random"], task.data(12), ["auc"])
    assert table["gamma", "auc"].mean() > table["random", "auc"].mean()


def test_a_model_that_is_never_right_is_refused():
    task = truth.load("interactions")
    upside_down = truth.Task(
        task.name, task.kind, task.what, lambda p, x: -task.fn(p, x), task.params, task._draw
    )
    with pytest.raises(relprop.InputError, match="is right about"):
        upside_down.data(16)


def test_names_may_be_typed():
    """Words of a text are found whatever their case, and the two hops."""
    model = truth.load_text("multi-hop")
    text = "Ada has ball Ben has cup Ada in hall Ben in attic Cem has key Cem in porch ? cup"
    found = relprop.tokens.explain(model, text)
    assert found.target_names == "class attic"
    with pytest.raises(relprop.InputError, match="no task of texts with a trained model"):
        truth.load_text("compiled-induction")
