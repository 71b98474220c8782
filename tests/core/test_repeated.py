"""Steps that are alike are traced once, and only those."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import relprop
from relprop import _compat, rules

calls = []


@dataclasses.dataclass(frozen=True)
class Counted(rules.Epsilon):
    """The epsilon rule, which notes each time that it is traced."""

    def propagate(self, site, arriving):
        calls.append(site.operation.primitive)
        return super().propagate(site, arriving)


@dataclasses.dataclass(frozen=True)
class Unhashable(Counted):
    """Likewise, with something in it that can't be compared."""

    note: list = dataclasses.field(default_factory=list)


@pytest.fixture(autouse=True)
def _nothing_noted():
    calls.clear()


def mlp(x, weights):
    for w, b in weights:
        x = jnp.tanh(x @ w + b)
    return x.sum()


def layers(*widths, seed=0):
    random = np.random.default_rng(seed)
    return [
        (jnp.asarray(random.normal(size=(n, m))), jnp.asarray(random.normal(size=(1, m))))
        for n, m in zip(widths, widths[1:], strict=False)
    ]


def half(x):
    return x.astype(jnp.bfloat16)


X = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)))


def test_the_rule_of_identical_layers_is_traced_once():
    explain = relprop.relevance(mlp, Counted())
    weights = layers(4, 4, 4, 4, 4)
    compiled = jax.jit(explain)(X, weights)
    assert len(calls) == 1
    calls.clear()
    expected = explain(X, weights)  # Nothing is traced here, but each layer computed.
    assert len(calls) == 4
    np.testing.assert_allclose(compiled, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "function, expected",
    [
        (lambda x, w: mlp(x, layers(4, 5, 6)), 2),  # other widths
        (lambda x, w: (x @ w @ w).sum(), 1),
        (lambda x, w: ((x @ w).T @ w[:3]).sum(), 2),  # another batch
        (lambda x, w: jnp.einsum("bi,ji->bj", x @ w, w).sum(), 2),  # another axis of the weight
        (lambda x, w: (half(x @ w) @ half(w)).sum(), 2),  # another type
    ],
)
def test_other_layers_are_traced_apart(function, expected):
    ((w, _),) = layers(4, 4)
    jax.jit(relprop.relevance(function, Counted()))(X, w)
    assert len(calls) == expected


def test_a_rule_that_cannot_be_hashed_is_traced_each_time():
    jax.jit(relprop.relevance(mlp, Unhashable()))(X, layers(4, 4, 4))
    assert len(calls) == 2


def test_all_passes_of_one_compiled_explanation_are_apart():
    """What one call has traced is no state that another one could see."""
    explain = relprop.relevance(mlp, Counted())
    for _ in range(2):
        jax.jit(lambda x, w: explain(x, w))(X, layers(4, 4, 4))  # noqa: B023
    assert len(calls) == 2


FUNCTIONS = {
    "scale": lambda x, c: x * c,
    "divide": lambda x, c: x / c,
    "offset": lambda x, c: x + c,
    "leaky": lambda x, c: jnp.where(x > 0, x, c * x),
    "clip": lambda x, c: jnp.clip(x, -abs(c), abs(c)),
    "power": lambda x, c: x ** (1 + int(abs(c))),
    "array": lambda x, c: x * np.full((1, x.shape[-1]), c, np.float32),
    "shift": lambda x, c: jnp.roll(x, int(c), axis=-1),
}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(FUNCTIONS)), st.sampled_from([0.5, -1.5, 2.0, 3.0, -2.5])),
        min_size=2,
        max_size=6,
    )
)
def test_numbers_in_the_code_are_told_apart(operations):
    """The same operations with other numbers: the gradient rule gives the gradient."""

    def function(x):
        for name, number in operations:
            x = FUNCTIONS[name](x, number)
        return x.sum()

    explain = relprop.value_and_relevance(function, rules.Gradient())
    _, expected = jax.value_and_grad(function)(X)
    _, found = jax.jit(explain)(X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_scopes_of_alike_steps_stay_apart():
    """Profiles name each layer, although the layers share what was traced."""

    def function(x, weights):
        for i, (w, _) in enumerate(weights):
            with jax.named_scope(f"layer{i}"):
                x = jnp.tanh(x @ w)
        return x.sum()

    explain = jax.jit(relprop.relevance(function, rules.Epsilon()))
    text = explain.lower(X, layers(4, 4, 4)).compile().as_text()
    for name in ("layer0", "layer1"):
        assert f"{name}/relprop.Epsilon/" in text


def test_inside_of_a_loop_and_of_a_branch():
    def function(x, weights):
        def body(x, layer):
            w, b = layer
            x = jnp.tanh(jnp.tanh(x @ w + b) @ w + b)
            return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w + b, lambda x: x - 1, x), None

        x, _ = jax.lax.scan(body, x, jax.tree.map(lambda *a: jnp.stack(a), *weights))
        return x.sum()

    explain = relprop.relevance(function, rules.Epsilon())
    weights = layers(4, 4, 4, 4)
    np.testing.assert_allclose(
        jax.jit(explain)(X, weights), explain(X, weights), rtol=1e-4, atol=1e-5
    )


IMAGE = jnp.asarray(np.random.default_rng(2).normal(size=(1, 3, 6, 6)))
KERNEL = jnp.asarray(np.random.default_rng(3).normal(size=(4, 3, 3, 3)))


def convolved(x):
    y = jax.lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME") + jnp.ones((1, 4, 1, 1))
    return jax.nn.relu(y).mean((2, 3)).sum()


def moved(x):
    y = x.T.reshape(2, 6)
    y = jnp.concatenate([-y[:, 1::2], jnp.pad(y[:, 3:], ((0, 0), (1, 0)))], 1)
    return (2.0 * y[:, 1:] + jnp.cumsum(y, 1)[:, :6]).sum()


def attended(x):
    return ((x @ x.T).astype(jnp.float16).astype(x.dtype) @ x / 3.0).sum()


@pytest.mark.parametrize("rule", [rules.Gradient(), rules.Epsilon(), rules.Gamma()], ids=repr)
@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: mlp(x, layers(4, 4, 2)), X),
        (lambda x: (x + jnp.tanh(x) @ layers(4, 4)[0][0]).sum(), X),
        (convolved, IMAGE),
        (moved, X),
        (attended, X),
    ],
    ids=["mlp", "residual", "convolved", "moved", "attended"],
)
def test_common_operations_are_transposed_by_the_rules_of_their_primitives(f, x, rule, monkeypatch):
    """`jax.linear_transpose` gives the same, and takes twenty times as long to trace."""
    with monkeypatch.context() as patch:
        patch.setattr(_compat.ad, "primitive_transposes", {})
        patch.setattr(_compat, "_TRANSPOSES", {})
        expected = relprop.relevance(f, rule)(x)
    monkeypatch.delattr(jax, "linear_transpose")
    found = jax.jit(relprop.relevance(f, rule))(x)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
