"""The ledger is of the call, names what is not conserved, and says where numbers go wrong."""

import dataclasses
import gc
import math
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback

import relprop
from relprop import presets, rules

from .. import zoo_functions as zoo

draw = zoo.Draw("ledger")
X, W, V = draw(3, 4), draw.dense(4, 4), draw.dense(4, 4)


# The call, and nothing else.


class Settings:
    """A mutable argument that cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, factor):
        self.factor = factor

    def __eq__(self, other):
        return isinstance(other, Settings)  # Equal, whatever the factor.


def test_mutable_arguments_are_read_anew():
    settings = Settings(1.0)
    explain = relprop.ledger(lambda x, s: (x * s.factor).sum(), rules.Zero())
    for factor in (1.0, 5.0, 1.0):
        settings.factor = factor
        book = explain(X, settings)
        np.testing.assert_allclose(book.relevance, factor * X, rtol=1e-6)
        np.testing.assert_allclose(book.score, factor * X.sum(), rtol=1e-5)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_state_is_read_anew(wrap):
    state = {"w": W, "factor": 1.0}

    def f(x):
        return wrap(lambda x: x @ state["w"] * state["factor"])(x).sum()

    explain = relprop.ledger(f, rules.Zero())
    for w, factor in ((W, 1.0), (2 * W, 1.0), (2 * W, 3.0), (np.asarray(V), 3.0)):
        state.update(w=w, factor=factor)
        np.testing.assert_allclose(explain(X).score, f(X), rtol=1e-5)


def test_no_tracer_leaks():
    with jax.checking_leaks():
        book = relprop.ledger(lambda x, w=None: jax.nn.relu(x @ w).sum(), rules.Zero())(X, w=W)
    np.testing.assert_allclose(book.score, jax.nn.relu(X @ W).sum(), rtol=1e-6)


def test_nothing_is_kept_alive():
    def once(fill):
        weight = jnp.full((41, 43), fill)

        def f(x):
            return jax.nn.relu(x @ weight).sum()

        explain = relprop.ledger(f, rules.Epsilon())
        explain(jnp.ones(41))
        explain(jnp.ones(41))
        return weakref.ref(f)

    functions = [once(float(i)) for i in range(3)]
    gc.collect()
    assert not any(f() for f in functions)
    assert not [a for a in jax.live_arrays() if a.shape == (41, 43)]


def test_the_same_program_is_compiled_once(monkeypatch):
    compiled = []
    compile_one = jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda *a, **k: compiled.append(0) or compile_one(*a, **k)
    )
    state = {"w": W}
    explain = relprop.ledger(lambda x: jnp.tanh(x @ state["w"]).sum(), rules.Epsilon())
    explain(X), explain(2 * X)
    state["w"] = V  # Closed-over arrays are arguments of the program.
    assert float(explain(X).score) == pytest.approx(float(jnp.tanh(X @ V).sum()), rel=1e-5)
    assert len(compiled) == 1
    explain(jnp.concatenate([X, X]))
    assert len(compiled) == 2


def test_it_runs_callbacks_once():
    calls = []

    def host(x):
        calls.append(float(x))
        return np.float32(np.nan)

    def f(x):
        return x * io_callback(host, jax.ShapeDtypeStruct((), jnp.float32), lax.stop_gradient(x))

    book = relprop.ledger(f, rules.Zero(), on_suspicion="ignore")(jnp.float32(2.0))
    jax.effects_barrier()
    assert calls == [2.0] and book.fault is not None


def test_it_is_refused_where_there_are_no_numbers():
    explain = relprop.ledger(lambda x: jnp.tanh(x @ W).sum(), rules.Epsilon())
    with pytest.raises(relprop.InputError, match="holds numbers"):
        jax.jit(lambda x: explain(x).left)(X)


# What is not conserved.


def _attention(x):
    return (jax.nn.softmax(x @ W.astype(x.dtype) @ x.T) @ x @ V.astype(x.dtype)).sum()


def _in_scan(x):
    w, v = W.astype(x.dtype), V.astype(x.dtype)
    step = lambda c, _: (jnp.tanh(jax.nn.softmax(c @ w) @ v), None)  # noqa: E731
    return lax.scan(step, x, None, length=3)[0].sum()


@pytest.mark.parametrize("f", [_attention, _in_scan, jax.checkpoint(_attention)])
def test_softmax_is_named(f, x64):
    x = jnp.asarray(X, "float64")
    book = relprop.ledger(f, presets.attn_lrp())(x)
    assert set(book.not_conserved_by) == {"softmax"}
    assert abs(book.not_conserved) > 1e-3
    assert abs(book.gap) < 1e-6  # The weights are single precision.
    for row in book:
        inside = row.operation.rule is None
        assert row.operation.structure == "softmax" or inside or row.not_conserved == 0
        assert abs(row.gap) < 1e-6
    whole = book.left + book.bias + book.epsilon + book.stopped + book.not_conserved
    assert whole == pytest.approx(float(book.seed), abs=1e-6)
    assert "not conserved by: softmax" in book.footer()
    (nested,) = [row for row in book if row.operation.rule is None] or [book]
    assert nested.not_conserved == pytest.approx(book.not_conserved)


NEURON = {"dense", "activation", "sum"}


@pytest.mark.parametrize(
    ("f", "rule", "names"),
    [
        (lambda x: jnp.tanh(x @ W).sum(), presets.gradient(), NEURON),
        (
            lambda x: jax.nn.relu(x @ W).sum(),
            presets.guided_backprop(),
            {"dense", "activation", "sum"},
        ),
        (lambda x: jax.nn.logsumexp(x @ W), rules.Zero(), {"logsumexp"}),
        (_attention, presets.cp_lrp(), set()),
        (lambda x: jax.nn.relu(x @ W).max(), rules.Gamma(), set()),
        (lambda x: jax.nn.silu(x @ W).sum(), rules.AlphaBeta(2.0, 1.0), set()),
    ],
)
def test_rules_say_whether_they_conserve(f, rule, names):
    book = relprop.ledger(f, rule)(X)
    assert set(book.not_conserved_by) <= names
    assert bool(book.not_conserved) == bool(names)
    assert abs(book.gap) < 1e-4


@dataclasses.dataclass(frozen=True)
class _Double(rules.Rule):
    honest: bool = False

    def propagate(self, site, arriving):
        (relevance,) = arriving
        return [rules.Relevance(share=2 * relevance.total(site.output))]

    def conserves(self, operation, active):
        return not self.honest


@pytest.mark.parametrize("honest", [True, False])
def test_a_rule_of_ones_own(honest):
    composite = relprop.Composite().at(primitive="neg").use(_Double(honest))
    book = relprop.ledger(lambda x: -x, composite)(jnp.float32(3.0))
    assert (book.not_conserved, book.gap) == ((3.0, 0.0) if honest else (0.0, 3.0))


# Growth.


def _recurrent(x):
    # Contributions nearly cancel in each turn.
    w = jnp.array([[3.0, -2.9], [-2.9, 3.0]])
    return lax.scan(lambda h, t: (jnp.tanh(h @ w + t), None), jnp.zeros(2), x)[0][0]


def _exploding():
    return _recurrent, jnp.stack([jnp.array([1.0, 0.99])] * 12)


def test_growth_is_warned_about():
    f, x = _exploding()
    rule = rules.Epsilon()
    with pytest.warns(relprop.GrowthWarning, match=r"relprop\.ledger.*presets\.lstm") as caught:
        found = relprop.relevance(f, rule)(x)
    assert caught[0].filename == __file__
    assert jnp.abs(found).max() > 1e3 * abs(f(x))
    with pytest.warns(relprop.GrowthWarning, match=r"most at operation \d+, .*test_ledger\.py"):
        book = relprop.ledger(f, rule)(x)
    assert book.growth.operation.depth == 1 and book.growth.factor > 1
    assert f"most at {book.growth}" in book.footer()


def test_growth_has_a_limit():
    f, x = _exploding()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relprop.value_and_relevance(f, rules.Epsilon(), growth_limit=math.inf)(x)
        relprop.ledger(f, rules.Epsilon(), growth_limit=math.inf)(x)
        # Nobody can see the numbers there.
        jax.jit(relprop.relevance(f, rules.Epsilon()))(x)
        jax.vmap(relprop.relevance(f, rules.Epsilon()))(x[None])
        # A gradient is no part of the score.
        relprop.relevance(lambda x: (1e-6 + 0 * x).sum() + 1e5 * (x - x).sum(), rules.Gradient())(X)
    with pytest.warns(relprop.GrowthWarning, match="the limit is `growth_limit`, 0.5 times"):
        relprop.relevance(lambda x: x.sum(), rules.Zero(), growth_limit=0.5)(jnp.ones(1))


def test_a_sane_explanation_has_no_growth():
    book = relprop.ledger(lambda x: jax.nn.relu(x).sum(), rules.Zero())(X)
    assert book.growth is None and "grows" not in book.footer()


# Faults.


def test_an_input_that_is_nan_is_named():
    book = relprop.ledger(lambda x, p: jnp.tanh(x @ p["w"]).sum(), rules.Epsilon())(
        X, {"w": W.at[0, 0].set(jnp.nan)}
    )
    assert (book.fault.where, book.fault.inputs, book.fault.entries) == ("inputs", ("p/w",), 1)
    assert "'p/w'" in str(book.fault)


def test_an_operation_in_a_loop_is_named():
    def step(c, _):
        return jnp.sqrt(jnp.abs(c)) * 0.0, None

    book = relprop.ledger(lambda x: lax.scan(step, x, None, length=3)[0].sum(), presets.gradient())(
        X
    )
    assert book.fault.where == "backward" and book.fault.operation is not None
    assert book.fault.operation.depth == 1

    def bad(c, t):
        return jnp.log(c - t), None

    book = relprop.ledger(lambda x: lax.scan(bad, x, jnp.arange(3.0))[0].sum(), rules.Zero())(X)
    assert book.fault.where == "forward" and book.fault.operation.primitive == "log"


def test_a_mask_is_not_to_blame():
    mask = jnp.array([[True, True, False, False], [False] * 4, [True] * 4])
    book = relprop.ledger(
        lambda x: (jax.nn.softmax(jnp.where(mask, x @ W, -jnp.inf)) @ V).sum(), rules.Zero()
    )(X)
    assert book.fault.where == "forward" and book.fault.operation.structure == "softmax"
