"""In a picture of the computation, red is what `on_missing` chose, and nothing else."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib.colors import to_hex

import relprop
from relprop import plots

W = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)


def _red(f, **options):
    plan = relprop.inspect(f, relprop.presets.epsilon_plus(), **options)(jnp.ones((3, 3)))
    (axes,) = plots.computation(plan).axes
    return plan, [to_hex(box.get_edgecolor()) for box in axes.patches].count("#c0392b")


def test_merged_batch_norms_are_not_chosen_by_a_policy():
    scale = jnp.array([[1.0, 2.0, 3.0]])
    plan, red = _red(lambda x: jnp.sum((x @ W - 1.0) * scale))
    assert "batch_norm merged" in [op.note for op in plan]
    assert red == 0


def test_what_the_policy_chose_is_marked():
    plan, red = _red(lambda x: jnp.sum(lax.linalg.lu(x @ x.T)[0]), on_missing="gradient")
    assert [op.note for op in plan].count("on_missing") == red == 1
