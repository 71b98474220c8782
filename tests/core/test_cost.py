"""What a relevance pass costs beside a gradient, as XLA counts; nothing is run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.rules import Epsilon, Gamma, Zero

WIDTH, BATCH = 64, 32


def _layer(x, w):
    return jnp.tanh(jax.nn.gelu(x @ w[0]) @ w[1]) + x


def _branches(x, weights, index):
    pairs = [weights[:2], weights[2:4]]
    return lax.switch(index, [lambda x, w=w: _layer(x, w) for w in pairs], x).sum()


def _checkpoints(x, weights, index):
    del index
    for number in range(6):
        x = jax.checkpoint(_layer)(x, weights[number : number + 2])
    return x.sum()


def _scan_of_checkpoints(x, weights, index):
    del index
    pairs = jnp.stack(weights).reshape(-1, 2, WIDTH, WIDTH)
    return lax.scan(lambda x, w: (jax.checkpoint(_layer)(x, w), None), x, pairs)[0].sum()


def _compiled(function):
    struct = jax.ShapeDtypeStruct
    weights = [struct((WIDTH, WIDTH), jnp.float32)] * 8
    args = struct((BATCH, WIDTH), jnp.float32), weights, struct((), jnp.int32)
    return jax.jit(function).lower(*args).compile()


@functools.cache
def _gradient(function):
    return _compiled(jax.value_and_grad(function))


@pytest.mark.parametrize("rule", [Zero(), Epsilon()], ids=str)
@pytest.mark.parametrize(
    ("function", "flops", "memory"),
    [
        # Nothing is evaluated twice that the gradient evaluates once.
        (_branches, 1.05, 1.15),
        # What ends a checkpoint is needed by the epsilon rule, and not by the gradient.
        (_checkpoints, 1.25, 1.15),
        (_scan_of_checkpoints, 1.25, 1.15),
    ],
)
def test_control_flow_costs_what_it_costs_a_gradient(function, flops, memory, rule):
    gradient = _gradient(function)
    explained = _compiled(relprop.value_and_relevance(function, rule))
    for bound, count in ((flops, _flops), (memory, _memory)):
        assert count(explained) <= bound * count(gradient)


def _flops(compiled):
    return compiled.cost_analysis()["flops"]


def _memory(compiled):
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("rule", [Zero(), Gamma()], ids=str)
def test_code_grows_linearly_with_the_depth_of_a_residual_network(rule):
    def layer(x, w):
        x = x + jnp.tanh(x @ w)
        return x * lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-6)

    def size(depth):
        def score(x, ws):
            return functools.reduce(layer, ws, x)[:, 0].sum()

        weights = [jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)] * depth
        x = jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float32)
        explain = jax.jit(relprop.value_and_relevance(score, rule))
        return explain.lower(x, weights).compile().as_text().count("\n")

    sizes = [size(depth) for depth in (8, 16, 24)]
    assert sizes[2] - sizes[1] <= 1.05 * (sizes[1] - sizes[0])


def test_what_goes_several_ways_is_the_same_compiled_batched_and_differentiated():
    weights = jax.random.normal(jax.random.key(0), (3, 4, 4))

    def score(x):
        return functools.reduce(lambda x, w: x + jnp.tanh(x @ w), weights, x)[0]

    xs = jax.random.normal(jax.random.key(1), (5, 4))
    explain = relprop.relevance(score, Epsilon())

    def squared(x):
        return jnp.square(explain(x)).sum()

    # Each derivative divides once more by sums that nearly vanish.
    tolerances = {explain: 1e-5, jax.grad(squared): 1e-4, jax.hessian(squared): 2e-3}
    for function, atol in tolerances.items():
        one_by_one = jnp.stack([function(x) for x in xs])
        np.testing.assert_allclose(
            jax.jit(jax.vmap(function))(xs), one_by_one, rtol=2e-4, atol=atol
        )


def test_a_jitted_explanation_is_traced_once():
    calls = []

    def score(x, w):
        calls.append(1)
        return jax.nn.gelu(x @ w).sum()

    explain = jax.jit(relprop.value_and_relevance(score, Epsilon()))
    for seed in range(3):
        explain(jax.random.normal(jax.random.key(seed), (2, 3)), jnp.ones((3, 4)))
    assert len(calls) == 1


def test_a_ledger_is_traced_for_each_call():
    calls = []

    def score(x, power, mask, *, scale):
        calls.append(1)
        return scale * jnp.sum((x**power)[mask])

    book = relprop.ledger(score, Zero())
    mask = np.array([True, False, True])
    for x in (jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 1.0, 0.5])):
        ledger = book(x, 2, mask.copy(), scale=jnp.array(2.0))
        np.testing.assert_allclose(ledger.score, 2 * np.sum(x[mask] ** 2))
    assert len(calls) == 2  # What it reads from elsewhere may have changed.
    book(x, 3, mask, scale=jnp.array(2.0))
    book(x, 3, ~mask, scale=jnp.array(2.0))
    assert len(calls) == 4
