"""What rules return is checked; what functions return beside the score is left as it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop.rules import Epsilon, Relevance, Rule, Zero

W = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
X = jnp.arange(4.0)


@dataclasses.dataclass(frozen=True)
class Returning(Rule):
    """A rule that returns what it is told to."""

    result: Any
    credits: Any = None

    def propagate(self, site, arriving):
        return self.result

    def credit(self, site, arriving):
        return self.credits


RIGHT = Relevance(share=jnp.ones(4))
WRONG = {
    "shape": ([Relevance(share=jnp.ones(3))], r"share of shape \(4,\).* found float32\[3\]"),
    "one axis more": ([Relevance(jnp.ones((1, 4)))], r"\(4,\).* found float32\[1, 4\]"),
    "a number for all": ([Relevance(share=jnp.ones(()))], r"\(4,\).* found float32\[\]"),
    "multiplier": ([Relevance(multiplier=jnp.ones(3))], r"multiplier of shape \(4,\)"),
    "integers": ([Relevance(share=jnp.ones(4, int))], "of real numbers, found int"),
    "complex": ([Relevance(share=jnp.ones(4, complex))], "of real numbers, found complex"),
    "text": ([Relevance(share="abc")], "found str"),
    "too few": ([], r"0 item\(s\) for 1 operand"),
    "too many": ([RIGHT, RIGHT], r"2 item\(s\) for 1 operand"),
    "an array": ([jnp.ones(4)], r"found float32\[4\] instead of a Relevance"),
    "no sequence": (RIGHT, "found Relevance instead of a sequence"),
    "nothing": (None, "found NoneType instead of a sequence"),
}


def layer(x):
    return jnp.sum(x @ W)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_relevance_is_refused_with_rule_operation_and_line(kind, compiled):
    result, found = WRONG[kind]
    explain = relprop.relevance(layer, Returning(result))
    with pytest.raises(relprop.RuleError, match=found) as caught:
        (jax.jit(explain) if compiled else explain)(X)
    message = str(caught.value)
    assert message.startswith("Returning(")
    assert "dense (dot_general)" in message
    assert "test_returned.py" in message and "(layer)" in message
    assert "float32[4]" in message


@pytest.mark.parametrize("result", [[RIGHT], (RIGHT,), [None], [Relevance()]])
def test_right_relevance_passes(result):
    expected = jnp.ones(4) if result[0] is RIGHT else jnp.zeros(4)
    np.testing.assert_array_equal(relprop.relevance(layer, Returning(result))(X), expected)


@pytest.mark.parametrize("transform", [relprop.ledger, relprop.value_and_relevance])
def test_other_transforms_refuse_it_as_well(transform):
    with pytest.raises(relprop.RuleError, match="Returning"):
        transform(layer, Returning([Relevance(share=jnp.ones(3))]))(X)


def test_wrong_credit_of_parameters_is_refused():
    rule = Returning([RIGHT], credits=[Relevance(share=jnp.ones(3))])
    explain = relprop.relevance(
        lambda x, w: jnp.sum(x @ w), rule, places=relprop.places.Parameter("w")
    )
    with pytest.raises(relprop.RuleError, match=r"`credit`[^$]*share of shape \(4, 3\)"):
        explain(X, W)


# ------------------------------------------------------------------------------------------ aux


class Thing:
    """What JAX knows nothing of."""


AUX = {
    "text": "a", "number": 3, "real": 2.5, "flag": True, "thing": Thing(), "numpy": np.ones(2),
    "dtype": np.dtype(int), "function": jnp.sin, "nothing": None, "words": ["b", ("c",)],
}  # fmt: skip


def with_aux(x):
    return jnp.sum(x * x), {"h": 2.0 * x, **AUX}


def _check_aux(aux):
    assert set(aux) == {"h", *AUX}
    np.testing.assert_array_equal(aux["h"], 2.0 * X)
    kept = {name: value for name, value in aux.items() if name != "h"}
    for ours, theirs in zip(jax.tree.leaves(kept), jax.tree.leaves(AUX), strict=True):
        assert ours is theirs


def test_aux_of_any_kind_is_left_as_it_is():
    got, aux = relprop.relevance(with_aux, Zero(), has_aux=True)(X)
    np.testing.assert_allclose(got, X * X)
    _check_aux(aux)
    (value, aux), got = relprop.value_and_relevance(with_aux, Zero(), has_aux=True)(X)
    assert float(value) == float(jnp.sum(got)) == 14.0
    _check_aux(aux)
    out, back, aux = relprop.vrp(with_aux, X, rules=Zero(), has_aux=True)
    np.testing.assert_allclose(back(out)[0], X * X)
    _check_aux(aux)


def test_plan_and_ledger_do_not_mind_aux():
    plan = relprop.inspect(with_aux, Zero(), has_aux=True)(X)
    assert [op.structure for op in plan][-1] == "sum"
    assert relprop.ledger(with_aux, Zero(), has_aux=True)(X).left == 14.0


def test_aux_of_any_kind_inside_of_jit():
    seen = []

    @jax.jit
    def explain(x):
        got, aux = relprop.relevance(with_aux, Zero(), has_aux=True)(x)
        seen.append(aux["text"])
        return got

    np.testing.assert_allclose(explain(X), X * X)
    assert seen == ["a"]


@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "deeplift"])
def test_baselines_leave_aux_as_it_is(method):
    _, aux = getattr(relprop.baselines, method)(with_aux, has_aux=True)(X)
    _check_aux(aux)


@pytest.mark.parametrize("f", [lambda x: "no", lambda x: {"y": jnp.sum(x), "z": "no"}])
def test_a_score_that_is_no_array_is_refused(f):
    for transform in (relprop.relevance, relprop.inspect, relprop.ledger):
        with pytest.raises(relprop.InputError, match="returned a str.*has_aux=True"):
            transform(f, Epsilon())(X)
    with pytest.raises(relprop.InputError, match="returned a str"):
        relprop.vrp(f, X, rules=Epsilon())
