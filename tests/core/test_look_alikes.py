"""What looks like a known structure and is none is no such structure, and is read in no time."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.rules import Epsilon

pytestmark = pytest.mark.filterwarnings("ignore::relprop.SuspicionWarning")
W = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 4)))
X = jnp.asarray(np.random.default_rng(1).standard_normal((3, 4)))


def _exponentials(x):
    return [jnp.exp(x @ w) for w in W]


def _rescaled(change):
    """A layer between a norm and the root that scales its result back."""

    def f(x):
        root = jnp.sqrt((x * x).mean())
        return jnp.tanh(x / root @ W[0]) * change(root, x)

    return f


def _share(total):
    def f(x):
        a, b, c = _exponentials(x)
        return a / total(a, b, c)

    return f


SOFTMAXES = {
    "of two": (_share(lambda a, b, c: a + b), True),
    "less another": (_share(lambda a, b, c: a + b - 0.3 * c), False),
    "less a number": (_share(lambda a, b, c: a + b - 0.1), False),
    "and a value": (_share(lambda a, b, c: a + b + c**0.5 + jnp.tanh(c)), False),
}
NORMS = {
    "guarded": (_rescaled(lambda s, x: lax.clamp(1e-5, s, 1e5)), True),
    "not zero": (_rescaled(lambda s, x: jnp.where(s == 0, 1.0, s)), True),
    "limited": (_rescaled(lambda s, x: lax.clamp(1e-5, s, 1.0)), False),
    "chosen where large": (_rescaled(lambda s, x: jnp.where(s < 3, 3.0, s)), False),
    "or another value": (_rescaled(lambda s, x: jnp.minimum(s, (x @ W[1]).mean())), False),
}


def structures(f):
    with jax.numpy_rank_promotion("allow"):
        return [row.structure for row in relprop.inspect(lambda x: f(x).sum(), Epsilon())(X)]


@pytest.mark.parametrize("name", SOFTMAXES)
def test_shares_of_what_is_added_up_are_a_softmax(name):
    f, expected = SOFTMAXES[name]
    assert ("softmax" in structures(f)) == expected


@pytest.mark.parametrize("name", NORMS)
def test_a_root_scales_back_what_it_has_divided(name):
    f, expected = NORMS[name]
    assert ("normaliser" in structures(f)) == expected


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.concatenate([x @ jnp.zeros((4, 0)), x], 1),
        lambda x: x[:, :0] @ jnp.zeros((0, 3)) + x[:, :3],
        lambda x: jax.nn.sigmoid(x) / 0.0 + 1,
        lambda x: jnp.exp(jnp.inf * jnp.log(x)),
    ],
    ids=["no columns", "no rows", "over zero", "infinite power"],
)
def test_degenerate_numbers_are_no_error(f):
    structures(f)


def test_shifts_that_cancel_are_no_infinity():
    def f(x):
        return jnp.exp(jnp.log(x * x) + 90.0 - 90.0).sum()

    with jax.numpy_rank_promotion("allow"):
        assert jnp.isfinite(relprop.relevance(f, Epsilon())(X)).all()


def test_pairs_of_pairs_take_little_time():
    """Summands double with each pair, so that nobody may list them."""

    def f(x):
        a, b = x[:, 0], x[:, 1]
        for _ in range(40):
            a, b = b, jnp.logaddexp(a, b)
        return b

    def too_long(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(30)
    try:
        assert "maximum" in structures(f)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
