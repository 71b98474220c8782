"""Pairs, contrasts and walks, against naive loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import pairs
from relprop.places import Scope
from relprop.rules import Epsilon, Gradient, Zero

DRAW = np.random.default_rng(0)
W1, W2, B1 = DRAW.standard_normal((5, 6)), DRAW.standard_normal((6, 3)), DRAW.standard_normal(6)
X, Y = DRAW.standard_normal((2, 5))
EPSILON = 1e-3


def arrays(*given):
    return [jnp.asarray(a, jnp.float32) for a in given]


def embed(x):
    w1, w2, b1 = arrays(W1, W2, B1)
    return jax.nn.relu(x @ w1 + b1) @ w2


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def naive(x, seeds):
    """Relevance by the epsilon rule, entry by entry."""
    before = x @ W1 + B1
    hidden = np.maximum(before, 0)
    out = hidden @ W2
    to_hidden, to_input = np.zeros(6), np.zeros(5)
    for k in range(3):
        for j in range(6):
            scale = out[k] + EPSILON * (1 if out[k] >= 0 else -1)
            to_hidden[j] += hidden[j] * W2[j, k] * seeds[k] / scale
    for j in range(6):
        for i in range(5):
            scale = before[j] + EPSILON * (1 if before[j] >= 0 else -1)
            to_input[i] += x[i] * W1[i, j] * to_hidden[j] / scale
    return to_input


def test_bilrp_is_a_sum_of_products():
    wanted = np.zeros((5, 5))
    outs = [np.maximum(x @ W1 + B1, 0) @ W2 for x in (X, Y)]
    for m in range(3):
        ours, theirs = (
            naive(x, out * (np.arange(3) == m)) for x, out in zip((X, Y), outs, strict=True)
        )
        wanted += np.outer(ours, theirs)
    explain = jax.jit(pairs.bilrp(embed, Epsilon(EPSILON)))
    close(explain(*arrays(X, Y)), wanted)
    reduced = pairs.bilrp(embed, Epsilon(EPSILON), lambda R: R.sum(), batch_size=2)
    close(reduced(*arrays(X, Y)), wanted.sum())


def test_bilrp_conserves_the_similarity():
    def g(x):
        w1, w2 = arrays(W1, W2)
        return jax.nn.relu(x @ w1) @ w2

    x, y = arrays(X, Y)
    close(pairs.bilrp(g, Zero())(x, y).sum(), g(x) @ g(y), 1e-4)


def test_interactions_are_second_derivatives():
    x = jnp.asarray(DRAW.standard_normal((2, 5)), jnp.float32)
    w1, w2, b1 = arrays(W1, W2, B1)

    def smooth(x, scale):
        return (jnp.tanh(x @ w1 + b1[None]) @ w2).sum() * x[0, 1] * scale

    hessian = jax.hessian(smooth)(x, 2.0)
    close(pairs.interactions(smooth, Gradient())(x, 2.0), hessian * x[None, None], 1e-4)
    by_rows = jax.jit(pairs.interactions(smooth, Gradient(), axes=0, batch_size=1))(x, 2.0)
    close(by_rows, (hessian * x[None, None]).sum((1, 3)), 1e-4)


def test_contrasts():
    scores = np.maximum(X @ W1 + B1, 0) @ W2
    own = naive(X, scores[1] * (np.arange(3) == 1))
    others = naive(X, scores[1] / 2 * (np.arange(3) != 1))
    x, rule = jnp.asarray(X, jnp.float32), Epsilon(EPSILON)
    close(pairs.contrastive(embed, rule, 1)(x), np.maximum(own - others, 0), 1e-4)
    both = jax.jit(lambda target: pairs.contrastive(embed, rule, target, positive=False)(x))
    close(both(jnp.asarray(-2)), own - others, 1e-4)


A = np.array([[1.0, 1, 0], [0, 1, 1], [1, 0, 1]])
NODES = DRAW.standard_normal((3, 5))
V = DRAW.standard_normal((5, 5))


def message_passing(x):
    a, w1, v = arrays(A, V, V.T)
    h = relprop.named(jax.nn.relu(a @ x @ w1), "first")
    h = relprop.named(jax.nn.relu(a @ h @ v), "second")
    return h.sum()


def naive_walk(rows):
    """LRP-0 with all nodes of a layer left out but one."""
    first = np.maximum(A @ NODES @ V, 0)
    sums = A @ first @ V.T
    R = np.maximum(sums, 0) * (np.arange(3) == rows[1])[:, None]
    R = np.where(sums > 0, R / np.where(sums == 0, 1, sums), 0)  # per unit of the sum
    R = first * (A.T @ (R @ V))
    R = R * (np.arange(3) == rows[0])[:, None]
    sums = A @ NODES @ V
    R = np.where(sums > 0, R / np.where(sums == 0, 1, sums), 0)
    return (NODES * (A.T @ (R @ V.T))).sum(1)


def test_walks_through_message_passing():
    x = jnp.asarray(NODES, jnp.float32)
    places = ["first", "second"]
    found = jax.jit(pairs.walks(message_passing, Zero(), places))(x)
    assert found.shape == (3, 3, 3)
    for i in range(3):
        for j in range(3):
            close(found[:, i, j], naive_walk((i, j)), 1e-4)
    R = relprop.relevance(message_passing, Zero())(x)
    np.testing.assert_allclose(found.sum((1, 2)), R.sum(1), rtol=0, atol=1e-6 * abs(R).max())
    some = pairs.walks(message_passing, Zero(), places, nodes=[[0, 2], [1, 1]])(x)
    close(some, [found[:, 0, 2], found[:, 1, 1]])


def test_walks_through_attention():
    w1, v = arrays(0.3 * V, V.T)

    def f(x):
        for i in range(2):
            h = x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True))
            maps = jax.nn.softmax(h @ w1 @ h.T, -1)
            with jax.named_scope(f"layer{i}"):
                x = x + maps @ (h @ v)
        return x[-1, 0]

    x = jnp.asarray(NODES, jnp.float32)
    for rules in (relprop.presets.cp_lrp(), relprop.presets.attn_lrp()):
        places = [Scope("layer0"), Scope("layer1")]
        found = jax.jit(pairs.walks(f, rules, places))(x)
        R = relprop.relevance(f, rules)(x).sum(1)
        np.testing.assert_allclose(found.sum((1, 2)), R, rtol=0, atol=1e-6 * abs(R).max())
        # The score is read from the last token.
        assert not found[:, :, :-1].any()
        assert abs(found).max() > 0.01


def test_bad_input():
    wrong, x = relprop.InputError, jnp.asarray(NODES, jnp.float32)
    walks = pairs.walks

    def refused(words, run, kind=wrong):
        with pytest.raises(kind, match=words):
            run()

    refused("no class|none of", lambda: pairs.contrastive(embed, Zero(), 3)(x[0]))
    refused("vector of scores", lambda: pairs.contrastive(lambda x: x.sum(), Zero(), 0)(x))
    refused("one array", lambda: pairs.bilrp(lambda x: (x, x), Zero())(x, x))
    refused("3 and 2 entries", lambda: pairs.bilrp(lambda x: x * 2, Zero())(x[0, :3], x[0, :2]))
    refused("2 axes", lambda: pairs.interactions(message_passing, Zero(), axes=2)(x))
    refused("entries", lambda: walks(message_passing, Zero(), ["first"], axis=[0, 0, 0])(x))
    refused("goes elsewhere", lambda: walks(message_passing, Zero(), ["first"], nodes=[[3]])(x))
    refused("rows of 1", lambda: walks(message_passing, Zero(), ["first"], nodes=[0])(x))
    refused("mean one value", lambda: walks(message_passing, Zero(), ["*s*"])(x))
    refused("nowhere", lambda: walks(message_passing, Zero(), ["nowhere"])(x),
            relprop.NothingMatchedError)  # fmt: skip
