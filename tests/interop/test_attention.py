"""Attention in chunks of queries is attention, in relevance too, and needs memory for a chunk."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.interop import attention_in_chunks

TOKENS, WIDTH = 13, 4


def whole(query, key, value, mask=None, is_causal=False):
    scores = jnp.einsum("...td,...sd->...ts", query, key) * query.shape[-1] ** -0.5
    if mask is not None and mask.dtype != bool:
        scores = scores + jnp.broadcast_to(mask, scores.shape)
    elif mask is not None:
        scores = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf)
    if is_causal:
        seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        scores = jnp.where(jnp.broadcast_to(seen, scores.shape), scores, -jnp.inf)
    return jnp.einsum("...ts,...se->...te", jax.nn.softmax(scores, axis=-1), value)


def score(attention, **options):
    def function(x, w):
        query, key, value = (jnp.stack([x @ w[i], x @ w[i + 1]]) for i in (0, 2, 4))
        y = attention(query, key, value, **options)
        return (x + y[0] + y[1])[-1].sum()

    return function


@pytest.fixture(scope="module")
def arguments():
    x, w = jax.random.split(jax.random.key(0))
    return jax.random.normal(x, (TOKENS, WIDTH)), jax.random.normal(w, (6, WIDTH, WIDTH)) / 2


CAUSAL = np.tril(np.ones((TOKENS, TOKENS), bool))
OPTIONS = {
    "causal": {"is_causal": True},
    "added mask": {"mask": np.where(CAUSAL, 0.5, -1e9).astype(np.float32)[None]},
    "mask of keys": {"mask": np.arange(TOKENS)[None] < 7},
}


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * float(np.abs(b).max()))


@pytest.mark.parametrize("name", OPTIONS)
def test_relevance_is_that_of_attention(name, arguments):
    options = OPTIONS[name]
    for preset in (relprop.presets.attn_lrp(), relprop.presets.cp_lrp()):
        expected = jax.jit(relprop.relevance(score(whole, **options), preset))(*arguments)
        chunks = score(attention_in_chunks, **options, chunk=5)
        close(jax.jit(relprop.relevance(chunks, preset))(*arguments), expected)
    gradient = jax.jit(jax.grad(score(whole, **options)))(*arguments)
    close(jax.jit(jax.grad(score(attention_in_chunks, **options, chunk=5)))(*arguments), gradient)


def test_memory_is_linear(optimised):
    def temporary(explain, tokens):
        shapes = ((tokens, WIDTH), (6, WIDTH, WIDTH))
        args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return jax.jit(explain).lower(*args).compile().memory_analysis().temp_size_in_bytes

    function = score(attention_in_chunks, is_causal=True, chunk=32)
    explain = relprop.relevance(function, relprop.presets.attn_lrp())
    short, long = (temporary(explain, tokens) for tokens in (256, 1024))
    assert long < 4.4 * short
    assert long < 1.15 * temporary(jax.grad(function), 1024)
