"""The numbers of rules: refused where they make no sense; arrays or traced where they may be."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import presets, rules
from relprop.chefer import rules as chefer
from relprop.plots._computation import short
from relprop.rules import AlphaBeta, Epsilon, Gamma, Stabilizer, ZBox
from tests.uncompiled import evaluated

pytestmark = pytest.mark.usefixtures("by_numpy")
NAN, INF = float("nan"), float("inf")
RANDOM = np.random.default_rng(0)
W = jnp.asarray(RANDOM.normal(size=(4, 3)), jnp.float32)
V = jnp.asarray([1.0, -2.0, 0.5])
X = jnp.asarray([1.0, 2.0, 0.5, 3.0])


def f(x):
    w, v = W.astype(x.dtype), V.astype(x.dtype)
    return jax.nn.relu(x @ w + v) @ v


# -------------------------------------------------------------------------------------- refused

NUMBERS = {
    "epsilon": [
        Stabilizer, Epsilon, rules.Norm, rules.ZPlus, rules.WSquare, rules.Flat, rules.Linearised,
        rules.Proportional, rules.Rescale, rules.RescaleMaximum, rules.RescaleSoftmax,
        rules.RevealCancel, Gamma, AlphaBeta, ZBox, rules.Reweighted,
        presets.epsilon_plus, presets.epsilon_plus_flat, presets.epsilon_alpha2_beta1,
        presets.epsilon_gamma_box, presets.excitation_backprop, presets.lrp_epsilon,
        presets.deep_taylor, presets.sequential_a, presets.lstm,
    ],
    "gamma": [Gamma, presets.epsilon_gamma_box],
    "alpha": [
        *(AlphaBeta, presets.lrp_alpha_beta, presets.chefer),
        *(chefer.DenseRule, chefer.ConvolutionRule),
    ],
    "beta": [rules.BetaSmooth, presets.beta_smooth],
    "positive": [rules.Reweighted],
    "negative": [rules.Reweighted],
    "part": [chefer.InProportion],
    "eps": [chefer.BatchNorm],
}  # fmt: skip
CASES = [
    pytest.param(kind, name, id=f"{kind.__name__}-{name}")
    for name, kinds in NUMBERS.items()
    for kind in kinds
]


@pytest.mark.parametrize("wrong", [-1.0, NAN, INF, "a", 1j, np.array([0.1, -0.1])], ids=repr)
@pytest.mark.parametrize("kind, name", CASES)
def test_what_is_no_finite_number_from_zero_is_refused(kind, name, wrong):
    with pytest.raises(ValueError, match=f"{name} must be a finite number from 0, got "):
        kind(**{name: wrong})


@pytest.mark.parametrize("right", [0.5, 1, np.float32(0.5), np.array([0.1, 0.2]), jnp.ones(())])
@pytest.mark.parametrize("kind, name", CASES)
def test_numbers_and_arrays_are_fine(kind, name, right):
    with warnings.catch_warnings(action="ignore"):  # Not all of these alphas conserve relevance.
        kind(**{name: right})


@pytest.mark.parametrize("wrong", [NAN, INF, "a", None])
@pytest.mark.parametrize("name", ["low", "high"])
def test_bounds_are_finite(name, wrong):
    with pytest.raises(ValueError, match=f"{name} must be a finite number, got "):
        ZBox(**{name: wrong})


@pytest.mark.parametrize(
    "low, high", [(1.0, 0.0), ((0.0, 2.0), 1.0), (np.zeros(2), np.array([1.0, -1.0]))]
)
@pytest.mark.parametrize("kind", [ZBox, presets.epsilon_gamma_box, presets.deep_taylor])
def test_a_box_has_its_low_below_its_high(kind, low, high):
    with pytest.raises(ValueError, match=r"low must not be above high.*low=.*high="):
        kind(low=low, high=high)


def test_bounds_have_shapes_that_fit():
    with pytest.raises(ValueError, match="have a shape that fits"):
        ZBox(np.zeros(2), np.ones(3))


@pytest.mark.parametrize("alpha, beta", [(2.0, -1.0), (0.0, -0.5)])
def test_beta_is_negative_only_in_a_mean_of_both_signs(alpha, beta):
    with pytest.raises(ValueError, match="beta must not be negative unless alpha - beta is 1"):
        AlphaBeta(alpha, beta)
    assert AlphaBeta(0.5, -0.5).beta == -0.5


@pytest.mark.parametrize("steps", [0, -1, 2.0, "8"])
def test_steps_are_a_number_of_points(steps):
    with pytest.raises(ValueError, match="steps must be an integer from 1"):
        rules.MeanGradient(steps)


def test_a_rule_without_any_weight_is_refused():
    for make in (lambda: AlphaBeta(0.0, 0.0), lambda: rules.Reweighted(0.0, 0.0)):
        with pytest.raises(ValueError, match="are both 0"):
            make()


@pytest.mark.parametrize("make", [AlphaBeta, presets.lrp_alpha_beta])
def test_what_does_not_conserve_relevance_is_said_once(make):
    with pytest.warns(relprop.ConservationWarning, match="alpha - beta is 1.5 and not 1") as told:
        rule = make(2.0, 0.5)
    assert len(told) == 1
    with warnings.catch_warnings(action="error"):
        relprop.relevance(f, rule)(X)
        for alpha, beta in ((2.0, 1.0), (1, 0), (1.1, 0.1), (0.0, -1.0)):
            make(alpha, beta)
        for name in presets.names():
            if name != "uniform":
                presets.by_name(name)


# --------------------------------------------------------------------------- arrays and tracers

#: Rules of one number.
OF_A_NUMBER = {
    "epsilon": Epsilon,
    "clipped": lambda e: Epsilon(Stabilizer(e, clip=True)),
    "relative": lambda e: Epsilon(Stabilizer(e, norm_scale=True)),
    "gamma": Gamma,
    "alpha-beta": lambda e: AlphaBeta(1 + e, e),
    "alpha": lambda e: AlphaBeta(e, e - 1),
    "z-plus": rules.ZPlus,
    "z-box": lambda e: ZBox(-3 - e, 3 + e),
    "one bound": lambda e: ZBox((0.0, 0.0, -e, -1.0), 4.0),
    "w-square": rules.WSquare,
    "flat": rules.Flat,
    "reweighted": lambda e: rules.Reweighted(1 + e, e),
    "linearised": lambda e: relprop.Composite().at(structure="dense").use(rules.Linearised(e)),
    "composite": presets.epsilon_plus,
    "chefer": lambda e: presets.chefer(alpha=1 + e),
    "beta-smooth": presets.beta_smooth,
    "vit": lambda e: presets.gamma_vit(e, e),
}


@pytest.mark.parametrize("x64_", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", OF_A_NUMBER)
def test_parameters_may_be_arrays_or_traced(name, x64_):
    make = OF_A_NUMBER[name]
    if name == "one bound":  # Of the first layer alone: the second has three inputs.
        make = lambda e: (  # noqa: E731
            relprop.Composite().at(structure="dense", position=0).use(OF_A_NUMBER[name](e))
        )

    def explain(e):
        return relprop.relevance(f, make(e))(X)

    with jax.enable_x64(x64_), jax.numpy_dtype_promotion("strict"):
        expected = explain(0.1)
        small = jnp.asarray(0.1, jnp.float32)
        several = jnp.asarray([0.1, 0.2])
        for found in (
            explain(np.float64(0.1)),
            explain(small),
            evaluated(explain, (small,)),
            evaluated(relprop.relevance(f, make(small)), (X,)),
            evaluated(jax.vmap(explain), (several,))[0],
        ):
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["epsilon", "gamma", "alpha-beta", "z-box", "w-square", "chefer"])
def test_explanations_are_differentiable_in_their_parameters(name, x64):
    def explain(e):
        return relprop.relevance(f, OF_A_NUMBER[name](e))(X.astype(jnp.float64))

    forward, backward = (evaluated(d(explain), (0.1,)) for d in (jax.jacfwd, jax.jacrev))
    steps = (explain(0.1 + 1e-5) - explain(0.1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(forward, steps, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(backward, forward, rtol=1e-9, atol=1e-12)
    assert np.abs(forward).max() > 1e-3


def test_a_traced_epsilon_of_zero_loses_what_it_cannot_divide():
    blind = lambda x: jnp.sum(x @ jnp.zeros((4, 3)))  # noqa: E731
    found = jax.jit(lambda e: relprop.relevance(blind, Epsilon(e))(X))(0.0)
    np.testing.assert_array_equal(found, jnp.zeros(4))


def test_rules_are_pytrees_of_their_numbers():
    assert jax.tree.leaves(AlphaBeta(2.0, 1.0, 0.5)) == [2.0, 1.0, 0.5]
    assert jax.tree.leaves(Epsilon(Stabilizer(0.5, clip=True))) == [0.5]
    assert jax.tree.leaves([rules.Pass(), rules.Zero("ignore"), rules.MeanGradient(4)]) == []
    assert jax.tree.map(lambda a: 2 * a, Gamma(0.5, 0.1, "ignore")) == Gamma(1.0, 0.2, "ignore")
    assert jax.tree.map(lambda a: 2 * a, rules.ZPlus(0.5)) == rules.ZPlus(1.0)
    (path, leaf), _ = jax.tree.leaves_with_path(Gamma())
    assert (jax.tree_util.keystr(path), leaf) == (".gamma", 0.25)
    different = [Epsilon(0.1), Epsilon(0.1, "ignore"), rules.Norm(0.1), Epsilon(Stabilizer(0.1))]
    assert len({jax.tree.structure(rule) for rule in different}) == len(different)


@pytest.mark.parametrize("rule", [Gamma(), AlphaBeta(), ZBox(-3.0, 3.0), rules.ZPlus()], ids=repr)
def test_explanations_are_mapped_over_rules(rule):
    def explain(rule, x):
        return relprop.relevance(f, rule)(x)

    several = jax.tree.map(lambda a: jnp.asarray([a, 2.0 * a]), rule)
    with warnings.catch_warnings(action="ignore"):
        last = jax.tree.map(lambda a: 2.0 * a, rule)
    found = evaluated(jax.vmap(explain, in_axes=(0, None)), (several, X))
    np.testing.assert_allclose(found, [explain(rule, X), explain(last, X)], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(explain)(rule, X), found[0], rtol=2e-5, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Own(Epsilon):
    """A rule of a user, who has registered nothing."""

    epsilon: float = 0.1
    name: str = "own"


def test_a_rule_that_nobody_registered_goes_on_working():
    assert jax.tree.leaves(Own()) == [Own()]
    expected = relprop.relevance(f, Epsilon(0.1))(X)
    np.testing.assert_allclose(relprop.relevance(f, Own())(X), expected, rtol=1e-6)
    found = jax.jit(lambda e: relprop.relevance(f, Own(e))(X))(0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert Own(0.2) == Own(0.2) != Own(0.1) and hash(Own(0.2)) == hash(Own(0.2))
    assert repr(Own()) == "Own(epsilon=0.1, bias='absorb', name='own')"


def test_own_comparison_and_text_of_a_rule_are_left_alone():
    @dataclasses.dataclass(frozen=True)
    class Odd(Epsilon):
        def __eq__(self, other):
            return True

        def __hash__(self):
            return 0

        def __repr__(self):
            return "odd"

    assert Odd(0.1) == Odd(0.2) and hash(Odd(0.1)) == 0 and repr(Odd()) == "odd"


def test_layers_with_a_traced_parameter_are_traced_once():
    traced = []

    @dataclasses.dataclass(frozen=True)
    class Counted(Epsilon):
        def propagate(self, site, arriving):
            traced.append(site)
            return super().propagate(site, arriving)

    square = jnp.asarray(RANDOM.normal(size=(4, 4)), jnp.float32)

    def deep(x):
        for _ in range(4):
            x = jnp.tanh(x @ square)
        return x.sum()

    explain = jax.jit(lambda e: relprop.relevance(deep, Counted(e))(X))
    np.testing.assert_allclose(explain(0.1), relprop.relevance(deep, Epsilon(0.1))(X), rtol=1e-4)
    assert len(traced) == 1


# ------------------------------------------------------------------------------- arrays as values

IMAGE = RANDOM.uniform(-1.0, 0.0, size=(3, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, lambda a: a.tolist()])
def test_boxes_of_arrays_are_values(kind):
    box, again = ZBox(kind(IMAGE), 1.0), ZBox(kind(IMAGE.copy()), 1.0)
    assert box == again and hash(box) == hash(again) and len({box, again}) == 1
    assert box != ZBox(kind(IMAGE - 0.5), 1.0)
    assert box != ZBox(-1.0, 1.0)
    assert presets.epsilon_gamma_box(kind(IMAGE)) == presets.epsilon_gamma_box(kind(IMAGE))
    for other in (pickle.loads(pickle.dumps(box)), copy.deepcopy(box), dataclasses.replace(box)):
        assert other == box and hash(other) == hash(box)
    text = f"ZBox(low=float64[3, 32, 32] from {IMAGE.min():.4g} to {IMAGE.max():.4g}, high=1.0, "
    assert repr(box).startswith(text)
    assert len(str(presets.epsilon_gamma_box(kind(IMAGE)))) < 2000
    assert short(box) == f"ZBox(float64[3, 32, 32] from {IMAGE.min():.4g} to {IMAGE.max():.4g})"


def test_bounds_are_those_of_the_time_they_were_given():
    bound = np.zeros(4)
    box = ZBox(bound, 4.0)
    before, text = relprop.relevance(jnp.sum, box)(X), hash(box)
    bound[:] = -100.0
    np.testing.assert_array_equal(relprop.relevance(jnp.sum, box)(X), before)
    assert hash(box) == text


def test_boxes_of_arrays_explain_as_those_of_numbers():
    def g(x):
        return jnp.sum(jnp.tanh(x @ W))

    expected = relprop.relevance(g, ZBox(-4.0, 4.0))(X)
    for low in (np.full(4, -4.0), jnp.full(4, -4.0), (-4.0,) * 4, [-4.0] * 4):
        box = ZBox(low, 4.0)
        for explain in (relprop.relevance(g, box), jax.jit(relprop.relevance(g, box))):
            np.testing.assert_allclose(explain(X), expected, rtol=1e-5, atol=1e-6)
