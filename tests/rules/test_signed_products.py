"""Gamma, alpha-beta and z+ where layers are large: their results, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import rules
from relprop._core import cpu
from relprop.rules import magnitudes
from tests import oracles

EPS = 1e-3
TERMS = 40  # enough for the form with |x||w|
CASES = {
    "gamma": (rules.Gamma(0.6, EPS), oracles.gamma, {"gamma": 0.6, "eps": EPS}),
    "alpha2-beta1": (
        rules.AlphaBeta(2.0, 1.0, EPS), oracles.alpha_beta, {"alpha": 2.0, "beta": 1.0, "eps": EPS},
    ),
    "z+": (rules.ZPlus(EPS), oracles.z_plus, {"eps": EPS}),
    "z-": (
        rules.AlphaBeta(0.0, -1.0, EPS), oracles.alpha_beta,
        {"alpha": 0.0, "beta": -1.0, "eps": EPS},
    ),
}  # fmt: skip


def _dense():
    """Inputs of both signs and zeros; outputs of both signs, all supported, and all opposed."""
    random = np.random.default_rng(0)
    x = random.normal(size=(3, TERMS))
    x[1, ::3], x[2] = 0.0, np.abs(x[2])
    weight = random.normal(size=(TERMS, 6))
    weight[:, 4], weight[:, 5] = np.abs(weight[:, 4]), -np.abs(weight[:, 5])
    return lambda x: x @ weight, x, np.array([0.5, -0.5, 0.0, 0.3, -0.2, 1e-3])


def _convolution():
    random = np.random.default_rng(1)
    kernel = random.normal(size=(3, 3, 12, 2))

    def convolved(x):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)

    return convolved, random.normal(size=(3, 4, 4, 12)), np.array([0.5, -0.5])


@pytest.fixture(params=[2, 4])
def in_parts(request, monkeypatch):
    """Weights count as large from the first entry on; parts of so many of six outputs."""
    monkeypatch.setattr(cpu, "LARGE", 1)
    monkeypatch.setattr(magnitudes, "PART", request.param * TERMS)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("make", [_dense, _convolution])
def test_weights_in_parts_are_as_exact(x64, in_parts, name, make):
    test_a_large_layer_is_as_exact_as_its_definition(x64, name, make)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("make", [_dense, _convolution])
def test_a_large_layer_is_as_exact_as_its_definition(x64, name, make):
    rule, oracle, params = CASES[name]
    function, x, bias = make()
    matrix = oracles.as_matrix(lambda xs: function(xs[0][None]), [x.shape[1:]])
    size = matrix.shape[1]
    layer = oracles.Layer(np.asarray(matrix), np.tile(bias, size // len(bias)), matrix != 0)
    seed = np.random.default_rng(2).normal(size=(3, size))

    @jax.jit
    def explained(x, seed):
        def biased(x):
            z = function(x)
            return z + jnp.broadcast_to(bias, z.shape)

        z, back = relprop.vrp(biased, x, rules=rule)
        return back(seed.reshape(z.shape))[0]

    rows = zip(x.reshape(3, -1), seed, strict=True)
    expected = np.stack([oracle(row, layer, r, **params).inputs for row, r in rows])
    found = explained(x, seed).reshape(3, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", [rules.ZPlus(1e-9), rules.AlphaBeta(), rules.ZBox(0.0, 1.0)])
def test_the_rounding_of_a_model_in_half_precision_is_no_contribution(x64, rule):
    """What is small beside the output is compared with the output before it was rounded."""
    random = np.random.default_rng(0)
    x = jnp.asarray(1 - 1e-2 * random.uniform(size=(8, 256)), jnp.bfloat16)
    weight = jnp.asarray((random.normal(size=(256, 16)) - 2.0) / 16, jnp.bfloat16)

    # Not compiled as a whole: XLA would be free to leave the rounding out.
    def explained(x, weight):
        z, back = relprop.vrp(lambda x: x @ weight, x, rules=rule)
        return back(jnp.ones_like(z, dtype=jnp.float64))[0]

    expected = explained(x.astype(jnp.float64), weight.astype(jnp.float64))
    found = explained(x, weight)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


WIDTH, BATCH, DEPTH = 256, 32, 4
WEIGHT = 4 * WIDTH * WIDTH  # bytes; there are DEPTH of them


def _mlp(x, weights):
    for weight in weights:
        x = jnp.tanh(x @ weight)
    return x.sum()


def _compiled(function, *batch):
    struct = jax.ShapeDtypeStruct
    weights = [struct((WIDTH, WIDTH), jnp.float32)] * DEPTH
    x = struct((*(batch or (BATCH,)), WIDTH), jnp.float32)
    return jax.jit(function).lower(x, weights).compile()


@pytest.mark.parametrize("name", CASES)
def test_three_products_beside_the_forward_pass_and_one_copy_of_a_weight(name):
    rule, *_ = CASES[name]
    gradient = _compiled(jax.value_and_grad(_mlp))
    explained = _compiled(relprop.value_and_relevance(_mlp, rule))
    assert explained.cost_analysis()["flops"] <= 2.1 * gradient.cost_analysis()["flops"]
    assert _memory(explained) <= 1.5 * WEIGHT + 2 * _memory(gradient)


def test_of_a_large_weight_there_is_no_whole_copy(monkeypatch):
    explain = relprop.value_and_relevance(_mlp, rules.ZPlus())
    whole = _compiled(explain, 4)
    monkeypatch.setattr(cpu, "LARGE", WIDTH * WIDTH)
    monkeypatch.setattr(magnitudes, "PART", WIDTH * WIDTH // 8)
    # A new function, since JAX remembers what it has compiled.
    in_parts = _compiled(lambda *args: explain(*args), 4)
    assert _memory(in_parts) < _memory(whole) - WEIGHT // 2


def test_a_batch_by_vmap_shares_what_is_made_of_weights():
    gradient = _compiled(jax.vmap(jax.value_and_grad(_mlp), in_axes=(0, None)), 2, BATCH)
    explain = relprop.value_and_relevance(_mlp, rules.ZPlus())
    explained = _compiled(jax.vmap(explain, in_axes=(0, None)), 2, BATCH)
    assert _memory(explained) <= 1.5 * WEIGHT + 2 * _memory(gradient)


def _memory(compiled):
    return compiled.memory_analysis().temp_size_in_bytes
