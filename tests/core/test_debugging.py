"""`jax_debug_nans` looks at results; plans and ledgers can be kept in files."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.rules import Epsilon, Gamma, Gradient, Rule, ZBox, Zero

X = jnp.asarray([1.0, 2.0, 0.5, 3.0])
W = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)), jnp.float32)

FUNCTIONS = {
    "variance": lambda x: jnp.var(x @ W),
    "deviation": lambda x: jnp.std(x),
    "layer norm": lambda x: (x - x.mean()) / jnp.sqrt(x.var() + 1e-5) @ W[0],
    "median": jnp.median,
    "variance of some": lambda x: x.var(where=jnp.arange(4) < 3),
    "in a loop": lambda x: jax.lax.scan(lambda c, w: (jnp.tanh(w * c), c.var()), x, W)[0].sum(),
}


@pytest.mark.parametrize("rule", [Zero(), Epsilon(), Gamma(), Gradient()], ids=repr)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_nan_that_nothing_chooses_is_no_fault(name, rule):
    explain = relprop.relevance(FUNCTIONS[name], rule, on_missing="gradient")
    expected = explain(X)
    with jax.debug_nans(True), jax.debug_infs(True):
        np.testing.assert_array_equal(explain(X), expected)
        out, back = relprop.vrp(FUNCTIONS[name], X, rules=rule, on_missing="gradient")
        back(out)


class Broken(Rule):
    """A rule that divides by zero."""

    def propagate(self, site, arriving):
        return [relprop.rules.Relevance(share=jnp.zeros_like(x) / 0.0) for x in site.inputs]


def test_a_nan_in_the_result_is_one():
    with jax.debug_nans(True):
        with pytest.raises(FloatingPointError):
            relprop.relevance(lambda x: jnp.sum(x @ W), Broken())(X)
        with pytest.raises(FloatingPointError):
            relprop.relevance(lambda x: jnp.sum(jnp.log(x)), Zero())(-X)


def model(x, weights):
    h = jax.nn.gelu(x @ weights["first"])
    a = jax.nn.softmax(h @ h.T / 2.0) @ h
    return jnp.sum((a - a.mean()) / jnp.sqrt(a.var() + 1e-5) * 0.3)


@pytest.mark.parametrize("rule", [ZBox(np.full(4, -9.0), 9.0), relprop.presets.attn_lrp()])
def test_plans_and_ledgers_go_through_pickle(rule):
    x, weights = jnp.outer(X, X), {"first": W}
    plan = relprop.inspect(model, rule)(x, weights)
    book = relprop.ledger(model, rule)(x, weights)
    for again in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):
        assert list(again) == list(plan) and str(again) == str(plan)
        assert (
            again.blocks == plan.blocks
            and len(again.flow.applications) == len(plan.flow.applications) == 1
        )
    for again in (pickle.loads(pickle.dumps(book)), copy.deepcopy(book)):
        assert list(again) == list(book) and str(again) == str(book)
        np.testing.assert_array_equal(again.relevance, book.relevance)
