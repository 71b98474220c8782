"""What has no rule is told all at once, and only an explicit policy turns it into the gradient."""

from __future__ import annotations

import dataclasses
import inspect

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.pallas import pallas_call

import relprop
from relprop import _compat, propagators
from relprop._core import registry
from relprop.rules import Epsilon, Gradient, Pass, Zero

from .test_gradient_parity import close

X = jnp.array([[2.0, 0.3, 0.1], [0.2, 3.0, 0.4], [0.1, 0.5, 4.0]])
WEIGHT = jnp.ones((3, 2))
EPSILON = Epsilon()


def several(x):
    with jax.named_scope("encoder"):
        root = lax.linalg.svd(x @ x.T, compute_uv=False)[:, None]
    with jax.named_scope("decoder"):
        angle = jnp.arctan2(root + 1.0, x)
    return jnp.sum(angle * jnp.linalg.slogdet(x)[1])


def line_of(function, text):
    lines, start = inspect.getsourcelines(function)
    (found,) = (start + i for i, line in enumerate(lines) if text in line)
    return found


def test_all_of_them_are_listed_with_what_is_needed_to_find_them():
    with pytest.raises(relprop.MissingRuleError) as caught:
        relprop.relevance(several, EPSILON)(X)
    message = str(caught.value)
    assert message.startswith("3 operation(s)")
    for primitive, text, scope in (
        ("svd", "linalg.svd", "encoder"),
        ("atan2", "arctan2", "decoder"),
        ("lu", "slogdet", ""),
    ):
        (entry,) = (part for part in message.split("\n  ") if part.startswith(f"{primitive}: "))
        assert "float32[3, 3]" in entry
        assert scope in entry
        assert f"test_missing.py:{line_of(several, text)}" in message.split(f"  {primitive}: ")[1]
    for way_out in ("Composite", "register", 'on_missing="gradient"'):
        assert way_out in message


def test_inactive_operands_are_in_brackets():
    with pytest.raises(relprop.MissingRuleError) as caught:
        relprop.relevance(lambda x: jnp.sum(x.at[0].multiply(jnp.ones(3))), EPSILON)(X)
    assert "scatter-mul: float32[3, 3], (int32[1]), (float32[3])" in str(caught.value)


def test_what_relevance_does_not_reach_is_no_matter():
    def f(x):
        unused = jnp.linalg.slogdet(x)[1]
        stopped = lax.stop_gradient(jnp.linalg.slogdet(x)[1])
        del unused
        return jnp.sum(x) * stopped, jnp.linalg.eigh(x)[0]

    got, _ = relprop.relevance(f, EPSILON, has_aux=True, on_suspicion="ignore")(X)
    close(got, X * jnp.linalg.slogdet(X)[1])


@pytest.mark.parametrize("transform", ["relevance", "value_and_relevance", "inspect", "ledger"])
def test_every_transform_refuses(transform):
    with pytest.raises(relprop.MissingRuleError, match="lu"):
        getattr(relprop, transform)(several, EPSILON)(X)


def test_vrp_refuses_before_anything_runs():
    with pytest.raises(relprop.MissingRuleError, match="lu"):
        relprop.vrp(several, X, rules=EPSILON)


def test_it_is_found_under_jit():
    with pytest.raises(relprop.MissingRuleError, match="test_missing.py"):
        jax.jit(relprop.relevance(several, EPSILON))(X)


@pytest.mark.parametrize(
    "around",
    [
        jax.jit,
        jax.checkpoint,
        lambda f: lambda x: lax.cond(x[0, 0] > 0, f, lambda x: x, x),
        lambda f: lambda x: lax.scan(lambda c, _: (f(c), None), x, None, length=2)[0],
    ],
    ids=["jit", "checkpoint", "cond", "scan"],
)
def test_it_is_found_inside(around):
    f = around(lambda x: lax.linalg.lu(x @ x.T)[0])
    with pytest.raises(
        relprop.MissingRuleError, match="1 operation.*\n.*lu: .*\n.*test_missing.py"
    ):
        relprop.relevance(lambda x: jnp.sum(f(x)), EPSILON)(X)


def _through_a_ref(x):
    ref = jax.new_ref(jnp.zeros((3, 3)))
    ref[...] = x * 2.0
    return jnp.sum(ref[...])


def _from_a_ref(x):
    return jnp.sum(jax.new_ref(x)[...])


def _scan_into_a_ref(x):
    ref = jax.new_ref(jnp.zeros(3))

    def body(c, row):
        ref[...] = ref[...] + row
        return c, None

    lax.scan(body, 0.0, x)
    return jnp.sum(ref[...])


@pytest.mark.parametrize("f", [_through_a_ref, _from_a_ref, _scan_into_a_ref])
@pytest.mark.parametrize("rule", [EPSILON, Gradient()], ids=["epsilon", "gradient"])
def test_mutable_arrays_are_refused_or_right(f, rule):
    """What goes through a mutable array must not be lost without a word."""
    try:
        got = relprop.relevance(f, rule)(X)
    except relprop.MissingRuleError as error:
        assert "test_missing.py" in str(error)
    else:
        gradient = jax.grad(f)(X)
        close(got, gradient if rule == Gradient() else X * gradient)


def test_a_named_rule_is_enough():
    composite = relprop.Composite().at(primitive="lu").use(Zero())
    got = relprop.relevance(lambda x: jnp.sum(lax.linalg.lu(x)[0]), composite)(X + X.T)
    close(got, (X + X.T) * jax.grad(lambda x: jnp.sum(lax.linalg.lu(x)[0]))(X + X.T))


# Code that is no JAX.


def _kernel(x):
    def double(x_ref, out_ref):
        out_ref[...] = 2.0 * x_ref[...]

    return pallas_call(double, out_shape=jax.typeof(x), interpret=True)(x)


@jax.custom_vjp
def _with_derivative(x):
    return _kernel(x)


_with_derivative.defvjp(lambda x: (_kernel(x), None), lambda _, c: (2.0 * c,))

OPAQUE = {
    "pallas_call": _kernel,
    "pure_callback": lambda x: jax.pure_callback(lambda a: 2 * a, jax.typeof(x), x),
    "ffi_call": lambda x: jax.ffi.ffi_call("nobody", jax.typeof(x))(x),
}


@pytest.mark.parametrize("primitive", OPAQUE)
def test_kernels_are_refused_with_what_to_do(primitive):
    def f(x):
        return jnp.sum(OPAQUE[primitive](jnp.tanh(x)))

    with pytest.raises(relprop.MissingRuleError) as caught:
        relprop.relevance(f, EPSILON)(X)
    message = str(caught.value)
    assert f"{primitive}: float32[3, 3]" in message
    assert "test_missing.py" in message
    assert "custom_vjp" in message
    # There is no gradient to fall back to either.
    with pytest.raises(relprop.RuleError, match=f"{primitive} cannot be differentiated"):
        relprop.relevance(f, EPSILON, on_missing="gradient")(X)


def test_a_kernel_with_a_derivative_around_it():
    def f(x):
        return jnp.sum(_with_derivative(jnp.tanh(x)))

    with pytest.raises(relprop.MissingRuleError, match=r"pallas_call: .*\n.*test_missing.py"):
        relprop.relevance(f, EPSILON)(X)
    composite = relprop.Composite().at(structure="custom_derivative").use(Zero())
    close(relprop.relevance(f, composite)(X), 2.0 * jnp.tanh(X))


# The policy.


def f_one(x):
    return jnp.sum(lax.linalg.lu(jnp.tanh(x) + 3.0 * jnp.eye(3))[0] @ WEIGHT)


def test_gradient_policy_is_noted_where_it_was_taken():
    plan = relprop.inspect(f_one, EPSILON, on_missing="gradient")(X)
    noted = {op.primitive: op for op in plan if op.note}
    assert list(noted) == ["lu"]
    assert noted["lu"].note == "on_missing"
    assert noted["lu"].rule == Zero()
    assert "on_missing" in str(plan)
    assert {op.structure for op in plan} >= {"dense", "offset", "activation", "sum", "unknown"}


def test_gradient_policy_is_gradient_times_input_there():
    got = relprop.relevance(f_one, EPSILON, on_missing="gradient")(X)
    composite = relprop.Composite().at(primitive="lu").use(Zero())
    composite = composite.at(structure="dense").use(EPSILON)
    close(got, relprop.relevance(f_one, composite)(X))
    # The activation before it keeps its own rule: the whole is not gradient times input.
    assert np.abs(got - X * jax.grad(f_one)(X)).max() > 1e-2


def test_a_rule_as_the_policy():
    def f(x):
        return jnp.sum(
            jax.custom_derivatives.linear_call(jnp.multiply, jnp.multiply, WEIGHT[0, 0], x)
        )

    got = relprop.relevance(f, EPSILON, on_missing=Pass())(X)
    close(got, X)
    plan = relprop.inspect(f, EPSILON, on_missing=Pass())(X)
    assert [op.rule for op in plan if op.note] == [Pass()]


def test_policy_does_not_excuse_loops_that_cannot_be_reversed():
    def f(x):
        return lax.while_loop(lambda v: v.sum() > 1.0, lambda v: v * 0.5, x).sum()

    with pytest.raises(relprop.MissingRuleError, match="while"):
        relprop.relevance(f, EPSILON, on_missing="gradient")(X)


@pytest.mark.parametrize("policy", ["ignore", None, Pass, 0])
def test_unknown_policy(policy):
    with pytest.raises(ValueError, match="on_missing must be 'error', 'gradient' or a rule"):
        relprop.relevance(f_one, EPSILON, on_missing=policy)(X)


def test_policies_work_in_every_transform():
    expected = relprop.relevance(f_one, EPSILON, on_missing="gradient")(X)
    value, got = relprop.value_and_relevance(f_one, EPSILON, on_missing="gradient")(X)
    close(got, expected)
    out, back = relprop.vrp(f_one, X, rules=EPSILON, on_missing="gradient")
    close(back(out)[0], expected)
    book = relprop.ledger(f_one, EPSILON, on_missing="gradient")(X)
    close(jnp.asarray(book.relevance), expected)
    assert [row.operation.primitive for row in book if row.operation.note] == ["lu"]
    assert float(value) == pytest.approx(float(book.score), rel=1e-6)


# Primitives of one's own.


@pytest.fixture
def double():
    """A primitive that nobody knows, with a derivative; its registration is undone afterwards."""
    from jax.interpreters import ad, mlir

    primitive = jax.extend.core.Primitive("double_of_the_test")
    primitive.def_impl(lambda x: x * 2.0)
    primitive.def_abstract_eval(lambda x: x)
    mlir.register_lowering(primitive, mlir.lower_fun(lambda x: x * 2.0, multiple_results=False))
    ad.deflinear2(primitive, lambda cotangent, x: (cotangent * 2.0,))
    before = dict(registry._table)
    yield primitive
    registry._table.clear()
    registry._table.update(before)


def test_unknown_primitive_is_refused(double):
    with pytest.raises(relprop.MissingRuleError, match="double_of_the_test: float32.3, 3"):
        relprop.relevance(lambda x: jnp.sum(double.bind(x)), EPSILON)(X)


def test_unknown_primitive_off_the_way(double):
    got = relprop.relevance(lambda x: jnp.sum(x) * jnp.sum(double.bind(jnp.ones(2))), EPSILON)(X)
    close(got, 4.0 * X)


def test_unknown_primitive_with_the_gradient_policy(double):
    def f(x):
        return jnp.sum(double.bind(jnp.tanh(x)))

    got = relprop.relevance(f, EPSILON, on_missing="gradient")(X)
    close(got, 2.0 * jnp.tanh(X))
    (op,) = (op for op in relprop.inspect(f, EPSILON, on_missing="gradient")(X) if op.note)
    assert op.primitive == "double_of_the_test"
    assert op.structure == "unknown"


def test_unknown_primitive_with_the_gradient_rule(double):
    close(
        relprop.relevance(lambda x: jnp.sum(double.bind(x)), Gradient())(X), jnp.full((3, 3), 2.0)
    )


def test_registered_primitive(double):
    propagators.register(double, propagators.Linear())
    plan = relprop.inspect(lambda x: jnp.sum(double.bind(x)), EPSILON)(X)
    assert [op.structure for op in plan] == ["linear", "sum"]
    got = jax.jit(relprop.relevance(lambda x: jnp.sum(double.bind(x)), EPSILON))(X)
    close(got, 2.0 * X)
    assert propagators.registered()["double_of_the_test"] == propagators.Linear()


def test_registered_elementwise_becomes_part_of_an_activation(double):
    propagators.register(double, propagators.Elementwise())
    plan = relprop.inspect(lambda x: jnp.sum(x * jnp.tanh(double.bind(x))), EPSILON)(X)
    assert [op.structure for op in plan] == ["activation", "sum"]


def test_registered_cut(double):
    propagators.register(double, propagators.Cut())
    explain = relprop.relevance(
        lambda x: jnp.sum(double.bind(x) * x), EPSILON, on_suspicion="ignore"
    )
    close(explain(X), 2.0 * X * X)


def test_registration_by_name(double):
    propagators.register("double_of_the_test", propagators.Structural())
    plan = relprop.inspect(lambda x: jnp.sum(double.bind(x)), EPSILON)(X)
    assert [op.structure for op in plan] == ["structural", "sum"]


def test_a_name_that_this_jax_does_not_have_is_ignored():
    assert _compat.primitive("no_such_primitive") is None
    assert _compat.primitive("add") is not None


@dataclasses.dataclass(frozen=True)
class Named(propagators.Propagator):
    """A propagator from elsewhere, with a structure that nobody has given a rule."""

    name: str = "doubling"

    def structure(self, operation, active):
        return self.name


@pytest.mark.parametrize("name", ["doubling", "norm", "scan"])
def test_the_policy_is_for_structures_of_ones_own_too(double, name):
    def f(x):
        return jnp.sum(double.bind(jnp.tanh(x)))

    propagators.register(double, Named(name))
    with pytest.raises(relprop.MissingRuleError, match='double_of_the_test[^$]*on_missing="grad'):
        relprop.relevance(f, EPSILON)(X)
    close(relprop.relevance(f, EPSILON, on_missing="gradient")(X), 2.0 * jnp.tanh(X))
    close(relprop.relevance(f, EPSILON, on_missing=Pass())(X), 2.0 * jnp.tanh(X))
    (op,) = (op for op in relprop.inspect(f, EPSILON, on_missing="gradient")(X) if op.note)
    assert (op.structure, op.note) == (name, "on_missing")


def test_the_policy_leaves_alone_what_has_rules_inside():
    def f(x):
        h = jax.checkpoint(jnp.tanh)(x)
        h = lax.cond(jnp.sum(x) > 0, lambda h: h * 2.0, lambda h: h, h)
        return jnp.sum(lax.scan(lambda c, _: (jnp.tanh(c), None), h, None, length=2)[0])

    for on_missing in ("gradient", Zero()):
        plan = relprop.inspect(f, EPSILON, on_missing=on_missing)(X)
        assert {op.structure for op in plan if op.rule is None} == {"cond", "scan"}
        assert not any(op.note for op in plan)
        close(
            relprop.relevance(f, EPSILON, on_missing=on_missing)(X),
            relprop.relevance(f, EPSILON)(X),
        )
