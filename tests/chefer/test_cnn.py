"""Convolutional networks: relevance by the transform, and by the layers' functions one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relprop import chefer
from relprop.chefer import functional, layers

from . import golden

pytestmark = pytest.mark.usefixtures("x64")
NORM = ("weight", "bias", "running_mean", "running_var")


def lively(model):
    """Weights of a size that something comes out, and norms that do something."""
    random = np.random.default_rng(1)
    params = {
        name: jnp.asarray(random.uniform(0.5, 2, p.shape))
        if name.endswith("running_var")
        else jnp.asarray(random.normal(0, 0.5, p.shape))
        for name, p in model.params.items()
    }
    return type(model)(params, model.config)


@pytest.mark.parametrize("variant", ["ours", "orig"])
def test_resnet(variant):
    """A block that keeps its size and one with a convolution past it, against layer by layer."""
    config = {"layers": [1, 1], "width": 4, "num_classes": 3}
    model = lively(chefer.ResNet.init(config, jax.random.key(0)))
    images = jax.random.normal(jax.random.key(2), (2, 3, 16, 16), "float64")
    found = chefer.generate_lrp(model, images, index=1, method="full", variant=variant)
    p = model.params

    def normed(x, at):
        return functional.batch_norm(x, *(p[f"{at}.{n}"] for n in NORM))

    def through(R, x, conv, norm, stride, padding):
        """Backwards through the normalisation of a convolution."""
        y = functional.conv2d(x, p[f"{conv}.weight"], None, stride, padding)
        R = layers.batch_norm(R, y, p[f"{norm}.weight"], p[f"{norm}.running_var"])
        return layers.conv2d(R, x, p[f"{conv}.weight"], stride, padding)

    def block(x, at, stride):
        h = normed(functional.conv2d(x, p[f"{at}.conv1.weight"], None, stride, 1), f"{at}.bn1")
        y = normed(
            functional.conv2d(jax.nn.relu(h), p[f"{at}.conv2.weight"], None, 1, 1), f"{at}.bn2"
        )
        past = x
        if f"{at}.downsample.0.weight" in p:
            past = functional.conv2d(x, p[f"{at}.downsample.0.weight"], None, stride)
            past = normed(past, f"{at}.downsample.1")

        def back(R):
            left, right = layers.add(R, y, past, variant)
            left = through(left, jax.nn.relu(h), f"{at}.conv2", f"{at}.bn2", 1, 1)
            left = through(left, x, f"{at}.conv1", f"{at}.bn1", stride, 1)
            if f"{at}.downsample.0.weight" in p:
                at_past = f"{at}.downsample"
                right = through(right, x, f"{at_past}.0", f"{at_past}.1", stride, 0)
            return layers.clone([left, right], x)

        return jax.nn.relu(y + past), back

    @jax.jit
    def by_hand(image):
        stem = normed(functional.conv2d(image, p["conv1.weight"], None, 2, 3), "bn1")
        pooled = functional.max_pool2d(jax.nn.relu(stem), 3, 2, 1)
        x, back1 = block(pooled, "layer1.0", 1)
        y, back2 = block(x, "layer2.0", 2)
        flat = functional.adaptive_avg_pool2d(y, 1)
        R = layers.linear(jnp.eye(3)[1:2], flat.reshape(1, -1), p["fc.weight"], variant=variant)
        R = layers.adaptive_avg_pool2d(R.reshape(flat.shape), y, 1)
        R = back1(back2(R))
        R = layers.max_pool2d(R, jax.nn.relu(stem), 3, 2, 1)
        return jnp.sum(through(R, image, "conv1", "bn1", 2, 3), axis=1)

    expected = jnp.concatenate([by_hand(image[None]) for image in images])
    assert np.abs(expected).max() > 1e-3
    assert golden.error(found, expected) < 1e-11


def test_vgg():
    config = {
        "features": [4, "M", 6], "batch_norm": True, "pool": 3, "hidden": [12], "num_classes": 4
    }  # fmt: skip
    model = lively(chefer.VGG.init(config, jax.random.key(0)))
    p = model.params
    image = jax.random.normal(jax.random.key(3), (1, 3, 8, 8), "float64")
    found = chefer.generate_lrp(model, image, index=2, method="full")

    def norm(at):
        return [p[f"{at}.{n}"] for n in NORM]

    @jax.jit
    def by_hand(image):
        conv1 = functional.conv2d(image, p["features.0.weight"], p["features.0.bias"], 1, 1)
        x1 = jax.nn.relu(functional.batch_norm(conv1, *norm("features.1")))
        x2 = functional.max_pool2d(x1, 2)
        conv2 = functional.conv2d(x2, p["features.4.weight"], p["features.4.bias"], 1, 1)
        x3 = jax.nn.relu(functional.batch_norm(conv2, *norm("features.5")))
        flat = functional.adaptive_avg_pool2d(x3, 3)
        hidden = functional.linear(
            flat.reshape(1, -1), p["classifier.0.weight"], p["classifier.0.bias"]
        )
        R = layers.linear(jnp.eye(4)[2:3], jax.nn.relu(hidden), p["classifier.3.weight"])
        R = layers.linear(R, flat.reshape(1, -1), p["classifier.0.weight"])
        R = layers.adaptive_avg_pool2d(R.reshape(flat.shape), x3, 3)
        R = layers.batch_norm(R, conv2, p["features.5.weight"], p["features.5.running_var"])
        R = layers.max_pool2d(layers.conv2d(R, x2, p["features.4.weight"], 1, 1), x1, 2)
        R = layers.batch_norm(R, conv1, p["features.1.weight"], p["features.1.running_var"])
        return jnp.sum(layers.conv2d(R, image, p["features.0.weight"], 1, 1), axis=1)

    expected = by_hand(image)
    assert np.abs(expected).max() > 1e-3
    assert golden.error(found, expected) < 1e-11


def test_names_and_shapes_are_those_of_torchvision():
    count = sum(np.prod(s) for n, s in chefer.ResNetConfig().shapes().items() if "running" not in n)
    assert count == 11_689_512  # ResNet-18
    config = chefer.ResNetConfig(layers=(3, 4, 6, 3), bottleneck=True)
    count = sum(np.prod(s) for n, s in config.shapes().items() if "running" not in n)
    assert count == 25_557_032  # ResNet-50
    shapes = chefer.VGGConfig().shapes()
    assert sum(np.prod(s) for s in shapes.values()) == 138_357_544  # VGG-16
    assert shapes["features.28.weight"] == (512, 512, 3, 3)
    assert shapes["classifier.6.bias"] == (1000,)
