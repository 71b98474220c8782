"""Functions of functions: what belongs to an activation and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop

pytestmark = pytest.mark.usefixtures("by_numpy")

RULES = relprop.presets.attn_lrp()
X = jnp.array([[0.3, -1.0, 2.0, 0.7]])
W = jax.random.normal(jax.random.key(0), (4, 4))
HALF = jnp.float32(0.5)
HALVES = 0.5 * jnp.ones((1, 4))


def relevance(f):
    return relprop.relevance(lambda x: f(x).sum(), RULES)(X)


@pytest.mark.usefixtures("leaks_are_errors")
@pytest.mark.parametrize(
    "spellings",
    [
        [lambda x, c=c: jax.nn.relu(2 * (x @ W) + c) for c in (0.5, HALF, HALVES)],
        [lambda x, c=c: jax.nn.relu((x - c) / 0.25) for c in (0.5, HALF, HALVES)],
        [lambda x: 1 / (1 + jnp.exp(-(x @ W))), lambda x: jax.nn.sigmoid(x @ W)],
        [lambda x: jax.nn.hard_sigmoid(x @ W), lambda x: jnp.clip(x @ W + 3, 0, 6) / 6],
        [lambda x: 1 - jax.nn.sigmoid(x @ W), lambda x: jax.nn.sigmoid(-(x @ W))],
        [lambda x: jnp.log(1 + jnp.exp(x @ W)), lambda x: jax.nn.softplus(x @ W)],
        [lambda x: jnp.tanh(x @ W / 30) * 30, lambda x: 30 * jnp.tanh((x @ W) * (1 / 30))],
    ],
)
def test_relevance_does_not_depend_on_the_spelling(spellings):
    first, *others = map(relevance, spellings)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("leaks_are_errors")
@pytest.mark.parametrize(
    "f",
    [
        lambda h: jnp.tanh(2 * h + 1),
        lambda h: jax.nn.relu(h * 0.5) - 1,
        lambda h: jax.nn.hard_sigmoid(h),
        lambda h: jnp.exp(-jax.nn.softplus(h)),
    ],
)
def test_relevance_does_not_depend_on_who_else_reads(f):
    def alone(x):
        return f(x @ W).sum()

    def read_by_others(x):
        h = x @ W
        twice = 2 * h
        return f(h).sum() + 0 * twice.sum() + 0 * h.sum()

    np.testing.assert_allclose(
        relprop.relevance(alone, RULES)(X),
        relprop.relevance(read_by_others, RULES)(X),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.usefixtures("leaks_are_errors")
def test_a_bias_before_an_activation_takes_its_share():
    book = relprop.ledger(lambda x: jax.nn.relu(x + 0.5).sum(), RULES)(X)
    np.testing.assert_allclose(book.bias, 3 * 0.5, rtol=1e-5)


def test_a_long_chain_is_planned_in_reasonable_time_and_one_operation():
    def f(x):
        for _ in range(400):
            x = jnp.sin(x) * 1.01
        return x.sum()

    plan = relprop.inspect(f, RULES)(X)
    assert [op.structure for op in plan] == ["activation", "sum"]
    assert plan[0].equations == 800
