"""`Where(first=True)`: what no other operation of the kind comes before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.rules import Epsilon, WSquare

KEYS = jax.random.split(jax.random.key(0), 5)
U, V, W = (jax.random.normal(key, (3, 3)) for key in KEYS[:3])
X = jax.random.normal(KEYS[3], (2, 3))
RULES = relprop.Composite().at(structure="layer", first=True).use(WSquare()).at(
    structure="layer", optional=True
).use(Epsilon(0.1))  # fmt: skip


def first_layers(f):
    operations = relprop.inspect(f, RULES)(X)
    return [isinstance(op.rule, WSquare) for op in operations if op.structure == "dense"]


@pytest.mark.parametrize(
    "f, expected",
    [
        (lambda x: jnp.sum(jax.nn.relu(x @ U) @ V), [True, False]),
        (lambda x: jnp.sum(jax.nn.relu(x @ U) + jnp.tanh(x @ V)), [True, True]),
        # Through the residual stream it reads the input as well, but not it alone.
        (lambda x: jnp.sum((x + jax.nn.relu(x @ U)) @ V), [True, False]),
        (lambda x: jnp.sum(jax.checkpoint(lambda x: jax.nn.relu(x @ U))(x) @ V), [True, False]),
        (lambda x: jnp.sum(lax.map(lambda r: jax.nn.relu(r @ U) @ V, x)), [True, False]),
        (
            lambda x: jnp.sum(
                lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x @ W, jnp.stack([U, V]))[0]
            ),
            [True, False],
        ),
        (
            lambda x: jnp.sum(
                lax.cond(x[0, 0] > 0, lambda x: x @ U, lambda x: x @ V, x) @ W
            ),
            [True, True, False],
        ),
    ],
    ids=["in a row", "side by side", "residual", "checkpoint", "map", "scan", "cond"],
)  # fmt: skip
def test_first_layers(f, expected):
    assert first_layers(f) == expected


def test_one_product_is_three():
    """Queries, keys and values by one matrix or by three: one network."""

    def apart(x):
        return jnp.sum(jnp.tanh(x @ U) * (x @ V) + x @ W)

    def together(x):
        q, k, v = jnp.split(x @ jnp.concatenate([U, V, W], 1), 3, 1)
        return jnp.sum(jnp.tanh(q) * k + v)

    one, three = (relprop.relevance(f, RULES)(X) for f in (together, apart))
    np.testing.assert_allclose(one, three, rtol=1e-5, atol=1e-6)


def test_with_a_position():
    """The last of the first ones."""
    last = relprop.Composite().at(structure="layer", first=True, position=-1).use(WSquare())
    last = last.at(structure="layer").use(Epsilon(0.1))
    operations = relprop.inspect(lambda x: jnp.sum((x @ U) * (x @ V)), last)(X)
    rules = [type(op.rule) for op in operations if op.structure == "dense"]
    assert rules == [Epsilon, WSquare]


def test_first_is_true_or_left_out():
    with pytest.raises(ValueError, match="first must be True, or be left out, got False"):
        relprop.Where(structure="layer", first=False)
