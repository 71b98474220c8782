"""Equinox, its own layers. They take one example; `jax.vmap` makes a batch of it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from tests.frameworks.checks import assert_gradient, assert_same_relevance, assert_structure

eqx = pytest.importorskip("equinox")
nn = eqx.nn

pytestmark = pytest.mark.frameworks
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 8))
NORM = {"normaliser": 1}


class Recurrent(eqx.Module):
    cell: eqx.Module
    states: int

    def __call__(self, x):
        zero = jnp.zeros(4)

        def step(state, x):
            state = self.cell(x, state)
            return state, state

        return jax.tree.leaves(jax.lax.scan(step, (zero, zero) if self.states == 2 else zero, x))[0]


def each(model, x):
    return jax.vmap(model)(x)


def attend(model, x):
    return model(x, x, x)


def whole(model, x):
    return model(x)


def channels(model, x):
    return model(x.T)


CELL = ["params/cell/weight_ih", "params/cell/weight_hh"]
ATTENTION = [f"params/{name}_proj/weight" for name in ("query", "key", "value", "output")]
CASES = {
    "linear": (lambda: nn.Linear(8, 4, key=KEY), each, {"dense": 1}, ["params/weight"]),
    "conv": (
        lambda: nn.Conv1d(8, 4, 3, key=KEY),
        channels,
        {"convolution": 1},
        ["params/weight"],
    ),
    "weight_norm": (
        lambda: nn.WeightNorm(nn.Linear(8, 4, key=KEY)),
        each,
        {"dense": 1},
        ["params/layer/weight"],
    ),
    "attention": (
        lambda: nn.MultiheadAttention(2, 8, key=KEY),
        attend,
        {"dense": 4, "softmax": 1, "product": 2},
        ATTENTION,
    ),
    "layer_norm": (lambda: nn.LayerNorm(8), each, NORM, []),
    "rms_norm": (lambda: nn.RMSNorm(8), each, NORM, []),
    "group_norm": (lambda: nn.GroupNorm(2, 8), channels, NORM, []),
    "instance_norm": (lambda: nn.GroupNorm(8, 8), channels, NORM, []),
    "lstm": (
        lambda: Recurrent(nn.LSTMCell(8, 4, key=KEY), 2),
        whole,
        {"dense": 2, "activation": 5, "gate": 3},
        CELL,
    ),
    "gru": (
        lambda: Recurrent(nn.GRUCell(8, 4, key=KEY), 1),
        whole,
        {"dense": 2, "activation": 3, "gate": 2},  # It is written n + z * (h - n).
        CELL,
    ),
    "mlp": (
        lambda: nn.MLP(8, 4, 8, 2, jax.nn.gelu, jax.nn.silu, key=KEY),
        each,
        {"dense": 3, "activation": 3},
        [f"params/layers/{i}/weight" for i in range(3)],
    ),
    "prelu": (lambda: nn.PReLU(0.1), whole, {"activation": 1}, []),
}


@functools.cache
def function_of(name):
    build, call, *_ = CASES[name]
    params, static = eqx.partition(eqx.nn.inference_mode(build()), eqx.is_array)
    return (lambda params, x: call(eqx.combine(params, static), x)), params


@pytest.mark.parametrize("name", CASES)
def test_structure(name):
    assert_structure(*function_of(name), X, *CASES[name][2:])


@pytest.mark.parametrize("name", CASES)
def test_gradient(name):
    assert_gradient(*function_of(name), X)


def test_state_of_batch_norm():
    make = nn.make_with_state(nn.BatchNorm)
    model, state = make(8, axis_name="batch", mode="batch")
    arrays, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)

    def fn(params, x):
        arrays, state = params
        model = eqx.combine(arrays, static)
        return jax.vmap(lambda x: model(x, state)[0], axis_name="batch")(x)

    assert_structure(fn, (arrays, state), X, {}, [])
    assert_gradient(fn, (arrays, state), X)


def test_state_of_spectral_norm():
    make = nn.make_with_state(nn.SpectralNorm)
    model, state = make(nn.Linear(8, 4, key=KEY), "weight", key=KEY)
    arrays, static = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)

    def fn(params, x):
        return jax.vmap(lambda x: eqx.combine(params, static)(x, state)[0])(x)

    assert_structure(fn, arrays, X, {"dense": 1}, ["params/layer/weight"])
    assert_gradient(fn, arrays, X)


def test_tied_embedding_with_positions():
    class Model(eqx.Module):
        shared: nn.Shared
        positions: jax.Array

        def __call__(self, x):
            _, head = self.shared()
            return jax.vmap(head)(jax.nn.gelu(x + self.positions))

    embedding, head = nn.Embedding(12, 8, key=KEY), nn.Linear(8, 12, False, key=KEY)
    shared = nn.Shared((embedding, head), lambda pair: pair[1].weight, lambda pair: pair[0].weight)
    params, static = eqx.partition(Model(shared, jnp.ones((6, 8))), eqx.is_array)
    counts = {"activation": 1, "dense": 1}
    paths = ["params/shared/pytree/0/weight"]
    assert_structure(lambda params, x: eqx.combine(params, static)(x), params, X, counts, paths)


class Block(eqx.Module):
    norm: nn.LayerNorm
    mlp: nn.MLP

    def __init__(self, key):
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.MLP(8, 8, 16, 1, jax.nn.gelu, key=key)

    def __call__(self, x):
        return x + jax.vmap(lambda x: self.mlp(self.norm(x)))(x)


@pytest.mark.parametrize("remat", [False, True])
def test_scan_is_unrolled(remat):
    stacked = eqx.filter_vmap(Block)(jax.random.split(KEY, 2))
    params, static = eqx.partition(stacked, eqx.is_array)

    def layer(x, params):
        return eqx.combine(params, static)(x), None

    def unrolled(x):
        for i in range(2):
            x, _ = layer(x, jax.tree.map(lambda a, i=i: a[i], params))
        return x

    step = eqx.filter_checkpoint(layer) if remat else layer
    assert_same_relevance(lambda x: jax.lax.scan(step, x, params)[0], unrolled, X)
