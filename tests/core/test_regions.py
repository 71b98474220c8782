"""Parts of a function that its author marks as one thing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import Composite
from relprop.rules import Constant, Pass, Stop

pytestmark = pytest.mark.usefixtures("unoptimised", "leaks_are_errors")

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
        np.testing.assert_allclose(
            relprop.relevance(f, rules)(X), relprop.relevance(plain, rules)(X), rtol=1e-5
        )
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


def test_called_again_it_is_not_compiled_again():
    traced = []

    @relprop.region("counted")
    def counted(x, flag):
        traced.append(flag)
        return x if flag is True else 2 * x

    results = [counted(X, flag) for flag in (True, True, 1, 1, True)]
    assert traced == [True, 1]
    assert [float(r.sum() / X.sum()) for r in results] == [1, 1, 2, 2, 1]


def test_a_region_needs_a_name():
    with pytest.raises(ValueError, match="needs a name"):
        relprop.region("")
