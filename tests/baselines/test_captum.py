"""The same methods of Captum itself, run here on small PyTorch models, in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import Composite, baselines
from relprop.rules import MeanGradient

attr = pytest.importorskip("captum.attr", reason="Captum is an optional peer: relprop[peers]")
torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.usefixtures("x64"),
    # torchax and Captum warn about settings of their own; Captum asks for gradients it sets.
    pytest.mark.filterwarnings("ignore"),
]
TARGET = 1


class Net(torch.nn.Module):
    """Each kind of layer that Captum's DeepLIFT has a rule for, none next to another one.

    Where two of them share a tensor, Captum takes the multiplier before the second has changed it.
    """

    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(16, 6),
            nn.ELU(),
            nn.Linear(6, 5),
            nn.Softplus(),
            nn.Linear(5, 3),
        )

    def forward(self, x):
        return self.layers(x)


@functools.cache
def model(softmax: bool = False):
    """A PyTorch module, its score as a JAX function, one input and one baseline."""
    torch.manual_seed(0)
    module = Net().double().eval()
    if softmax:
        module.layers.append(torch.nn.Softmax(dim=-1).eval())
    fn, params = relprop.interop.from_torch(module)
    x, baseline = torch.randn(2, 1, 2, 4, 4, dtype=torch.float64)

    def score(x):
        with jax.numpy_rank_promotion("allow"):
            return fn(params, x)[0, TARGET]

    return module, score, x, baseline


def compare(theirs, ours, tolerance=1e-10):
    module, score, x, baseline = model()
    found = jax.jit(ours(score, jnp.asarray(baseline.numpy())))(jnp.asarray(x.numpy()))
    expected = theirs(module, x, baseline).detach().numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


# Captum rounds the weights of its integrals to float32.
@pytest.mark.parametrize("method", ["gausslegendre", "riemann_left", "riemann_trapezoid"])
def test_integrated_gradients(method):
    compare(
        lambda module, x, baseline: attr.IntegratedGradients(module).attribute(
            x, baseline, target=TARGET, method=method, n_steps=20
        ),
        lambda f, baseline: baselines.integrated_gradients(
            f, baseline=baseline, method=method, steps=20
        ),
        1e-7,
    )


def test_deeplift():
    compare(
        lambda module, x, baseline: attr.DeepLift(module).attribute(x, baseline, target=TARGET),
        lambda f, baseline: baselines.deeplift(f, baseline=baseline),
    )


def test_deeplift_of_probabilities():
    module, score, x, baseline = model(softmax=True)
    start, at = jnp.asarray(baseline.numpy()), jnp.asarray(x.numpy())
    expected = attr.DeepLift(module).attribute(x, baseline, target=TARGET).detach().numpy()
    np.testing.assert_allclose(baselines.deeplift(score, baseline=start)(at), expected, atol=1e-10)
    exact = Composite().at(structure="softmax").use(MeanGradient()).then(baselines.rescale())
    found = baselines.deeplift(score, baseline=start, rules=exact)(at)
    np.testing.assert_allclose(found.sum(), score(at) - score(start), rtol=1e-6)


def test_occlusion():
    compare(
        lambda module, x, baseline: attr.Occlusion(module).attribute(
            x, (2, 3, 2), strides=(1, 2, 1), baselines=baseline, target=TARGET
        ),
        lambda f, baseline: baselines.occlusion(
            f, window=(1, 2, 3, 2), strides=(1, 1, 2, 1), baseline=baseline, batch_size=4
        ),
        1e-8,  # theirs adds up in float32
    )


MASK = np.arange(4)[:, None] // 2 * 2 + np.arange(4) // 2


def test_feature_ablation():
    compare(
        lambda module, x, baseline: attr.FeatureAblation(module).attribute(
            x, baseline, target=TARGET, feature_mask=torch.tensor(MASK)
        ),
        lambda f, baseline: baselines.feature_ablation(
            f, baseline=baseline, feature_mask=np.broadcast_to(MASK, (1, 2, 4, 4))
        ),
    )


def test_kernel_shap():
    def ours(f, baseline):
        mask = np.broadcast_to(MASK, (1, 2, 4, 4))
        return baselines.kernel_shap(f, baseline=baseline, feature_mask=mask)

    # All 24 orders of the 4 features, in float32 there; their Kernel SHAP itself is a random one.
    options = dict(target=TARGET, feature_mask=torch.tensor(MASK))
    compare(lambda net, x, base: attr.ShapleyValues(net).attribute(x, base, **options), ours, 1e-6)
