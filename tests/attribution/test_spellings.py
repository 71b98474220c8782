"""The same attention gives the same tokens, however it is spelled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.attribution import transformer_attribution

from ..uncompiled import evaluated

pytestmark = pytest.mark.usefixtures("by_numpy")
T, D, H = 6, 8, 2
KEYS = jax.random.split(jax.random.key(1), 6)
Q, K, V, OUT, FUSED = (
    jax.random.normal(key, (D, n)) / 3 for key, n in zip(KEYS[:5], (D, D, D, D, 3 * D), strict=True)
)
X = jax.random.normal(KEYS[5], (T, D))
softmax = jax.nn.softmax


def plain(q, k, v):
    return softmax(q @ k.swapaxes(1, 2)) @ v


def separate_heads(q, k, v):
    return jnp.stack([softmax(q[h] @ k[h].T) @ v[h] for h in range(H)])


def heads_by_vmap(q, k, v):
    return jax.vmap(lambda q, k, v: softmax(q @ k.T) @ v)(q, k, v)


def queries_by_vmap(q, k, v):
    one = jax.vmap(lambda q, k, v: softmax(k @ q) @ v, (0, None, None))
    return jax.vmap(one)(q, k, v)


def heads_by_map(q, k, v):
    return lax.map(lambda a: softmax(a[0] @ a[1].T) @ a[2], (q, k, v))


def keys_first(q, k, v):
    return jnp.einsum("hkq,hkd->hqd", softmax(jnp.einsum("hkd,hqd->hkq", k, q), axis=1), v)


def queries_first(q, k, v):
    return jnp.einsum("qhk,hkd->hqd", softmax(jnp.einsum("hqd,hkd->qhk", q, k)), v)


def chunks(x):
    return x.reshape(H, 3, 2, D // H).swapaxes(0, 1)


def query_chunks_by_map(q, k, v):
    return lax.map(lambda q: plain(q, k, v), chunks(q)).swapaxes(0, 1).reshape(H, T, -1)


def query_chunks_by_scan(q, k, v):
    found = lax.scan(lambda n, q: (n + 1, plain(q, k, v)), 0, chunks(q))[1]
    return found.swapaxes(0, 1).reshape(H, T, -1)


def query_chunks_in_python(q, k, v):
    return jnp.concatenate([plain(q[:, i : i + 2], k, v) for i in (0, 2, 4)], axis=1)


def query_by_query(q, k, v):
    def one(q):
        return jnp.einsum("hk,hkd->hd", softmax(jnp.einsum("hd,hkd->hk", q, k)), v)

    return lax.map(one, q.swapaxes(0, 1)).swapaxes(0, 1)


def checkpointed(q, k, v):
    return jax.checkpoint(plain)(q, k, v)


def talking_heads(q, k, v):
    return jnp.einsum("hg,hqk->gqk", jnp.eye(H), softmax(q @ k.swapaxes(1, 2))) @ v


def scaled_scores(q, k, v):
    return softmax((q * 2) @ k.swapaxes(1, 2) / 2) @ v


def masked(q, k, v):
    return softmax(q @ k.swapaxes(1, 2) + jnp.zeros((1, T, T))) @ v


def grouped(q, k, v):
    return plain(q, jnp.repeat(k[:1], H, axis=0), jnp.repeat(v[:1], H, axis=0))


def grouped_by_einsum(q, k, v):
    return jnp.einsum("hqk,kd->hqd", softmax(jnp.einsum("hqd,kd->hqk", q, k[0])), v[0])


@functools.cache
def two_layers(attention, project=lambda x: (x @ Q, x @ K, x @ V)):
    def attend(x):
        q, k, v = (a.reshape(T, H, D // H).swapaxes(0, 1) for a in project(x))
        return x + attention(q, k, v).swapaxes(0, 1).reshape(T, D) @ OUT

    return lambda x: attend(jnp.tanh(attend(x)))[-1, 1]


@functools.cache
def tokens(f, method):
    return transformer_attribution(f, method=method, query=-1)(X)


def same(f, g, method):
    found, expected = tokens(f, method), tokens(g, method)
    assert np.abs(expected[:-1]).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


SPELLINGS = (
    separate_heads,
    heads_by_vmap,
    queries_by_vmap,
    heads_by_map,
    keys_first,
    queries_first,
    query_chunks_by_map,
    query_chunks_by_scan,
    query_chunks_in_python,
    query_by_query,
    checkpointed,
    talking_heads,
    scaled_scores,
    masked,
)


@pytest.mark.parametrize("method", ["transformer_attribution", "generic", "rollout"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_attention(spelling, method):
    same(two_layers(spelling), two_layers(plain), method)


def test_one_head_of_keys_for_all():
    same(two_layers(grouped_by_einsum), two_layers(grouped), "transformer_attribution")


def test_fused_projections():
    def split(x):
        return jnp.split(x @ FUSED, 3, axis=-1)

    def apart(x):
        return x @ FUSED[:, :D], x @ FUSED[:, D : 2 * D], x @ FUSED[:, 2 * D :]

    same(two_layers(plain, split), two_layers(plain, apart), "generic")


def test_a_class_token_that_looks_alone():
    """The last layer of a pruned ViT: only the row that is read is computed."""

    def last(x, rows):
        return (x[rows] + softmax((x[rows] @ Q) @ (x @ K).T) @ (x @ V))[0, 1]

    def model(x, rows):
        q, k, v = (a.reshape(T, H, D // H).swapaxes(0, 1) for a in (x @ Q, x @ K, x @ V))
        return last(x + plain(q, k, v).swapaxes(0, 1).reshape(T, D) @ OUT, rows)

    expected = transformer_attribution(lambda x: model(x, slice(None)))(X)
    found = transformer_attribution(lambda x: model(x, slice(1)))(X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_sinks_are_no_tokens():
    """As in GPT-OSS: a logit more, whose probability nobody uses."""

    def attention(q, k, v):
        scores = q @ k.swapaxes(1, 2)
        scores = jnp.concatenate([scores, jnp.ones((H, T, 1))], axis=-1)
        return softmax(scores)[..., :-1] @ v

    f = two_layers(attention)
    found = transformer_attribution(f, method="generic", query=-1, details=True)(X)
    assert [a.shape for a in found.attention] == [(1, H, T, T)] * 2
    assert all((a.sum(-1) < 1).all() for a in found.attention)
    maps = [
        np.maximum(g * a, 0).mean((0, 1))
        for g, a in zip(found.gradient, found.attention, strict=True)
    ]
    expected = (np.eye(T) + maps[1]) @ (np.eye(T) + maps[0])
    np.testing.assert_allclose(found.tokens[0], expected[-1], rtol=1e-4, atol=1e-6)
    (stream,) = relprop.inspect(f, relprop.presets.gradient())(X).flow.streams
    assert stream.size == T


def flash(q, k, v):
    """Online softmax over chunks of keys."""

    def step(carry, chunk):
        total, norm, top = carry
        k, v = chunk
        scores = jnp.einsum("hqd,hkd->hqk", q, k)
        new = jnp.maximum(top, scores.max(-1))
        old, e = jnp.exp(top - new), jnp.exp(scores - new[..., None])
        return (total * old[..., None] + e @ v, norm * old + e.sum(-1), new), None

    start = (jnp.zeros((H, T, D // H)), jnp.zeros((H, T)), jnp.full((H, T), -1e30))
    (total, norm, _), _ = lax.scan(step, start, (chunks(k), chunks(v)))
    return total / norm[..., None]


def windows(q, k, v):
    found = lax.map(lambda a: plain(*a), (chunks(q), chunks(k), chunks(v)))
    return found.swapaxes(0, 1).reshape(H, T, -1)


@pytest.mark.parametrize("method", ["transformer_attribution", "generic", "rollout"])
def test_chunks_of_keys_are_refused(method):
    found, expected = (evaluated(two_layers(f), (X,)) for f in (flash, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(relprop.InputError, match="(?s)in chunks.*plain"):
        tokens(two_layers(flash), method)
    with pytest.raises(relprop.InputError, match="parts of the tokens"):
        tokens(two_layers(windows), method)


def cache_filled_by_a_scan(q, k, v):
    """Token by token, as a prompt goes through a cache of keys and values."""

    def step(carry, token):
        keys, values, i = carry
        q, k, v = token
        keys = lax.dynamic_update_slice(keys, k[:, None], (0, i, 0))
        values = lax.dynamic_update_slice(values, v[:, None], (0, i, 0))
        scores = jnp.where(jnp.arange(T) <= i, jnp.einsum("hd,hkd->hk", q, keys), -jnp.inf)
        return (keys, values, i + 1), jnp.einsum("hk,hkd->hd", softmax(scores), values)

    empty = jnp.zeros((H, T, D // H))
    tokens = tuple(a.swapaxes(0, 1) for a in (q, k, v))
    return lax.scan(step, (empty, empty, 0), tokens)[1].swapaxes(0, 1)


def test_a_cache_that_a_loop_fills_is_refused():
    with pytest.raises(relprop.InputError, match="one per step of a loop that carries on") as told:
        transformer_attribution(two_layers(cache_filled_by_a_scan), query=-1)(X)
    lines = [line for line in str(told.value).splitlines() if line.startswith("  ")]
    assert len(lines) == len(set(lines)) > 0


POOLS = {
    "vector": lambda x, w: softmax(x @ w, axis=0) @ x,
    "row": lambda x, w: (softmax(x @ w, axis=0)[None] @ x)[0],
    "query first": lambda x, w: (softmax(w[None] @ x.T) @ x)[0],
}


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_by_one_query(pool):
    """`softmax(x @ q) @ x` is cross-attention of one constant query."""
    w = Q[0]

    def score(x):
        return POOLS[pool](x, w)[1]

    a = evaluated(lambda x: softmax(x @ w), (X,))
    gradient = X[:, 1]
    found = transformer_attribution(score, method="generic")(X)
    np.testing.assert_allclose(found, np.maximum(a * np.asarray(gradient), 0), rtol=1e-4, atol=1e-6)
    with pytest.raises(relprop.InputError, match="generic"):
        transformer_attribution(score)(X)
