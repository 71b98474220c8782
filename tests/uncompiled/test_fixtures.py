"""What `by_numpy` changes, and what it leaves as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.attribution import transformer_attribution
from relprop.rules import Epsilon

pytestmark = pytest.mark.usefixtures("by_numpy")
W = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)), jnp.float32)
X = W[:3] + 1


def score(x):
    return jnp.sum(jnp.tanh(x @ W)), {"what": "anything"}


def attends(x):
    return (jax.nn.softmax(x @ W @ x.T) @ x)[0, 1]


def test_numpy_computes_the_same():
    (value, aux), found = relprop.value_and_relevance(score, Epsilon(), has_aux=True)(X)
    assert aux == {"what": "anything"}
    assert type(found) is type(value) is np.ndarray
    # Of z = x @ W each entry of x gets its part of tanh(z).
    z = np.asarray(X) @ np.asarray(W)
    expected = np.asarray(X) * ((np.tanh(z) / z) @ np.asarray(W).T)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    book = relprop.ledger(lambda x: score(x)[0], Epsilon())(X)
    np.testing.assert_allclose(book.relevance, expected, rtol=1e-4)


def test_what_is_traced_is_left_alone():
    def explain(epsilon, x=X):
        return relprop.relevance(score, Epsilon(epsilon), has_aux=True)(x)[0].sum()

    wanted = explain(0.1)
    assert isinstance(wanted, np.generic)
    for found in (
        jax.jit(explain)(0.1),
        jax.jit(lambda x: explain(0.1, x))(X),
        jax.vmap(explain)(jnp.full(2, 0.1))[0],
        jax.value_and_grad(explain)(0.1)[0],
    ):
        assert isinstance(found, jax.Array)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_warnings_and_errors_are_those_of_numbers():
    with pytest.warns(relprop.GrowthWarning, match="times the score") as told:
        relprop.relevance(lambda x: jnp.sum(1e4 * x) - 9e3 * jnp.sum(x), Epsilon())(X - X.mean())
    assert told[0].filename == __file__
    with pytest.raises(relprop.InputError, match="not read from the query"):
        transformer_attribution(attends, query=2)(X)
    assert isinstance(relprop.transformer_attribution(attends)(X), np.ndarray)
