"""Layer-wise variants and GradCAM."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import relprop
from relprop import InputError, NothingMatchedError, baselines

from ..golden import torch_layers as tl

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
W = RNG.normal(size=(2, 4, 4))
X, BASE = RNG.normal(size=(2, 3, 4))


def below(x):
    return jnp.tanh(x @ W[0])


def above(h, x):
    return ((h @ W[1]) ** 2).sum() + (h * x).sum()


def whole(x):
    return above(relprop.named(below(x), "hidden"), x), x[0]


def test_gradients_of_places():
    h, slope = below(X), jax.grad(above)(below(X), X)
    inside, aux = baselines.gradient(whole, has_aux=True, at="hidden", abs=True)(jnp.asarray(X))
    np.testing.assert_allclose(inside["hidden"].relevance, np.abs(slope), atol=1e-12)
    np.testing.assert_allclose(inside["hidden"].value, h, atol=1e-12)
    times, _ = baselines.gradient_times_input(whole, has_aux=True, at="hidden")(jnp.asarray(X))
    np.testing.assert_allclose(times["hidden"].relevance, h * slope, atol=1e-12)
    np.testing.assert_array_equal(aux, X[0])


def test_integrated_gradients_of_places():
    # The arguments themselves stay what they are, so this is the integral of the upper part.
    h, before = below(X), below(BASE)
    expected = baselines.integrated_gradients(lambda h: above(h, X), baseline=before)(h)
    explain = baselines.integrated_gradients(
        whole, has_aux=True, at="hidden", baseline=BASE, batch_size=7, return_delta=True
    )
    (inside, delta), aux = jax.jit(explain)(X)
    np.testing.assert_allclose(inside["hidden"].relevance, expected, atol=1e-10)
    np.testing.assert_allclose(inside["hidden"].value, h, atol=1e-12)
    np.testing.assert_array_equal(aux, X[0])
    assert abs(delta) < 1e-10


def test_places_that_are_computed_often():
    def f(x):
        return lax.fori_loop(0, 3, lambda i, x: relprop.named(jnp.tanh(x), "round"), x).sum()

    with pytest.raises(InputError, match="computed inside of a loop"):
        baselines.integrated_gradients(f, at="round")(jnp.asarray(X))


KERNEL = RNG.normal(size=(5, 2, 3, 3))
HEAD = RNG.normal(size=(5,))
IMAGES = RNG.normal(size=(2, 2, 6, 6))


def layer(x):
    return jax.nn.relu(tl.conv(x, jnp.asarray(KERNEL), padding=1))


def scores(x):
    h = relprop.named(layer(x), "layer")
    return jnp.sum(jnp.tanh(jnp.einsum("nchw,c->nhw", h, HEAD)))


def naive_cam(weights, value, relu=True):
    found = np.einsum("nc,nchw->nhw", weights, value)
    return np.maximum(found, 0) if relu else found


PYTORCH = dict(channel_axis=-3, spatial_axes=(-2, -1))


def slope_and_value():
    h = np.asarray(layer(IMAGES))
    return np.asarray(
        jax.grad(lambda h: jnp.sum(jnp.tanh(jnp.einsum("nchw,c->nhw", h, HEAD))))(h)
    ), h


@pytest.mark.parametrize("relu", [True, False])
def test_gradcam(relu):
    g, h = slope_and_value()
    found = baselines.gradcam(scores, "layer", relu=relu, **PYTORCH)(IMAGES)
    np.testing.assert_allclose(found, naive_cam(g.mean(axis=(2, 3)), h, relu), atol=1e-10)


def test_gradcam_plus_plus():
    g, h = slope_and_value()
    lower = 2 * g**2 + h.sum(axis=(2, 3), keepdims=True) * g**3
    alpha = np.divide(g**2, lower, out=np.zeros_like(g), where=lower != 0)
    weights = (alpha * np.maximum(g, 0)).sum(axis=(2, 3))
    found = baselines.gradcam_plus_plus(scores, "layer", **PYTORCH)(IMAGES)
    np.testing.assert_allclose(found, naive_cam(weights, h), atol=1e-10)


def test_maps_of_the_size_of_the_image():
    explain = baselines.gradcam(scores, "layer", resize=(12, 24), **PYTORCH)
    found = jax.jit(jax.vmap(lambda x: explain(x[None])))(IMAGES)
    assert found.shape == (2, 1, 12, 24)
    small = baselines.gradcam(scores, "layer", **PYTORCH)(IMAGES)
    np.testing.assert_allclose(found[:, 0].mean(axis=(1, 2)), small.mean(axis=(1, 2)), rtol=1e-6)


def test_refused():
    with pytest.raises(InputError, match="has no channels along axis"):
        baselines.gradcam(lambda x: whole(x)[0], "hidden")(jnp.asarray(X))
    with pytest.raises(InputError, match="GradCAM is of one layer"):
        baselines.gradcam(scores, ["layer", relprop.Where(structure="convolution")])(IMAGES)
    with pytest.raises(NothingMatchedError):
        baselines.gradient(scores, at="elsewhere")(IMAGES)


REFUSED = {
    "without `Masked`": lambda: baselines.integrated_gradients(
        scores, at=relprop.places.Masked("layer", 0.0)
    ),
    "do not depend on the input": lambda: baselines.integrated_gradients(
        lambda x, p: jnp.tanh(x @ p["w"]).sum(), at=relprop.places.Parameter("p/w")
    )(X, {"w": W[0]}),
    "`multiply_by_inputs=False`": lambda: baselines.deeplift(
        scores, at="layer", multiply_by_inputs=False
    ),
    "`return_delta`": lambda: baselines.deeplift(scores, at="layer", return_delta=True),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_places_do_not_have_is_refused(message):
    with pytest.raises(InputError, match=message):
        REFUSED[message]()
