"""What reminds of a structure and is none: proofs that have to fail.

Each case has its true neighbour beside it, so that it shows that a proof can succeed as well.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import Composite
from relprop.rules import Epsilon, Pass

T, D = 4, 6
X = jnp.asarray(np.random.default_rng(0).standard_normal((T, D)), jnp.float32)
W = jnp.asarray(np.random.default_rng(1).standard_normal((D, D)), jnp.float32)
B = jnp.linspace(-1.0, 1.0, D).reshape(1, D)
RULE = Epsilon()
NORMS = Composite().at(structure="norm", optional=True).use(Pass())


def plan(f, rules=RULE):
    return relprop.inspect(lambda x: jnp.sum(f(x) ** 3), rules, on_suspicion="ignore")(X)


def structures(f, rules=RULE):
    return [op.structure for op in plan(f, rules)]


def unit(z):
    return z / jnp.sqrt((z * z).mean(-1, keepdims=True))


def windows(length):
    return lambda x: lax.reduce_window(x, 0.0, lax.add, (1, length), (1, 1), "VALID")


def softmax_over(total):
    return lambda x: jnp.exp(x) / total(jnp.exp(x))


def guarded(limit):
    def f(x):
        e = jnp.exp(x)
        s = e.sum(-1, keepdims=True)
        return jnp.where(s > limit, e / jnp.where(s > limit, s, 1.0), 0.0)

    return f


def added_up(term):
    def f(x):
        start = jnp.zeros((T, D), x.dtype)
        return lax.scan(lambda a, r: (a + term(r[0][:, None], r[1][None]), None), start, (x.T, W))[
            0
        ]

    return f


def parts(*functions):
    return lambda x: jnp.concatenate(
        [f(part) for f, part in zip(functions, jnp.split(x, 2, -1), strict=True)], -1
    )


def total_of(x):
    return jnp.exp(x).sum(-1, keepdims=True)


def merged(x):
    return functools.reduce(jnp.logaddexp, jnp.split(x, x.shape[1], -1))


def flash(rescaled):
    """Attention of the rows to each other, two keys at a time."""

    def f(x):
        m, total, out = jnp.full((T, 1), -jnp.inf), jnp.zeros((T, 1)), jnp.zeros((T, D))
        for i in range(0, T, 2):
            z = x @ x[i : i + 2].T
            new = jnp.maximum(m, z.max(-1, keepdims=True))
            e = jnp.exp(z - new)
            total = rescaled(total, m, new) + e.sum(-1, keepdims=True)
            out, m = rescaled(out, m, new) + e @ x[i : i + 2], new
        return out / total

    return f


def picked(*choices):
    """Entries by one of two orders, divided by the sum of entries that are picked likewise."""

    def f(x):
        up, down = jnp.argsort(x, -1), jnp.argsort(-x, -1)
        orders = [jnp.where(choice, up, down) for choice in choices]
        above, below = (
            jnp.take_along_axis(jnp.exp(x), orders[n], -1) for n in (0, len(choices) - 1)
        )
        return above / below.sum(-1, keepdims=True)

    return f


CASES = {
    "one choice of entries": ("softmax", picked(B > 0), True),
    "other choices of entries": ("softmax", picked(B > 0, B < 0), False),
    "a window over the whole axis": ("softmax", softmax_over(windows(D)), True),
    "a window over a part": (
        "softmax", lambda x: jnp.exp(x)[:, 1:] / windows(2)(jnp.exp(x)), False),
    "the last of the running sums": (
        "softmax", softmax_over(lambda e: jnp.cumsum(e, -1)[:, -1:]), True),
    "another one of the running sums": (
        "softmax", softmax_over(lambda e: jnp.cumsum(e, -1)[:, -2:-1]), False),
    "kept where it is not zero": ("softmax", guarded(0.0), True),
    "kept where it is large": ("softmax", guarded(1.0), False),
    "a sum of products by a loop": ("dense", added_up(lambda a, b: a * b), True),
    "a sum of other things by a loop": ("dense", added_up(lambda a, b: jnp.sin(a * b)), False),
    "divided by q / sqrt(q)": (
        "normaliser",
        lambda x: (lambda q: x / (q / jnp.sqrt(q)))((x * x).mean(-1, keepdims=True) + 1.0),
        True,
    ),
    "divided by p / sqrt(q)": (
        "normaliser",
        lambda x: (lambda q: x / (jnp.exp(q) / jnp.sqrt(q)))((x * x).mean(-1, keepdims=True) + 1.0),
        False,
    ),
    "a part of a softmax": ("softmax", lambda x: jnp.exp(x[:, :3]) / total_of(x), True),
    "an entry of a softmax": ("softmax", lambda x: jnp.exp(x[:, 2:3]) / total_of(x), True),
    "a part over the sum of the others": (
        "softmax", lambda x: jnp.exp(x[:, :3]) / total_of(x[:, 3:]), False),
    "flash attention": ("softmax", flash(lambda a, m, n: a * jnp.exp(m - n)), True),
    "exp(z - logsumexp(z))": (
        "softmax", lambda x: jnp.exp(x - jax.nn.logsumexp(x, -1, keepdims=True)), True),
    "columns merged by logaddexp": ("softmax", lambda x: jnp.exp(x - merged(x)), True),
    "columns of which one is left out": ("softmax", lambda x: jnp.exp(x - merged(x[:, 1:])), False),
    "a root over a diagonal": (
        "normaliser", lambda x: x / jnp.sqrt(jnp.diagonal(x @ x.T))[:, None], True),
    "a root over another diagonal": (
        "normaliser", lambda x: x / jnp.sqrt(1 + jnp.diagonal(x @ x[::-1].T) ** 2)[:, None], False),
    "a product by a diagonal matrix": (
        "dense", lambda x: jnp.tanh(x) @ (jnp.eye(D) * W[:1]),
        False),
    "a product by a triangular matrix": (
        "dense", lambda x: jnp.tanh(x) @ (jnp.tri(D) * W), True),
}  # fmt: skip


@pytest.mark.parametrize(("structure", "f", "is_one"), CASES.values(), ids=CASES)
def test_a_structure_or_none(structure, f, is_one):
    assert (structure in structures(f)) is is_one


def test_norms_of_all_parts_are_one():
    assert structures(parts(unit, unit), NORMS).count("norm") == 1
    assert structures(parts(unit, jnp.tanh), NORMS).count("norm") == 1  # That of the part.
    assert "concatenate" in [op.primitive for op in plan(parts(unit, jnp.tanh), NORMS)]


def test_a_stopped_statistic_belongs_to_its_norm():
    def root(x):
        return lax.stop_gradient(jnp.sqrt((x * x).mean(-1, keepdims=True)))

    assert "norm" in structures(lambda x: x / root(x), NORMS)
    assert "norm" not in structures(lambda x: jnp.cos(x) / root(x), NORMS)


def test_weights_of_a_norm_are_no_batch_norm():
    batch_norms = Composite().at(structure="batch_norm", optional=True).use(Pass())
    scale = jnp.linspace(0.5, 1.5, D).reshape(1, D)
    for norm in (parts(unit, unit), lambda x: jnp.where(X > 0, unit(x), x), lambda x: -unit(x)):
        assert "batch_norm" not in structures(lambda x, f=norm: f(x) * scale + B, batch_norms)
    assert "batch_norm" in structures(lambda x: parts(jnp.tanh, unit)(x) * scale + B, batch_norms)


def test_the_sign_of_a_layer_comes_with_its_bias():
    assert structures(lambda x: jax.nn.sigmoid(B - x @ W))[0] == "dense"
    assert "offset" not in structures(lambda x: jax.nn.sigmoid(B - x @ W))
    # The layer has its bias already, and the sign is that of the argument of a function.
    assert structures(lambda x: jax.nn.sigmoid(-(x @ W + B)))[:2] == ["dense", "scale"]


def test_rounded_numbers_without_a_scale_are_cut():
    with pytest.raises(relprop.RelpropError):
        relprop.inspect(lambda x: jnp.sum(jnp.round(3 * x) @ W), Epsilon())(X)
    scale = jnp.abs(X).max() / 127
    layer = structures(lambda x: (jnp.round(x / scale) @ jnp.round(W * 9)) * scale)
    assert "dense" in layer


def test_transpositions_that_cancel():
    def turned(x):
        y = jnp.transpose(x.reshape(2, 2, D), (2, 0, 1))
        return jnp.transpose(jnp.transpose(y, (1, 2, 0)), (2, 0, 1)).reshape(D, T).T

    names = [op.primitive for op in plan(turned)]
    assert names.count("transpose") <= 2


def test_a_constant_is_no_bias_of_an_argument():
    positions = jnp.asarray(np.random.default_rng(2).standard_normal((T + 1, D)), jnp.float32)

    def together(x, token):
        return jnp.sum((jnp.concatenate([token, x @ W]) + positions) ** 3)

    def apart(x, token):
        return jnp.sum(jnp.concatenate([token + positions[:1], x @ W + positions[1:]]) ** 3)

    for argnums in (0, (0, 1)):  # the token is a parameter, or an input as well
        explain = [relprop.relevance(f, RULE, argnums=argnums) for f in (together, apart)]
        one, other = (jax.tree.leaves(explained(X, B)) for explained in explain)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(jnp.abs(b).max()))


def unit_vector(z):
    return z / jnp.linalg.norm(z)


SIMILARITIES = {
    "of two norms": lambda a, b, c: a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b)),
    "of one root": lambda a, b, c: a @ b * lax.rsqrt((a @ a) * (b @ b)),
}


@pytest.mark.parametrize("similarity", SIMILARITIES.values(), ids=SIMILARITIES)
def test_a_similarity_is_of_unit_vectors(similarity):
    def explained(f):
        return relprop.relevance(lambda x: f(x[0] @ W, x[1] @ W, x[2]), Epsilon(1e-9))(X)

    wanted = explained(lambda a, b, c: unit_vector(a) @ unit_vector(b))
    np.testing.assert_allclose(explained(similarity), wanted, rtol=0, atol=1e-5)


def test_the_norm_of_another_vector_is_a_factor():
    def other(x):
        a, b, c = x[0] @ W, x[1] @ W, x[2]
        return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(c))

    read = relprop.inspect(other, Epsilon(), on_suspicion="ignore")(X)
    assert [op.structure for op in read].count("normaliser") <= 1
    explain = relprop.relevance(other, relprop.rules.Zero(), on_suspicion="ignore")
    assert np.abs(np.asarray(explain(X)[2])).max() > 0.0  # c is no constant.


def test_a_shift_that_differs_stays_inside():
    """Only what is the same for all summands comes out of a logarithm of a sum."""

    def f(x):
        return jnp.sum(jax.nn.logsumexp(x @ W - jnp.tanh(x), axis=-1))

    rules = relprop.rules.Zero()
    inside = relprop.relevance(f, rules)(X)
    assert np.isfinite(np.asarray(inside)).all()
    outside = [op.primitive for op in relprop.inspect(f, rules, on_suspicion="ignore")(X)]
    assert outside.count("sub") == 1
