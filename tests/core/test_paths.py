"""Layers are known by the path of their parameter, whatever was done to it on the way."""

import jax
import jax.numpy as jnp
import pytest

import relprop
from relprop.rules import Constant, Stop

RULES = relprop.presets.attn_lrp()
KEYS = jax.random.split(jax.random.key(0), 8)
X = jax.random.normal(KEYS[0], (3, 4))
P = {
    "kernel": jax.random.normal(KEYS[1], (4, 4)),
    "a": jax.random.normal(KEYS[2], (4, 2)),
    "b": jax.random.normal(KEYS[3], (2, 4)),
    "gain": jnp.arange(1.0, 5),
    "keep": jnp.arange(16).reshape(4, 4) % 3 > 0,
    "stack": jax.random.normal(KEYS[4], (2, 4, 4)),
}

DERIVED = {
    "transposed": lambda p: p["kernel"].T,
    "scaled": lambda p: p["kernel"] * 0.5,
    "half precision": lambda p: p["kernel"].astype(jnp.bfloat16).astype(jnp.float32),
    "masked": lambda p: jnp.where(p["keep"], p["kernel"], 0.0),
    "masked by a product": lambda p: p["keep"].astype(float) * p["kernel"],
    "weight norm": lambda p: p["kernel"] * (p["gain"] / jnp.linalg.norm(p["kernel"], axis=0))[None],
    "standardised": lambda p: (p["kernel"] - p["kernel"].mean()) / p["kernel"].std(),
    "low rank added": lambda p: p["kernel"] + p["a"] @ p["b"],
    "added to low rank": lambda p: p["a"] @ p["b"] + p["kernel"],
}


def test_weights_that_are_chosen_by_the_input():
    def f(x, p):
        best = jnp.argmax(x.sum(0)) % 2
        return (x @ p["stack"][best]).sum()

    plan = relprop.inspect(f, RULES)(X, P)
    assert [op.path for op in plan if op.structure == "dense"] == ["p/stack"]


@pytest.mark.parametrize("how", DERIVED)
def test_a_derived_weight_keeps_its_path(how):
    plan = relprop.inspect(lambda x, p: (x @ DERIVED[how](p)).sum(), RULES)(X, P)
    assert [op.path for op in plan if op.structure == "dense"] == ["p/kernel"]


def test_a_weight_that_is_taken_out_in_a_loop():
    def f(x, p):
        return jax.lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ p["stack"][i]), x).sum()

    plan = relprop.inspect(f, RULES)(X, P)
    assert [op.path for op in plan if op.structure == "dense"] == ["p/stack"]


def network(x, p):
    h = jnp.tanh(x @ p["kernel"])
    weights = jax.nn.softmax(h @ (x @ p["a"] @ p["b"]).T, -1)
    y = weights @ h
    return (y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + 1e-6)).sum()


@pytest.mark.parametrize("rules", [relprop.presets.attn_lrp(), relprop.presets.cp_lrp()])
def test_what_is_computed_from_the_input_is_no_parameter(rules):
    plan = relprop.inspect(network, rules)(X, P)
    assert {op.path for op in plan} == {"", "p/kernel"} | {
        op.path for op in plan if op.structure == "dense"
    }
    # The product of a constant attention map with values is not that of the weights of its keys.
    assert all(op.path in ("p/kernel", "p/a", "p/b", "") for op in plan)
    assert [op.path for op in plan if op.structure in ("scale", "product")] == [""] * len(
        [op for op in plan if op.structure in ("scale", "product")]
    )


def test_a_selection_by_path_reaches_that_layer_only():
    rules = relprop.Composite().at(path="p/a", optional=True).use(Constant())
    conservative = relprop.presets.cp_lrp()
    plain = relprop.relevance(network, conservative)(X, P)
    selected = relprop.relevance(network, rules.then(conservative))(X, P)
    assert jnp.allclose(plain, selected)  # no relevance gets to the keys in any case


def test_a_norm_of_one_layer_is_not_that_of_the_next():
    def norm(x, scale):
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale

    def f(x, p):
        x = x + norm(x, p["gain"][None]) @ p["kernel"]
        return norm(x, p["last"][None]).sum()

    params = {**P, "last": jnp.ones(4)}
    plan = relprop.inspect(f, RULES)(X, params)
    assert [op.path for op in plan].count("p/gain") == 1
    stopped = relprop.Composite().at(path="p/gain").use(Stop()).then(RULES)
    assert relprop.relevance(f, stopped)(X, params).any()  # the residual goes on
