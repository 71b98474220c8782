"""Models from one function of ids: the lookup is found, however it is written, or named."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import tokens
from relprop.tokens import NextToken
from tests.tokens.models import CAUSAL, VOCABULARY, causal_logits, parameters

TEXT = [1, 2, 3, 4]


def compared(ids):
    return (ids[..., None] == jnp.arange(VOCABULARY)[None, None]).astype(jnp.float32)


LOOKUPS = {
    "rows": lambda table, ids: table[ids],
    "take": lambda table, ids: jnp.take(table, ids, axis=0, mode="clip"),
    "product": lambda table, ids: jax.nn.one_hot(ids, VOCABULARY) @ table,
    "comparison": lambda table, ids: jnp.einsum("btv,vd->btd", compared(ids), table),
    "one by one": lambda table, ids: jax.vmap(jax.vmap(lambda i: table[i]))(ids),
    "flat": lambda table, ids: table[ids.reshape(-1)].reshape(*ids.shape, -1),
    "checkpoint": lambda table, ids: jax.checkpoint(lambda t, i: t[i])(table, ids),
    "in range": lambda table, ids: table[jnp.where(ids < 0, 0, ids)],
}


@pytest.fixture(scope="module")
def by_hand():
    return tokens.explain(CAUSAL, TEXT, NextToken(5))


def close(a, b, tolerance=1e-6):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * float(np.abs(b).max()))


@pytest.mark.parametrize("name", LOOKUPS)
def test_equal_to_the_halves(name, by_hand):
    def logits(params, ids):
        return causal_logits(params, LOOKUPS[name](params["embed"], ids), ids, None)

    model = tokens.from_function(logits, parameters(), pad_id=11)
    result = tokens.explain(model, TEXT, NextToken(5))
    close(result.relevance, by_hand.relevance)
    close(result.score, by_hand.score)


def test_scaled_with_positions_and_a_tied_head():
    def rest(params, embeds):
        past = jnp.cumsum(3 * embeds + params["positions"][None, : embeds.shape[1]], axis=1)
        return jax.nn.relu(past @ params["mlp"]) @ params["embed"].T

    params = parameters()
    halves = tokens.LanguageModel(
        lambda params, ids: params["embed"][ids],
        lambda params, embeds, ids, mask: rest(params, embeds),
        params,
    )
    whole = tokens.from_function(lambda params, ids: rest(params, params["embed"][ids]), params)
    rules = relprop.Composite().at(path="params/mlp").use(relprop.rules.Gamma(0.5))
    for some in (None, rules):
        expected = tokens.explain(halves, [TEXT, [5, 6]], NextToken(5), rules=some)
        found = tokens.explain(whole, [TEXT, [5, 6]], NextToken(5), rules=some)
        close(found.relevance, expected.relevance)


def test_all_in_a_checkpoint_and_twice_the_same_lookup(by_hand):
    @jax.checkpoint
    def logits(params, ids):
        embeds = (params["embed"][ids] + params["embed"][ids]) / 2
        return causal_logits(params, embeds, ids, None)

    result = tokens.explain(tokens.from_function(logits, parameters()), TEXT, NextToken(5))
    close(result.relevance, by_hand.relevance)


def test_what_is_no_array_in_the_parameters_is_handed_on():
    def logits(params, ids):
        return params["activation"](jnp.cumsum(params["embed"][ids], 1)) @ params["head"]

    params = {**parameters(), "activation": jax.nn.relu, "layers": 3}
    result = tokens.explain(tokens.from_function(logits, params), TEXT)
    close(result.score, logits(params, jnp.array([TEXT]))[0, -1].max())


def two_tables(params, ids):
    return causal_logits(params, params["embed"][ids] + params["positions"][ids], ids, None)


def shifted(params, ids):
    return causal_logits(params, params["embed"][ids[:, ::-1]], ids, None)


def weighted(params, ids):
    return jnp.cumsum(ids[..., None] * params["embed"][:1][None], 1) @ params["head"]


def deaf(params, ids):
    return jnp.zeros((*ids.shape, 3))


REFUSED = {
    two_tables: r"in several tables:\n  rows of 'params/embed', float32\[1, \d+, 8\], at .*"
    r"test_function.*\n  rows of 'params/positions'",
    shifted: "look up nothing: they are read by:\n  rev at .*test_function",
    weighted: "look up nothing: they are read by",
    deaf: "the function does not read them",
}


@pytest.mark.parametrize("logits", REFUSED)
def test_refused(logits):
    with (
        pytest.raises(relprop.InputError, match=REFUSED[logits]),
        jax.numpy_dtype_promotion("standard"),
    ):
        tokens.explain(tokens.from_function(logits, parameters()), TEXT, NextToken(5))


def test_one_of_several_tables_by_its_path():
    model = tokens.from_function(two_tables, parameters(), embedding="params/emb*")
    result = tokens.explain(model, TEXT, NextToken(5))
    assert np.isfinite(result.relevance).all()
    with pytest.raises(relprop.InputError, match="has a path like 'head'"):
        tokens.explain(tokens.from_function(two_tables, parameters(), embedding="head"), TEXT)


def test_weights_that_are_closed_over_are_named():
    table = jnp.ones((VOCABULARY, 30_000))

    def logits(params, ids):
        return jnp.cumsum(table[ids], axis=1)[..., :8] @ params["head"]

    with pytest.warns(UserWarning, match=r"closes over 1\.4 MiB"):
        model = tokens.from_function(logits, parameters())
    with pytest.raises(relprop.InputError, match="from 0 to 11.*found 12"):
        tokens.explain(model, [1, 12], NextToken(5))
