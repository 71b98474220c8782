"""Gradients and integrated gradients against the arrays of Captum, in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relprop import baselines
from relprop._batches import Batches
from relprop.baselines import _integrated

from .models import GOLDEN, cases, golden, golden_explained, golden_model

pytestmark = pytest.mark.usefixtures("x64")
integrated = functools.partial(baselines.integrated_gradients, batch_size=10)
METHODS = {
    "Gradient": lambda f, baseline: baselines.gradient(f),
    "Saliency_abs": lambda f, baseline: baselines.gradient(f, abs=True),
    "InputXGradient": lambda f, baseline: baselines.gradient_times_input(f),
    "IG50_zero": lambda f, baseline: integrated(f),
    "IG50_baseline": lambda f, baseline: integrated(f, baseline=baseline),
    "IG50_riemann_trapezoid": lambda f, baseline: integrated(f, method="riemann_trapezoid"),
    "IG50_no_multiply": lambda f, baseline: integrated(f, multiply_by_inputs=False),
}


@functools.cache
def explained(model: str):
    return golden_explained(model, METHODS)


@pytest.mark.parametrize(("model", "method"), cases(*METHODS))
def test_equals_captum(model, method):
    for tag, found in explained(model).items():
        expected = golden(model, method, tag)
        # The weights of Captum's integral are rounded to float32; see the next test.
        tolerance = 4e-9 if "IG50" in method and "trapezoid" not in method else 1e-12
        np.testing.assert_allclose(found[method], expected, rtol=0, atol=tolerance)


def test_equals_captum_with_weights_in_single_precision():
    score, x, baseline = golden_model("mlp")
    start = jnp.broadcast_to(baseline, x.shape)
    positions, weights = _integrated.quadrature("gausslegendre", 50)
    rule = (positions, weights.astype(np.float32))

    @jax.jit
    def slope_for(target):
        f = lambda x: score(x, target)  # noqa: E731
        return _integrated.mean_gradient(f, start, x - start, rule, Batches())

    for tag in ("argmax", "other"):
        target = jnp.asarray(GOLDEN[f"mlp/target_{tag}"])
        slope = slope_for(target)
        expected = golden("mlp", "IG50_baseline", tag)
        np.testing.assert_allclose((x - start) * slope, expected, rtol=0, atol=1e-12)


def test_the_delta_is_that_of_captum():
    score, x, _ = golden_model("mlp")
    explain = baselines.integrated_gradients(score, return_delta=True)

    def single(x, target):
        return explain(x[None], target[None])[1]

    got = jax.jit(jax.vmap(single))(x, jnp.asarray(GOLDEN["mlp/target_argmax"]))
    # Theirs is computed in float32.
    np.testing.assert_allclose(got, GOLDEN["mlp/IG50_zero/argmax_delta"], atol=2e-6)
