"""PyTorch, its own layers, through `relprop.interop.from_torch`."""

from __future__ import annotations

import functools
import importlib.util

import jax
import pytest

from relprop.interop import from_torch
from tests.frameworks.checks import assert_gradient, assert_same_relevance, assert_structure

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = [
    pytest.mark.frameworks,
    # torchax warns about settings of torch.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(importlib.util.find_spec("torchax") is None, reason="needs torchax"),
]
X = jax.random.normal(jax.random.key(1), (2, 6, 8))
NORM = {"normaliser": 1}
STEPS = 6  # torchax unrolls recurrent layers.


class Of(nn.Module):
    """A module that calls another one."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x):
        return self.call(self.layer, x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.positions = nn.Parameter(torch.ones(6, 8))
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(nn.functional.gelu(x + self.positions))


def parametrised(kind, layer):
    return getattr(nn.utils.parametrizations, kind)(layer)


ATTENTION = {"dense": 2, "softmax": 1, "product": 2}
CASES = {
    "linear": (lambda: nn.Linear(8, 4), {"dense": 1}, ["weight"]),
    "conv": (lambda: nn.Conv1d(6, 4, 3), {"convolution": 1}, ["weight"]),
    "weight_norm": (
        lambda: parametrised("weight_norm", nn.Linear(8, 4)),
        {"dense": 1},
        ["parametrizations.weight.original1"],
    ),
    "spectral_norm": (
        lambda: parametrised("spectral_norm", nn.Linear(8, 4)),
        {"dense": 1},
        ["parametrizations.weight.original"],
    ),
    "attention": (
        lambda: Of(
            nn.MultiheadAttention(8, 2, batch_first=True),
            lambda m, x: m(x, x, x, need_weights=False)[0],
        ),
        ATTENTION,
        ["layer.in_proj_weight", "layer.out_proj.weight"],
    ),
    "attention_with_weights": (
        lambda: Of(nn.MultiheadAttention(8, 2, batch_first=True), lambda m, x: m(x, x, x)[0]),
        ATTENTION,
        ["layer.in_proj_weight", "layer.out_proj.weight"],
    ),
    "encoder_layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu"),
        {"dense": 4, "softmax": 1, "product": 2, "normaliser": 2, "activation": 1},
        ["self_attn.in_proj_weight", "self_attn.out_proj.weight"]
        + ["linear1.weight", "linear2.weight"],
    ),
    "layer_norm": (lambda: nn.LayerNorm(8), NORM, []),
    "rms_norm": (lambda: nn.RMSNorm(8), NORM, []),
    "group_norm": (lambda: nn.GroupNorm(2, 6), NORM, []),
    "instance_norm": (lambda: nn.InstanceNorm1d(6, affine=True), NORM, []),
    "batch_norm": (lambda: nn.BatchNorm1d(6), {}, []),
    "lstm": (
        lambda: Of(nn.LSTM(8, 4, batch_first=True), lambda m, x: m(x)[0]),
        # At the first step the state is zero: no input reaches its product and its gate.
        {"dense": 2 * STEPS - 1, "activation": 5 * STEPS - 1, "gate": 3 * STEPS - 1},
        ["layer.weight_ih_l0"] + ["layer.weight_hh_l0", "layer.weight_ih_l0"] * (STEPS - 1),
    ),
    "activations": (
        lambda: nn.Sequential(nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 4), nn.SiLU()),
        {"activation": 2, "dense": 1},
        ["2.weight"],
    ),
    "tied": (Tied, {"activation": 1, "dense": 1}, ["embed.weight"]),
}


def function_of(build):
    torch.manual_seed(0)
    return from_torch(build().eval())


@functools.cache
def case(name):
    return function_of(CASES[name][0])


@pytest.mark.parametrize("name", CASES)
def test_structure(name):
    _, counts, paths = CASES[name]
    assert_structure(*case(name), X, counts, [f"params/{path}" for path in paths])


@pytest.mark.parametrize("name", CASES)
def test_gradient(name):
    assert_gradient(*case(name), X)


def test_scan_is_unrolled():
    """One module with stacked parameters in `lax.scan` is the modules one after the other."""
    modules = [nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()).eval() for _ in range(2)]
    fns, params = zip(*map(from_torch, modules), strict=True)
    stacked = jax.tree.map(lambda *arrays: jax.numpy.stack(arrays), *params)
    scanned = lambda x: jax.lax.scan(lambda x, p: (fns[0](p, x), None), x, stacked)[0]  # noqa: E731
    assert_same_relevance(scanned, lambda x: fns[1](params[1], fns[0](params[0], x)), X)
