"""Products of integers with scales: the relevance of the layer that they stand for.

The values are those of the layer but for rounding, and so is the relevance: here it has to
correlate with that of the layer, as it is not equal.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop

from ..uncompiled import evaluated
from .explainers import RULES
from .grammar import D, T, as_users
from .judge import quiet

pytestmark = pytest.mark.usefixtures("by_numpy")
EXPLAINED = ("zero", "epsilon", "gamma", "z_plus", "epsilon_plus", "attn_lrp", "cp_lrp", "lstm")


def _numbers(*shape, seed):
    return 0.5 * np.random.default_rng(seed).standard_normal(shape)


W, B, V, X = (
    _numbers(D, D, seed=1),
    _numbers(D, seed=2),
    _numbers(D, seed=3),
    _numbers(T, D, seed=4),
)
SCALE = np.abs(W).max(0) / 127
Q = np.round(W / SCALE).astype(np.int8)


def _integers(z):
    return jnp.clip(jnp.round(z), -128, 127).astype(jnp.int8)


def _product(q):
    return lax.dot_general(
        q, jnp.asarray(Q), (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32
    )


def per_token(x):
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return _product(_integers(x / scale)).astype(x.dtype) * scale * SCALE + B


def per_tensor(x):
    scale = jnp.abs(x).max() / 127
    return _product(_integers(x / scale)).astype(x.dtype) * (scale * SCALE) + B


def times_the_inverse(x):
    scale = 127 / jnp.abs(x).max(-1, keepdims=True)
    return _product(_integers(x * scale)).astype(x.dtype) / scale * SCALE + B


def known_scale(x):
    return _product(_integers(x / 0.02)).astype(x.dtype) * (0.02 * SCALE) + B


def stopped_scale(x):
    scale = lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True) / 127)
    return _product(_integers(x / scale)).astype(x.dtype) * scale * SCALE + B


def in_a_jit(x):
    return jax.jit(per_token)(x)


def in_a_checkpoint(x):
    return jax.checkpoint(per_token)(x)


def rounded_floats(x):
    """As AQT: integers, but of a type that has none."""
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return (jnp.round(x / scale) @ Q.astype(x.dtype)) * scale * SCALE + B


def own_derivative(x):
    """As in training: the rounding passes what it gets."""
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return _passing(x / scale) * scale @ (Q * SCALE) + B


@jax.custom_vjp
def _passing(z):
    return jnp.clip(jnp.round(z), -128, 127)


_passing.defvjp(lambda z: (_passing(z), None), lambda _, cotangent: (cotangent,))


def one_scale_for_both(x):
    scale = jnp.abs(x).max() / 127
    return _product(_integers(x * (1 / scale))).astype(x.dtype) * (SCALE * scale) + B


def with_a_zero_point(x):
    low, high = x.min(), x.max()
    scale = (high - low) / 255
    zero = jnp.round(-low / scale)
    return (jnp.clip(jnp.round(x / scale + zero), 0, 255) - zero) * scale @ (Q * SCALE) + B


def eight_bit_floats(x):
    scale = jnp.abs(x).max() / 448
    return (x / scale).astype(jnp.float8_e4m3fn).astype(x.dtype) @ (Q * SCALE) * scale + B


def groups_of_inputs(x):
    """A scale for each token and group, and the sum over the groups."""
    groups = x.reshape(T, 2, D // 2)
    scale = jnp.abs(groups).max(-1, keepdims=True) / 127
    weights = jnp.asarray(Q.reshape(2, D // 2, D))
    product = jnp.einsum(
        "tgi,gio->tgo", _integers(groups / scale), weights, preferred_element_type=jnp.int32
    )
    return (product.astype(x.dtype) * scale * SCALE).sum(1) + B


def zero_point_of_integers(x):
    """As fbgemm: the zero point is taken off the product, times the sums of the weights."""
    low, high = x.min(), x.max()
    scale = (high - low) / 255
    zero = jnp.round(-low / scale).astype(jnp.int32)
    integers = jnp.clip(jnp.round(x / scale).astype(jnp.int32) + zero, 0, 255)
    weights = jnp.asarray(Q).astype(jnp.int32)
    product = integers @ weights - zero * weights.sum(0)
    return product.astype(x.dtype) * scale * SCALE + B


def known_zero_point(x):
    integers = jnp.clip(jnp.round(x / STEP) + 20000, 0, 40000).astype(jnp.int32)
    product = integers @ jnp.asarray(Q).astype(jnp.int32) - 20000 * Q.astype(np.int32).sum(0)
    return product.astype(x.dtype) * (STEP * SCALE) + B


def bias_of_integers(x):
    bias = jnp.asarray(np.round(B / (STEP * SCALE)).astype(np.int32))
    product = jnp.round(x / STEP).astype(jnp.int32) @ jnp.asarray(Q).astype(jnp.int32)
    return (product + bias).astype(x.dtype) * (STEP * SCALE)


def scales_of_one_number(x):
    """The scale of the weight is one number, and comes with that of the input."""
    scale, own = jnp.abs(x).max() / 127, float(SCALE.max())
    weights = jnp.asarray(np.round(Q * (SCALE / own)).astype(np.int8))
    product = lax.dot_general(
        _integers(x / scale), weights, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32
    )
    return product.astype(x.dtype) * (scale * own) + B


def product_of_eight_bit_floats(x):
    scale, own = jnp.abs(x).max() / 448, float(np.abs(Q * SCALE).max()) / 448
    weights = jnp.asarray(Q * SCALE / own).astype(jnp.float8_e4m3fn)
    product = lax.dot_general(
        (x / scale).astype(jnp.float8_e4m3fn),
        weights,
        (((1,), (0,)), ((), ())),
        preferred_element_type=x.dtype,
    )
    return product * (scale * own) + B


def noisy_rounding(x):
    scale = jnp.abs(x).max(-1, keepdims=True) / 32767
    noise = jax.random.uniform(jax.random.key(0), x.shape, x.dtype)
    integers = jnp.floor(x / scale + noise).astype(jnp.int32)
    return (integers @ jnp.asarray(Q).astype(jnp.int32)).astype(x.dtype) * scale * SCALE + B


def away_from_zero(x):
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    z = x / scale
    return (
        _product(jnp.trunc(z + jnp.where(z >= 0, 0.5, -0.5)).astype(jnp.int8)).astype(x.dtype)
        * (scale * SCALE)
        + B
    )


def sign_and_magnitude(x):
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    z = x / scale
    return jnp.sign(z) * jnp.floor(jnp.abs(z) + 0.5) * scale @ (Q * SCALE) + B


def convolved(x):
    """A convolution of one token at a time."""
    scale = jnp.abs(x).max() / 127
    product = lax.conv_general_dilated(
        _integers(x / scale)[None],
        jnp.asarray(Q)[None],
        (1,),
        "VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
        preferred_element_type=jnp.int32,
    )
    return product[0].astype(x.dtype) * (scale * SCALE) + B


def heads_apart(x):
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    product = jnp.einsum(
        "ti,ihd->thd",
        _integers(x / scale),
        jnp.asarray(Q.reshape(D, 2, D // 2)),
        preferred_element_type=jnp.int32,
    )
    own, bias = SCALE.reshape(2, -1), B.reshape(2, -1)
    return (product.astype(x.dtype) * scale[..., None] * own + bias).reshape(T, D)


def inverse_of_the_largest(x):
    largest = jnp.abs(x).max(-1, keepdims=True)
    return _product(_integers(x * (127 / largest))).astype(x.dtype) * (largest / 127) * SCALE + B


def scale_of_other_precision(x):
    """As qwix: scales of 32 bits."""
    scale = (jnp.abs(x).max(-1, keepdims=True) / 127).astype(jnp.float32)
    product = _product(_integers(x / scale.astype(x.dtype)))
    return product.astype(jnp.float32) * scale * SCALE.astype(np.float32) + B


@jax.custom_jvp
def _to_the_nearest(z):
    return jnp.floor(z + 0.5)


_to_the_nearest.defjvp(lambda primals, tangents: (_to_the_nearest(*primals), tangents[0]))


def guarded_scale(x):
    """As AQT: a scale that is never zero, and a rounding with a derivative."""
    largest = lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
    scale = jnp.where(largest == 0, 1.0, largest) / 127.5
    integers = jnp.clip(_to_the_nearest(x / scale), -127, 127).astype(jnp.int8)
    return _product(integers).astype(x.dtype) * scale * SCALE + B


def block_by_block(x):
    """As in GGUF: the scales of each block are cut out of those of all."""
    blocks = x.reshape(T, 2, D // 2)
    scale = jnp.abs(blocks).max(-1, keepdims=True) / 127
    integers, weights = _integers(blocks / scale).astype(jnp.int32), Q.reshape(2, D // 2, D)
    total = 0.0
    for g in range(2):
        product = integers[:, g] @ weights[g].astype(np.int32)
        total = total + product.astype(x.dtype) * scale[:, g] * SCALE
    return total + B


STEP = 2e-4
LAYERS = (per_token, per_tensor, times_the_inverse, known_scale,
          stopped_scale, in_a_jit, in_a_checkpoint, rounded_floats, own_derivative,
          one_scale_for_both, with_a_zero_point, eight_bit_floats)  # fmt: skip
# They are the same layers, in integers that are made and scaled in other ways.
INTEGERS = (groups_of_inputs, zero_point_of_integers, known_zero_point, bias_of_integers,
            scales_of_one_number, product_of_eight_bit_floats, noisy_rounding, away_from_zero,
            sign_and_magnitude, heads_apart, inverse_of_the_largest, scale_of_other_precision,
            guarded_scale)  # fmt: skip
CASES = [
    *itertools.product(LAYERS, EXPLAINED),
    *itertools.product(INTEGERS, ("gamma", "attn_lrp", "lstm")),
]
COARSE = (eight_bit_floats, product_of_eight_bit_floats)


def dequantised(x):
    return x @ (Q * SCALE) + B


@functools.cache
def relevance(layer, name):
    def score(x):
        with as_users():
            return jnp.sum(jax.nn.relu(layer(x)) @ V)

    with quiet():
        return np.asarray(relprop.relevance(score, RULES[name])(jnp.asarray(X)))


@pytest.mark.parametrize(
    ("layer", "name"), CASES, ids=[f"{layer.__name__}-{name}" for layer, name in CASES]
)
def test_relevance_is_that_of_the_layer(layer, name):
    with quiet(), as_users():
        x = jnp.asarray(X)
        coarse = 0.2 if layer in COARSE else 0.05
        np.testing.assert_allclose(evaluated(layer, (x,)), dequantised(X), atol=coarse)
    got, wanted = relevance(layer, name), relevance(dequantised, name)
    assert np.isfinite(got).all()
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99
    # Relevance through the scale alone would all be where the largest number is.
    others = np.abs(X) < np.abs(X).max(-1, keepdims=True)
    assert np.corrcoef(got[others], wanted[others])[0, 1] > 0.99


@pytest.mark.parametrize("name", ("z_plus", "attn_lrp"))
def test_a_convolution(name):
    def plain(x):
        product = lax.conv_general_dilated(
            x[None], jnp.asarray(Q * SCALE)[None], (1,), "VALID", dimension_numbers=NUMBERS
        )
        return product[0] + B

    got, wanted = relevance(convolved, name), relevance(plain, name)
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99


NUMBERS = ("NWC", "WIO", "NWC")


# Networks that stay integers from one layer to the next.

OWN = _numbers(D, D, seed=5)
OWN_SCALE = np.abs(OWN).max(0) / 127
OWN_Q = np.round(OWN / OWN_SCALE).astype(np.int32)


def _first_layer(x, zero=0):
    """Integers, of a bias of integers, in units of STEP."""
    integers = jnp.round(x / STEP).astype(jnp.int32) + zero
    bias = jnp.asarray(np.round(B / (STEP * SCALE)).astype(np.int32))
    return (integers - zero) @ jnp.asarray(Q).astype(jnp.int32) + bias


def _second_layer(integers):
    return (integers @ jnp.asarray(OWN_Q)).astype(float) * (STEP * OWN_SCALE)


def limited(x):
    """The ReLU is the limit of what the result is rounded to."""
    hidden = jnp.round(_first_layer(x).astype(x.dtype) * SCALE)
    return _second_layer(jnp.clip(hidden, 0, 1 << 15).astype(jnp.int32))


def relu_of_integers(x):
    hidden = jnp.round(jnp.maximum(_first_layer(x), 0).astype(x.dtype) * SCALE)
    return _second_layer(hidden.astype(jnp.int32))


def zero_points(x):
    hidden = jnp.round(_first_layer(x, 700).astype(x.dtype) * SCALE) + 300
    integers = jnp.clip(hidden, 300, 1 << 15).astype(jnp.int32)
    product = integers @ jnp.asarray(OWN_Q) - 300 * OWN_Q.sum(0)
    return product.astype(x.dtype) * (STEP * OWN_SCALE)


def fixed_point(x):
    """The scale is an integer and a shift."""
    multiplier = jnp.asarray(np.round(SCALE * 2**16).astype(np.int32))
    hidden = (_first_layer(x) * multiplier + (1 << 15)) >> 16
    return _second_layer(jnp.maximum(hidden, 0))


def simulated(x):
    """As in training and in ONNX: quantised and dequantised around layers of numbers."""

    def again(z):
        return (jnp.clip(jnp.round(z / STEP) + 5, -(1 << 15), 1 << 15) - 5) * STEP

    return again(jax.nn.relu(again(x) @ (Q * SCALE) + B)) @ (OWN_Q * OWN_SCALE)


def two_layers(x):
    return jax.nn.relu(dequantised(x)) @ (OWN_Q * OWN_SCALE)


@pytest.mark.parametrize("name", ("gamma", "attn_lrp"))
@pytest.mark.parametrize(
    "network",
    (limited, relu_of_integers, zero_points, fixed_point, simulated),
    ids=lambda f: f.__name__,
)
def test_networks_of_integers(network, name):
    with as_users(), jax.enable_x64(True):
        x = jnp.asarray(X)
        np.testing.assert_allclose(evaluated(network, (x,)), evaluated(two_layers, (x,)), atol=0.02)
    with jax.enable_x64(True):
        got, wanted = relevance(network, name), relevance(two_layers, name)
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99


def sum_of_branches(x):
    """Two results of one unit are added as integers."""
    hidden = jnp.round(_first_layer(x).astype(x.dtype) * SCALE).astype(jnp.int32)
    integers = jnp.maximum(hidden + jnp.round(x / STEP).astype(jnp.int32), 0)
    return _second_layer(integers)


def largest(x):
    hidden = jnp.round(_first_layer(x).astype(x.dtype) * SCALE).astype(jnp.int32)
    return _second_layer(jnp.maximum(hidden, 0).max(0, keepdims=True))


def scores_of_integers(x):
    """Both factors of attention scores are integers."""
    q, k = x @ (Q * SCALE), x @ (OWN_Q * OWN_SCALE)
    s, t = (jnp.abs(z).max(-1, keepdims=True) / 127 for z in (q, k))
    scores = lax.dot_general(
        _integers(q / s), _integers(k / t), (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.int32,
    )  # fmt: skip
    return jax.nn.softmax(scores.astype(x.dtype) * s * t.T) @ x


def layers_in_a_row(x):
    """Each rounds what the other returns, with a scale of its own."""

    def layer(h, weights, scale):
        own = jnp.abs(h).max(-1, keepdims=True) / 32767
        product = jnp.round(h / own).astype(jnp.int32) @ jnp.asarray(weights).astype(jnp.int32)
        return product.astype(h.dtype) * own * scale

    h = jax.nn.relu(jax.nn.gelu(layer(x, Q, SCALE) + B))
    return layer(h, OWN_Q, OWN_SCALE)


def _hidden(x):
    return jnp.round(_first_layer(x).astype(x.dtype) * SCALE).astype(jnp.int32)


def chosen(x):
    return _second_layer(jnp.where((h := _hidden(x)) > 0, h, 0))


def switched(x):
    return _second_layer((h := _hidden(x)) * (h > 0))


def magnitudes(x):
    return _second_layer(jnp.abs(_hidden(x)))


def taken_from_a_number(x):
    return _second_layer(jnp.maximum(1000 - _hidden(x), 0))


def a_number_is_taken_away(x):
    """What is not added again is no zero point."""
    return _second_layer(jnp.maximum(_hidden(x) - 1000, 0))


def in_order(x):
    """Of channels that have scales of their own."""
    return _second_layer(jnp.sort(_hidden(x), -1))


def from_the_smallest(x):
    """Rounded as what is above the smallest."""
    low = x.min(-1, keepdims=True)
    scale = (x.max(-1, keepdims=True) - low) / 32767
    integers = jnp.round((x - low) / scale).astype(jnp.int32) @ jnp.asarray(Q).astype(jnp.int32)
    return integers.astype(x.dtype) * scale * SCALE + low * (Q * SCALE).sum(0) + B


def divided_and_rounded_down(x):
    return _second_layer(jnp.maximum(_hidden(x), 0).sum(0, keepdims=True) // T)


SAME = {
    block_by_block: dequantised,
    layers_in_a_row: lambda x: jax.nn.relu(jax.nn.gelu(dequantised(x))) @ (OWN_Q * OWN_SCALE),
    chosen: two_layers,
    switched: two_layers,
    a_number_is_taken_away: lambda x: (
        jax.nn.relu(dequantised(x) - 1000 * STEP) @ (OWN_Q * OWN_SCALE)
    ),
    in_order: lambda x: jnp.sort(dequantised(x), -1) @ (OWN_Q * OWN_SCALE),
    from_the_smallest: lambda x: (
        (x - x.min(-1, keepdims=True)) @ (Q * SCALE)
        + x.min(-1, keepdims=True) * (Q * SCALE).sum(0)
        + B
    ),
    magnitudes: lambda x: jnp.abs(dequantised(x)) @ (OWN_Q * OWN_SCALE),
    taken_from_a_number: lambda x: jax.nn.relu(1000 * STEP - dequantised(x)) @ (OWN_Q * OWN_SCALE),
    divided_and_rounded_down: lambda x: (
        jax.nn.relu(dequantised(x)).mean(0, keepdims=True) @ (OWN_Q * OWN_SCALE)
    ),
    sum_of_branches: lambda x: jax.nn.relu(dequantised(x) + x) @ (OWN_Q * OWN_SCALE),
    largest: lambda x: jax.nn.relu(dequantised(x)).max(0, keepdims=True) @ (OWN_Q * OWN_SCALE),
    scores_of_integers: lambda x: (
        jax.nn.softmax((x @ (Q * SCALE)) @ (x @ (OWN_Q * OWN_SCALE)).T) @ x
    ),
}


@pytest.mark.parametrize("name", ("gamma", "attn_lrp"))
@pytest.mark.parametrize("network", SAME, ids=lambda f: f.__name__)
def test_what_else_is_done_with_integers(network, name):
    with jax.enable_x64(True):
        got, wanted = relevance(network, name), relevance(SAME[network], name)
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("network", (limited, zero_points, per_token, noisy_rounding))
def test_nothing_is_cut(network):
    def score(x):
        with as_users():
            return jnp.sum(jax.nn.relu(network(x)) @ V)

    with as_users(), jax.enable_x64(True):
        relprop.relevance(score, RULES["attn_lrp"], on_suspicion="error")(jnp.asarray(X))


def not_multiplied_again(x):
    """Normalised by its largest entry and rounded: no layer, but a function with steps."""
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return _product(_integers(x / scale)).astype(x.dtype) + B


def other_scale(x):
    scale = jnp.abs(x).max(-1, keepdims=True) / 127
    return _product(_integers(x / scale)).astype(x.dtype) * (x * x).mean(-1, keepdims=True)


@pytest.mark.parametrize("network", (not_multiplied_again, other_scale))
def test_what_has_not_its_scale_again_is_cut_and_told(network):
    def score(x):
        with as_users():
            return jnp.sum(jax.nn.relu(network(x)) @ V)

    with as_users(), pytest.raises((relprop.SuspicionError, relprop.MissingRuleError)):
        relprop.relevance(score, RULES["attn_lrp"], on_suspicion="error")(jnp.asarray(X))


# Small integers: the same function of numbers has the same relevance, but for rounding.

GRID = 1e-3
POINT = np.array([[1.0, -2.0, 3.0]])
M = np.array([[1.0, 2.0, 0.0], [2.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
MASK = np.array([1.0, 0.0, 1.0])


def _on_grid(x):
    return jnp.round(x / GRID) * GRID


def _numbers_of(x):
    return jnp.round(x / GRID).astype(jnp.int32)


def _as_integers(w):
    return jnp.asarray(np.asarray(w) * 2, jnp.int32)


def _again(acc, factors):
    """Requantised, with a ReLU that is a limit, and multiplied with M."""
    hidden = jnp.clip(jnp.round(acc * (0.5 * factors)), 0, 9999).astype(jnp.int32)
    return hidden @ _as_integers(M) * (GRID / 2)


TURNED = np.array([1.0, -1.0, 2.0])
DEAD = np.array([1.0, 0.0, 1.0])
EXACT = {
    "a residual of what is quantised": (
        lambda x: (y := _on_grid(x)) + jax.nn.relu(y @ M),
        lambda x: x + jax.nn.relu(x @ M),
    ),
    "a maximum of two": (
        lambda x: jnp.maximum(y := _on_grid(x), y @ M + 1),
        lambda x: jnp.maximum(x, x @ M + 1),
    ),
    "a bias behind a layer and a residual": (
        lambda x: (y := _on_grid(x)) @ M + y + MASK,
        lambda x: x @ M + x + MASK,
    ),
    "a zero point of each entry": (
        lambda x: (jnp.round(x / GRID + (z := np.array([500.0, 0.0, 7.0]))) - z) * GRID @ M,
        lambda x: x @ M,
    ),
    "a mask on integers": (
        lambda x: jnp.where(MASK > 0, _numbers_of(x) @ _as_integers(M), 0) * (GRID / 2),
        lambda x: (x @ M) * MASK,
    ),
    "negative scales and limits": (
        lambda x: _again(_numbers_of(x) @ _as_integers(M), TURNED),
        lambda x: jax.nn.relu((x @ M) * TURNED) @ M,
    ),
    "a channel of scale zero": (
        lambda x: _again(_numbers_of(x) @ _as_integers(M), DEAD),
        lambda x: jax.nn.relu((x @ M) * DEAD) @ M,
    ),
    "a sum of zero points": (
        lambda x: ((_numbers_of(x) + 700).sum(0) - 700) @ _as_integers(M) * (GRID / 2),
        lambda x: x.sum(0) @ M,
    ),
    "padded with the zero point": (
        lambda x: (
            (jnp.pad(_numbers_of(x) + 9, ((1, 0), (0, 0)), constant_values=9) - 9)
            @ _as_integers(M) * (GRID / 2)
        ),
        lambda x: jnp.pad(x, ((1, 0), (0, 0))) @ M,
    ),
    "a bias that is rounded": (
        lambda x: (
            jnp.round(x @ M / GRID + MASK / GRID / 3).astype(jnp.int32)
            @ _as_integers(M) * (GRID / 2)
        ),
        lambda x: (x @ M + MASK / 3) @ M,
    ),
    "a slice of integers": (
        lambda x: (
            lax.dynamic_slice(_numbers_of(x), (0, 1), (1, 2)) @ _as_integers(M)[1:] * (GRID / 2)
        ),
        lambda x: x[:, 1:] @ M[1:],
    ),
    "a norm, a ReLU and a scale, and nothing rounded": (
        lambda x: jax.nn.relu((x @ M) * TURNED) * MASK,
        lambda x: jnp.maximum((x @ M) * TURNED, 0) * MASK,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "rule", (relprop.rules.Zero(), relprop.rules.Gamma()), ids=("zero", "gamma")
)
@pytest.mark.parametrize("case", EXACT)
def test_the_relevance_of_the_numbers(case, rule):
    with jax.enable_x64(True), as_users(), quiet():
        found = [
            relprop.relevance(lambda x, f=f: jnp.sum(f(x)), rule)(jnp.asarray(POINT))
            for f in EXACT[case]
        ]
    np.testing.assert_allclose(*found, atol=0.02)


def test_weights_of_eight_bits_in_groups():
    """The scale of a group is no integer, though the weight is one."""
    weights, scale = jnp.asarray(Q.reshape(2, D // 2, D)), SCALE / np.array([[1.0], [2.0]])

    def groups(x):
        product = jnp.einsum(
            "tgi,gio->tgo", x.reshape(T, 2, -1), weights, preferred_element_type=x.dtype
        )
        return (product * scale).sum(1) + B

    def whole(x):
        return x @ (np.asarray(weights) * scale[:, None]).reshape(D, D) + B

    np.testing.assert_allclose(relevance(groups, "gamma"), relevance(whole, "gamma"), atol=1e-5)
