"""The head is computed at the positions that are asked for, and at no others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import tokens
from relprop.tokens import NextToken
from relprop.tokens._head import logits_at
from tests.tokens.models import CAUSAL, VOCABULARY, causal_logits, embed, parameters

TOKENS, WIDTH, WORDS = 6, 4, 50


def plain(params, x):
    return x @ params["head"]


def softly_capped(params, x):
    x = x @ params["head"] + params["bias"]
    return 30 * jnp.tanh(x.astype(jnp.float32) / 30)


def flattened(params, x):
    """As the heads of GPT-2 in torch are: products of matrices."""
    return (x.reshape(-1, WIDTH) @ params["head"]).reshape(1, TOKENS, WORDS)


def transposed(params, x):
    """As a table that is shared with the embeddings."""
    return jnp.einsum("vd,btd->vbt", params["head"].T, x).transpose(1, 2, 0)


def jitted(params, x):
    return jax.nn.log_softmax(jax.jit(plain)(params, x))


def used_twice(params, x):
    """What is in common to all tokens needs all of them."""
    found = x @ params["head"]
    return found - found.mean(1, keepdims=True)


HEADS = [plain, softly_capped, flattened, transposed, jitted, used_twice]


@pytest.mark.parametrize("head", HEADS)
def test_rows_are_those_of_all_logits(head):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "head": jax.random.normal(keys[0], (WIDTH, WORDS)),
        "bias": jax.random.normal(keys[1], (1, 1, WORDS)),
    }
    x = jax.random.normal(keys[2], (1, TOKENS, WIDTH))

    def model(params, x):
        return head(params, jnp.cumsum(x, axis=1))

    positions = jnp.array([4, 1, 1])
    found = jax.jit(lambda *args: logits_at(model, args, positions))
    np.testing.assert_allclose(found(params, x), model(params, x)[0, positions], atol=1e-5)
    flops = found.lower(params, x).compile().cost_analysis()["flops"]
    whole = jax.jit(model).lower(params, x).compile().cost_analysis()["flops"]
    product = 2 * TOKENS * WIDTH * WORDS
    if head is used_twice:
        assert flops >= product
    else:
        assert flops < whole - 0.4 * product, (flops, whole)


def test_relevance_is_that_of_all_logits():
    ids = [1, 2, 3, 4]

    def score(embeds):
        mask = jnp.ones((1, 4), bool)
        return causal_logits(parameters(), embeds, jnp.array([ids]), mask)[0, 2, 5]

    expected = relprop.relevance(score, relprop.presets.attn_lrp())(
        embed(parameters(), jnp.array([ids]))
    )
    found = tokens.explain(CAUSAL, ids, NextToken(5, position=2), per_dimension=True)
    np.testing.assert_allclose(found.per_dimension, expected[0], atol=2e-6)


def test_an_explanation_needs_less():
    def logits(params, embeds, ids, mask):
        return jnp.cumsum(embeds, axis=1) @ params["head"]

    params = {"embed": jnp.ones((VOCABULARY, 16)), "head": jnp.ones((16, 4096))}
    model = tokens.LanguageModel(embed, logits, params)
    lowered = []
    compiled = model._compiled

    def spy(function, *args, **settings):
        lowered.append(jax.jit(lambda *a: function(model, *a, **settings)).lower(*args[1:]))
        return compiled(function, *args, **settings)

    object.__setattr__(model, "_compiled", spy)
    tokens.explain(model, [1] * 64, NextToken(7), lengths="exact")
    (program,) = lowered
    assert program.compile().cost_analysis()["flops"] < 0.1 * (2 * 64 * 16 * 4096)
