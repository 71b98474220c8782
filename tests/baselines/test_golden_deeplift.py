"""DeepLIFT against the arrays of Captum, in float64.

Captum's max pooling is not the one that it defines where an activation comes before it, as in this
CNN: the activation notes the multiplier that arrives before the pooling has changed it, and so goes
on with the plain gradient (`Route`), which is not complete. Ours is by default; here is theirs.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from relprop import Composite, baselines
from relprop.rules import Route

from .models import GOLDEN, cases, golden, golden_explained

pytestmark = pytest.mark.usefixtures("x64")
CAPTUM = Composite().at(structure="maximum", optional=True).use(Route()).then(baselines.rescale())
explaining = functools.partial(baselines.deeplift, rules=CAPTUM, return_delta=True)
METHODS = {
    "DeepLift_zero": lambda f, baseline: explaining(f),
    "DeepLift_baseline": lambda f, baseline: explaining(f, baseline=baseline),
    "DeepLift_no_multiply": lambda f, baseline: explaining(f, multiply_by_inputs=False),
    "complete": lambda f, baseline: baselines.deeplift(f, baseline=baseline, return_delta=True),
}


@functools.cache
def explained(model: str):
    return golden_explained(model, METHODS)


@pytest.mark.parametrize(("model", "method"), cases("DeepLift_zero", "DeepLift_baseline"))
def test_equals_captum(model, method):
    for tag, results in explained(model).items():
        found, delta = results[method]
        np.testing.assert_allclose(found, golden(model, method, tag), rtol=0, atol=1e-12)
        theirs = GOLDEN[f"{model}/{method}/{tag}_delta"].sum()
        np.testing.assert_allclose(delta, theirs, atol=2e-5)  # computed in float32
        assert abs(results["complete"][1]) < 1e-12


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_multipliers_equal_those_of_captum(model):
    for tag, results in explained(model).items():
        found, _ = results["DeepLift_no_multiply"]
        expected = golden(model, "DeepLift_no_multiply", tag)
        # The other samples of the CNN are zero in places, where Captum's max pooling takes the
        # gradient of the first sample for all of them.
        samples = slice(0, 1) if model == "cnn" else slice(None)
        np.testing.assert_allclose(found[samples], expected[samples], rtol=0, atol=1e-12)
