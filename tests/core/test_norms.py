"""A whole normalisation is one operation where a composite names it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import Composite
from relprop.rules import Pass

from ..uncompiled import evaluated

pytestmark = pytest.mark.usefixtures("leaks_are_errors", "by_numpy")

KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.normal(KEYS[0], (2, 5, 8))
W = jax.random.normal(KEYS[1], (8, 8))
P = {"scale": jnp.arange(1.0, 9)[None, None], "bias": 0.1 * jnp.ones((1, 1, 8))}
RULES = Composite().at(structure="norm").use(Pass()).then(relprop.presets.attn_lrp())


def two_pass(x, axes=-1):
    mean = x.mean(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(((x - mean) ** 2).mean(axes, keepdims=True) + 1e-6)


def centred_first(x, axes=-1):
    x = x - x.mean(axes, keepdims=True)
    return x / jnp.sqrt((x * x).mean(axes, keepdims=True) + 1e-6)


def moments(x, axes=-1):
    mean = x.mean(axes, keepdims=True)
    variance = jnp.maximum((x * x).mean(axes, keepdims=True) - mean**2, 0)
    return (x - mean) / jnp.sqrt(variance + 1e-6)


def folded(x, axes=-1):
    inverse = lax.rsqrt(jnp.var(x, axes, keepdims=True) + 1e-6)
    return x * inverse - x.mean(axes, keepdims=True) * inverse


def rms(x, axes=-1):
    return x * lax.rsqrt((x * x).mean(axes, keepdims=True) + 1e-6)


def l2(x, axes=-1):
    return x / jnp.linalg.norm(x, axis=axes, keepdims=True)


def grouped(x):
    return two_pass(x.reshape(2, 5, 2, 4), (1, 3)).reshape(x.shape)


def scaled_before(x):
    mean = x.mean(-1, keepdims=True)
    inverse = lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-6) * P["scale"]
    return x * inverse + (P["bias"] - mean * inverse)


SPELLINGS = (two_pass, centred_first, moments, folded, rms, l2, grouped, scaled_before)


@pytest.mark.parametrize("norm", SPELLINGS)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("before", [jax.nn.gelu, lambda x: x @ W, lambda x: x + x @ W])
def test_a_norm_is_one_operation(norm, affine, before):
    def f(x, p):
        y = norm(before(x))
        y = y * p["scale"] + p["bias"] if affine else y
        return (y @ W)[0, 0, 0]

    found = [op.structure for op in relprop.inspect(f, RULES)(X, P)]
    assert found.count("norm") == 1
    assert not {"normaliser", "offset", "scale", "average"} & set(found)


@pytest.mark.parametrize("norm", SPELLINGS)
@pytest.mark.parametrize("affine", [False, True])
def test_relevance_passes_a_norm(norm, affine):
    def after(y, p):
        return ((y * p["scale"] + p["bias"] if affine else y) @ W)[0, 0, 0]

    def last(y):
        return (y @ W)[0, 0, 0]

    y = evaluated(norm, (X,))
    y = y * np.asarray(P["scale"]) + np.asarray(P["bias"]) if affine else y
    expected = relprop.relevance(last, relprop.presets.attn_lrp())(y)
    found = relprop.relevance(lambda x, p: after(norm(x), p), RULES)(X, P)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nobody_asks():
    plan = relprop.inspect(lambda x: two_pass(x).sum(), relprop.presets.attn_lrp())(X)
    assert "norm" not in {op.structure for op in plan}


def test_a_residual_is_not_part_of_a_norm():
    def f(x):
        return ((x + two_pass(x)) @ W)[0, 0, 0]

    plan = relprop.inspect(f, RULES)(X)
    assert [op.structure for op in plan] == ["norm", "sum", "dense", *["structural"] * 2]


def test_a_function_without_norm():
    with pytest.raises(relprop.NothingMatchedError, match="norm"):
        relprop.relevance(lambda x: (x @ W).sum(), RULES)(X)


@pytest.mark.parametrize("norm", [rms, l2, folded])
@pytest.mark.parametrize("before", [jax.nn.silu, jax.nn.sigmoid, jax.nn.relu])
def test_a_normalised_activation_is_no_gate(norm, before):
    """Its normaliser counts as a constant: a gate would hand all relevance to that."""

    def f(x):
        return (norm(before(x @ W)) @ W)[0, 0, 0]

    plan = relprop.inspect(f, relprop.presets.cp_lrp())(X)
    assert "gate" not in {op.structure for op in plan}
    found = relprop.relevance(f, relprop.presets.cp_lrp())(X)
    np.testing.assert_allclose(found.sum(), evaluated(f, (X,)), rtol=1e-4)
