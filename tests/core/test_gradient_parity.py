"""With the gradient as the rule of everything, relevance is the gradient.

This tells errors of the machinery from errors of the rules.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.rules import Epsilon, Flat, Gradient

from .. import zoo_functions as zoo
from ..uncompiled import evaluated, uncompiled

GRADIENT = Gradient()


def close(got, expected, tolerance=1e-5):
    """Same tree, same shapes, and equal up to a tolerance relative to the largest entry."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    sizes = [float(np.max(np.abs(_wide(b)), initial=0.0)) for b in jax.tree.leaves(expected)]
    # The bias of keys, for one, has no gradient but rounding errors of numbers as large as others.
    least = max(1e-3, 0.05 * max(sizes, default=0.0))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert jnp.shape(a) == jnp.shape(b)
        a, b = _wide(a), _wide(b)
        assert np.isfinite(b).all(), "the case itself has no finite gradient"
        scale = max(least, float(np.max(np.abs(b), initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def _wide(x):
    x = np.asarray(x)
    if x.dtype.kind == "c":
        return x.astype(np.complex128)
    return np.asarray(jnp.asarray(x).astype(jnp.float32)) if x.dtype.itemsize < 4 else x


@pytest.mark.parametrize("case", zoo.params())
def test_parity_where_it_is_traced(case):
    """As under `jax.jit`; `test_under_vmap` compiles, and here are the numbers of all cases."""
    f, args = case.explained()
    numbers = tuple(range(len(args)))
    seed, cotangent = _random_seed(jax.eval_shape(f, *args))

    @uncompiled
    def everything(*args):
        value, relevance = relprop.value_and_relevance(zoo.score(f), GRADIENT, numbers)(*args)
        _, back = relprop.vrp(f, *args, rules=GRADIENT)
        gradient = jax.value_and_grad(zoo.score(f), numbers)(*args)
        _, pull = jax.vjp(f, *args)
        return (value, relevance), back(seed), gradient, pull(cotangent)

    value_and_relevance, back, value_and_grad, pull = everything(*args)
    close(value_and_relevance, value_and_grad, case.tolerance)
    close(back, pull, case.tolerance)


# Without jit every primitive is compiled by itself, which takes its time: one case of each kind.
EAGER = """
relu_at_zero custom_jvp_unlike_its_body custom_jvp_with_matmul custom_vjp_clipped_gradient
remat_in_scan scan_of_mixed_carry scan_of_length_zero scan_of_custom_jvp_with_matmul cond_on_data
while_loop_off_the_path sort bfloat16_casts outputs_repeated_and_passed_through
output_independent_of_input argument_not_used arguments_that_are_no_arrays scalar_python_float
numpy_array debug_print_inside
"""


@pytest.mark.parametrize("case", zoo.named(EAGER))
def test_parity_without_jit(case):
    f, args = case.build()
    expected = jax.value_and_grad(zoo.score(f), case.argnums)(*args)
    got = relprop.value_and_relevance(zoo.score(f), GRADIENT, case.argnums)(*args)
    close(got, expected, case.tolerance)
    f, args = case.explained()
    outputs, back = relprop.vrp(f, *args, rules=GRADIENT)
    expected_outputs, pull = jax.vjp(f, *args)
    assert jax.tree.structure(outputs) == jax.tree.structure(expected_outputs)
    close(outputs, expected_outputs, case.tolerance)
    seed, cotangent = _random_seed(outputs)
    close(back(seed), pull(cotangent), case.tolerance)


def _random_seed(outputs):
    """A seed, and the same as `jax.vjp` wants it: nothing for what is no float."""
    generator = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(outputs)
    seeds, cotangents = [], []
    for leaf in leaves:
        dtype = jnp.result_type(leaf)
        drawn = np.asarray(generator.standard_normal(jnp.shape(leaf)), np.float32)
        if jnp.issubdtype(dtype, jnp.inexact):
            seeds.append(jnp.asarray(drawn, dtype))
            cotangents.append(jnp.asarray(drawn, dtype))
        else:
            seeds.append(jnp.zeros(jnp.shape(leaf), dtype))
            cotangents.append(np.zeros(jnp.shape(leaf), jax.dtypes.float0))
    return jax.tree.unflatten(tree, seeds), jax.tree.unflatten(tree, cotangents)


def test_the_zoo_is_large_and_named_once():
    names = [case.name for case in zoo.CASES]
    assert len(names) >= 50
    assert len(set(names)) == len(names)


# Other transformations around it.


@pytest.mark.parametrize("case", zoo.params(having="vmap"))
def test_under_vmap(case):
    f, args = case.explained()
    numbers = tuple(range(len(args)))
    batch = jax.tree.map(_three_of, args)
    got = jax.jit(jax.vmap(relprop.relevance(zoo.score(f), GRADIENT, numbers)))(*batch)
    close(got, jax.jit(jax.vmap(jax.grad(zoo.score(f), numbers)))(*batch))


def _three_of(a):
    a = np.asarray(a)
    return jnp.asarray(np.stack([a, 0.5 * a + 0.1, -1.3 * a]).astype(a.dtype))


def _direction(a):
    return jnp.asarray(np.cos(np.arange(a.size) + 0.5).reshape(a.shape).astype(np.float32))


@pytest.mark.parametrize("case", zoo.params(having="second"))
def test_hessian_vector_product(case):
    f, args = case.explained()
    numbers = tuple(range(len(args)))
    directions = jax.tree.map(_direction, args)

    def along(gradient):
        def dotted(*args):
            pairs = zip(jax.tree.leaves(gradient(*args)), jax.tree.leaves(directions), strict=True)
            return sum(jnp.vdot(g, v) for g, v in pairs)

        return dotted

    def product(transform):
        gradient = jax.grad(along(transform(zoo.score(f), argnums=numbers)), numbers)
        return evaluated(gradient, args)

    got = product(functools.partial(relprop.relevance, rules=GRADIENT))
    close(got, product(jax.grad), 1e-4)


@pytest.mark.parametrize("case", zoo.named("mlp remat scan_over_layers cond_on_data"))
def test_forward_derivative_of_relevance(case):
    f, args = case.explained()
    tangents = jax.tree.map(_direction, args)

    def derivative(explain):
        return evaluated(lambda *given: jax.jvp(explain, *given), (args, tangents))

    got = derivative(relprop.relevance(zoo.score(f), GRADIENT))
    close(got, derivative(jax.grad(zoo.score(f))), 1e-4)


def test_relevance_of_relevance():
    def f(x):
        return jnp.sum(jnp.sin(x) * x**2)

    def twice(transform):
        inner = transform(f)
        return transform(lambda x: jnp.vdot(inner(x), jnp.array([1.0, 2.0, 3.0])))

    x = jnp.array([0.3, -1.0, 2.0])
    got = twice(functools.partial(relprop.relevance, rules=GRADIENT))(x)
    close(got, twice(jax.grad)(x))


def test_inside_scan():
    case = {c.name: c for c in zoo.CASES}["mlp"]
    f, (x,) = case.build()

    def descend(transform):
        step = transform(zoo.score(f))
        return lax.scan(lambda x, _: (x - 0.1 * step(x), x.sum()), x, None, length=3)

    got = descend(functools.partial(relprop.relevance, rules=GRADIENT))
    close(got, descend(jax.grad))


def test_under_jit_with_traced_constants():
    # Under an outer jit what the function closes over is traced, and so are its inner constants.
    def explain(transform):
        def g(x, w):
            inner = jax.jit(lambda x: jnp.tanh(x @ w))
            return transform(lambda x: jnp.sum(inner(inner(x))))(x)

        return jax.jit(g)

    x, w = jnp.array([0.3, -1.0]), jnp.array([[1.0, 0.5], [-0.5, 2.0]])
    close(
        explain(functools.partial(relprop.relevance, rules=GRADIENT))(x, w), explain(jax.grad)(x, w)
    )


# Precision.


X64 = "mlp residual_block scan_over_layers remat_in_scan cond_on_data softmax scan_of_mixed_carry"


@pytest.mark.parametrize("case", zoo.named(X64))
def test_x64(case):
    f, args = case.explained()
    numbers = tuple(range(len(args)))
    with jax.enable_x64(True):
        args = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), args)
        got = evaluated(relprop.relevance(zoo.score(f), GRADIENT, numbers), args)
        expected = evaluated(jax.grad(zoo.score(f), numbers), args)
        assert all(r.dtype == jnp.float64 for r in jax.tree.leaves(got))
        close(got, expected, 1e-12)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_x64_with_two_precisions(jit):
    with jax.enable_x64(True):
        w32, w64 = jnp.array([[1.0, -2.0], [0.5, 3.0]], jnp.float32), jnp.ones((2, 2)) * 0.3

        def f(x):
            y = jnp.tanh(x.astype(jnp.float64) @ w64).astype(jnp.float32)
            c, _ = lax.scan(
                lambda c, _: ((c.astype(jnp.float64) @ w64).astype(jnp.float32), None),
                y,
                None,
                length=2,
            )
            return jnp.sum(c @ w32).astype(jnp.float64)

        x = jnp.array([0.2, -0.4], jnp.float32)
        transform = jax.jit if jit else lambda g: g
        got = transform(relprop.relevance(f, GRADIENT))(x)
        close(got, jax.grad(f)(x), 1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_gives_float32(dtype):
    w = jnp.asarray(np.random.default_rng(1).standard_normal((4, 4)), dtype)
    x = jnp.asarray(np.random.default_rng(2).standard_normal(4), dtype)

    def f(x):
        return jnp.sum(jnp.tanh(x @ w))

    got = relprop.relevance(f, GRADIENT)(x)
    assert got.dtype == jnp.float32
    close(got, jax.grad(f)(x), 2e-2)


# Other rules, on everything: nothing is computed, so this takes little time.


@pytest.mark.parametrize("case", [p for p in zoo.params() if not p.marks])
def test_every_rule_can_be_traced_everywhere(case):
    f, args = case.explained()
    numbers = tuple(range(len(args)))
    for rule in (Epsilon(), Flat()):
        explain = relprop.relevance(
            zoo.score(f), rule, numbers, on_missing="gradient", on_suspicion="ignore"
        )
        for got, x in zip(
            jax.tree.leaves(jax.eval_shape(explain, *args)), jax.tree.leaves(args), strict=True
        ):
            assert got.shape == jnp.shape(x)
            with zoo.promotion():
                assert got.dtype == jnp.promote_types(jnp.result_type(x), jnp.float32)


# The arguments of the transforms.


def _three(x, tree, z):
    return jnp.sum(jnp.sin(x) * tree["a"]) + jnp.sum(tree["b"][0] ** 2) * z


ARGS = (jnp.array([1.0, 2.0]), {"a": jnp.array([0.5, -1.0]), "b": (jnp.ones((2, 2)),)}, 3.0)


@pytest.mark.parametrize("argnums", [0, 1, 2, -1, (0,), (0, 1), (2, 0), (1, -1), [0, 2]], ids=str)
def test_argnums(argnums):
    got = evaluated(relprop.relevance(_three, GRADIENT, argnums), ARGS)
    close(got, evaluated(jax.grad(_three, argnums), ARGS))


def test_vrp_of_several_arguments():
    out, back = relprop.vrp(_three, *ARGS, rules=GRADIENT)
    expected, pull = jax.vjp(_three, *ARGS)
    assert out == expected
    close(back(jnp.float32(2.0)), pull(jnp.float32(2.0)))
    close(back(jnp.float32(-1.0)), pull(jnp.float32(-1.0)))  # one evaluation, several seeds


def test_has_aux():
    def f(x):
        y = jnp.sin(x)
        return y.sum(), {"hidden": y, "count": 3, "flags": y > 0}

    x = jnp.array([1.0, -2.0])
    expected_value, expected = jax.value_and_grad(f, has_aux=True)(x)
    value, got = relprop.value_and_relevance(f, GRADIENT, has_aux=True)(x)
    close(got, expected)
    close(value[0], expected_value[0])
    close(value[1]["hidden"], expected_value[1]["hidden"])
    assert value[1]["count"] == 3
    assert value[1]["flags"].tolist() == [True, False]
    got, aux = relprop.relevance(f, GRADIENT, has_aux=True)(x)
    close(got, expected)
    assert sorted(aux) == ["count", "flags", "hidden"]
    out, back, aux = relprop.vrp(f, x, rules=GRADIENT, has_aux=True)
    close(back(jnp.ones_like(out))[0], expected)
    assert aux["count"] == 3


@pytest.mark.parametrize("wrap", [tuple, list], ids=["tuple", "list"])
def test_aux_may_come_in_a_list(wrap):
    x = jnp.array([1.0, -2.0])
    got, aux = relprop.relevance(lambda x: wrap([jnp.sum(x**2), x]), GRADIENT, has_aux=True)(x)
    close(got, 2 * x)
    close(aux, x)


def test_keyword_arguments_as_in_jax_grad():
    def f(x, *, power=2, w=1.0):
        return jnp.sum(w * x**power)

    x = jnp.array([1.0, 2.0])
    got = relprop.relevance(f, GRADIENT)(x, power=3, w=jnp.array([1.0, -1.0]))
    close(got, jax.grad(f)(x, power=3, w=jnp.array([1.0, -1.0])))


def test_names_and_documentation_of_the_function_are_kept():
    def my_model(x):
        """Says what it does."""
        return x

    explain = relprop.relevance(my_model, GRADIENT)
    assert explain.__doc__ == "Says what it does."
    assert explain.__name__ == "my_model"


def test_callable_objects_and_partials():
    class Model:
        def __init__(self, w):
            self.w = w

        def __call__(self, x):
            return jnp.tanh(x @ self.w)

    x = jnp.array([1.0, 2.0])
    close(relprop.relevance(Model(jnp.ones(2)), GRADIENT)(x), jax.grad(Model(jnp.ones(2)))(x))
    partial = functools.partial(lambda w, x: jnp.tanh(x @ w), jnp.ones(2))
    close(relprop.relevance(partial, GRADIENT)(x), jax.grad(partial)(x))


def test_upgrade_flag_for_softmax():
    case = {c.name: c for c in zoo.CASES}["causal_attention"]
    f, args = case.build()
    with jax.softmax_custom_jvp(True):
        got = jax.jit(relprop.relevance(zoo.score(f), GRADIENT, case.argnums))(*args)
        close(got, jax.jit(jax.grad(zoo.score(f), case.argnums))(*args))
