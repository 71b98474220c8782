"""Weights in half precision: XLA for CPUs makes copies of them in float32, one after the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop._core import cpu
from relprop.rules import Epsilon, Gamma

WIDTH, DEPTH, BATCH = 512, 5, 64
COPY = 4 * WIDTH * WIDTH  # bytes of a weight in float32


def _layer(x, w):
    return x + jnp.tanh(x @ w)


def _layers(x, weights):
    return functools.reduce(_layer, weights, x)[0, 0].astype(jnp.float32)


def _checkpoints(x, weights):
    return functools.reduce(jax.checkpoint(_layer), weights, x)[0, 0].astype(jnp.float32)


@functools.cache
def _compiled(function, rule, dtype):
    weights = [jax.ShapeDtypeStruct((WIDTH, WIDTH), dtype)] * DEPTH
    x = jax.ShapeDtypeStruct((BATCH, WIDTH), dtype)
    return jax.jit(relprop.value_and_relevance(function, rule)).lower(x, weights).compile()


@pytest.mark.parametrize(
    ("function", "rule", "dtype"),
    [
        (_layers, Epsilon(), jnp.bfloat16),
        (_layers, Gamma(), jnp.bfloat16),
        (_layers, Epsilon(), jnp.float16),
        (_checkpoints, Epsilon(), jnp.bfloat16),
    ],
)
def test_copies_of_weights_are_made_in_turn(function, rule, dtype):
    half, full = (_compiled(function, rule, kind) for kind in (dtype, jnp.float32))
    memory = [c.memory_analysis().temp_size_in_bytes for c in (half, full)]
    assert memory[0] - memory[1] < 2.5 * COPY
    # No product is taken twice for it.
    flops = [c.cost_analysis()["flops"] for c in (half, full)]
    assert flops[0] <= 1.1 * flops[1]


def _explain(rule):
    """Traced anew each time."""
    return relprop.relevance(lambda x, weights: _layers(x, weights), rule)


@pytest.mark.parametrize("rule", [Epsilon(), Gamma()], ids=["epsilon", "gamma"])
def test_turns_change_no_number(rule, monkeypatch):
    keys = jax.random.split(jax.random.key(0), DEPTH + 1)
    *weights, x = (jax.random.normal(key, (8, 8)).astype(jnp.bfloat16) for key in keys)
    batch = jnp.stack([x, 2 * x])
    length, expected = [], []
    for notable in (cpu.NOTABLE, 1):  # small weights are not waited for
        monkeypatch.setattr(cpu, "NOTABLE", notable)
        length.append(len(str(jax.make_jaxpr(_explain(rule))(x, weights))))
        each = jax.jit(jax.vmap(_explain(rule), (0, None)))(batch, weights)
        expected.append((jax.jit(_explain(rule))(x, weights), each))
    assert length[0] < length[1]
    for before, after in zip(*expected, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
