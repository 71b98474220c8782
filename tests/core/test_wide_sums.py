"""Sums over more entries than a term is written out for, in parts, in other orders, by loops.

Each statistic has a neighbour that sums something else, of which no softmax or norm is made.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.rules import Epsilon

T, D = 3, 12
X = jnp.asarray(np.random.default_rng(0).standard_normal((T, D)), jnp.float32)
V = jnp.asarray(np.random.default_rng(1).standard_normal((D, 2)), jnp.float32)
ORDER = np.random.default_rng(2).permutation(D)


def structures(f):
    plan = relprop.inspect(lambda x: jnp.sum((f(x) @ V) ** 3), Epsilon(), on_suspicion="ignore")(X)
    return [op.structure for op in plan]


def columns(z):
    return [z[:, i] for i in range(z.shape[1])]


def scanned(step, start):
    return lambda z: lax.scan(lambda c, r: (step(c, r), None), jnp.full(T, start), z.T)[0]


def counted(step, start, turns=D):
    def total(z):
        return lax.fori_loop(0, turns, lambda i, c: step(c, z, i), jnp.full(T, start, z.dtype))

    return total


SUMS = {
    "columns": (lambda e: sum(columns(e)), True),
    "columns, one of them twice": (lambda e: sum(columns(e)[:-1]) + e[:, 0], False),
    "two parts": (lambda e: e[:, :5].sum(1) + e[:, 5:].sum(1), True),
    "two parts that overlap": (lambda e: e[:, :5].sum(1) + e[:, 4:].sum(1), False),
    "two parts with a gap": (lambda e: e[:, :5].sum(1) + e[:, 6:].sum(1), False),
    "three parts": (lambda e: sum(p.sum(1) for p in jnp.split(e, 3, 1)), True),
    "a part and a column": (lambda e: e[:, :-1].sum(1) + e[:, -1], True),
    "every second one": (lambda e: e[:, ::2].sum(1) + e[:, 1::2].sum(1), True),
    "every second one, twice": (lambda e: e[:, ::2].sum(1) + e[:, ::2].sum(1), False),
    "parts of parts": (lambda e: e[:, 2:][:, 3:].sum(1) + e[:, :7][:, :5].sum(1), True),
    "folded": (lambda e: e.reshape(T, 3, 4).sum((1, 2)), True),
    "folded, one after the other": (lambda e: e.reshape(T, 3, 4).sum(1).sum(1), True),
    "folded, but a part": (lambda e: e.reshape(T, 3, 4)[:, :2].sum((1, 2)), False),
    "rolled": (lambda e: jnp.roll(e, 5, 1).sum(1), True),
    "in another order": (lambda e: jnp.concatenate([e[:, 7:], e[:, :7]], 1).sum(1), True),
    "joined with another one": (
        lambda e: jnp.concatenate([e[:, 7:], e[:, 1:8]], 1).sum(1),
        False,
    ),
    "from the end": (lambda e: e[:, ::-1].sum(1), True),
    "turned twice": (lambda e: (e[:, ::-1][:, ::-1]).sum(1), True),
    "a scan": (scanned(jnp.add, 0.0), True),
    "a loop that counts": (counted(lambda c, e, i: c + e[:, i], 0.0), True),
    "a loop that counts by two": (
        counted(lambda c, e, i: c + e[:, 2 * i] + e[:, 2 * i + 1], 0.0, D // 2),
        True,
    ),
    "a loop that ends early": (counted(lambda c, e, i: c + e[:, i], 0.0, D - 1), False),
    "where=True": (lambda e: e.sum(1, where=True), True),
}
LOGARITHMS = {
    "a scan": (scanned(jnp.logaddexp, -jnp.inf), True),
    "a scan that begins with something": (scanned(jnp.logaddexp, 0.0), True),  # A sink.
    "a loop that counts": (counted(lambda c, z, i: jnp.logaddexp(c, z[:, i]), -jnp.inf), True),
    "a loop that ends early": (
        counted(lambda c, z, i: jnp.logaddexp(c, z[:, i]), -jnp.inf, D - 1),
        False,
    ),
    "a scan of other things": (scanned(lambda c, r: jnp.logaddexp(c, jnp.sin(r)), -jnp.inf), False),
    "an associative scan": (
        lambda z: lax.associative_scan(jnp.logaddexp, z, axis=1)[:, -1],
        True,
    ),
    "the first of an associative scan": (
        lambda z: lax.associative_scan(jnp.logaddexp, z, axis=1)[:, -2],
        False,
    ),
    "running": (lambda z: lax.cumlogsumexp(z, axis=1)[:, -1], True),
    "running, but the last one": (lambda z: lax.cumlogsumexp(z, axis=1)[:, -2], False),
    "two parts": (
        lambda z: jnp.logaddexp(*(jax.nn.logsumexp(p, 1) for p in (z[:, :7], z[:, 7:]))),
        True,
    ),
    "two parts, one of them twice": (
        lambda z: jnp.logaddexp(*(jax.nn.logsumexp(p, 1) for p in (z[:, :7], z[:, :7]))),
        False,
    ),
    "columns": (lambda z: functools.reduce(jnp.logaddexp, columns(z)), True),
    "from the end": (lambda z: jax.nn.logsumexp(z[:, ::-1], 1), True),
}


@pytest.mark.parametrize(("total", "is_all"), SUMS.values(), ids=SUMS)
def test_sums(total, is_all):
    def softmax(x):
        return jnp.exp(x) / total(jnp.exp(x))[:, None]

    def norm(x):
        return x / jnp.sqrt(total(x * x)[:, None] + 1e-5)

    assert ("softmax" in structures(softmax)) is is_all
    if is_all:  # Other statistics of what is divided, such as one over a part, are roots as well.
        assert "normaliser" in structures(norm)
        np.testing.assert_allclose(total(X), X.sum(1), rtol=1e-4)


@pytest.mark.parametrize(("total", "is_all"), LOGARITHMS.values(), ids=LOGARITHMS)
def test_logarithms_of_sums(total, is_all):
    assert ("softmax" in structures(lambda x: jnp.exp(x - total(x)[:, None]))) is is_all


UNPROVEN = {
    "another order": lambda x: jnp.exp(x - jax.nn.logsumexp(x[:, ORDER], 1, keepdims=True)),
    "all but one": lambda x: jnp.exp(x - jax.nn.logsumexp(x[:, 1:], 1, keepdims=True)),
    "segments": jax.vmap(
        lambda r: jnp.exp(r) / jax.ops.segment_sum(jnp.exp(r), jnp.zeros(D, int), 1)
    ),
    "columns but one": lambda x: jnp.exp(x) / sum(columns(jnp.exp(x))[1:])[:, None],
    "sorted": lambda x: jnp.exp(x) / jnp.exp(jnp.sort(x, 1)).sum(1, keepdims=True),
    "a root of columns but one": lambda x: x / jnp.sqrt(sum(columns(x * x)[1:]))[:, None],
}


@pytest.mark.parametrize("f", UNPROVEN.values(), ids=UNPROVEN)
def test_what_cannot_be_proven_is_told(f):
    if "normaliser" in structures(f):  # Proven another way.
        return
    with pytest.raises(relprop.SuspicionError, match="softmax or normalisation|normalisation"):
        relprop.relevance(lambda x: jnp.sum(f(x) @ V), Epsilon(), on_suspicion="error")(X)


def test_a_gate_that_is_mapped():
    weights = [jnp.asarray(np.random.default_rng(i).standard_normal((D, 4))) for i in (3, 4)]
    ways = {
        "plain": jax.nn.sigmoid,
        "lax.map": lambda z: lax.map(jax.nn.sigmoid, z),
        "scan": lambda z: lax.scan(lambda c, r: (c, jax.nn.sigmoid(r)), 0, z)[1],
        "map of map": lambda z: lax.map(lambda r: lax.map(jax.nn.sigmoid, r), z),
    }

    def gated(opened):
        return lambda x: jnp.sum(opened(x @ weights[0]) * (x @ weights[1]))

    found = {
        name: relprop.relevance(gated(way), relprop.presets.cp_lrp())(X)
        for name, way in ways.items()
    }
    for way in found.values():
        np.testing.assert_allclose(way, found["plain"], rtol=0, atol=1e-5)
