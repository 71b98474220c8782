"""Parts of a function that its author marks as one thing."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import Composite
from relprop.rules import Constant, Pass, Stop

pytestmark = pytest.mark.usefixtures("leaks_are_errors", "by_numpy")

X = jnp.array([[1.0, -2.0, 3.0], [0.5, 0.2, -1.0]])
W = jnp.array([[1.0, 0.5, -1.0], [2.0, -0.3, 0.7], [0.1, 0.9, -0.4]])


@relprop.region("odd one")
def odd_one(x, power, scale=1.0, *, name="unused"):
    return scale * jnp.sin(x @ W) ** power * jnp.cos(x)


def f(x):
    return odd_one(x, 2, scale=jnp.float32(3.0), name="a string").sum()


def test_a_region_computes_what_the_function_does():
    np.testing.assert_allclose(odd_one(X, 2), jnp.sin(X @ W) ** 2 * jnp.cos(X), rtol=1e-6)
    assert odd_one.__name__ == "odd_one"


def test_without_a_rule_relevance_passes_inside():
    def plain(x):
        return (3.0 * jnp.sin(x @ W) ** 2 * jnp.cos(x)).sum()

    for rules in (relprop.presets.attn_lrp(), relprop.presets.gradient()):
        # A product of two activations: which is the gate?
        expected = relprop.relevance(plain, rules, on_suspicion="ignore")(X)
        np.testing.assert_allclose(relprop.relevance(f, rules)(X), expected, rtol=1e-5)
    np.testing.assert_allclose(
        relprop.relevance(f, relprop.presets.gradient())(X), jax.grad(plain)(X), rtol=1e-5
    )


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_a_rule_for_the_whole(wrap):
    rules = Composite().at(region="odd*").use(Pass())
    np.testing.assert_allclose(
        wrap(relprop.relevance(f, rules))(X), odd_one(X, 2, scale=3.0), rtol=1e-5
    )
    stopped = Composite().at(region="odd one").use(Stop())
    assert not wrap(relprop.relevance(f, stopped))(X).any()


def test_a_region_taken_as_a_constant():
    def normalised(x):
        return (x * relprop.region("scale")(lambda x: 1 / (1 + jnp.abs(x).max()))(x)).sum()

    rules = Composite().at(region="scale").use(Constant())
    np.testing.assert_allclose(relprop.relevance(normalised, rules)(X), X / 4, rtol=1e-6)


@pytest.mark.usefixtures("by_jax")
def test_a_region_that_closes_over_a_traced_parameter():
    def g(x, w):
        return relprop.region("layer")(lambda x: jnp.tanh(x @ w))(x).sum()

    gradient = relprop.relevance(g, relprop.presets.gradient(), argnums=(0, 1))(X, W)
    expected = jax.grad(lambda x, w: jnp.tanh(x @ w).sum(), (0, 1))(X, W)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), gradient, expected)
    assert jax.vmap(relprop.relevance(g, relprop.presets.attn_lrp()), (0, None))(X, W).shape == (
        2,
        3,
    )


def test_it_is_shown_by_its_name():
    plan = relprop.inspect(f, relprop.presets.attn_lrp())(X)
    assert [op.region for op in plan if op.structure == "region"] == ["odd one"]
    assert "region 'odd one'" in str(plan)


def test_a_region_that_is_not_there():
    rules = Composite().at(region="even one").use(Pass())
    with pytest.raises(relprop.NothingMatchedError, match="region='even one'"):
        relprop.relevance(f, rules)(X)


def test_scopes_and_unnamed_selections_see_what_is_inside():
    rules = Composite().at(primitive="cos").use(Stop())
    assert relprop.relevance(f, rules)(X).any()
    everything = relprop.inspect(f, Composite().at().use(relprop.rules.Zero()))(X)
    assert everything[0].structure == "region" and everything[0].rule is None


def _traced_and_executed(function):
    yield function
    yield jax.jit(function)
    yield lambda *args: jax.eval_shape(function, *args) and function(*args)
    yield jax.vmap(function)
    yield jax.checkpoint(function)
    yield lambda x: jax.lax.map(function, x)


def test_state_is_that_of_the_call():
    state = {"scale": 2.0}

    @relprop.region("stateful")
    def scaled(x):
        return state["scale"] * x

    np.testing.assert_allclose(scaled(X), 2 * X)
    for number, call in enumerate(_traced_and_executed(lambda x: scaled(x))):
        state["scale"] = 3.0 + number
        np.testing.assert_allclose(call(X), state["scale"] * X)
        found = relprop.relevance(lambda x: scaled(x).sum(), relprop.presets.attn_lrp())(X)
        np.testing.assert_allclose(found, state["scale"] * X, rtol=1e-6)


def test_no_tracer_escapes_through_state():
    layer = {"w": W}

    @relprop.region("layer")
    def call(x):
        return x @ layer["w"]

    def stateless(w, x):
        before, layer["w"] = layer["w"], w
        try:
            return call(x).sum()
        finally:
            layer["w"] = before

    with jax.checking_leaks():
        for w in (W, 2 * W):
            expected = jax.grad(lambda w, x: (x @ w).sum())(w, X)
            np.testing.assert_allclose(jax.grad(stateless)(w, X), expected, rtol=1e-6)
            np.testing.assert_allclose(jax.jit(jax.grad(stateless))(w, X), expected, rtol=1e-6)
            found = relprop.relevance(stateless, relprop.rules.Zero(), argnums=1)(w, X)
            np.testing.assert_allclose(found.sum(), (X @ w).sum(), rtol=1e-5)
    np.testing.assert_allclose(call(X), X @ W)


def test_arguments_and_results_that_are_no_arrays():
    @relprop.region("odd")
    def odd(x, *, unhashable, power):
        return {"y": x**power * unhashable["factor"], "name": "odd", "power": power, "none": None}

    def run(x):
        found = odd(x, unhashable={"factor": np.float32(2.0)}, power=2)
        assert (found["name"], found["power"], found["none"]) == ("odd", 2, None)
        return found["y"].sum()

    for wrap in (lambda f: f, jax.jit, jax.checkpoint):
        np.testing.assert_allclose(wrap(run)(X), 2 * (X**2).sum(), rtol=1e-6)
        np.testing.assert_allclose(wrap(jax.grad(run))(X), 4 * X, rtol=1e-6)


class _Thing:
    """What a weak reference can be had of."""

    factor = 2.0


def test_nothing_is_kept_between_calls():
    @relprop.region("forgetful")
    def scaled(x, thing, weight):
        return x * thing.factor * weight

    def once():
        thing, weight = _Thing(), jnp.full((41, 43), 2.0)
        scaled(jnp.float32(1.0), thing, weight)

        def f(x):
            return scaled(x, thing, weight).sum()

        jax.jit(f)(jnp.float32(1.0))
        relprop.relevance(f, relprop.rules.Zero())(jnp.float32(1.0))
        jax.jit(jax.vmap(jax.grad(f)))(jnp.ones(2))
        return weakref.ref(thing)

    things = [once() for _ in range(3)]
    gc.collect()
    assert not any(thing() for thing in things)
    assert not [a for a in jax.live_arrays() if a.shape == (41, 43)]


def test_a_region_needs_a_name():
    with pytest.raises(ValueError, match="needs a name"):
        relprop.region("")
