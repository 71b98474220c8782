"""The axis of channels, read from the layer that made a value."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import concepts
from relprop.places import Masked

RULES = relprop.rules.Epsilon(1e-3)
KEYS = iter(jax.random.split(jax.random.key(0), 20))
# No two axes are of one size, and none is of the size of another layer's.
N, H, W, C, K = 2, 4, 5, 3, 7
X = jax.random.normal(next(KEYS), (N, H, W, C))
KERNEL = 0.3 * jax.random.normal(next(KEYS), (3, 3, C, K))  # HWIO
DENSE = jax.random.normal(next(KEYS), (C, K))
SQUARE = 0.3 * jax.random.normal(next(KEYS), (K, K))
SCALE = 1 + jax.random.uniform(next(KEYS), (K,))


def images(layout):
    """From NHWC to another layout."""
    return lambda x: jnp.transpose(x, ["NHWC".index(letter) for letter in layout])


def conv(image, kernel, out):
    """A convolution whose dimension numbers are what three strings say; the input is NHWC."""

    def layer(x):
        w = jnp.transpose(KERNEL, ["HWIO".index(letter) for letter in kernel])
        return lax.conv_general_dilated(
            images(image)(x), w, (1, 1), "SAME", dimension_numbers=(image, kernel, out)
        )

    return layer, out.index("C")


def torch_conv(x):
    """As torch layers are lowered: NCHW by transposes around a convolution in NHWC."""
    y = lax.conv_general_dilated(
        jnp.transpose(images("NCHW")(x), (0, 2, 3, 1)),
        KERNEL,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jnp.transpose(y, (0, 3, 1, 2))


LAYERS = {
    "-".join(names): conv(*names)
    for names in [
        *itertools.product(["NHWC", "NCHW"], ["HWIO", "OIHW"], ["NHWC", "NCHW"]),
        ("CHWN", "IHWO", "CHNW"),
    ]
} | {
    "transposed": (torch_conv, 1),
    "dense": (lambda x: x @ DENSE, 3),
    "dense, weight first": (lambda x: jnp.tensordot(DENSE, x, [[0], [3]]), 0),
    "dense over rows of pixels": (lambda x: (x.reshape(-1, C) @ DENSE).reshape(N, H, W, K), 3),
    "1 x 1 by einsum": (lambda x: jnp.einsum("nhwc,ck->nkhw", x, DENSE), 1),
    "vmap": (jax.vmap(lambda x: jnp.einsum("hwc,ck->khw", x, DENSE)), 1),
}


def along(axis, rank=4):
    """The scale, of the shape of a value with its channels along an axis."""
    return SCALE.reshape([K if i == axis else 1 for i in range(rank)])


def batch_norm(y, axis):
    return (y - 0.1 * along(axis)) * lax.rsqrt(along(axis) + 1e-3) * along(axis) + 0.2


def layer_norm(y, axis):
    centred = y - y.mean(axis, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(axis, keepdims=True) + 1e-3) * along(axis)


def group_norm(y, axis):
    """As torch and torchax write it: channels and pixels of a group are one axis."""
    y = jnp.moveaxis(y, axis, 1)
    z = y.reshape(N, 1, -1)
    z = (z - z.mean(-1, keepdims=True)) * lax.rsqrt(z.var(-1, keepdims=True) + 1e-3)
    return jnp.moveaxis(z.reshape(y.shape), 1, axis)


def layers_of_groups(y, axis):
    """Twice the channels in groups, and one half of them."""
    y = jnp.moveaxis(jnp.concatenate([y, y], axis), axis, -1)
    z = y.reshape(*y.shape[:-1], 2, K)
    z = z - z.mean((1, 2, 4), keepdims=True)
    return jnp.moveaxis(z.reshape(y.shape)[..., :K], -1, axis)


def pooled(y, axis):
    window = tuple(1 if i in (0, axis) else 2 for i in range(4))
    return lax.reduce_window(y, -jnp.inf, lax.max, window, window, "VALID")


def in_scan(y, axis):
    """Two more layers, from dense weights, in a loop over weights."""

    def step(y, w):
        y = jnp.moveaxis(jnp.moveaxis(y, axis, -1) @ w, -1, axis)
        return jax.nn.gelu(y), None

    return lax.scan(step, y, jnp.stack([SQUARE, 2 * SQUARE]))[0]


AFTER = {
    "nothing": lambda y, axis: y,
    "relu": lambda y, axis: jax.nn.relu(y),
    "gelu": lambda y, axis: jax.nn.gelu(y),
    "bias": lambda y, axis: y + along(axis),
    "batch norm": batch_norm,
    "layer norm": layer_norm,
    "group norm": group_norm,
    "groups": layers_of_groups,
    "max pool": pooled,
    "softmax": lambda y, axis: jax.nn.softmax(y, axis=axis),
    "residual": lambda y, axis: y + jax.nn.silu(2 * y),
    "half": lambda y, axis: jnp.split(jnp.concatenate([y, y], axis), 2, axis)[0],
    "padding": lambda y, axis: jnp.pad(y, [(0, 0)] + [(0, 1)] * 3)[
        tuple(slice(K) if i == axis else slice(None) for i in range(4))
    ],
    "checkpoint": lambda y, axis: jax.checkpoint(jnp.sin)(y),
    "cond": lambda y, axis: lax.cond(y.sum() > 0, jnp.sin, jnp.tanh, y),
    "scan": in_scan,
    "fori_loop": lambda y, axis: lax.fori_loop(0, 2, lambda i, y: jnp.sin(y), y),
}


def scored(make):
    return lambda x: jnp.square(relprop.named(make(x), "here")).sum()


def check(score):
    """By shapes alone, since no other axis is as long as that of the channels."""
    with jax.numpy_rank_promotion("allow"):
        found = jax.eval_shape(concepts.channels(score, RULES, "here"), X)
    assert found.shape == (K,)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    layer, axis = LAYERS[name]
    assert jax.eval_shape(layer, X).shape[axis] == K
    check(scored(layer))


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("name", ["NHWC-HWIO-NHWC", "NCHW-OIHW-NCHW", "transposed"])
def test_what_comes_after_a_layer(name, after):
    layer, axis = LAYERS[name]
    check(scored(lambda x: AFTER[after](layer(x), axis)))


@pytest.mark.parametrize("name", ["NHWC-HWIO-NHWC", "NCHW-OIHW-NCHW", "dense"])
def test_numbers(name):
    layer, axis = LAYERS[name]
    score = scored(lambda x: jax.nn.relu(layer(x)))
    R = jax.jit(relprop.relevance(score, RULES, places="here"))(X)[1]["here"].relevance
    expected = R.sum([i for i in range(4) if i != axis])
    found = jax.jit(concepts.channels(score, RULES, "here"))(X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("after", "shape"),
    [
        (lambda y: y.mean((2, 3)), (N, K)),
        (lambda y: y.reshape(N, K, H * W), (N, K, H * W)),
        (lambda y: y.reshape(N, K, H * W).swapaxes(1, 2), (N, H * W, K)),
        (lambda y: y[:, :, 1], (N, K, W)),
        (lambda y: y[:, :, jnp.array([0, 2])], (N, K, 2, W)),
        (lambda y: y[:, None], (N, 1, K, H, W)),
        (lambda y: jnp.stack([y, y]), (2, N, K, H, W)),
        (lambda y: jnp.stack([y, y], -1), (N, K, H, W, 2)),
        (lambda y: jnp.unstack(y, axis=0)[1], (K, H, W)),
    ],
)
def test_moves_and_sums(after, shape):
    layer, _ = LAYERS["NCHW-OIHW-NCHW"]
    assert jax.eval_shape(lambda x: after(layer(x)), X).shape == shape
    check(scored(lambda x: after(layer(x))))


def test_the_body_of_a_scan():
    """The value has an axis for the steps in front, as ever."""

    def score(x):
        def step(y, w):
            y = relprop.named(jax.nn.relu(jnp.einsum("kc,chw->khw", w, y)), "step")
            return y, None

        y = jnp.einsum("hwc,ck->khw", x[0], DENSE)
        return lax.scan(step, y, jnp.stack([SQUARE, SQUARE.T]))[0].sum()

    R = jax.jit(relprop.relevance(score, RULES, places="step"))(X)[1]["step"].relevance
    assert R.shape == (2, K, H, W)
    found = jax.jit(concepts.channels(score, RULES, "step"))(X)
    np.testing.assert_allclose(found, R.sum((0, 2, 3)), rtol=1e-4, atol=1e-5)
    through = jax.jit(concepts.relevance_of(score, RULES, "step", [1, 4]))(X)
    by_hand = jax.jit(concepts.relevance_of(score, RULES, "step", [1, 4], axis=0))(X)
    np.testing.assert_array_equal(through, by_hand)


def test_what_is_stacked_by_a_scan():
    def score(x):
        rows = lax.scan(lambda _, row: (None, jnp.einsum("wc,ck->kw", row, DENSE)), None, x[0])[1]
        return jnp.square(relprop.named(rows, "rows")).sum()  # [H, K, W]

    assert jax.eval_shape(concepts.channels(score, RULES, "rows"), X).shape == (K,)


def test_a_layer_with_one_channel():
    w = KERNEL[..., :1].transpose(3, 2, 0, 1)

    def score(x):
        y = lax.conv(images("NCHW")(x), w, (1, 1), "SAME")
        return relprop.named(jax.nn.relu(y), "here").sum()

    assert jax.eval_shape(concepts.channels(score, RULES, "here"), X).shape == (1,)


def test_masks_and_references_ask_the_layer_as_well():
    layer, axis = LAYERS["NCHW-OIHW-NCHW"]
    score = lambda x: jax.nn.relu(relprop.named(layer(x), "here")).sum()  # noqa: E731
    each = jax.jit(concepts.relevance_of(score, RULES, "here", [0, K - 1]))(X)
    for channel, through in zip((0, K - 1), each, strict=True):
        given, read = (
            jax.jit(relprop.relevance(score, RULES, places=Masked("here", only)))(X)[0]
            for only in (concepts.Only(channel, axis), concepts.Only(channel))
        )
        np.testing.assert_array_equal(read, given)
        np.testing.assert_allclose(through, given, rtol=1e-4, atol=1e-5)
    one = lambda x: score(x[None])  # noqa: E731
    references = lambda x: concepts.references(one, RULES, "here", x, k=2).samples  # noqa: E731
    assert jax.eval_shape(references, X).shape == (K, 2)


NO_AXIS = {
    "the input": (lambda x: x, "there is no layer before it"),
    "attention maps": (
        lambda x: jnp.einsum("nhwc,nhvc->nhwv", x @ DENSE, x @ DENSE),
        "the axis of channels is lost in dot_general at .*test_channel_axes.py",
    ),
    "a flattened image": (lambda x: (x @ DENSE).reshape(N, -1), "is lost in reshape at"),
    "heads": (
        lambda x: (x @ jnp.tile(DENSE, (1, 2))).reshape(N, H, W, 2, K),
        "is lost in reshape at",
    ),
    "a weight of heads": (
        lambda x: jnp.einsum("nhwc,cik->nhwik", x, DENSE.reshape(C, 1, K) * jnp.ones((1, 2, 1))),
        "dense layer at .* has several axes of outputs, of sizes 2 and 7",
    ),
    "a sum over channels": (lambda x: (x @ DENSE).sum(-1), "is lost in reduce_sum at"),
    "a sum of two layouts": (
        lambda x: (y := x @ DENSE[:, :W]) + y.swapaxes(2, 3),
        "whose channels lie along different axes",
    ),
    "pooling over channels": (
        lambda x: lax.reduce_window(x @ DENSE, 0.0, lax.add, (1, 1, 1, 3), (1, 1, 1, 1), "SAME"),
        "is lost in reduce_window",
    ),
    "a spectrum of channels": (lambda x: jnp.fft.fft(x @ DENSE).real, "is lost in fft at"),
}


@pytest.mark.parametrize("name", NO_AXIS)
def test_where_it_is_not_known_it_is_asked_for(name):
    f, reason = NO_AXIS[name]

    score = scored(f)
    with pytest.raises(relprop.InputError, match=f"channels of 'here'.*{reason}.*`axis=`"):
        jax.eval_shape(concepts.channels(score, RULES, "here"), X)
    with pytest.raises(relprop.InputError, match=f"channels of 'here'.*{reason}.*`axis=`"):
        jax.eval_shape(concepts.relevance_of(score, RULES, "here", 0), X)
    found = jax.eval_shape(concepts.channels(score, RULES, "here", axis=1), X)
    assert found.shape == jax.eval_shape(f, X).shape[1:2]


def test_a_resized_image_has_the_channels_of_before():
    """Interpolation is a product with a matrix, of which nobody says that it makes channels."""
    layer, _ = LAYERS["NCHW-OIHW-NCHW"]
    check(scored(lambda x: jax.image.resize(layer(x), (N, K, 2 * H, W + 1), "bilinear")))


def test_a_mask_alone_knows_no_axis():
    with pytest.raises(relprop.InputError, match=r"which axis of the shape \[2, 3\] is meant"):
        concepts.Only(0)(jnp.ones((2, 3)), jnp.ones((2, 3)))
