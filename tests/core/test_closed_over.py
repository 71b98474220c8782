"""Large arrays that a compiled function closes over are told of, with what to do."""

import warnings

import jax
import jax.numpy as jnp
import pytest

import relprop
from relprop import _closed_over
from relprop.rules import Epsilon

W = jnp.ones((8, 8))
X = jnp.arange(8.0)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(_closed_over, "A_LOT", W.nbytes)


def closing(x):
    return jnp.sum(jax.jit(lambda x: x @ W)(x) ** 2)


def given(w, x):
    return jnp.sum((x @ w) ** 2)


def test_jitted_functions_are_told_of_what_they_close_over():
    with pytest.warns(relprop.ClosedOverWarning, match=r"1 arrays.*float32\[8, 8\]") as caught:
        jax.jit(relprop.relevance(closing, Epsilon()))(X)
    assert caught[0].filename == __file__


def test_no_word_of_arguments_or_of_what_is_not_compiled():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relprop.relevance(closing, Epsilon())(X)
        jax.jit(relprop.relevance(given, Epsilon(), argnums=1))(W, X)

        @jax.jit
        def explain(w, x):  # Closed over, but an argument of what is compiled.
            return relprop.relevance(lambda x: given(w, x), Epsilon())(x)

        explain(W, X)


def test_small_ones_are_no_matter(monkeypatch):
    monkeypatch.setattr(_closed_over, "A_LOT", W.nbytes + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(relprop.relevance(closing, Epsilon()))(X)
