"""Flax NNX, its own layers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from tests.frameworks.checks import assert_gradient, assert_same_relevance, assert_structure

nnx = pytest.importorskip("flax.nnx")

pytestmark = pytest.mark.frameworks
X = jax.random.normal(jax.random.key(1), (2, 6, 8))
PROJECTIONS = [f"params/{name}/kernel/value" for name in ("query", "key", "value", "out")]
LSTM = [f"params/cell/{a}{b}/kernel/value" for b in "ifgo" for a in "ih"]
LSTM[2] = "params/cell/if_/kernel/value"

CASES = {
    "linear": (lambda r: nnx.Linear(8, 4, rngs=r), {"dense": 1}, ["params/kernel/value"]),
    "linear_general": (
        lambda r: nnx.LinearGeneral(8, (2, 4), rngs=r),
        {"dense": 1},
        ["params/kernel/value"],
    ),
    "bfloat16": (
        lambda r: nnx.Linear(8, 4, dtype=jnp.bfloat16, rngs=r),
        {"dense": 1},
        ["params/kernel/value"],
    ),
    "conv": (lambda r: nnx.Conv(8, 4, (3,), rngs=r), {"convolution": 1}, ["params/kernel/value"]),
    "lora": (
        lambda r: nnx.LoRA(8, 2, 4, rngs=r, b_initializer=nnx.initializers.normal(0.5)),
        {"dense": 2},
        ["params/lora_a/value", "params/lora_b/value"],
    ),
    "weight_norm": (
        lambda r: nnx.WeightNorm(nnx.Linear(8, 4, rngs=r), rngs=r),
        {"dense": 1},
        ["params/layer_instance/kernel/value"],
    ),
    "spectral_norm": (
        lambda r: nnx.SpectralNorm(nnx.Linear(8, 4, rngs=r), rngs=r),
        {"dense": 1},
        ["params/layer_instance/kernel/value"],
    ),
    "attention": (
        lambda r: nnx.MultiHeadAttention(2, 8, decode=False, rngs=r),
        {"dense": 4, "softmax": 1, "product": 2},
        PROJECTIONS,
    ),
    "layer_norm": (lambda r: nnx.LayerNorm(8, rngs=r), {"normaliser": 1}, []),
    "rms_norm": (lambda r: nnx.RMSNorm(8, rngs=r), {"normaliser": 1}, []),
    "group_norm": (lambda r: nnx.GroupNorm(8, num_groups=2, rngs=r), {"normaliser": 1}, []),
    "instance_norm": (lambda r: nnx.InstanceNorm(8, rngs=r), {"normaliser": 1}, []),
    "batch_norm": (lambda r: nnx.BatchNorm(8, rngs=r), {}, []),
    "prelu": (lambda r: nnx.PReLU(), {"activation": 1}, []),
    "lstm": (
        lambda r: nnx.RNN(nnx.LSTMCell(8, 4, rngs=r)),
        {"dense": 8, "activation": 5, "gate": 3},
        LSTM,
    ),
    "gru": (
        lambda r: nnx.RNN(nnx.GRUCell(8, 4, rngs=r)),
        {"dense": 2, "activation": 4, "gate": 3},  # sigmoid twice, tanh, and 1 - z
        ["params/cell/dense_i/kernel/value", "params/cell/dense_h/kernel/value"],
    ),
    "mlp": (
        lambda r: nnx.Sequential(
            nnx.Linear(8, 4, rngs=r),
            nnx.gelu,
            nnx.Dropout(0.5, rngs=r),
            nnx.Linear(4, 4, rngs=r),
            nnx.silu,
        ),
        {"dense": 2, "activation": 2},
        ["params/layers/0/kernel/value", "params/layers/3/kernel/value"],
    ),
}


def function_of(model):
    model.eval()
    graphdef, params = nnx.split(model)
    return lambda params, x: nnx.merge(graphdef, params, copy=True)(x), params


@functools.cache
def case(name):
    return function_of(nnx.jit(CASES[name][0])(nnx.Rngs(0)))


@pytest.mark.parametrize("name", CASES)
def test_structure(name):
    assert_structure(*case(name), X, *CASES[name][1:])


# In bfloat16 the two round differently.
@pytest.mark.parametrize("name", [name for name in CASES if name != "bfloat16"])
def test_gradient(name):
    assert_gradient(*case(name), X)


def test_tied_embedding_with_positions():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(12, 8, rngs=rngs)
            self.positions = nnx.Param(jnp.ones((6, 8)))

        def __call__(self, x):
            return self.embed.attend(nnx.gelu(x + self.positions[...][None]))

    fn, params = function_of(Model(nnx.Rngs(0)))
    counts = {"activation": 1, "dense": 1}
    assert_structure(fn, params, X, counts, ["params/embed/embedding/value"])


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 8, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


@pytest.mark.parametrize("remat", [False, True])
def test_scan_is_unrolled(remat):
    create = nnx.vmap(Block, in_axes=0, out_axes=0)
    keys = jax.random.split(jax.random.key(3), 2)
    graphdef, stacked = nnx.split(create(nnx.Rngs(params=keys)))

    def layer(x, params):
        return nnx.merge(graphdef, params, copy=True)(x), None

    def unrolled(x):
        for i in range(2):
            x, _ = layer(x, jax.tree.map(lambda a, i=i: a[i], stacked))
        return x

    step = jax.checkpoint(layer) if remat else layer
    assert_same_relevance(lambda x: jax.lax.scan(step, x, stacked)[0], unrolled, X)


def test_nnx_scan_is_unrolled():
    create = nnx.vmap(Block, in_axes=0, out_axes=0)
    layers = create(nnx.Rngs(params=jax.random.split(jax.random.key(3), 2)))
    graphdef, stacked = nnx.split(layers)

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def scanned(x, layer):
        return layer(x)

    def unrolled(x):
        for i in range(2):
            x = nnx.merge(graphdef, jax.tree.map(lambda a, i=i: a[i], stacked), copy=True)(x)
        return x

    assert_same_relevance(
        lambda x: scanned(x, nnx.merge(graphdef, stacked, copy=True)), unrolled, X
    )
