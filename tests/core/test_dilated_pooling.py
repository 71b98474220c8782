"""The maximum of windows with holes, of which JAX has no derivative."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.rules import Epsilon, Gradient, Linearised, Zero

X = np.random.default_rng(0).normal(size=(2, 7, 6, 1))
CASES = {
    "holes": ((1, 2, 2, 1), (1, 1, 1, 1), "VALID", (1, 1, 1, 1), (1, 2, 2, 1)),
    "strides": ((1, 3, 2, 1), (1, 2, 2, 1), "VALID", (1, 1, 1, 1), (1, 2, 3, 1)),
    "padding": (
        (1, 2, 3, 1), (1, 2, 1, 1), ((0, 0), (1, 2), (2, 1), (0, 0)), (1,) * 4, (1, 3, 2, 1)
    ),
    "holes in x": ((1, 3, 3, 1), (1, 2, 1, 1), "SAME", (1, 2, 2, 1), (1, 1, 1, 1)),
}  # fmt: skip


def pooled(x, kind, case):
    initial, reduce = (-jnp.inf, lax.max) if kind == "max" else (jnp.inf, lax.min)
    return lax.reduce_window(x, np.asarray(initial, x.dtype), reduce, *CASES[case])


def _padding(case):
    sizes, strides, padding, base, holes = CASES[case]
    if not isinstance(padding, str):
        return padding
    spread = [(n - 1) * b + 1 for n, b in zip(X.shape, base, strict=True)]
    window = [(n - 1) * h + 1 for n, h in zip(sizes, holes, strict=True)]
    return lax.padtype_to_pads(spread, window, strides, padding)


def winners(x, seed, kind, case):
    """The oracle: relevance of each result to the first of its winners, place by place."""
    sizes, strides, _, base, holes = CASES[case]
    found = np.zeros_like(x)
    for out in np.ndindex(seed.shape):
        best = None
        for place in itertools.product(*map(range, sizes)):
            at = [
                o * s + p * h - low
                for o, s, p, h, (low, _) in zip(
                    out, strides, place, holes, _padding(case), strict=True
                )
            ]
            inside = all(
                a >= 0 and a % b == 0 and a // b < n
                for a, b, n in zip(at, base, x.shape, strict=True)
            )
            if not inside:
                continue
            index = tuple(a // b for a, b in zip(at, base, strict=True))
            value = x[index] if kind == "max" else -x[index]
            if best is None or value > best[0]:
                best = value, index
        found[best[1]] += seed[out]
    return found


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("kind", ["max", "min"])
@pytest.mark.parametrize("case", CASES)
def test_relevance_goes_to_the_first_winner(case, kind, ties, compiled, x64):
    x = np.round(X) if ties else X
    out, back = relprop.vrp(lambda x: pooled(x, kind, case), jnp.asarray(x), rules=Epsilon())
    seed = np.random.default_rng(1).normal(size=out.shape)
    seed[~np.isfinite(out)] = 0
    (found,) = (jax.jit(back) if compiled else back)(jnp.asarray(seed))
    np.testing.assert_allclose(found, winners(x, seed, kind, case), atol=1e-12)


@pytest.mark.parametrize("rule", [Gradient(), Zero(), Linearised()], ids=repr)
def test_other_rules_find_a_derivative(rule, x64):
    weight = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5, 4, 1)))
    rules = relprop.Composite().at(structure="maximum").use(rule)
    found = relprop.relevance(lambda x: jnp.sum(pooled(x, "max", "holes") * weight), rules)(X)
    value = np.asarray(pooled(jnp.asarray(X), "max", "holes") * weight)
    expected = winners(X, value, "max", "holes")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_a_plain_pooling_is_left_to_jax():
    def f(x):
        return jnp.sum(lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1,) * 4, "VALID"))

    explain = relprop.relevance(f, Epsilon())
    assert "select_and_scatter_add" in str(jax.make_jaxpr(explain)(jnp.asarray(X, jnp.float32)))
