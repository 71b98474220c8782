"""Batch norm merged into the layers beside it, against layers with weights merged by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import Composite
from relprop.rules import Epsilon, Gamma, Pass, Relevance, Rule, WSquare, ZBox, Zero

pytestmark = pytest.mark.usefixtures("x64")
EPS = 1e-3
NHWC = ("NHWC", "HWIO", "NHWC")
NCHW = ("NCHW", "OIHW", "NCHW")


def statistics(channels, seed=7):
    """Mean, variance, weight (of either sign) and bias."""
    rng = np.random.default_rng(seed)
    mean, weight, bias = rng.normal(size=(3, channels))
    return mean, rng.uniform(0.5, 2.0, channels), weight, bias


def affine(channels, seed=7):
    """What they come to: a factor and a summand per channel."""
    mean, variance, weight, bias = statistics(channels, seed)
    factor = weight / np.sqrt(variance + EPS)
    return factor, bias - mean * factor


def along(a, x, axis):
    return jnp.asarray(a).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


# The same thing as libraries write it.


def with_rsqrt(x, axis, seed=7):
    mean, var, weight, bias = (along(a, x, axis) for a in statistics(x.shape[axis], seed))
    return (x - mean) * (lax.rsqrt(var + EPS) * weight) + bias


def with_division(x, axis, seed=7):
    mean, var, weight, bias = (along(a, x, axis) for a in statistics(x.shape[axis], seed))
    return weight * ((x - mean) / jnp.sqrt(var + EPS)) + bias


def with_one_product(x, axis, seed=7):
    mean, var, weight, bias = (along(a, x, axis) for a in statistics(x.shape[axis], seed))
    inverse = lax.rsqrt(var + EPS) * weight
    return x * inverse + (-mean * inverse + bias)


def broadcast_first(x, axis, seed=7):
    mean, var, weight, bias = (
        jnp.broadcast_to(along(a, x, axis), x.shape) for a in statistics(x.shape[axis], seed)
    )
    return bias - (mean - x) * weight / jnp.sqrt(var + EPS)


FORMS = [with_rsqrt, with_division, with_one_product, broadcast_first]


# Layers: of x, a weight, a factor and a summand of its argument or result per channel.


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer, the axes of the channels, and how its weight takes up factors."""

    apply: object
    x: tuple[int, ...]
    weight: tuple[int, ...]
    channels: int  # axis of the argument
    features: int  # axis of the result
    into: object  # weight and factor per channel of the argument -> weight
    out_of: object  # weight and factor per channel of the result -> weight


def conv(x, w, numbers=NCHW, **params):
    params = {"window_strides": (1, 1), "padding": "SAME"} | params
    return lax.conv_general_dilated(x, w, dimension_numbers=numbers, **params)


def grouped(w, factor):
    """Two groups of two channels each, three outputs each."""
    return w * np.repeat(factor.reshape(2, 2), 3, axis=0)[:, :, None, None]


CASES = {
    "x @ w": Case(
        lambda x, w: x @ w, (4, 3), (3, 5), -1, -1, lambda w, f: w * f[:, None], lambda w, f: w * f
    ),
    "w @ x": Case(
        lambda x, w: w @ x, (3,), (5, 3), -1, -1, lambda w, f: w * f, lambda w, f: w * f[:, None]
    ),
    "per head": Case(
        lambda x, w: jnp.einsum("bhd,hde->bhe", x, w),
        (2, 2, 3),
        (2, 3, 4),
        -1,
        -1,
        lambda w, f: w * f[:, None],
        lambda w, f: w * f,
    ),
    "conv, channels first": Case(
        functools.partial(conv, window_strides=(2, 1), rhs_dilation=(1, 2)),
        (2, 3, 6, 5),
        (4, 3, 3, 3),
        1,
        1,
        lambda w, f: w * f[:, None, None],
        lambda w, f: w * f[:, None, None, None],
    ),
    "conv, channels last": Case(
        functools.partial(conv, numbers=NHWC),
        (2, 5, 4, 3),
        (3, 2, 3, 4),
        -1,
        -1,
        lambda w, f: w * f[:, None],
        lambda w, f: w * f,
    ),
    "conv in groups": Case(
        functools.partial(conv, feature_group_count=2),
        (2, 4, 5, 4),
        (6, 2, 3, 3),
        1,
        1,
        grouped,
        lambda w, f: w * f[:, None, None, None],
    ),
}
RULES = [Gamma(0.3), WSquare(), ZBox(-2.0, 3.0)]


def arrays(case, seed=0):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=case.x), rng.normal(size=case.weight)
    y = jax.eval_shape(case.apply, x, w)
    return jnp.asarray(x), w, rng.normal(size=y.shape[case.features]), y.ndim


def check(f, merged, x, count=1):
    """The same relevance by all rules, and one layer where there was more."""
    plan = relprop.inspect(f, RULES[0])(x)
    layers = [op for op in plan if op.structure in ("dense", "convolution")]
    assert [op.note for op in layers] == ["batch_norm merged"] * count
    assert not {"scale", "offset"} & {op.structure for op in plan}

    @jax.jit
    def explain(x):
        found = []
        for rule in RULES:
            pair = [relprop.vrp(g, x, rules=rule) for g in (f, merged)]
            seed = jnp.sin(jnp.arange(pair[0][0].size)).reshape(pair[0][0].shape)
            found.append([(y, back(seed)[0]) for y, back in pair])
        return found

    for (y, relevance), (expected_y, expected) in explain(x):
        np.testing.assert_allclose(y, expected_y, atol=1e-12)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(relevance, expected, atol=1e-11 * scale)


@pytest.mark.parametrize("name", CASES)
def test_after_a_layer(name):
    case = CASES[name]
    x, w, b, rank = arrays(case)
    factor, summand = affine(len(b))
    form = FORMS[list(CASES).index(name) % len(FORMS)]
    axis = case.features

    def f(x):
        y = case.apply(x, w)
        return form(y + along(b, y, axis), axis)

    def merged(x):
        y = case.apply(x, jnp.asarray(case.out_of(w, factor)))
        return y + along(b * factor + summand, y, axis)

    check(f, merged, x)


@pytest.mark.parametrize("name", CASES)
def test_before_a_layer(name):
    case = CASES[name]
    x, w, b, rank = arrays(case)
    factor, summand = affine(x.shape[case.channels])
    form = FORMS[(list(CASES).index(name) + 1) % len(FORMS)]
    axis = case.features

    def f(x):
        y = case.apply(form(x, case.channels), w)
        return y + along(b, y, axis)

    def merged(x):
        shift = jnp.broadcast_to(along(summand, x, case.channels), x.shape)
        y = case.apply(x, jnp.asarray(case.into(w, factor)))
        return y + (case.apply(shift, w) + along(b, y, axis))

    check(f, merged, x)


def test_on_both_sides_with_moves_between():
    x, w = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 2, 2))), np.ones((12, 6))
    w = w * np.random.default_rng(2).normal(size=w.shape)

    def f(x):
        h = broadcast_first(x, 1).transpose(0, 2, 3, 1).reshape(2, 12)
        return with_one_product((h @ w).reshape(2, 2, 3), -1, seed=8)

    def merged(x):
        factor, summand = (np.tile(a, 4) for a in affine(3))
        out_factor, out_summand = (np.tile(a, 2) for a in affine(3, seed=8))
        weight = factor[:, None] * w * out_factor
        bias = (summand @ w) * out_factor + out_summand
        y = x.transpose(0, 2, 3, 1).reshape(2, 12) @ weight + bias[None]
        return y.reshape(2, 2, 3)

    check(f, merged, x)


def test_between_two_layers_it_belongs_to_the_first():
    case = CASES["x @ w"]
    x, w, b, _ = arrays(case)
    v = np.random.default_rng(3).normal(size=(5, 2))
    factor, summand = affine(5)

    def f(x):
        return with_rsqrt(x @ w, -1) @ v

    def merged(x):
        return (x @ (w * factor) + summand[None]) @ v

    plan = relprop.inspect(f, Gamma())(x)
    assert [op.note for op in plan] == ["batch_norm merged", ""]
    found, expected = jax.jit(
        lambda x: [relprop.vrp(g, x, rules=WSquare())[1](jnp.ones((4, 2))) for g in (f, merged)]
    )(x)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)


def test_in_several_branches_it_is_merged_into_each():
    x, w = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3))), np.eye(3) + 0.5
    factor, summand = affine(3)

    def f(x):
        h = with_division(x, -1)
        return jax.nn.relu(h @ w) + h @ (w - 1.0)

    def merged(x):
        first, second = (x @ (factor[:, None] * m) + (summand @ m)[None] for m in (w, w - 1.0))
        return jax.nn.relu(first) + second

    check(f, merged, x, count=2)


@dataclasses.dataclass(frozen=True)
class Difference(Rule):
    """What an operation differs by from the affine map that rules are told it is."""

    def propagate(self, site, arriving):
        linear = site.linear
        y = linear.apply(linear.inputs, linear.weight) + linear.bias
        error = jnp.abs(y - site.output).max()
        return [Relevance(share=jnp.full_like(x, error)) for x in site.inputs]


@pytest.mark.parametrize("name", CASES)
def test_the_merged_layer_has_the_outputs_of_the_original(name):
    case = CASES[name]
    x, w, b, _ = arrays(case)

    def f(x):
        y = case.apply(with_rsqrt(x, case.channels), w)
        return with_division(y + along(b, y, case.features), case.features, seed=9)

    rules = Composite().at(structure=("dense", "convolution")).use(Difference())

    @jax.jit
    def explain(x):
        y, back = relprop.vrp(f, x, rules=rules)
        return y, back(y)[0]

    y, difference = explain(x)
    assert float(difference.max()) < 1e-13 * float(jnp.abs(y).max() + 1)


# What is not merged.


def norm_and_dense(x):
    h = jax.nn.standardize(x, axis=-1)
    return (h * jnp.array([1.0, 2.0, 3.0]) + jnp.ones((1, 3))) @ jnp.ones((3, 2))


def detached_norm_and_dense(x):
    mean, std = (jax.lax.stop_gradient(f(x, axis=-1, keepdims=True)) for f in (jnp.mean, jnp.std))
    return ((x - mean) / std * jnp.array([1.0, 2.0, 3.0]) + jnp.ones((1, 3))) @ jnp.ones((3, 2))


def statistic_from_outside(x):
    std = jax.lax.stop_gradient(x.std(0)[None])
    return jax.checkpoint(lambda x, std: (x @ jnp.ones((3, 3))) / std)(x, std)


NOT_MERGED = {
    "a scale by one number": lambda x: (x @ jnp.ones((3, 2))) * 3.0 + 1.0,
    "a bias alone": lambda x: x @ jnp.ones((3, 2)) + jnp.ones((1, 2)),
    "a factor per position": lambda x: (x @ jnp.ones((3, 2))) * jnp.arange(1.0, 5.0)[:, None],
    "the weights of a layer norm": norm_and_dense,
    "of one with its statistics cut off": detached_norm_and_dense,
    "a statistic computed outside of a body": statistic_from_outside,
    "statistics of the batch": lambda x: (lambda h: (h - h.mean(0)[None]) * h.std(0)[None])(
        x @ jnp.ones((3, 2))
    ),
    "an activation between": lambda x: jax.nn.relu(x @ jnp.ones((3, 2))) * jnp.arange(2.0)[None],
}


@pytest.mark.parametrize("name", NOT_MERGED)
def test_what_is_no_batch_norm_of_a_layer(name):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    with jax.numpy_rank_promotion("allow"):
        plan = relprop.inspect(NOT_MERGED[name], Epsilon(), on_suspicion="ignore")(x)
    assert not any(op.note for op in plan if op.structure != "cut")


def test_before_an_activation_it_is_an_operation_of_its_own():
    """As in a DenseNet, where the layers before were concatenated."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))

    def f(x):
        h = jnp.concatenate([x @ jnp.eye(3), x[:, :1]], axis=1)
        return jax.nn.relu(with_rsqrt(h, -1)) @ jnp.ones((4, 2))

    named = Composite().at(structure="batch_norm").use(Pass())
    assert [op.structure for op in relprop.inspect(f, named)(x)].count("batch_norm") == 1
    # Without being named it has the rules of the scale and the offsets that it consists of.
    plan = relprop.inspect(f, Composite())(x)
    assert [op.structure for op in plan if op.structure in ("scale", "offset", "batch_norm")] == [
        "offset",
        "scale",
        "offset",
    ]
    # LRP-0 of the whole is LRP-0 of its parts.
    whole = Composite().at(structure="batch_norm").use(Zero())
    results = jax.jit(
        lambda x: [relprop.vrp(f, x, rules=r)[1](jnp.ones((4, 2)))[0] for r in (whole, Composite())]
    )(x)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-10)


def test_a_composite_may_decline():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    weight = jnp.ones((3, 2))

    def f(x):
        return with_rsqrt(x @ weight, -1)

    declined = relprop.presets.epsilon_plus().canonized()
    assert declined != relprop.presets.epsilon_plus()
    assert {op.structure for op in relprop.inspect(f, declined)(x)} == {"dense", "scale", "offset"}
    assert declined.canonized("batch_norm") == relprop.presets.epsilon_plus()
    with pytest.raises(relprop.UnknownNameError, match="canonizer"):
        declined.canonized("batch_nrom")


def test_in_half_precision_it_is_merged_in_single():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.bfloat16)
    w = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2)), jnp.bfloat16)

    def f(x, w, wide, narrow):
        factor, summand = (jnp.asarray(a, wide) for a in affine(2))
        return ((x @ w).astype(wide) * factor[None] + summand[None]).astype(narrow)

    @functools.partial(jax.jit, static_argnums=(2, 3))
    def relevance(x, w, *dtypes):
        y, back = relprop.vrp(lambda x: f(x, w, *dtypes), x, rules=Gamma(0.3))
        return back(jnp.ones_like(y))[0]

    half = relevance(x, w, jnp.float32, jnp.bfloat16)
    double = relevance(x.astype(jnp.float64), w.astype(jnp.float64), jnp.float64, jnp.float64)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, double, atol=2e-2 * float(jnp.abs(double).max()))


def test_an_empty_batch_has_empty_relevance():
    explain = relprop.relevance(lambda x: with_rsqrt(x @ jnp.ones((3, 2)), -1).sum(), Gamma())
    assert explain(jnp.zeros((0, 3))).shape == (0, 3)


def test_what_was_merged_is_not_guessed_at():
    """Its inner values and its parameters have no relevance of their own, and the error says so."""

    def f(x, p):
        h = relprop.named(x @ p["w"], "inner")
        return (h * p["scale"][None] + 1.0).sum()

    x, p = jnp.ones((4, 3)), {"w": jnp.ones((3, 2)), "scale": jnp.ones(2)}
    for place in ("inner", relprop.places.Masked("inner", 0.0), relprop.places.Parameter("p/w")):
        with pytest.raises(relprop.InputError, match="merged.*canonized"):
            relprop.relevance(f, Gamma(), places=place)(x, p)
        apart = Composite().at(structure="dense").use(Gamma()).canonized()
        relprop.relevance(f, apart, places=place)(x, p)
