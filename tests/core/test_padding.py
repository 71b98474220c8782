"""Zeros around the argument of a convolution are padding, whoever writes them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import presets, rules
from relprop.rules import Epsilon, Flat, Gamma, WSquare, ZBox

from ..uncompiled import evaluated

pytestmark = pytest.mark.usefixtures("by_numpy")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(1, 5, 4, 2))
KERNEL, BIAS, SCALE, SHIFT = (
    RANDOM.normal(size=s) for s in ((3, 2, 2, 3), (1, 1, 1, 3), (1, 1, 1, 2), (1, 1, 1, 2))
)
LAST = RANDOM.normal(size=3)
WHOLE = RANDOM.normal(size=(7, 4, 2, 1))


def convolved(x, padding="VALID", **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, jnp.asarray(KERNEL, x.dtype), options.pop("strides", (1, 1)), padding,
        dimension_numbers=numbers, **options,
    )  # fmt: skip


def zeros(x, *shape):
    return jnp.zeros(shape, x.dtype)


def padded(x, *widths):
    return jnp.pad(x, ((0, 0), *widths, (0, 0)))


DILATED = {"strides": (2, 1), "lhs_dilation": (2, 1), "rhs_dilation": (1, 2)}
#: The same convolution, with zeros written before it and inside of it.
PAIRS = {
    "pad": (
        lambda x: convolved(padded(x, (1, 2), (0, 1))),
        lambda x: convolved(x, [(1, 2), (0, 1)]),
    ),
    "both": (
        lambda x: convolved(padded(x, (1, 1), (0, 2)), [(1, 0), (0, 1)]),
        lambda x: convolved(x, [(2, 1), (0, 3)]),
    ),
    "twice": (
        lambda x: convolved(padded(padded(x, (1, 0), (0, 0)), (0, 1), (1, 1))),
        lambda x: convolved(x, [(1, 1), (1, 1)]),
    ),
    "an axis at a time": (
        lambda x: convolved(
            jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=((0,) * 2,) * 4)
        ),
        lambda x: convolved(x, [(1, 1), (1, 1)]),
    ),
    "concatenate": (
        lambda x: convolved(
            jnp.concatenate([zeros(x, 1, 1, 4, 2), x, zeros(x, 1, 2, 4, 2)], axis=1)
        ),
        lambda x: convolved(x, [(1, 2), (0, 0)]),
    ),
    "between": (
        lambda x: convolved(
            lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (2, 1, 1), (0, 0, 2), (0, 0, 0)))
        ),
        lambda x: convolved(x, [(2, 1), (0, 0)], lhs_dilation=(2, 3)),
    ),
    "dilated": (
        lambda x: convolved(padded(x, (1, 2), (1, 0)), [(0, 0), (0, 0)], **DILATED),
        lambda x: convolved(x, [(2, 4), (1, 0)], **DILATED),
    ),
}
AROUND = {
    "alone": lambda layer: layer,
    "bias": lambda layer: lambda x: jax.nn.relu(layer(x) + jnp.asarray(BIAS, x.dtype)),
    "batch norm after": lambda layer: (
        lambda x: (layer(x) - BIAS.astype(x.dtype)) * (2 + BIAS**2).astype(x.dtype)
    ),
    "batch norm before": lambda layer: (
        lambda x: layer((x - SHIFT.astype(x.dtype)) * (2 + SCALE).astype(x.dtype))
    ),
    "checkpoint": lambda layer: jax.checkpoint(layer),
}
RULES = {
    "flat": Flat(),
    "w-square": WSquare(),
    "z-box": ZBox(-9.0, 9.0),
    "epsilon": Epsilon(0.1),
    "gamma": Gamma(),
    "alpha-beta": rules.AlphaBeta(),
    "reweighted": rules.Reweighted(),
    "epsilon_gamma_box": presets.epsilon_gamma_box(-9.0, 9.0),
    "epsilon_plus_flat": presets.epsilon_plus_flat(),
    "deep_taylor": presets.deep_taylor(),
}


def network(layer):
    def f(x):
        return jnp.sum(jnp.tanh(layer(x)).sum((0, 1, 2)) * jnp.asarray(LAST, x.dtype))

    return f


CASES = [(pair, "alone") for pair in PAIRS] + [("pad", around) for around in AROUND]


@pytest.mark.parametrize("pair, around", dict.fromkeys(CASES))
def test_padding_before_a_convolution_is_padding_inside(pair, around, x64):
    before, inside = (network(AROUND[around](layer)) for layer in PAIRS[pair])
    x = jnp.asarray(X)
    np.testing.assert_allclose(*(evaluated(f, (x,)) for f in (before, inside)), rtol=1e-12)
    for name, rule in RULES.items():
        expected = relprop.relevance(inside, rule)(x)
        found = relprop.relevance(before, rule)(x)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=1e-10 * scale, rtol=0, err_msg=name)
        kept = [
            [(op.structure, op.rule) for op in relprop.inspect(f, rule)(x)]
            for f in (before, inside)
        ]
        assert kept[0] == kept[1]


def test_all_relevance_stays_in_the_input(x64):
    f = network(PAIRS["pad"][0])
    for rule in (Flat(0.0), WSquare(0.0), ZBox(-9.0, 9.0, 0.0)):
        book = relprop.ledger(f, rule)(jnp.asarray(X))
        np.testing.assert_allclose(book.left, book.score, rtol=1e-9)
        assert book.bias == 0


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap", "symmetric"])
def test_borders_that_are_copies_take_relevance(mode, x64):
    """Of a flat layer, each entry gets as much as it has copies."""

    def f(x):
        x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), mode=mode)
        return jnp.sum(lax.conv_general_dilated(
            x, jnp.asarray(WHOLE, x.dtype), (1, 1), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ))  # fmt: skip

    one = jnp.ones(())
    (found,) = evaluated(lambda x: relprop.vrp(f, x, rules=Flat(0.0))[1](one), (jnp.asarray(X),))
    rows = np.pad(np.arange(5), 1, mode=mode)
    expected = np.bincount(rows, minlength=5) / (7 * 4 * 2)
    np.testing.assert_allclose(found[0, :, 0, 0], expected, rtol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=2.0),
        lambda x: jnp.pad(x, ((1, 0), (0, 0), (0, 0), (0, 0))),
        lambda x: lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (-1, 2, 0), (0, 0, 0), (0, 0, 0))),
        lambda x: jnp.concatenate([x, jnp.ones_like(x)], axis=1),
        lambda x: jnp.concatenate([x, x], axis=1),
    ],
)
def test_what_is_no_padding_is_left_alone(change, x64):
    f = network(lambda x: convolved(change(x)))
    plan = relprop.inspect(f, Epsilon())(jnp.asarray(X))
    assert "structural" in [op.structure for op in plan]
    found = relprop.relevance(f, presets.gradient_times_input())(jnp.asarray(X))
    gradient = evaluated(jax.grad(f), (jnp.asarray(X),))
    np.testing.assert_allclose(found, X * gradient, rtol=1e-9, atol=1e-12)


def test_padding_that_somebody_looks_at_or_reads_twice(x64):
    def f(x):
        x = relprop.named(padded(x, (1, 1), (0, 0)), "wide")
        return jnp.sum(convolved(x)) + jnp.sum(x**2)

    explain = relprop.relevance(f, Epsilon(), places="wide")
    found, inside = explain(jnp.asarray(X))
    np.testing.assert_allclose(inside["wide"].relevance.sum(), found.sum(), rtol=1e-9)
