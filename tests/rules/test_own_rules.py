"""Rules that users write: a linear rule is its terms, and all the rest is done for it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import rules
from relprop.rules import Contributions, LinearRule, Term
from relprop.rules.base import Bias
from relprop.rules.parameters import Number
from tests import oracles

X = np.array([[1.0, -0.5, 2.0], [0.0, 0.25, -1.0]])
W = np.array([[0.5, -1.0, 1.0, 2.0], [1.0, 0.5, -0.25, 0.0], [0.0, 0.75, -1.5, -1.0]])
B = np.array([0.5, -0.75, 0.0, -0.5])
SEED = np.array([[1.0, -2.0, 0.5, 1.5], [0.5, 1.0, -1.0, 2.0]])


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Mine(LinearRule):
    """Two kinds of contributions, of which one depends on the output."""

    power: Number = 2.0
    epsilon: Number = 0.1
    bias: Bias = "absorb"

    def terms(self, site):
        by_output = jnp.where(site.output > 0, 1.0, 0.5).astype(site.output.dtype)
        return [
            Term(w=lambda w: jnp.abs(w) ** self.power, b=rules.positive, factor=by_output),
            Term(lambda x: x * x, rules.negative),
        ]


def dense(x):
    w, b = jnp.asarray(W, x.dtype), jnp.asarray(B, x.dtype)
    return x @ w + b[None]


def explained(f, rule, x=X):
    x = jnp.asarray(x)
    y, back = relprop.vrp(f, x, rules=rule)
    return back(jnp.asarray(SEED, y.dtype))[0]


@pytest.mark.parametrize("bias", ["absorb", "ignore"])
def test_relevance_is_in_proportion_to_the_terms(bias, x64):
    found = explained(dense, Mine(bias=bias))
    for x, y, seed, row in zip(X, X @ W + B, SEED, found, strict=True):
        factor = np.where(y > 0, 1.0, 0.5)
        inputs = factor * x[:, None] * W**2 + x[:, None] ** 2 * np.minimum(W, 0)
        own = factor * np.maximum(B, 0) * (bias == "absorb")
        defined = oracles.share_out(inputs, own, seed, 0.1)
        np.testing.assert_allclose(row, defined.inputs, rtol=1e-12, atol=1e-14)


def test_what_biases_and_stabilisers_take_is_in_the_ledger(x64):
    scale = np.linspace(1.0, 2.0, len(X))[:, None] * SEED[:1]
    given, expected = (X @ W + B) * scale, 0.0
    for x, y, r in zip(X, X @ W + B, given, strict=True):
        factor = np.where(y > 0, 1.0, 0.5)
        inputs = factor * x[:, None] * W**2 + x[:, None] ** 2 * np.minimum(W, 0)
        expected += oracles.share_out(inputs, factor * np.maximum(B, 0), r, 0.1).bias
    book = relprop.ledger(lambda x: jnp.sum(dense(x) * scale), Mine())(jnp.asarray(X))
    np.testing.assert_allclose(book.bias, expected, rtol=1e-12)
    assert abs(book.gap) < 1e-13 and book.epsilon != 0


def test_numbers_are_traced_mapped_and_arguments(x64):
    by_power = lambda p: explained(dense, Mine(p))  # noqa: E731
    np.testing.assert_allclose(jax.vmap(by_power)(jnp.arange(1.0, 3.0))[1], by_power(2.0))
    steps = (by_power(1.7 + 1e-5) - by_power(1.7 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jacobian(by_power)(1.7), steps, rtol=1e-6, atol=1e-8)
    as_argument = jax.jit(lambda rule: explained(dense, rule))(Mine())
    np.testing.assert_allclose(as_argument, by_power(2.0), rtol=1e-12)


@dataclasses.dataclass(frozen=True)
class Stated(LinearRule):
    """Whatever terms it is given."""

    given: tuple = ()
    epsilon: float = 1e-6

    def contributions(self, site):
        return [
            group if isinstance(group, Contributions) else Contributions([group])
            for group in self.given
        ]


@pytest.mark.parametrize(
    "mine, known",
    [
        (Term(b=rules.whole), rules.Epsilon()),
        (Term(1, jnp.square, jnp.square), rules.WSquare()),
        (Term(lambda x: x > -9, jnp.square, jnp.square), rules.WSquare()),
        (Term(np.ones(3), 1), rules.Flat()),
        (Contributions([Term(b=rules.whole)], share=1.0), rules.Epsilon()),
    ],
)
def test_terms_of_rules_that_are_there(mine, known):
    for f, x in ((dense, X), (lambda x: x[:2] - x[2:], np.tile(X[:, :1], (2, 4)))):
        composite = relprop.Composite().at(structure=("dense", "sum"))
        if isinstance(mine, Term) and isinstance(mine.x, np.ndarray) and f is not dense:
            continue
        found = explained(f, composite.use(Stated((mine,))), np.float32(x))
        expected = explained(f, composite.use(known), np.float32(x))
        np.testing.assert_array_equal(found, expected)


def test_several_denominators_share_relevance():
    parts = [Contributions([Term(b=rules.whole)], share=s) for s in (0.75, 0.25)]
    found = explained(dense, Stated(tuple(parts)), np.float32(X))
    np.testing.assert_allclose(found, explained(dense, rules.Epsilon(), np.float32(X)), rtol=1e-6)


@pytest.mark.parametrize(
    "term, what",
    [
        (Term(lambda x: x[..., :2]), r"part of shape \(2, 2\) of the input of shape \(2, 3\)"),
        (Term(w=np.ones(3)), r"part of shape \(3,\) of the weight of shape \(3, 4\)"),
        (Term(b=np.ones(3)), r"part of shape \(3,\) of the bias of shape \(1, 4\)"),
    ],
)
def test_parts_fit_what_they_are_parts_of(term, what):
    with pytest.raises(relprop.RuleError, match=f"Stated.*{what}"):
        explained(dense, Stated((term,)), np.float32(X))


def test_a_rule_states_something():
    with pytest.raises(relprop.RuleError, match="states no terms"):
        explained(dense, Stated((Contributions([]),)), np.float32(X))


def test_fields_that_all_rules_have_are_checked():
    with pytest.raises(ValueError, match="epsilon must be a finite number from 0"):
        Mine(epsilon=-1.0)
    with pytest.raises(ValueError, match="bias must be 'absorb' or 'ignore'"):
        Mine(bias="keep")


def test_rules_of_ones_own_are_refused_where_they_mean_nothing():
    with pytest.raises(relprop.RuleError, match="Mine needs an operation that is linear"):
        relprop.relevance(
            lambda x: jnp.sum(jnp.tanh(x)), relprop.Composite().at(primitive="tanh").use(Mine())
        )(jnp.ones(3))
    with pytest.raises(relprop.RuleError, match="Mine looks at signs and sizes"):
        w = jnp.asarray(W[:, :1] + 1j * W[:, 1:2])
        relprop.relevance(lambda x: jnp.sum(jnp.abs(x.astype(w.dtype) @ w)), Mine())(
            jnp.ones((1, 3))
        )
