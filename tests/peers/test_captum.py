"""Captum itself, on its own LRP rules and random models (`pip install -e '.[test,peers]'`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import presets
from relprop.interop import from_torch
from relprop.rules import Epsilon, Reweighted

attr = pytest.importorskip("captum.attr", reason="Captum comes with the extra `peers`")
rules = pytest.importorskip(
    "captum.attr._utils.lrp_rules", reason="Captum comes with the extra `peers`"
)
torch = pytest.importorskip("torch", reason="PyTorch comes with the extra `torch`")

pytestmark = [pytest.mark.frameworks, pytest.mark.usefixtures("x64")]


class Flatten(torch.nn.Module):
    """Captum refuses `torch.nn.Flatten`."""

    def __init__(self, body, head):
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def mlp():
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5), torch.nn.Tanh(),
        torch.nn.Linear(5, 3),
    ), (3, 6)  # fmt: skip


def cnn():
    body = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.MaxPool2d(2), torch.nn.Conv2d(4, 3, 2, bias=False), torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
    )  # fmt: skip
    with torch.no_grad():
        norm = body[1]
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return Flatten(body, torch.nn.Linear(3, 3)), (3, 2, 7, 7)


RULES = {
    "epsilon": (lambda: rules.EpsilonRule(0.1), Epsilon(0.1)),
    "gamma": (lambda: rules.GammaRule(0.5), Reweighted(1.5)),
    "gamma without bias": (
        lambda: rules.GammaRule(0.5, set_bias_to_zero=True),
        Reweighted(1.5, bias="ignore"),
    ),
    "alpha 1, beta 0": (lambda: rules.Alpha1_Beta0_Rule(), Reweighted(1.0, 0.0)),
}


@pytest.mark.parametrize("model", [mlp, cnn])
def test_lrp(model):
    torch.manual_seed(3)
    module, shape = model()
    module = module.double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    target = torch.tensor([2, 0, 1])
    f, params = from_torch(module)

    @jax.jit
    def explain(x, params):
        results = {}
        for name, (_, rule) in RULES.items():
            with jax.numpy_rank_promotion("allow"):
                y, back = relprop.vrp(lambda x: f(params, x), x, rules=presets.captum(rule))
            results[name] = back(y * jax.nn.one_hot(target.numpy(), 3))[0]
        return results

    found = explain(jnp.asarray(x.detach().numpy()), params)
    for name, (make, _) in RULES.items():
        for layer in module.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                layer.rule = make()  # Captum removes it after use.
        expected = attr.LRP(module).attribute(x.requires_grad_(), target=target).detach().numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[name], expected, atol=1e-9 * scale, err_msg=name)
