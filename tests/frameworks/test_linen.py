"""Flax Linen, its own layers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from tests.frameworks.checks import assert_gradient, assert_same_relevance, assert_structure

nn = pytest.importorskip("flax.linen")

pytestmark = pytest.mark.frameworks
X = jax.random.normal(jax.random.key(1), (2, 6, 8))
NORM = {"normaliser": 1}


class Of(nn.Module):
    """A module that is a function of modules."""

    function: object

    @nn.compact
    def __call__(self, x):
        return self.function(x)


def kernels(*names):
    return [f"params/params/{name}kernel" for name in names]


CASES = {
    "dense": (lambda: nn.Dense(4), {"dense": 1}, kernels("")),
    "bfloat16": (lambda: nn.Dense(4, dtype=jnp.bfloat16), {"dense": 1}, kernels("")),
    "conv": (lambda: nn.Conv(4, (3,)), {"convolution": 1}, kernels("")),
    "weight_norm": (
        lambda: Of(lambda x: nn.WeightNorm(nn.Dense(4, name="dense"))(x)),
        {"dense": 1},
        kernels("dense/"),
    ),
    "spectral_norm": (
        lambda: Of(lambda x: nn.SpectralNorm(nn.Dense(4, name="dense"))(x, update_stats=False)),
        {"dense": 1},
        kernels("dense/"),
    ),
    "attention": (
        lambda: nn.MultiHeadDotProductAttention(num_heads=2),
        {"dense": 4, "softmax": 1, "product": 2},
        kernels("query/", "key/", "value/", "out/"),
    ),
    "layer_norm": (nn.LayerNorm, NORM, []),
    "rms_norm": (nn.RMSNorm, NORM, []),
    "group_norm": (lambda: nn.GroupNorm(2), NORM, []),
    "instance_norm": (nn.InstanceNorm, NORM, []),
    "batch_norm": (lambda: nn.BatchNorm(use_running_average=True), {}, []),
    "lstm": (
        lambda: nn.RNN(nn.LSTMCell(4, name="cell")),
        {"dense": 8, "activation": 5, "gate": 3},
        kernels(*(f"cell/{a}{b}/" for b in "ifgo" for a in "ih")),
    ),
    "gru": (
        lambda: nn.RNN(nn.GRUCell(4, name="cell")),
        {"dense": 6, "activation": 4, "gate": 3},  # sigmoid twice, tanh, and 1 - z
        kernels(*(f"cell/{a}{b}/" for b in "rzn" for a in "ih")),
    ),
    "activations": (
        lambda: Of(lambda x: nn.silu(nn.Dense(4)(nn.Dropout(0.5)(nn.gelu(x), True)))),
        {"activation": 2, "dense": 1},
        kernels("Dense_0/"),
    ),
    "glu": (
        lambda: Of(lambda x: nn.silu(nn.Dense(4, name="gate")(x)) * nn.Dense(4, name="up")(x)),
        {"dense": 2, "activation": 1, "gate": 1},
        kernels("gate/", "up/"),
    ),
}


def function_of(module):
    return lambda params, x: module.apply(params, x), jax.jit(module.init)(jax.random.key(0), X)


@functools.cache
def case(name):
    return function_of(CASES[name][0]())


@pytest.mark.parametrize("name", CASES)
def test_structure(name):
    assert_structure(*case(name), X, *CASES[name][1:])


# In bfloat16 the two round differently.
@pytest.mark.parametrize("name", [name for name in CASES if name != "bfloat16"])
def test_gradient(name):
    assert_gradient(*case(name), X)


def test_tied_embedding_with_positions():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            positions = self.param("positions", nn.initializers.ones, (6, 8))
            return nn.Embed(12, 8, name="embed").attend(nn.gelu(x + positions[None]))

    apply, params = function_of(Model())
    counts = {"activation": 1, "dense": 1}
    assert_structure(apply, params, X, counts, ["params/params/embed/embedding"])


def test_optimized_lstm_has_the_path_of_one_of_its_kernels():
    apply, params = function_of(nn.RNN(nn.OptimizedLSTMCell(4, name="cell")))
    paths = kernels("cell/hi/", "cell/ii/")  # It concatenates those of the four gates.
    counts = {"dense": 2, "activation": 5, "gate": 3}
    assert_structure(apply, params, X, counts, paths)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        h = nn.gelu(nn.Dense(16, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(8, name="down")(h), None


@pytest.mark.parametrize("remat", [False, True])
def test_scan_is_unrolled(remat):
    layer = nn.remat(Block) if remat else Block
    stack = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)()
    stacked = jax.jit(stack.init)(jax.random.key(0), X, None)

    def unrolled(x):
        for i in range(2):
            x, _ = Block().apply(jax.tree.map(lambda a, i=i: a[i], stacked), x)
        return x

    assert_same_relevance(lambda x: stack.apply(stacked, x, None)[0], unrolled, X)


def test_one_path_for_scanned_layers():
    stack = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    module = stack(name="layers")
    params = jax.jit(module.init)(jax.random.key(0), X, None)
    paths = kernels("up/", "down/")
    counts = {"dense": 2, "normaliser": 1, "activation": 1}
    assert_structure(lambda params, x: module.apply(params, x, None)[0], params, X, counts, paths)
