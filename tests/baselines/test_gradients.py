"""What holds for gradients and their means in closed form, and for every method alike."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import relprop
from relprop import baselines

X = jnp.array([1.0, -2.0, 0.5])
A = jnp.array([[1.0, 0.3, 0.0], [0.0, 2.0, -0.4], [0.7, 0.0, 0.5]])
KEY = jax.random.key(0)


def quadratic(x):
    return x @ (A @ x) / 2 + x.sum()


@pytest.mark.parametrize("method", baselines._integrated.METHODS)
def test_weights_of_the_integral(method):
    positions, weights = baselines._integrated.quadrature(method, 20)
    assert ((positions >= 0) & (positions <= 1)).all()
    expected = 0.95 if method == "riemann_trapezoid" else 1.0
    np.testing.assert_allclose(weights.sum(), expected, rtol=1e-6)
    error = {"gausslegendre": 1e-12, "riemann_middle": 2e-3}.get(method, 0.06)
    np.testing.assert_allclose(weights @ positions**2, 1 / 3, atol=error)


@given(
    st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3),
    st.floats(-2, 2, width=32),
)
def test_integrated_gradients_are_complete(values, baseline):
    x = jnp.array(values, jnp.float32)
    got, delta = integrated_of_quadratic(x, jnp.float32(baseline))
    mean_slope = jax.grad(quadratic)((x + baseline) / 2)  # exact, the gradient being linear
    np.testing.assert_allclose(got, (x - baseline) * mean_slope, atol=1e-4)
    assert abs(float(delta)) < 1e-4


@jax.jit
def integrated_of_quadratic(x, baseline):
    explain = baselines.integrated_gradients(
        quadratic, baseline=baseline, steps=5, return_delta=True
    )
    return explain(x)


def test_expected_gradients_of_a_quadratic():
    data = jnp.stack([jnp.zeros(3), jnp.ones(3)])
    explain = baselines.expected_gradients(
        quadratic, baselines=data, key=KEY, samples=8000, batch_size=3000
    )
    expected = jnp.mean(
        jnp.stack([(X - b) * jax.grad(quadratic)((X + b) / 2) for b in data]), axis=0
    )
    np.testing.assert_allclose(jax.jit(explain)(X), expected, atol=0.15)


def test_noise():
    # The gradient of a quadratic at x + e is that at x plus (A + A^T) e / 2.
    slope, mixed = jax.grad(quadratic)(X), (A + A.T) / 2
    variance = 0.3**2 * jnp.sum(mixed**2, axis=1)
    run = functools.partial(baselines.smooth_grad, quadratic, key=KEY, samples=8000, stdev=0.3)
    var = baselines.var_grad(quadratic, key=KEY, samples=8000, stdev=0.3, batch_size=3000)
    mean, square, spread = jax.jit(lambda x: (run()(x), run(square=True)(x), var(x)))(X)
    np.testing.assert_allclose(mean, slope, atol=0.03)
    np.testing.assert_allclose(square, slope**2 + variance, atol=0.2)
    np.testing.assert_allclose(spread, variance, rtol=0.08)


def test_noise_around_any_explanation():
    rules = relprop.rules.Epsilon(1e-6)
    explain = baselines.smooth_grad(
        lambda x: (A @ x).sum(),
        key=KEY,
        samples=4,
        stdev=0.0,
        of=lambda f: relprop.relevance(f, rules),
    )
    np.testing.assert_allclose(jax.jit(explain)(X), X * A.sum(axis=0), rtol=1e-4)


def test_noise_by_default_is_a_share_of_the_range():
    found = baselines._noise._default(X)
    np.testing.assert_allclose(found, 0.15 * 3)


def score(image, weight, scale=1.0):
    a, b = image["a"], image["b"]
    value = scale * jnp.sum(jnp.tanh(a @ weight)) + jnp.sum(a) * jnp.sum(b**2)
    return value, {"extra": a[0]}


IMAGE = {"a": jnp.array([[1.0, 2.0], [0.5, -1.0]]), "b": jnp.array([0.5, 2.0, -1.0])}
WEIGHT = jnp.array([[0.4, -0.2], [0.1, 0.3]])
METHODS = {
    "gradient": baselines.gradient,
    "gradient_times_input": baselines.gradient_times_input,
    "integrated_gradients": functools.partial(baselines.integrated_gradients, steps=3),
    "expected_gradients": functools.partial(
        baselines.expected_gradients,
        baselines=jax.tree.map(lambda a: jnp.stack([a, 0 * a]), IMAGE),
        key=KEY,
        samples=4,
    ),
    "smooth_grad": functools.partial(baselines.smooth_grad, key=KEY, samples=4),
    "var_grad": functools.partial(baselines.var_grad, key=KEY, samples=4),
    "feature_ablation": baselines.feature_ablation,
    "occlusion": functools.partial(baselines.occlusion, window={"a": (1, 2), "b": 2}),
    "kernel_shap": baselines.kernel_shap,
    "lime": functools.partial(baselines.lime, key=KEY, samples=40),
}
BATCHED = [name for name in METHODS if not name.startswith("gradient")]


@pytest.mark.parametrize("name", METHODS)
def test_one_interface(name):
    explain = METHODS[name](score, has_aux=True)
    found, aux = jax.jit(lambda i: explain(i, WEIGHT, scale=0.5))(IMAGE)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, IMAGE)
    np.testing.assert_array_equal(aux["extra"], IMAGE["a"][0])
    # Of a batch, compiled, and in batches that do not fit evenly: the same.
    keywords = {"batch_size": 3} if name in BATCHED else {}
    bounded = METHODS[name](score, has_aux=True, **keywords)
    images = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), IMAGE)
    several, _ = jax.jit(jax.vmap(lambda i: bounded(i, WEIGHT, scale=0.5)))(images)
    for a, b in zip(jax.tree.leaves(several), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=2e-4, atol=2e-4)


def test_several_arguments():
    f = lambda a, b: (a * b).sum()  # noqa: E731
    explain = baselines.integrated_gradients(f, argnums=(1, 0), baseline=(0.0, 1.0))
    by_b, by_a = explain(X, 2 * X)
    np.testing.assert_allclose(by_b, 2 * X * (1 + X) / 2, rtol=1e-5)
    np.testing.assert_allclose(by_a, (X - 1) * X, rtol=1e-5)


def test_a_progress_bar_counts_every_point(capfd):
    pytest.importorskip("tqdm", reason="the bar is drawn by tqdm, an optional package")
    explain = baselines.integrated_gradients(quadratic, steps=7, batch_size=3, progress=True)
    for _ in range(2):  # one bar per run, compiled or not
        jax.jit(explain)(X).block_until_ready()
    jax.effects_barrier()
    shown = capfd.readouterr().err
    assert shown.count("7/7") == 2
    baselines.integrated_gradients(quadratic, steps=7, batch_size=3)(X)
    assert capfd.readouterr().err == ""


REFUSED = {
    "one real scalar": lambda: baselines.gradient(lambda x: x)(X),
    "Only real numbers": lambda: baselines.gradient(jnp.sum)(jnp.arange(3)),
    "holds no array": lambda: baselines.gradient(lambda x: 1.0)({}),
    "must return a pair": lambda: baselines.gradient(jnp.sum, has_aux=True)(X),
    "names argument 1": lambda: baselines.gradient(jnp.sum, argnums=1)(X),
    "shapes of what is explained": lambda: baselines.integrated_gradients(
        quadratic, baseline=jnp.ones(2)
    )(X),
    "structure of what is explained": lambda: baselines.integrated_gradients(
        quadratic, baseline={"a": 0.0}
    )(X),
    "method of integration": lambda: baselines.integrated_gradients(
        quadratic, method="gauss-legendre"
    ),
    "one axis of samples": lambda: baselines.expected_gradients(quadratic, baselines=X, key=KEY)(X),
    "batch_size must be": lambda: baselines.integrated_gradients(quadratic, batch_size=0),
    "`window` needs one positive length": lambda: baselines.occlusion(quadratic, window=(2, 2))(X),
    "`strides` must be": lambda: baselines.occlusion(quadratic, window=1, strides=[2])(X),
    "must hold integers": lambda: baselines.feature_ablation(quadratic, feature_mask=X)(X),
    "must be known while": lambda: jax.jit(
        lambda m: baselines.feature_ablation(quadratic, feature_mask=m)(X)
    )(jnp.arange(3)),
    "coalitions of them": lambda: baselines.kernel_shap(jnp.sum)(jnp.ones(17)),
    "needs a `key`": lambda: baselines.kernel_shap(jnp.sum, samples=8)(jnp.ones(17)),
    "must be at least 38": lambda: baselines.kernel_shap(jnp.sum, samples=10, key=KEY)(
        jnp.ones(20)
    ),
    "`samples` must be at least 1": lambda: baselines.smooth_grad(quadratic, key=KEY, samples=0),
    "`kernel_width` must be": lambda: baselines.lime(quadratic, key=KEY, kernel_width=0.0),
    "at least 2 steps": lambda: baselines.integrated_gradients(
        quadratic, method="riemann_trapezoid", steps=1
    ),
    "it is 2.5": lambda: baselines.occlusion(quadratic, window=2.5)(X),
    "an even number": lambda: baselines.kernel_shap(jnp.sum, samples=3, key=KEY)(X),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises((relprop.RelpropError, ValueError), match=message):
        REFUSED[message]()


@pytest.mark.parametrize("batch_size", [None, 1])
def test_sums_of_half_precision_do_not_stop_growing(batch_size):
    x = jnp.ones(2, jnp.bfloat16)
    slope = baselines.smooth_grad(jnp.sum, key=KEY, samples=600, stdev=0.0, batch_size=batch_size)(
        x
    )
    np.testing.assert_allclose(slope, [1.0, 1.0], rtol=1e-6)  # a bfloat16 of 256 + 1 is 256


def test_kernel_shap_in_half_precision():
    values = baselines.kernel_shap(lambda x: (x**2).sum())(jnp.array([1, 2, 3], jnp.bfloat16))
    np.testing.assert_allclose(values.astype(float), [1.0, 4.0, 9.0], rtol=1e-2)
