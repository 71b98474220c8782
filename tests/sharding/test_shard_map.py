"""Relevance through `shard_map` equals that of the same function on one device."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import relprop
from relprop.rules import AlphaBeta, Epsilon, Flat, Gamma, Gradient, WSquare, ZBox, Zero, ZPlus

from . import models
from .models import PARAMS, TENSOR, X, block, mesh, normal, sharded, tensor_parallel

TRACKED = pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
# An epsilon large enough to be seen, were it taken of parts of a layer.
COARSE = Epsilon(0.05)


def score(model):
    return lambda x, p: jnp.square(model(x, p)[0, -1].sum())


def close(got, expected, tolerance=2e-6):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got / scale, expected / scale, atol=tolerance)


@functools.cache
def on_one_device(model, rules=COARSE):
    return jax.jit(relprop.relevance(score(model), rules))(X, PARAMS)


@pytest.mark.parametrize("layout", models.LAYOUTS)
def test_layouts(layout):
    plain, spread, inputs, params = models.LAYOUTS[layout]
    got = jax.jit(relprop.relevance(score(sharded(spread, inputs, params)), COARSE))(X, PARAMS)
    close(got, on_one_device(plain))


@pytest.mark.parametrize("layout", ["sequence parallel", "ring"])
def test_layouts_without_types(layout):
    plain, spread, inputs, params = models.LAYOUTS[layout]
    f = score(sharded(spread, inputs, params, check_vma=False))
    close(jax.jit(relprop.relevance(f, COARSE))(X, PARAMS), on_one_device(plain))


# A smaller model, for the many things there are to combine.

Y = 2 * normal(20, 4, 8)
WEIGHTS = {"up": normal(21, 8, 16), "down": normal(22, 16, 8), "bias": normal(23, 1, 8)}
SPLIT = {"up": P(None, "t"), "down": P("t", None), "bias": P()}


def mlp(x, p):
    return jax.nn.gelu(x @ p["up"]) @ p["down"] + p["bias"]


def mlp_parts(x, p):
    return lax.psum(jax.nn.gelu(x @ p["up"]) @ p["down"], "t") + p["bias"]


def total(model):
    return lambda x, p: jnp.sum(jnp.tanh(model(x, p)))


def on_devices(function, tracked=True):
    return sharded(function, P("d"), SPLIT, tracked)


RULES = (
    Gradient(),
    Zero(),
    Epsilon(0.1, bias="ignore"),
    Gamma(0.25),
    AlphaBeta(),
    ZPlus(),
    WSquare(),
    Flat(),
    ZBox(-2.0, 2.0),
)


@TRACKED
def test_rules(tracked):
    """Every rule looks at the sum over devices, and not at the parts of a layer."""

    rules = RULES if tracked else RULES[2:4]

    def all_of(model):
        runs = [relprop.relevance(total(model), rule) for rule in rules]
        return jax.jit(lambda x, p: [run(x, p) for run in runs])(Y, WEIGHTS)

    for got, expected in zip(all_of(on_devices(mlp_parts, tracked)), all_of(mlp), strict=True):
        close(got, expected)


def twice(f):
    return lambda x, p: lax.scan(lambda c, _: (f(c, p), None), x, None, length=2)[0]


def sometimes(f):
    return lambda x, p: lax.cond(p["bias"][0, 0] < 9.0, f, lambda x, p: x, x, p)


NESTED = {
    "checkpoint outside": (jax.checkpoint(on_devices(mlp_parts)), mlp),
    "checkpoint inside": (on_devices(jax.checkpoint(mlp_parts)), mlp),
    "cond inside": (on_devices(sometimes(mlp_parts)), mlp),
    "cond outside": (sometimes(on_devices(mlp_parts)), mlp),
    "scan outside": (twice(on_devices(mlp_parts)), twice(mlp)),
    "scan of checkpoints inside": (on_devices(twice(jax.checkpoint(mlp_parts))), twice(mlp)),
    "vmap": (lambda x, p: jax.vmap(lambda y: on_devices(mlp_parts)(y, p))(x[None])[0], mlp),
    "one axis by hand": (
        jax.shard_map(
            mlp_parts, mesh=mesh(), in_specs=(P(), SPLIT), out_specs=P(), axis_names={"t"}
        ),
        mlp,
    ),
}


def test_nested():
    """In and around loops, branches and checkpoints."""
    explain = {
        name: [relprop.relevance(total(f), COARSE) for f in pair] for name, pair in NESTED.items()
    }
    found = jax.jit(lambda x, p: {n: [f(x, p) for f in fs] for n, fs in explain.items()})(
        Y, WEIGHTS
    )
    for name, (got, expected) in found.items():
        close(got, expected)
        assert np.abs(expected).max() > 0.01, name


def test_explaining_on_each_device():
    """A `shard_map` around the explanation, as around a gradient."""

    def explain(x, p):
        return relprop.relevance(lambda x: lax.psum(total(mlp_parts)(x, p), "d"), COARSE)(x)

    expected = jax.jit(relprop.relevance(total(mlp), COARSE))(Y, WEIGHTS)
    close(jax.jit(on_devices(explain))(Y, WEIGHTS), expected)


def test_plan():
    """Layers keep their names and paths, and what is in parts is seen as one layer."""
    plan = relprop.inspect(score(sharded(tensor_parallel, P("d"), TENSOR)), COARSE)(X, PARAMS)
    one = relprop.inspect(score(block), COARSE)(X, PARAMS)
    layers = [(op.structure, op.path) for op in plan if op.structure == "dense"]
    assert layers == [(op.structure, op.path) for op in one if op.structure == "dense"]
    # One of them has its bias after the sum over devices.
    assert [op.path for op in plan if "psum" in str(op.primitive)] == []
    kinds = ("softmax", "normaliser", "gate", "activation", "product", "sum")
    for kind in kinds:
        count = sum(op.structure == kind for op in one)
        assert sum(op.structure == kind for op in plan) == count, kind
    assert "shard_map" in str(plan)


@TRACKED
def test_ledger(tracked):
    """The account of each step is of all devices together."""
    book = relprop.ledger(total(on_devices(mlp_parts, tracked)), COARSE)(Y, WEIGHTS)
    one = relprop.ledger(total(mlp), COARSE)(Y, WEIGHTS)
    for name in ("score", "left", "bias", "epsilon"):
        assert float(getattr(book, name)) == pytest.approx(float(getattr(one, name)), rel=1e-5), (
            name
        )
    dense = [[r for r in b if r.operation.structure == "dense"] for b in (book, one)]
    for row, expected in zip(*dense, strict=True):
        assert float(row.arrived) == pytest.approx(float(expected.arrived), rel=1e-5)
        assert float(row.bias) == pytest.approx(float(expected.bias), rel=1e-4, abs=1e-6)


def test_places_inside():
    """A place inside has an entry for each device along the axes that it differs along."""

    def named(hide):
        def f(x, p):
            h = relprop.named(jax.nn.gelu(x @ p["up"]), "hidden") @ p["down"]
            return relprop.named((lax.psum(h, "t") if hide else h) + p["bias"], "output")

        return f

    def inside(model):
        explain = relprop.relevance(total(model), COARSE, places=("hidden", "output"))
        return jax.jit(explain)(Y, WEIGHTS)[1]

    found, one = inside(on_devices(named(True))), inside(named(False))
    for what in ("relevance", "value"):
        hidden, output = (getattr(found[name], what) for name in ("hidden", "output"))
        assert hidden.shape == (2, 4, 2, 4)
        close(np.moveaxis(hidden, 1, 2).reshape(4, 16), getattr(one["hidden"], what))
        close(output.reshape(4, 8), getattr(one["output"], what))


def test_parameters_may_be_explained():
    """What all devices hold takes the relevance that they all find."""
    explain = [
        jax.jit(relprop.relevance(lambda p, x, f=f: total(f)(x, p), Gradient()))
        for f in (on_devices(mlp_parts), mlp)
    ]
    got, expected = (f(WEIGHTS, Y) for f in explain)
    jax.tree.map(close, got, expected)


def test_derivative_of_an_explanation():
    def squares(f):
        R = relprop.relevance(total(f), COARSE)
        return jax.jit(jax.grad(lambda x: jnp.sum(R(x, WEIGHTS) ** 2)))(Y)

    close(squares(on_devices(mlp_parts)), squares(mlp), 1e-5)


def test_half_precision():
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (Y, WEIGHTS))
    got = jax.jit(relprop.relevance(total(on_devices(mlp_parts)), COARSE))(*half)
    assert got.dtype == jnp.float32
    close(got, jax.jit(relprop.relevance(total(mlp), COARSE))(*half), 0.02)


def test_a_maximum_over_devices_is_refused():
    """JAX has no derivative for it either; the one inside of a softmax is stopped."""

    def f(x, p):
        return lax.pmax(x, "d") + p["bias"]

    spread = jax.shard_map(f, mesh=mesh(), in_specs=(P("d"), SPLIT), out_specs=P())
    with pytest.raises(relprop.MissingRuleError, match=r"pmax: .*\n.*test_shard_map.py"):
        relprop.relevance(total(spread), COARSE)(Y, WEIGHTS)


@TRACKED
@pytest.mark.parametrize(
    "layer",
    [
        lambda x: jax.nn.relu(x @ WEIGHTS["up"]),
        lambda x: x[:, jnp.array([0, 0, 3, 3])],
        lambda x: x * lax.axis_index("t").astype(x.dtype) @ jnp.eye(8, dtype=x.dtype),
    ],
    ids=["weights", "places", "number of the device"],
)
def test_constants_of_all_devices_are_known_inside(layer, tracked):
    """Where the relevance itself is computed on each device."""
    own = relprop.relevance(lambda x: layer(x).sum(), Flat())
    got = jax.shard_map(own, mesh=mesh(), in_specs=P("t"), out_specs=P("t"), check_vma=tracked)
    assert jax.eval_shape(got, Y).shape == Y.shape
