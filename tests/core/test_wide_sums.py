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

pytestmark = pytest.mark.usefixtures("by_numpy")
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


def counted_row(turns):
    return lambda e: lax.fori_loop(0, turns, lambda i, c: c + e[i], jnp.zeros((), e.dtype))


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
    "a loop that counts, by vmap": (jax.vmap(counted_row(D)), True),
    "a loop that ends early, by vmap": (jax.vmap(counted_row(D - 1)), False),
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
    "a loop of other things": lambda x: (
        jnp.exp(x) / scanned(lambda c, r: c + jnp.sin(r), 0.0)(jnp.exp(x))[:, None]
    ),
    "sorted": lambda x: jnp.exp(x) / jnp.exp(jnp.sort(x, 1)).sum(1, keepdims=True),
    "a root of columns but one": lambda x: x / jnp.sqrt(sum(columns(x * x)[1:]))[:, None],
}


@pytest.mark.parametrize("f", UNPROVEN.values(), ids=UNPROVEN)
def test_what_cannot_be_proven_is_told(f):
    if "normaliser" in structures(f):  # Proven another way.
        return
    with pytest.raises(relprop.SuspicionError, match="softmax or normalisation|normalisation"):
        relprop.relevance(lambda x: jnp.sum(f(x) @ V), Epsilon(), on_suspicion="error")(X)


def test_parts_of_other_weights_are_no_softmax():
    def over_sum(x, weight):
        entries = jnp.stack([x[:, 0] + jnp.log(weight), x[:, 1]], 1)
        total = jnp.exp(x[:, 0]) + jnp.exp(x[:, 1])
        return jnp.exp(entries) / total[:, None] @ V[:2] @ V.T

    assert "softmax" in structures(lambda x: over_sum(x, 1.0))
    assert "softmax" not in structures(lambda x: over_sum(x, 2.0))


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


ALONE = jnp.asarray(np.random.default_rng(5).standard_normal(6))
WEIGHTS = jnp.asarray(np.random.default_rng(6).standard_normal((6, 6)))


def by_a_loop(step, start=0.0):
    return lambda x: lax.scan(lambda c, z: (step(c, z), None), start, x)[0]


def doubled(c, z):
    for _ in range(9):
        z = z + z
    return c + z


def deep(x):
    for _ in range(12):
        x = jnp.tanh(x * 1.1 + 0.1) + x
    return x.sum()


def masked_twice(x):
    """Two masks are minus infinity together: the limit is all that is left of the first row."""
    mask = np.asarray([[-np.inf] * 3, [0.0] * 3, [0.0] * 3], np.float32)
    limited = jnp.maximum(x[:3, None] * x[None, 3:] + mask, jnp.finfo(jnp.float32).min)
    return (jax.nn.softmax(limited) @ x[:3])[1:].sum()


GRADIENTS = {
    "a limit of what is masked": masked_twice,
    "a loop that keeps the last": by_a_loop(lambda c, z: z + 1.0),
    "a loop that keeps a square": by_a_loop(lambda c, z: z * z + 1.0),
    "a loop that counts and keeps the last": lambda x: lax.fori_loop(
        0, 6, lambda i, c: x[i] + 1.0, 0.0
    ),
    "a loop that adds what is added up": by_a_loop(doubled),
    "a loop that adds twice what it has": by_a_loop(lambda c, z: c + c + z),
    "entries in order": lambda x: x[jnp.arange(6)].sum(),
    "entries backwards": lambda x: x[jnp.arange(5, -1, -1)][0] ** 2,
    "an empty part": lambda x: (jnp.exp(x) / (jnp.exp(x[:0]).sum() + jnp.exp(x).sum()))[0],
    "many residuals": deep,
}


@pytest.mark.parametrize("f", GRADIENTS.values(), ids=GRADIENTS)
def test_readings_are_the_same_function(f):
    """With the gradient as rule, whatever is read; planning ends, too."""
    explained = relprop.relevance(f, relprop.rules.Gradient())(ALONE)
    np.testing.assert_allclose(explained, jax.grad(f)(ALONE), rtol=1e-5, atol=1e-6)
    plain = relprop.relevance(f, relprop.presets.attn_lrp(), on_suspicion="ignore")(ALONE)
    assert np.isfinite(np.asarray(plain)).all()


def online(larger):
    def f(x):
        def step(carry, entry):
            (m, total, out), (z, v) = carry, entry
            new = larger(m, z)
            scale, p = jnp.exp(m - new), jnp.exp(z - new)
            return (new, total * scale + p, out * scale + p * v), None

        (_, total, out), _ = lax.scan(step, (-1e9, 0.0, 0.0), (x, jnp.arange(6.0)))
        return out / total

    return f


def softmax_of(parts, x):
    return jax.nn.softmax(jnp.concatenate(parts))


ALIKE = {
    "of what is joined": (
        lambda x: softmax_of([x[:3], x[4:]], x)[0],
        lambda x: jax.nn.softmax(x @ np.delete(np.eye(6), 3, 1))[0],
    ),
    "of what is rolled": (
        lambda x: (jax.nn.softmax(jnp.roll(x, 2)) * ALONE).sum(),
        lambda x: (jax.nn.softmax(x) * jnp.roll(ALONE, -2)).sum(),
    ),
    "of what is stacked": (
        lambda x: jax.nn.softmax(jnp.stack([x @ WEIGHTS[0], x @ WEIGHTS[1]]))[0],
        lambda x: jax.nn.softmax(WEIGHTS[:2] @ x)[0],
    ),
    "weighed before it is divided": (
        lambda x: (jnp.exp(x) * ALONE).sum() / jnp.exp(x).sum(),
        lambda x: jax.nn.softmax(x) @ ALONE,
    ),
    "online, by a maximum": (online(jnp.maximum), lambda x: jax.nn.softmax(x) @ jnp.arange(6.0)),
    "online, by a choice": (
        online(lambda m, z: jnp.where(z > m, z, m)),
        lambda x: jax.nn.softmax(x) @ jnp.arange(6.0),
    ),
}


@pytest.mark.parametrize(("f", "other"), ALIKE.values(), ids=ALIKE)
def test_softmaxes_of_parts(f, other):
    found, expected = (
        relprop.relevance(g, relprop.presets.attn_lrp(), on_suspicion="error")(ALONE + 0.1)
        for g in (f, other)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_softmax_of_one_entry_is_not_suspicious():
    def f(x):
        q = x[None, :1] @ jnp.ones((1, 2))
        return (jax.nn.softmax(q @ q.T) @ q).sum()

    relprop.relevance(f, relprop.presets.attn_lrp(), on_suspicion="error")(ALONE)
