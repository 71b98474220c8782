"""Planning is linear in the number of equations: counted in calls, and not in seconds."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import relprop
from relprop.rules import Epsilon

ROOT = str(pathlib.Path(relprop.__file__).parent)
W = jnp.eye(8) - 0.1
#: Twice the size may take so much more.
AT_MOST = 2.3


def _norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def _repeated(layer):
    def network(count):
        def f(x):
            for _ in range(count):
                x = layer(x)
            return x.sum()

        return f

    return network


def _attention(x):
    q, k, v = _norm(x) @ W, _norm(x) @ W, x @ W
    return x + jax.nn.softmax(q @ k.T / 3.0) @ v @ W


def _recurrence(count):
    def f(xs):
        h = c = jnp.zeros(8)
        for turn in range(count):
            z = xs[turn % 4] @ W + h @ W
            c = jax.nn.sigmoid(z + 1) * c + jax.nn.sigmoid(z) * jnp.tanh(z)
            h = jax.nn.sigmoid(z - 1) * jnp.tanh(c)
        return h.sum()

    return f


def _heads(count):
    def f(x):
        heads = (jax.nn.softmax((x @ W) @ (x @ W).T) @ x @ W for _ in range(count))
        return sum(heads, x).sum()

    return f


def _nested(count):
    def nested(layers):
        if layers == 1:
            return lambda x: x + jnp.tanh(_norm(x) @ W)
        first, second = nested(layers // 2), nested(layers - layers // 2)
        return jax.checkpoint(lambda x: second(first(x)))

    return lambda x: nested(count)(x).sum()


def _read_often(count):
    def f(x):
        h = jnp.tanh(x @ W)
        return sum((h * (i + 0.5)).sum() for i in range(count))

    return f


#: Each with as many layers as the smaller network has.
NETWORKS = {
    "residual_norm": (_repeated(lambda x: x + jax.nn.gelu(_norm(x) @ W) @ W), 12),
    "attention": (_repeated(_attention), 6),
    "recurrence": (_recurrence, 20),
    "relu": (_repeated(lambda x: jax.nn.relu(x @ W)), 60),
    "residual": (_repeated(lambda x: x + jnp.tanh(x @ W)), 60),
    "functions": (_repeated(lambda x: jnp.sin(x) * 1.5), 80),
    "affine": (_repeated(lambda x: (x + 0.5) * 1.01), 80),
    "doubled": (_repeated(lambda x: x + x), 80),
    "squared": (_repeated(lambda x: x * x), 80),
    "exponential": (_repeated(lambda x: jnp.exp(x) + x * 0.5), 60),
    "gated": (_repeated(lambda x: jax.nn.silu(x @ W) * (x @ W) + x), 24),
    "gates_alone": (_repeated(lambda x: jax.nn.sigmoid(x) * x), 60),
    "normed": (_repeated(_norm), 16),
    "chosen": (_repeated(lambda x: jnp.where(x > 0, x, 0.1 * x) * 1.1), 40),
    "biased_sums": (_repeated(lambda x: x + jnp.arange(8.0)[None] + x @ W), 60),
    "heads": (_heads, 16),
    "nested_checkpoints": (_nested, 16),
    "read_often": (_read_often, 60),
}


def _calls(function, *args):
    """How often a function of relprop is called."""
    count = 0

    def note(frame, event, _):
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(ROOT)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function(*args)
    finally:
        sys.setprofile(before)
    return count


def _planned(f, x):
    return relprop.inspect(f, Epsilon(), on_suspicion="ignore")(x)


@pytest.mark.parametrize("name", NETWORKS)
def test_planning_is_linear(name):
    network, count = NETWORKS[name]
    x = jnp.linspace(-1.0, 1.0, 32).reshape(4, 8)
    calls = [_calls(_planned, network(size), x) for size in (count, 2 * count)]
    assert calls[1] < AT_MOST * calls[0]


@pytest.mark.parametrize("name", ["residual", "gated", "attention"])
def test_blocks_are_found_in_linear_time(name):
    network, count = NETWORKS[name]
    x = jnp.linspace(-1.0, 1.0, 32).reshape(4, 8)
    # Twice as many layers each, beyond how far is looked back.
    plans = [_planned(network(size), x) for size in (2 * count, 4 * count)]
    calls = [_calls(lambda plan=plan: plan.blocks) for plan in plans]
    assert calls[1] < AT_MOST * calls[0]


def test_a_sum_of_a_thousand_is_planned():
    """No part of planning calls itself for each summand."""
    f = _repeated(lambda x: x + jnp.tanh(x @ W) + 0.1)(400)
    assert len(_planned(f, jnp.ones(8))) > 1000


def test_terms_are_seen_whatever_is_before_them():
    """What is near is recognised, however large what it is computed from is."""

    def f(x):
        for _ in range(20):
            x = jnp.tanh(x) * jnp.exp(-x) + x / (1 + x * x)
        return (lax.exp(x) / lax.exp(x).sum())[0]

    plan = _planned(f, jnp.linspace(0.0, 1.0, 8))
    assert [op.structure for op in plan].count("softmax") == 1
