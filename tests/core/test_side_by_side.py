"""What is put side by side is read as that, and what overlaps is a sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.rules import Epsilon

from ..uncompiled import uncompiled

pytestmark = pytest.mark.usefixtures("x64", "by_numpy")
X = np.random.default_rng(0).standard_normal((2, 4))
W = np.random.default_rng(1).standard_normal((6, 3))


def padded(x, low, high, value=0.0):
    return jnp.pad(x, ((0, 0), (low, high)), constant_values=value)


@pytest.mark.parametrize(
    ("f", "structure"),
    [
        (lambda x: padded(x[:, :3], 0, 3) + padded(x[:, 1:], 3, 0), "structural"),
        (lambda x: padded(x, 0, 2) + padded(x[:, :2], 4, 0), "structural"),
        (lambda x: padded(x[:, :1], 0, 5) + padded(x[:, 1:], 3, 0), "structural"),  # with a gap
        (lambda x: padded(x, 0, 2) + padded(x, 2, 0), "sum"),  # they overlap
        (lambda x: padded(x, 0, 2, 1.0) + padded(x[:, :2], 4, 0), "sum"),  # no zeros
        (lambda x: padded(x, 0, 2) - padded(x[:, :2], 4, 0), "sum"),
    ],
)
def test_sums_of_padded_parts(f, structure):
    def score(x):
        return jnp.tanh(f(x) @ W).sum()

    plan = relprop.inspect(score, Epsilon())(X)
    first = next(op.structure for op in plan if op.primitive in ("add", "sub", "concatenate"))
    assert first == structure
    found = relprop.relevance(score, relprop.rules.Gradient())(X)
    np.testing.assert_allclose(found, uncompiled(jax.grad(score))(X), atol=1e-12)


def test_numbers_beside_what_a_layer_reads_are_its_bias():
    def score(x):
        return (padded(x, 1, 1, 2.0) @ W)[0, 0]

    book = relprop.ledger(score, Epsilon(1e-9))(X)
    assert book.bias == pytest.approx(2 * (W[0, 0] + W[5, 0]))
    np.testing.assert_allclose(book.left, X[0] @ W[1:5, 0], rtol=1e-6)


def test_what_a_layer_makes_of_another_constant_is_its_input():
    """An array that is no number of the code may be features as well."""
    other = np.random.default_rng(2).standard_normal((2, 2))
    plan = relprop.inspect(lambda x: (jnp.concatenate([x, other], 1) @ W)[0, 0], Epsilon())(X)
    assert "concatenate" in {op.primitive for op in plan}
