"""The values of Quantus 0.6.0 for shared arrays, made by scripts/golden_quantus.py.

Quantus differs by definition, and is not followed, in: the mass of relevance of both signs, which
it divides by a sum that may be near 0 or below (ours counts positive relevance, as the paper does);
the weight of localisation, which multiplies by the share of the mask where eq. 10 of Kohlbrenner et
al. divides; monotonicity, which it finds in random relevance of this network; sensitivity-n, which
it takes over samples and not over sets. What it draws by chance cannot be drawn alike.
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relprop import metrics
from relprop.metrics.features import patches

pytestmark = pytest.mark.usefixtures("x64")
GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "data" / "quantus.npz")
REGIONS = patches((1, 8, 8), 2, axes=(1, 2))
PATCHES = {"features": REGIONS}


def logits(x):
    h = jax.lax.conv_general_dilated(x[None], GOLDEN["kernel"], (1, 1), "SAME")[0]
    h = jax.nn.relu(h + GOLDEN["bias"][:, None, None])
    return h.reshape(5, 4, 2, 4, 2).mean((2, 4)).ravel() @ GOLDEN["dense"]


METRICS = {
    "pixel_flipping": lambda f, x, R, M: metrics.pixel_flipping(f, x, R)[1:],
    "pixel_flipping_4": lambda f, x, R, M: metrics.perturbation_curve(f, x, R, steps=16)[1:],
    "region_perturbation": lambda f, x, R, M: metrics.region_perturbation(f, x, R, **PATCHES)[1:],
    "selectivity": lambda f, x, R, M: metrics.perturbation_curve(f, x, R, **PATCHES)[1:],
    "faithfulness_estimate": lambda f, x, R, M: metrics.faithfulness_estimate(f, x, R),
    "sparseness": lambda f, x, R, M: metrics.sparseness(R),
    "complexity": lambda f, x, R, M: metrics.entropy(R),
    "effective_complexity": lambda f, x, R, M: metrics.effective_complexity(R, threshold=0.3),
    "top_k": lambda f, x, R, M: metrics.top_k_intersection(R, M, k=9),
    "pointing_game": lambda f, x, R, M: metrics.pointing_game(R, M),
    "relevance_rank": lambda f, x, R, M: metrics.relevance_rank(R, M),
    "auc": lambda f, x, R, M: metrics.auc(R, M),
}
SIZES = {
    "relevance_mass": metrics.relevance_mass,
    "attribution_localisation": metrics.attribution_localisation,
    "pointing_game": metrics.pointing_game,
    "relevance_rank": metrics.relevance_rank,
    "auc": metrics.auc,
}


@pytest.fixture(scope="module")
def found():
    """All in one compilation."""

    def of_sample(x, y, R, mask):
        f = lambda x: logits(x)[y]  # noqa: E731
        one = {name: metric(f, x, R, mask) for name, metric in METRICS.items()}
        sizes = {f"positive {n}": metric(jnp.abs(R), mask) for n, metric in SIZES.items()}
        return one | sizes

    with jax.enable_x64(True):
        arrays = [jnp.asarray(GOLDEN[n]) for n in ("x", "y", "relevance", "mask")]
        return jax.jit(jax.vmap(of_sample))(*arrays)


@pytest.mark.parametrize("name", [*METRICS, *(f"positive {name}" for name in SIZES)])
def test_equal(found, name):
    # Quantus adds 1e-7 to each entry before it takes a Gini index.
    np.testing.assert_allclose(found[name], GOLDEN[name], atol=1e-6)


def test_road():
    def right(x, y, R):
        f = lambda x: (jnp.argmax(logits(x)) == y).astype(x.dtype)  # noqa: E731
        by_pixel = lambda x: f(x.transpose(2, 0, 1))  # noqa: E731
        x, R = (a.transpose(1, 2, 0) for a in (x, R))
        return metrics.road(by_pixel, x, R, percentages=(10, 40, 70), noise=0.0)

    arrays = [jnp.asarray(GOLDEN[n]) for n in ("x", "y", "relevance")]
    found = jax.jit(jax.vmap(right))(*arrays)
    np.testing.assert_allclose(found.mean(axis=0), GOLDEN["road"], atol=1e-6)
