"""NumPy gives what JAX gives, operation by operation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from relprop import _compat

from . import evaluated

RANDOM = np.random.default_rng(0)
X = jnp.asarray(RANDOM.normal(size=(2, 5, 6)), jnp.float32)
IMAGES = jnp.asarray(RANDOM.normal(size=(2, 4, 7, 6)), jnp.float32)
KERNEL = jnp.asarray(RANDOM.normal(size=(6, 2, 3, 2)), jnp.float32)
N = jnp.asarray([[3, -4, 0], [-7, 9, 2]], jnp.int32)
SHORT = jnp.asarray([[100, -4, 90], [-70, 9, 127]], jnp.int8)
convolution = functools.partial(
    lax.conv_general_dilated, window_strides=(2, 1), padding=[(1, -1), (2, 1)],
    dimension_numbers=("NCHW", "OIHW", "NHWC"), feature_group_count=2,
)  # fmt: skip

CASES = {
    "dot": lambda: jnp.einsum("bij,bkj,l->blik", X, X[:, :3] + 1, jnp.arange(2.0)),
    "dot of integers": lambda: lax.dot_general(
        SHORT, SHORT, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32
    ),
    "vector": lambda: X[0, 0] @ X[1, 0],
    "convolution": lambda: convolution(IMAGES, KERNEL),
    "dilated": lambda: convolution(IMAGES, KERNEL, lhs_dilation=(2, 1), rhs_dilation=(1, 2)),
    "sum of windows": lambda: lax.reduce_window(
        IMAGES, 0.0, lax.add, (1, 1, 3, 2), (1, 1, 2, 2), "SAME"
    ),
    "largest of windows": lambda: lax.reduce_window(
        IMAGES, -jnp.inf, lax.max, (1, 1, 3, 2), (1, 1, 2, 2), [(0, 0)] * 2 + [(1, 1)] * 2,
        window_dilation=(1, 1, 2, 1),
    ),
    "smallest of windows": lambda: lax.reduce_window(
        X[0], jnp.inf, lax.min, (1, 2), (1, 1), "SAME"
    ),
    "pad": lambda: lax.pad(X, 2.0, [(0, 1, 0), (-2, 3, 1), (2, -4, 2)]),
    "cut": lambda: lax.pad(X, 2.0, [(0, 0, 0), (-4, -4, 2), (0, 0, 0)]),
    "cumsum": lambda: lax.cumsum(X, 1, reverse=True),
    "cumprod": lambda: lax.cumprod(X, 2),
    "cummax": lambda: lax.cummax(X, 2),
    "cummin": lambda: lax.cummin(X, 0),
    "clamp": lambda: lax.clamp(-0.3, X, 0.4),
    "sort": lambda: jnp.sort(X, 1),
    "argsort": lambda: jnp.argsort(N, 1),
    "argmax": lambda: (jnp.argmax(X, 1), jnp.argmin(N, 0)),
    "reductions": lambda: (X.prod(1), X.max(0), X.min(2), (X > 0).all(0), (X > 2).any(0)),
    "iota": lambda: lax.broadcasted_iota(jnp.int32, (2, 3), 1),
    "divisions": lambda: (lax.div(N, jnp.int32(-2)), lax.rem(N, jnp.int32(4)), lax.rem(X, 0.3)),
    "round": lambda: (jnp.round(5 * X), lax.round(5 * X, lax.RoundingMethod.AWAY_FROM_ZERO)),
    "halves": lambda: lax.round(jnp.asarray([-2.5, -0.5, 0.49999997, 0.5, 1.5, 8388609.0])),
    "select": lambda: lax.select_n(N % 3, N, 2 * N, 3 * N),
    "conversions": lambda: (
        X.astype(jnp.int32), (300 * X).astype(jnp.int8), X.astype(jnp.bfloat16),
        jnp.asarray([jnp.nan, -jnp.inf, 1e20, 3.7]).astype(jnp.int32),
    ),
    "short integers": lambda: (SHORT + SHORT, SHORT.sum(dtype=jnp.int8), SHORT * SHORT),
    "erf": lambda: (lax.erf(X), lax.erfc(X), lax.erf_inv(jnp.tanh(X))),
    "powers": lambda: (jnp.abs(X) ** X, X**-3, lax.rsqrt(jnp.abs(X)), jnp.cbrt(X)),
    "curves": lambda: (jax.nn.sigmoid(40 * X), jnp.arctan2(X, X[:1]), jnp.expm1(X), jnp.tan(X)),
    "stack": lambda: jnp.stack([X, X + 1], 1),
    "split": lambda: jnp.split(X, (1, 3), 1),
    "reshape": lambda: lax.reshape(X, (6, 10), (2, 1, 0)),
    "slice": lambda: (X[:, 1::2], X[:, ::-1], jnp.concatenate([X, X], 1), X.T[..., None]),
    "dynamic": lambda: (
        lax.dynamic_slice(X, (0, jnp.int32(4), N[0, 0]), (1, 2, 4)),
        lax.dynamic_update_slice(X, X[:1, :2], (1, jnp.int32(4), N[1, 0])),
    ),
    "take": lambda: (jnp.take(X, N, 1), jnp.take(X, N, 1, mode="clip"), X[:, N[:, :1], N]),
    "along an axis": lambda: jnp.take_along_axis(X, jnp.abs(N).reshape(2, 1, 3), 2),
    "filled": lambda: X.at[0, N].get(mode="fill", fill_value=7.0),
    "windows": lambda: jax.vmap(lambda n: lax.dynamic_slice(X, (0, n, 1), (2, 2, 3)))(N[0]),
    "of each": lambda: jax.vmap(lambda x, n: lax.dynamic_slice(x, (n, 1), (2, 3)))(X, N[:, 0]),
    "written": lambda: X.at[:, jnp.array([4, 1, 9])].set(X[:, :3]),
    "added": lambda: X.at[0, N].add(X[:, :3], mode="drop"),
    "clipped": lambda: X.at[0, N].add(X[:, :3], mode="clip"),
    "extremes": lambda: (X.at[0].max(1.0), X.at[:, 2].min(0.0), X.at[0, N].multiply(2.0)),
    "added to each": lambda: jax.vmap(lambda x, n: x.at[n, 1:3].add(x[0, :2]))(X, N[:, 1]),
    "barrier": lambda: lax.optimization_barrier((X, N)),
    "xor": lambda: (N ^ 5, ~N, (X > 0) ^ (X > 1)),
}  # fmt: skip
# Where XLA has its own way, it is asked.
ASKED = {"conversions"}


@pytest.fixture(scope="module")
def expected():
    """One program for all of them."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jax.jit(lambda: {name: case() for name, case in CASES.items()})()


@pytest.mark.parametrize("name", CASES)
def test_operations(name, expected, monkeypatch):
    if name not in ASKED:
        monkeypatch.setattr(_compat, "bind", lambda eqn, *_: pytest.fail(f"JAX was asked: {eqn}"))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = evaluated(CASES[name], ())
    assert jax.tree.structure(found) == jax.tree.structure(expected[name])
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected[name]), strict=True)
    for got, wanted in pairs:
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        wanted = np.asarray(wanted)
        if got.dtype.kind == "f":
            np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)
        else:
            np.testing.assert_array_equal(got, wanted)
