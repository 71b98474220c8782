"""Differences of running sums are the sums of windows, and what only looks like them is not."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.rules import Epsilon

from ..metamorphic.judge import distance

pytestmark = pytest.mark.usefixtures("x64", "by_numpy")
T, D = 3, 6
W = np.random.default_rng(0).standard_normal((D, 4))
X = np.random.default_rng(1).standard_normal((T, D))
RULES = {"epsilon": Epsilon(), "chefer": relprop.presets.chefer()}


def running(x):
    return jnp.cumsum(x, 1)


def backwards(x):
    return lax.cumsum(x, 1, reverse=True)


def behind_zeros(x, count=1):
    return jnp.pad(running(x), ((0, 0), (count, 0)))


def filled(x):
    return jnp.pad(x, ((0, 0), (0, D - x.shape[1])))


def windows(x, width):
    return filled(lax.reduce_window(x, 0.0, lax.add, (1, width), (1, 1), "valid"))


def shifted(x, by):
    return lax.pad(x, 0.0, ((0, 0, 0), (by, -by, 0)))


#: What is written, and what it is.
SPELLINGS = {
    "differences": (
        lambda x: jnp.diff(running(x), axis=1, prepend=0.0),
        lambda x: x,
    ),
    "less what is before": (
        lambda x: running(x) - behind_zeros(x)[:, :-1],
        lambda x: x,
    ),
    "the other way round": (
        lambda x: -(behind_zeros(x)[:, :-1] - running(x)),
        lambda x: x,
    ),
    "first and differences": (
        lambda x: jnp.concatenate([running(x)[:, :1], jnp.diff(running(x), axis=1)], 1),
        lambda x: x,
    ),
    "from the end": (
        lambda x: filled(backwards(x)[:, :-1] - backwards(x)[:, 1:]),
        lambda x: filled(x[:, :-1]),
    ),
    "windows": (
        lambda x: filled(behind_zeros(x)[:, 3:] - behind_zeros(x)[:, :-3]),
        lambda x: windows(x, 3),
    ),
    "windows from the end": (
        lambda x: filled(backwards(x)[:, :-2] - backwards(x)[:, 2:]),
        lambda x: windows(x[:, :-1], 2),
    ),
    "some windows": (
        lambda x: filled(running(x)[:, 3:5] - running(x)[:, 1:3]),
        lambda x: windows(x[:, 2:5], 2),
    ),
    "before each": (lambda x: running(x) - x, lambda x: shifted(running(x), 1)),
    "behind each": (lambda x: backwards(x) - x, lambda x: shifted(backwards(x), -1)),
}


def relevance(f, rule):
    explain = relprop.relevance(lambda x: jnp.tanh(f(x) @ W).sum(), rule)
    return explain(X)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SPELLINGS)
def test_differences_of_running_sums(name, rule):
    written, meant = SPELLINGS[name]
    found, expected = (relevance(f, RULES[rule]) for f in (written, meant))
    assert distance(found, expected) < 1e-9


def read_as(f):
    plan = relprop.inspect(lambda x: jnp.tanh(f(x) @ W).sum(), Epsilon())(X)
    return {operation.primitive for operation in plan}


@pytest.mark.parametrize(
    "f",
    [
        lambda x: filled(jnp.cumsum(x, 0)[:, 1:] - jnp.cumsum(x, 0)[:, :-1]),  # of other columns
        lambda x: filled(running(x)[:, 1:] - running(2 * x)[:, :-1]),
        lambda x: filled(running(x)[:, ::2] - running(x)[:, ::2] * 0.5),
        lambda x: running(x) - jnp.pad(running(x), ((0, 0), (1, 0)), constant_values=1)[:, :-1],
        lambda x: running(x) - 2 * x,
        lambda x: shifted(backwards(x), 1) - backwards(x),
    ],
)
def test_what_is_none(f):
    assert "cumsum" in read_as(f)


@pytest.mark.parametrize("name", SPELLINGS)
def test_values_are_those_of_the_code(name):
    written, meant = SPELLINGS[name]
    value, found = relprop.value_and_relevance(lambda x: written(x).sum(), Epsilon())(X)
    np.testing.assert_allclose(value, meant(X).sum())
    np.testing.assert_allclose(found.sum(), value, rtol=1e-4)
