"""NaN and infinity that nothing reads take no relevance; those that are read stay visible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import presets, rules

from .. import zoo_functions as zoo

draw = zoo.Draw("not a number")
W, V, B = draw.dense(3, 4), draw.dense(4, 4), draw(4)
MASK = jnp.array([True, True, False])
ROWS = jnp.array([[1.0, -2.0, 0.5], [jnp.nan] * 3])
TOKENS = draw(2, 3, 4).at[1].set(jnp.nan)


def _masked(function):
    return lambda x: jnp.where(MASK, function(x), 0.0) @ W[:, 0]


def _first(function):
    return lambda x: jnp.sum(function(x)[0] * B)


def _norm(h):
    h = h - h.mean(-1, keepdims=True)
    return h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-5)


def _mean_of_positive(x):
    count = (x > 0).sum(-1).astype(x.dtype)
    return jnp.where(count > 0, jnp.where(x > 0, x, 0.0).sum(-1) / count, 0.0).sum()


FUNCTIONS = {
    "value": (_masked(lambda x: x), jnp.array([1.0, 2.0, jnp.nan])),
    "infinity": (_masked(lambda x: x), jnp.array([1.0, 2.0, jnp.inf])),
    "log_of_negative": (_masked(jnp.log), jnp.array([1.0, 2.0, -1.0])),
    "log_of_zero": (_masked(jnp.log), jnp.array([1.0, 2.0, 0.0])),
    "root_of_zero": (_masked(jnp.sqrt), jnp.array([1.0, 2.0, 0.0])),
    "over_zero": (_masked(lambda x: x / x[::-1] ** 2), jnp.array([0.0, 2.0, 1.0])),
    "over_constant": (_masked(lambda x: x / jnp.array([1.0, 2.0, 0.0])), jnp.zeros(3)),
    "branch": (
        lambda x: lax.cond(x[0] > 0, _masked(jnp.log), jnp.sum, x),
        jnp.array([1.0, 2.0, 0.0]),
    ),
    "layer": (_first(lambda x: jax.nn.relu(x @ W + B[None])), ROWS),
    "gated": (_first(lambda x: jax.nn.silu(x @ W) * (x @ W)), ROWS),
    "norm": (_first(lambda x: _norm(x @ W)), ROWS),
    "softmax": (_first(lambda x: jax.nn.softmax(x @ W)), ROWS),
    "logsumexp": (lambda x: jax.nn.logsumexp(x @ W, axis=-1)[0], ROWS),
    "maximum": (lambda x: jnp.max(x @ W, axis=-1)[0], ROWS),
    "product": (lambda x: jnp.prod(x @ W, axis=-1)[0], ROWS),
    "empty_mean": (_mean_of_positive, jnp.array([[1.0, 2.0, -1.0], [-1.0, -1.0, -1.0]])),
    "loop": (
        lambda x: lax.scan(
            lambda c, t: (jnp.tanh(c @ V + t), None), jnp.zeros((2, 4)), jnp.swapaxes(x, 0, 1)
        )[0][0] @ B,
        TOKENS,
    ),
}  # fmt: skip
RULES = {
    "zero": rules.Zero(),
    "epsilon": rules.Epsilon(),
    "gamma": rules.Gamma(),
    "alpha_beta": rules.AlphaBeta(),
    "z_box": rules.ZBox(-3.0, 3.0),
    "flat": rules.Flat(),
    "reweighted": rules.Reweighted(),
    "gradient": presets.gradient(),
    "cp_lrp": presets.cp_lrp(),
    "chefer": presets.chefer(),
}


CASES = [(name, rule) for name in FUNCTIONS for rule in ("zero", "epsilon", "gradient")]
CASES += [(name, rule) for name in ("value", "layer") for rule in list(RULES)[2:]]
CASES += [("norm", "cp_lrp"), ("softmax", "chefer"), ("product", "gamma"), ("maximum", "chefer")]


@pytest.mark.parametrize(("name", "rule"), dict.fromkeys(CASES))
def test_what_nothing_reads_takes_no_relevance(name, rule):
    f, x = FUNCTIONS[name]
    value, found = jax.jit(relprop.value_and_relevance(f, RULES[rule]))(x)
    assert jnp.isfinite(value)
    assert jnp.isfinite(found).all(), found
    unread = ~jnp.isfinite(x)
    assert not jnp.where(unread, found, 0.0).any()


@pytest.mark.parametrize("name", ["value", "log_of_zero", "norm"])
def test_its_ledger_has_no_fault(name):
    f, x = FUNCTIONS[name]
    book = relprop.ledger(f, presets.attn_lrp())(x)
    assert book.fault is None
    assert all(np.isfinite([row.arrived, row.left, row.bias, row.epsilon]).all() for row in book)


@pytest.mark.parametrize("rule", [r for r in RULES if r != "chefer"])
def test_nan_that_is_read_stays_visible(rule):
    x = jnp.array([1.0, jnp.nan, 2.0])
    for f in (lambda x: jnp.tanh(x @ W) @ B, lambda x: jnp.log(x) @ W[:, 0]):
        assert jnp.isnan(relprop.relevance(f, RULES[rule])(x)).any()


def test_an_infinite_slope_that_is_read_stays_visible():
    found = relprop.relevance(lambda x: jnp.sqrt(x).sum(), presets.gradient())(jnp.zeros(2))
    assert jnp.isinf(found).all()
