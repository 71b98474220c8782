"""With a `NamedSharding`: the relevance of one device, at the communication of a gradient."""

from __future__ import annotations

import collections
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import relprop
from relprop.rules import Epsilon, Gamma

from . import models
from .models import PARAMS, TENSOR, X, mesh, normal
from .test_shard_map import COARSE, close, on_one_device, score

_KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"


def collectives(compiled) -> dict[str, tuple[int, int]]:
    """Per kind of communication how often it is and how many numbers it makes."""
    found: dict[str, tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
    for results, kind in re.findall(rf"= (.*?) ({_KINDS})(?:-start)?\(", compiled.as_text()):
        sizes = re.findall(r"\w\[([\d,]*)\]", results)
        entries = sum(math.prod(map(int, filter(None, size.split(",")))) for size in sizes)
        count, total = found[kind]
        found[kind] = (count + 1, total + entries)
    return dict(found)


SEQUENCE = P("d", "t")
LAYOUTS = {
    "data": (P("d"), models.REPLICATED),
    "tensor": (P("d"), TENSOR),
    "sequence": (SEQUENCE, models.REPLICATED),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_as_much_communication_as_the_gradient(layout):
    """Nothing is gathered, reduced or sent that the gradient would not."""
    inputs, specs = LAYOUTS[layout]
    x = jax.device_put(X, NamedSharding(mesh(), inputs))
    params = {n: jax.device_put(a, NamedSharding(mesh(), specs[n])) for n, a in PARAMS.items()}
    f = score(models.block)
    gradient = jax.jit(jax.value_and_grad(f)).lower(x, params).compile()
    explain = jax.jit(relprop.value_and_relevance(f, COARSE)).lower(x, params).compile()
    assert collectives(gradient)  # Otherwise there is nothing to compare.
    assert collectives(explain) == collectives(gradient)
    _, R = explain(x, params)
    assert R.sharding == gradient(x, params)[1].sharding == x.sharding
    close(R, on_one_device(models.block))


def test_what_gamma_adds():
    """Its second product |x||w| is a sum over devices as well, where the layer is one."""
    put = [jax.device_put(a, NamedSharding(mesh(), s)) for a, s in zip(ARRAYS, SPECS, strict=True)]
    f = lambda *args: jnp.sum(jnp.tanh(layer(*args)))  # noqa: E731
    (reference, got) = (
        collectives(jax.jit(g).lower(*put).compile())
        for g in (jax.value_and_grad(f), relprop.value_and_relevance(f, Gamma()))
    )
    assert got.keys() == reference.keys() == {"all-reduce"}
    assert 1.5 < got["all-reduce"][1] / reference["all-reduce"][1] < 2.1


# Shardings as part of types.

ARRAYS = (normal(30, 8, 16) * 4, normal(31, 16, 32), normal(32, 1, 32), normal(33, 32, 16))
SPECS = (P("d", None), P(None, "t"), P(None, "t"), P("t", None))


def layer(x, up, bias, down, out_sharding=None):
    h = models.norm(x)
    h = jax.nn.gelu(h @ up + bias)
    return x + jnp.dot(h, down, out_sharding=out_sharding)


def loop(one):
    def step(x, *params):
        return lax.scan(lambda c, _: (jax.checkpoint(one)(c, *params), None), x, None, length=2)[0]

    return step


def variants(out_sharding):
    """The same function with and without shardings in its types."""

    def one(*args):
        return layer(*args, out_sharding=out_sharding)

    def moved(*args):
        y = one(*args)
        return y if out_sharding is None else jax.sharding.reshard(y, P(None, "t"))

    def spread(*args):
        if out_sharding is None:
            y = one(*args)
            return y - jnp.mean(y, -1, keepdims=True)
        body = lambda y: y - lax.pmean(jnp.mean(y, -1, keepdims=True), "t")  # noqa: E731
        y = jax.sharding.reshard(one(*args), P("d", "t"))
        return jax.shard_map(body, in_specs=P("d", "t"), out_specs=P("d", "t"))(y)

    return {"loop of checkpoints": loop(one), "reshard": moved, "shard_map": spread}


def test_explicit_axes():
    def explain(functions, rule, args):
        runs = {
            n: relprop.relevance(lambda *a, f=f: jnp.sum(jnp.tanh(f(*a))), rule)
            for n, f in functions.items()
        }
        return jax.jit(lambda *args: {n: run(*args) for n, run in runs.items()})(*args)

    expected = explain(variants(None), COARSE, ARRAYS)
    with jax.set_mesh(mesh(AxisType.Explicit)):
        args = [jax.device_put(a, s) for a, s in zip(ARRAYS, SPECS, strict=True)]
        got = explain(variants(P("d", None)), COARSE, args)
    for name, R in got.items():
        assert R.sharding.spec == P("d", None)
        close(np.asarray(R), expected[name])


# Shardings said inside of a function.


def test_constraints_inside_stay():
    """Those of an operation, and those of a function that is compiled by itself."""
    split = NamedSharding(mesh(), P("d", "t"))

    def f(x):
        h = lax.with_sharding_constraint(jnp.tanh(x), split)
        return jnp.sum(jax.jit(jnp.square, in_shardings=split, out_shardings=split)(h))

    def constraints(g):
        return jax.jit(g).lower(ARRAYS[0]).as_text().count("sharding_constraint")

    assert constraints(f) == 3
    assert constraints(relprop.value_and_relevance(f, Epsilon())) >= 6  # and on the way back
    R = jax.jit(relprop.relevance(f, Epsilon()))(ARRAYS[0])
    close(np.asarray(R), np.tanh(ARRAYS[0]) ** 2)
