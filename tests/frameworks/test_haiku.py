"""Haiku, its own layers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from tests.frameworks.checks import assert_gradient, assert_same_relevance, assert_structure

hk = pytest.importorskip("haiku")

pytestmark = [
    pytest.mark.frameworks,
    # Haiku converts its weights with a function that JAX is about to drop.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
X = jax.random.normal(jax.random.key(1), (2, 6, 8))
NORM = {"normaliser": 1}


def lstm(x):
    zero = jnp.zeros((2, 4))
    return hk.dynamic_unroll(hk.LSTM(4), x, hk.LSTMState(zero, zero), time_major=False)[0]


def gru(x):
    return hk.dynamic_unroll(hk.GRU(4), x, jnp.zeros((2, 4)), time_major=False)[0]


def attention(x):
    module = hk.MultiHeadAttention(2, 4, w_init=hk.initializers.RandomNormal(), name="attention")
    return module(x, x, x)


def spectral_norm(x):
    normalise = hk.SpectralNorm()
    w = hk.get_parameter("w", (8, 4), init=hk.initializers.RandomNormal())
    return x @ normalise(w, update_stats=hk.running_init())


def tied(x):
    embed = hk.Embed(12, 8, name="embed")
    positions = hk.get_parameter("positions", (6, 8), init=jnp.ones)
    return jax.nn.gelu(x + positions[None]) @ embed.embeddings.T


CASES = {
    "linear": (lambda x: hk.Linear(4)(x), {"dense": 1}, ["linear/w"]),
    "conv": (lambda x: hk.Conv1D(4, 3)(x), {"convolution": 1}, ["conv1_d/w"]),
    "spectral_norm": (spectral_norm, {"dense": 1}, ["~/w"]),
    "attention": (
        attention,
        {"dense": 4, "softmax": 1, "product": 2},
        [f"attention/{name}/w" for name in ("query", "key", "value", "linear")],
    ),
    "layer_norm": (lambda x: hk.LayerNorm(-1, True, True)(x), NORM, []),
    "rms_norm": (lambda x: hk.RMSNorm(-1)(x), NORM, []),
    "group_norm": (lambda x: hk.GroupNorm(2)(x[:, :, None]), NORM, []),
    "instance_norm": (lambda x: hk.InstanceNorm(True, True)(x[:, :, None]), NORM, []),
    "batch_norm": (lambda x: hk.BatchNorm(True, True, 0.9)(x, hk.running_init()), {}, []),
    "lstm": (lstm, {"dense": 1, "activation": 5, "gate": 3}, ["lstm/linear/w"]),
    "gru": (
        gru,
        {"dense": 3, "activation": 2, "gate": 3},
        ["gru/w_i", "gru/w_h", "gru/w_h"],
    ),
    "tied": (tied, {"activation": 1, "dense": 1}, ["embed/embeddings"]),
}


def function_of(function):
    model = hk.without_apply_rng(hk.transform_with_state(function))
    params, state = jax.jit(model.init)(jax.random.key(0), X)
    return (lambda params, x: model.apply(params, state, x)[0]), params


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


def block(x):
    h = hk.LayerNorm(-1, True, True, name="norm")(x)
    return x + hk.Linear(8, name="down")(jax.nn.gelu(hk.Linear(16, name="up")(h)))


@pytest.mark.parametrize("remat", [False, True])
def test_layer_stack_is_unrolled(remat):
    def layers(x):
        layer = hk.remat(block) if remat else block
        return hk.experimental.layer_stack(2, name="layers")(layer)(x)

    stack, stacked = function_of(layers)
    one, params = function_of(block)

    def unrolled(x):
        for i in range(2):
            x = one({name: _layer(stacked, name, i) for name in params}, x)
        return x

    assert_same_relevance(lambda x: stack(stacked, x), unrolled, X)


def _layer(stacked, name, i):
    (weights,) = (w for key, w in stacked.items() if key.split("/")[-1] == name)
    return {key: w[i] for key, w in weights.items()}
