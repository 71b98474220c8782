"""The query: a row of the identity is no explanation, and arguments of no use are errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.attribution import transformer_attribution

from ..uncompiled import evaluated

pytestmark = pytest.mark.usefixtures("by_numpy")
T, D = 5, 4
KEYS = jax.random.split(jax.random.key(0), 4)
Q, K, V, X = (jax.random.normal(key, (n, D)) for key, n in zip(KEYS, (D, D, D, T), strict=True))
MASK = jnp.tril(jnp.ones((T, T), bool))


def attend(x):
    scores = jnp.where(MASK, (x @ Q) @ (x @ K).T, -jnp.inf)
    return x + jax.nn.softmax(scores) @ (x @ V)


def one_layer(x):
    return attend(x)[-1, 1]


def two_layers(x):
    return attend(jnp.tanh(attend(x)))[-1, 1]


METHODS = ["transformer_attribution", "generic", "rollout", "attention"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("f", [one_layer, two_layers])
def test_a_query_that_the_score_is_not_read_from(f, method):
    for choice in ({}, {"query": 0}, {"query": (-1, 0)}):
        with pytest.raises(relprop.InputError, match=r"not read.*token 0 of 5(.|\n)*token 4: give"):
            transformer_attribution(f, method=method, **choice)(X)
    assert (transformer_attribution(f, method=method, query=-1)(X) > 0).sum() > 1


def test_while_it_is_traced():
    """What the score is read from shows in the function; what sees nothing else in the values."""
    with pytest.raises(relprop.InputError, match="token 4"):
        jax.jit(transformer_attribution(one_layer))(X)
    assert jnp.isnan(jax.jit(transformer_attribution(two_layers))(X)).all()
    both = jnp.stack([X, X])
    vmapped = jax.vmap(transformer_attribution(two_layers))
    assert np.isnan(evaluated(vmapped, (both,))).all()
    explain = transformer_attribution(two_layers, query=-1)
    np.testing.assert_allclose(jax.jit(explain)(X), explain(X), rtol=1e-5)
    np.testing.assert_allclose(evaluated(jax.vmap(explain), (both,))[1], explain(X), rtol=1e-5)


def test_two_streams():
    def score(source, target):
        scores = (target @ Q) @ (source @ K).T
        return (attend(target) + jax.nn.softmax(scores) @ (source @ V))[-1, 1]

    explain = transformer_attribution(score, (0, 1), method="generic")
    with pytest.raises(relprop.InputError, match="token 4"):
        explain(X, X)
    explain = transformer_attribution(score, (0, 1), method="generic", query=-1)
    assert set(explain(X, X)) == {"source", "target"}


def test_attention_that_does_nothing_yet():
    """Zeros after it, as some networks are initialised: then the identity is the answer."""

    def score(x):
        return (x + (attend(x) - x) @ jnp.zeros((D, D)))[0, 1]

    np.testing.assert_array_equal(transformer_attribution(score)(X), jnp.eye(T)[0])


def test_where_the_score_is_read():
    flow = relprop.inspect(two_layers, relprop.presets.gradient())(X).flow
    assert flow.positions == {0: (T - 1,)}

    def several(x):
        x = attend(x)
        return x[1, 0] + x[jnp.array([3, 1])].sum()

    flow = relprop.inspect(several, relprop.presets.gradient())(X).flow
    assert flow.positions == {0: (1, 3)}
    flow = relprop.inspect(lambda x: attend(x).sum(), relprop.presets.gradient())(X).flow
    assert flow.positions == {}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"method": "rollout", "rules": relprop.presets.attn_lrp()}, "`rules` are of no use"),
        ({"method": "generic", "rules": relprop.rules.Epsilon()}, "`rules` are of no use"),
        ({"method": "full_lrp", "query": 0}, "no query"),
        ({"method": "full_lrp", "query": "mean"}, "no query"),
        ({"method": "full_lrp", "stream": "x"}, "no query"),
    ],
)
def test_arguments_of_no_use(choice, message):
    with pytest.raises(relprop.InputError, match=message):
        transformer_attribution(one_layer, **choice)


@pytest.mark.parametrize("method", ["transformer_attribution", "generic"])
def test_without_the_one_of_its_own(method):
    whole, rest = (
        np.asarray(transformer_attribution(two_layers, method=method, query=-1, own=own)(X))
        for own in (True, False)
    )
    np.testing.assert_allclose(whole - rest, np.eye(T)[-1], atol=1e-6)
    mean = transformer_attribution(two_layers, method=method, query=(-2, -1), own=False)(X)
    both = transformer_attribution(two_layers, method=method, query=(-2, -1))(X)
    np.testing.assert_allclose(both - mean, np.eye(T)[-2:].mean(0), atol=1e-6)


def test_methods_that_have_no_one_of_their_own():
    with pytest.raises(relprop.InputError, match="'rollout' has none"):
        transformer_attribution(two_layers, method="rollout", query=-1, own=False)
