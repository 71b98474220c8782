"""The preset on functions of one's own: masks of infinite numbers, and images in any layout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop.chefer import layers
from relprop.presets import chefer

from ..uncompiled import uncompiled

pytestmark = pytest.mark.usefixtures("by_numpy")
TOKENS, WIDTH = 5, 4
CAUSAL = np.tril(np.ones((TOKENS, TOKENS), bool))

# Ways of hiding what comes later, given scores and the additive mask.
HIDINGS = {
    "added": lambda s, m: s / 2 + m,
    "added to": lambda s, m: m + s / 2,
    "subtracted": lambda s, m: s / 2 - (-m),
    "added twice": lambda s, m: (s / 2 + m) + m,
    "scaled afterwards": lambda s, m: (s + m) * jnp.asarray(0.5, s.dtype),
    "scaled by the input": lambda s, m: (s / 2 + m) * jax.nn.sigmoid(s[0, 0])[None, None],
    "chosen": lambda s, m: jnp.where(CAUSAL, s / 2, m),
    "all heads": lambda s, m: jnp.stack([s, s / 2]) + m[None],
}


def attention(hide, lowest):
    """A causal attention with a residual connection, and a score read from the last token but one.

    The last token is hidden from it: it takes no relevance.
    """
    weights = [np.random.default_rng(i).normal(size=(WIDTH, WIDTH)) for i in range(4)]

    def score(x):
        query, key, value, out = (jnp.asarray(w, x.dtype) for w in weights)
        mask = jnp.where(CAUSAL, 0, lowest).astype(x.dtype)
        attended = jax.nn.softmax(hide((x @ query) @ (x @ key).T, mask)) @ (x @ value)
        heads = attended if attended.ndim == 2 else attended.sum(0)
        return (heads @ out + x)[-2, 1]

    return score


@pytest.mark.parametrize("variant", ["ours", "orig"])
@pytest.mark.parametrize("hide", HIDINGS)
def test_what_is_masked_takes_no_relevance(x64, hide, variant):
    x = jnp.asarray(np.random.default_rng(9).normal(size=(TOKENS, WIDTH)))
    rules = chefer(variant)
    explain = uncompiled(
        lambda lowest: relprop.relevance(attention(HIDINGS[hide], lowest), rules)(x)
    )
    large = explain(-1e9)
    for lowest in (-jnp.inf, float(jnp.finfo("float64").min)):
        found = explain(lowest)
        np.testing.assert_allclose(found, large, atol=1e-9 * np.abs(large).max())
        assert not np.any(found[-1]) and np.all(np.any(found[:-1], 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("hide", ["added", "all heads"])
def test_masks_of_the_least_number(hide, dtype):
    x = jnp.asarray(np.random.default_rng(9).normal(size=(TOKENS, WIDTH)), "float32")
    exact = uncompiled(relprop.relevance(attention(HIDINGS[hide], -1e9), chefer()))(x)
    limit = 4 * float(jnp.finfo(dtype).eps) * np.abs(exact).max()
    for lowest in (-jnp.inf, float(jnp.finfo(dtype).min)):
        score = attention(HIDINGS[hide], lowest)
        found = uncompiled(relprop.relevance(score, chefer()))(x.astype(dtype))
        assert np.abs(np.asarray(found, "float32") - exact).max() < limit


def test_functions_of_layers_with_masks():
    R, scores = jnp.array([[0.0, 1.0]]), jnp.array([[2.0, 3.0]])
    mask = jnp.array([[-jnp.inf, 0.0]])
    left, right = layers.add(R, scores, mask)
    np.testing.assert_array_equal(left, R)
    np.testing.assert_array_equal(right, [[0.0, 0.0]])
    np.testing.assert_array_equal(layers.mul(R, scores + mask, scores)[0], R)


def test_numbers_that_are_none_stay_so():
    """An infinite number is a mask; what is not a number is a mistake, and seen."""
    assert jnp.isnan(layers.finite(jnp.array([jnp.nan, 1.0]))).tolist() == [True, False]


# Layouts.


def convolved(x, kernel, bias, numbers):
    """Two convolutions in a layout, the last with a bias, of images and kernels in that of NCHW."""
    images, kernels, results = numbers

    def laid(array, order, of):
        return array.transpose([order.index(axis) for axis in of])

    def conv(x, kernel, images, results):
        rank = kernel.ndim - 2
        return lax.conv_general_dilated(
            x,
            laid(kernel, "OIHW", kernels),
            (2, 1)[:rank],
            [(1, 0)] * rank,
            dimension_numbers=(images, kernels, results),
        )

    hidden = jax.nn.relu(conv(x, kernel[0], images, results))
    shape = [-1 if axis == "C" else 1 for axis in images]
    return conv(hidden, kernel[1], results, images) + bias.reshape(shape)


@pytest.mark.parametrize("channels", [3, 4])
def test_layouts(x64, channels):
    """The same images have the same relevance wherever their axes are, in a batch of two.

    With three rows or columns, none of which is a channel.
    """
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, channels, 3, 6)))
    kernels = [jnp.asarray(random.normal(size=s)) for s in ((5, channels, 2, 3), (3, 5, 1, 2))]
    bias = jnp.asarray(random.normal(size=3))

    def explained(numbers):
        images = numbers[0]
        order = ["NCHW".index(axis) for axis in images]

        def score(x):
            return jnp.square(convolved(x, kernels, bias, numbers)).sum()

        found = uncompiled(relprop.relevance(score, chefer()))(x.transpose(order))
        return found.transpose([images.index(axis) for axis in "NCHW"])

    expected = explained(("NCHW", "OIHW", "NCHW"))
    assert np.abs(expected).max() > 1e-3
    for images, kernel, results in (
        ("NHWC", "HWIO", "NHWC"),
        ("HWCN", "OHWI", "NCHW"),
        ("CNHW", "IOHW", "CHWN"),
        ("NHWC", "OIHW", "NCHW"),
    ):
        found = explained((images, kernel, results))
        np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())


def test_each_image_spans_its_own_box(x64):
    """In a batch, and mapped over: what is on another image does not matter."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, 6, 6, 3)) * np.array([1.0, 9.0])[:, None, None, None])
    kernel = jnp.asarray(random.normal(size=(3, 3, 3, 4)))

    def score(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return y[:, 2, 2, 1]

    def explain(x):
        y, back = relprop.vrp(score, x, rules=chefer())
        (relevance,) = back(jnp.ones_like(y))
        return relevance

    apart = jnp.concatenate([explain(image[None]) for image in x])
    np.testing.assert_allclose(explain(x), apart, atol=1e-12)
    np.testing.assert_allclose(
        jax.vmap(lambda image: explain(image[None])[0])(x), apart, atol=1e-12
    )


def test_an_explained_kernel_is_no_image(x64):
    """Of a kernel from the input no axis counts channels of an image: alpha-beta."""
    random = np.random.default_rng(0)
    image = jnp.asarray(random.normal(size=(1, 3, 5, 5)))
    kernel = jnp.asarray(random.normal(size=(2, 3, 3, 3)))

    def score(kernel):
        return lax.conv_general_dilated(image, kernel, (1, 1), "VALID")[0, 1, 1, 2]

    found = relprop.relevance(score, chefer())(kernel)
    # One position of the image, as a dense layer.
    patch = image[:, :, 1:4, 2:5].reshape(1, -1)
    dense = relprop.relevance(lambda k: (k.reshape(2, -1) @ patch[0])[1], chefer("orig"))(kernel)
    np.testing.assert_allclose(found, dense, atol=1e-12)
