"""One row per primitive: what relevance does there, and that every registered primitive has a row.

Kinds of rows:

- ``linear``: moves numbers, sums them, picks the largest, or multiplies by something that does not
  depend on the input: relevance is gradient times input and adds up to the score;
- ``pass``: a function of each entry: relevance passes unchanged;
- ``shared``: products and soft maxima: relevance adds up to the score;
- ``none``: nobody has said how relevance passes: an error that names the primitive;
- ``blind``: as ``pass``, but JAX itself has no derivative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint

import relprop
from relprop import _compat
from relprop.rules import Epsilon, Gradient

from .. import zoo_functions as zoo
from .test_gradient_parity import close


@dataclasses.dataclass(frozen=True)
class Row:
    """One function in which a primitive is on the way of the relevance."""

    primitive: str
    kind: str
    f: Callable[..., Any]
    args: tuple[Any, ...]
    note: str = ""
    tolerance: float = 1e-5

    def __str__(self) -> str:
        return self.primitive + (f"-{self.note}" if self.note else "")

    @property
    def score(self) -> Callable[..., jax.Array]:
        return zoo.score(zoo.users_own(self.f))

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(range(len(self.args)))


draw = zoo.Draw("primitives")
V, W = draw.distinct(4), draw.distinct(4, scale=0.33)
M, N = draw.distinct(3, 4), draw.distinct(3, 4, scale=0.31)
P, Q = draw.positive(4), draw.positive(4)
U = draw.positive(4, low=0.1, high=0.9)  # where inverse functions are defined
S = draw(3, 3) + 3.0 * jnp.eye(3)
IMAGE, KERNEL = draw.distinct(1, 6, 6, 2, scale=0.07), draw(3, 3, 2, 3, scale=0.3)
INDICES = jnp.array([2, 0])

WINDOW = dict(window_dimensions=(1, 2, 2, 1), window_strides=(1, 2, 2, 1), padding="VALID")


def _max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, **WINDOW)


def _gated(gate):
    """x times something that comes from x by a way that no relevance takes."""
    return lambda x: x * jnp.asarray(gate(x)).astype(jnp.float32)


def _bits(x):
    return lax.convert_element_type(jnp.abs(x) * 100.0, jnp.int32)


def _words(x):
    return lax.convert_element_type(jnp.abs(x) * 100.0, jnp.uint32)


def _key(x):
    return jax.random.key(_bits(x)[0])


def _linear_call(x):
    return jax.custom_derivatives.linear_call(lambda r, x: x * r, lambda r, y: y * r, 3.0, x)


@jax.custom_jvp
def _mixes(x):
    return x @ jnp.ones((4, 2))


_mixes.defjvp(lambda p, t: (_mixes(*p), t[0] @ jnp.ones((4, 2))))


@jax.custom_vjp
def _mixes_too(x):
    return x[::-1] * 2.0


_mixes_too.defvjp(lambda x: (_mixes_too(x), None), lambda _, g: (g[::-1] * 2.0,))

ROWS = [
    # Moving and copying.
    Row("reshape", "linear", lambda x: x.reshape(2, 6), (M,)),
    Row("transpose", "linear", lambda x: x.T, (M,)),
    Row("broadcast_in_dim", "linear", lambda x: jnp.broadcast_to(x, (3, 4)), (V,)),
    Row("squeeze", "linear", lambda x: lax.squeeze(x[None], (0,)), (V,)),
    Row("rev", "linear", lambda x: lax.rev(x, (0,)), (V,)),
    Row("slice", "linear", lambda x: lax.slice(x, (1,), (3,)), (V,)),
    Row("dynamic_slice", "linear", lambda x: lax.dynamic_slice(x, (jnp.int32(1),), (2,)), (V,)),
    Row(
        "dynamic_update_slice",
        "linear",
        lambda x, u: lax.dynamic_update_slice(x, u, (jnp.int32(1),)),
        (V, W[:2]),
    ),
    Row(
        "dynamic_update_slice",
        "linear",
        lambda u: lax.dynamic_update_slice(jnp.zeros(4), u, (1,)),
        (W[:2],),
        "into-constant",
    ),
    Row("gather", "linear", lambda x: x[INDICES], (M,)),
    Row("scatter", "linear", lambda x, u: x.at[INDICES].set(u), (V, W[:2])),
    Row("scatter", "linear", lambda u: jnp.zeros(4).at[INDICES].set(u), (W[:2],), "into-constant"),
    Row("scatter", "linear", lambda x: x.at[INDICES].set(0.0), (V,), "of-constant"),
    Row("concatenate", "linear", lambda x, y: jnp.concatenate([x, y, x]), (V, W)),
    Row("concatenate", "linear", lambda x: jnp.concatenate([x, jnp.zeros(2)]), (V,), "constant"),
    Row("pad", "linear", lambda x: lax.pad(x, 0.0, ((1, 2, 1),)), (V,)),
    Row("pad", "linear", lambda x, v: lax.pad(x, v[0], ((1, 2, 1),)), (V, W), "value"),
    Row("split", "linear", lambda x: lax.split(x, (1, 3)), (V,)),
    Row("stack", "linear", lambda x, y: lax.stack([x, y]), (V, W)),
    Row("unstack", "linear", lambda x: lax.unstack(x), (M,)),
    Row("tile", "linear", lambda x: jnp.tile(x, (2,)), (V,)),
    Row("sort", "linear", lambda x: lax.sort(x), (V,)),
    Row("sort", "linear", lambda x, y: lax.sort((x, y), num_keys=1), (V, W), "payload"),
    Row("sort", "linear", lambda y: lax.sort((V, y), num_keys=1)[1], (W,), "payload-only"),
    Row("top_k", "linear", lambda x: lax.top_k(x, 2)[0], (M,)),
    Row("approx_top_k", "linear", lambda x: lax.approx_max_k(x, 2)[0], (M,)),
    Row("optimization_barrier", "linear", lambda x, y: lax.optimization_barrier((x, y)), (V, W)),
    Row("name", "linear", lambda x: checkpoint_name(x * 2.0, "y"), (V,)),
    Row("layout_constraint", "linear", lambda x: with_layout_constraint(x, Layout((0,))), (V,)),
    Row("composite", "blind", lambda x: lax.composite(jnp.tanh, "my.tanh")(x), (V,)),
    Row("device_put", "linear", lambda x: jax.device_put(x), (V,)),
    Row(
        "sharding_constraint",
        "linear",
        lambda x: lax.with_sharding_constraint(
            x, jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
        ),
        (V,),
    ),
    Row("select_n", "linear", lambda x, y: jnp.where(x > y, x, y), (V, W)),
    Row("select_n", "linear", lambda x: jnp.where(x > 0, x, 0.0), (V,), "relu"),
    Row("convert_element_type", "linear", lambda x: x.astype(jnp.bfloat16), (V,), tolerance=1e-2),
    Row("copy", "linear", lambda x: jnp.copy(x), (V,)),
    Row(
        "reduce_precision", "linear", lambda x: lax.reduce_precision(x, 8, 10), (V,), tolerance=1e-2
    ),
    # Sums and other linear maps.
    Row("reduce_sum", "linear", lambda x: x.sum(axis=0), (M,)),
    Row("cumsum", "linear", lambda x: lax.cumsum(x, axis=1, reverse=True), (M,)),
    Row(
        "reduce_window_sum",
        "linear",
        lambda x: lax.reduce_window(x, 0.0, lax.add, **WINDOW),
        (IMAGE,),
    ),
    Row("scatter-add", "linear", lambda x, u: x.at[INDICES].add(u), (V, W[:2])),
    Row("scatter-sub", "linear", lambda x, u: x.at[INDICES].subtract(u), (V, W[:2])),
    Row(
        "add_any",
        "linear",
        lambda x: jax.linear_transpose(lambda y: (y * 2.0, y * 3.0), V)((x, x))[0],
        (V,),
    ),
    Row("neg", "linear", lambda x: -x, (V,)),
    Row("complex", "linear", lambda x, y: jnp.real(lax.complex(x, y) * (2 - 1j)), (V, W)),
    Row("real", "linear", lambda x, y: lax.real(lax.complex(x, y)), (V, W)),
    Row("imag", "linear", lambda x, y: lax.imag(lax.complex(x, y)), (V, W)),
    Row("conj", "linear", lambda x, y: jnp.imag(lax.conj(lax.complex(x, y)) * (2 - 1j)), (V, W)),
    Row("fft", "linear", lambda x: jnp.real(jnp.fft.rfft(x) * (2 - 1j)), (V,)),
    Row("fft", "linear", lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * (1 + 2j)), (V,), "inverse"),
    Row(
        "select_and_scatter_add",
        "linear",
        lambda y: jax.vjp(_max_pool, IMAGE)[1](y)[0],
        (_max_pool(IMAGE) * 0.5,),
    ),
    Row(
        "select_and_scatter_add",
        "none",
        lambda x: jax.vjp(_max_pool, x)[1](_max_pool(x) ** 2)[0],
        (IMAGE,),
        "choosing",
    ),
    Row(
        "triangular_solve",
        "linear",
        lambda b: lax.linalg.triangular_solve(S, b, left_side=True),
        (M,),
    ),
    Row(
        "tridiagonal_solve",
        "linear",
        lambda b: lax.linalg.tridiagonal_solve(0.1 * P, P + 2, 0.1 * Q, b),
        (M.T,),
    ),
    Row("custom_linear_solve", "linear", lambda b: jnp.linalg.solve(S, b), (M,)),
    Row("mul", "linear", lambda x: x * W, (V,), "scale"),
    Row("div", "linear", lambda x: x / W, (V,), "scale"),
    Row("add", "linear", lambda x, y: x + y, (V, W)),
    Row("add", "linear", lambda x: x + x, (V,), "twice"),
    Row("sub", "linear", lambda x, y: x - y, (V, W)),
    Row("dot_general", "linear", lambda x: x @ M.T, (V,)),
    Row("dot_general", "linear", lambda x: M @ x, (V,), "weight-first"),
    Row(
        "dot_general",
        "linear",
        lambda x: jnp.einsum("bij,bjk->bik", x[None], N.T[None]),
        (M,),
        "batch",
    ),
    Row(
        "dot_general",
        "linear",
        lambda x: lax.dot(x.astype(jnp.bfloat16), W, preferred_element_type=jnp.float32),
        (V,),
        "precise",
        2e-2,
    ),
    Row(
        "conv_general_dilated",
        "linear",
        lambda x: lax.conv_general_dilated(
            x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        (IMAGE,),
    ),
    Row(
        "conv_general_dilated",
        "linear",
        lambda k: lax.conv_general_dilated(
            IMAGE, k, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        (KERNEL,),
        "kernel",
    ),
    Row(
        "ragged_dot_general",
        "linear",
        lambda x: lax.ragged_dot(x, jnp.ones((2, 4, 2)) * 0.5, jnp.array([1, 2])),
        (M,),
    ),
    Row(
        "ragged_dot_general",
        "linear",
        lambda w: lax.ragged_dot(M, w, jnp.array([1, 2])),
        (draw(2, 4, 2),),
        "weights",
    ),
    # The winner takes all.
    Row("max", "linear", lambda x, y: jnp.maximum(x, y), (V, W)),
    Row("max", "linear", lambda x: jnp.maximum(x, 0.0), (V,), "relu"),
    Row("min", "linear", lambda x, y: jnp.minimum(x, y), (V, W)),
    Row("reduce_max", "linear", lambda x: x.max(axis=1), (M,)),
    Row("reduce_max", "linear", lambda x: jnp.max(x), (jnp.array([1.0, 3.0, 3.0]),), "tie"),
    Row("reduce_min", "linear", lambda x: x.min(), (M,)),
    Row("reduce_window_max", "linear", _max_pool, (IMAGE,)),
    Row(
        "reduce_window_min",
        "linear",
        lambda x: lax.reduce_window(x, jnp.inf, lax.min, **WINDOW),
        (IMAGE,),
    ),
    Row("cummax", "linear", lambda x: lax.cummax(x), (V,)),
    Row("cummin", "linear", lambda x: lax.cummin(x, reverse=True), (V,)),
    Row("scatter-max", "linear", lambda x, u: x.at[INDICES].max(u), (V, W[:2])),
    Row("scatter-min", "linear", lambda x, u: x.at[INDICES].min(u), (V, W[:2])),
    Row(
        "select_and_gather_add",
        "linear",
        lambda t: jax.jvp(_max_pool, (IMAGE,), (t,))[1],
        (draw(1, 6, 6, 2),),
    ),
    # Functions of each entry.
    Row("exp", "pass", jnp.exp, (V,)),
    Row("exp2", "pass", jnp.exp2, (V,)),
    Row("expm1", "pass", jnp.expm1, (V,)),
    Row("log", "pass", jnp.log, (P,)),
    Row("log1p", "pass", jnp.log1p, (P,)),
    Row("logistic", "pass", lax.logistic, (V,)),
    Row("tanh", "pass", jnp.tanh, (V,)),
    Row("tan", "pass", jnp.tan, (U,)),
    Row("sin", "pass", jnp.sin, (V,)),
    Row("cos", "pass", jnp.cos, (V,)),
    Row("sinh", "pass", jnp.sinh, (V,)),
    Row("cosh", "pass", jnp.cosh, (V,)),
    Row("asin", "pass", jnp.arcsin, (U,)),
    Row("acos", "pass", jnp.arccos, (U,)),
    Row("atan", "pass", lax.atan, (V,)),
    Row("asinh", "pass", jnp.arcsinh, (V,)),
    Row("acosh", "pass", jnp.arccosh, (1.0 + P,)),
    Row("atanh", "pass", jnp.arctanh, (U,)),
    Row("atan2", "pass", lambda x: lax.atan2(x, Q), (P,)),
    Row("sqrt", "pass", jnp.sqrt, (P,)),
    Row("rsqrt", "pass", lax.rsqrt, (P,)),
    Row("cbrt", "pass", jnp.cbrt, (P,)),
    Row("square", "pass", lax.square, (V,)),
    Row("integer_pow", "pass", lambda x: x**3, (V,)),
    Row("pow", "pass", lambda x: x**2.5, (P,)),
    Row("pow", "pass", lambda x: 2.0**x, (P,), "exponent"),
    Row("abs", "pass", jnp.abs, (V,)),
    Row("abs", "shared", lambda x, y: jnp.abs(lax.complex(x, y)), (V, W), "complex"),
    Row("erf", "pass", lax.erf, (V,)),
    Row("erfc", "pass", lax.erfc, (V,)),
    Row("erf_inv", "pass", lax.erf_inv, (U,)),
    Row("lgamma", "pass", lax.lgamma, (P,)),
    Row("digamma", "pass", lax.digamma, (P,)),
    Row("polygamma", "pass", lambda x: lax.polygamma(jnp.ones(4), x), (P,)),
    Row("igamma", "pass", lambda x: lax.igamma(Q, x), (P,)),
    Row("igammac", "pass", lambda x: lax.igammac(Q, x), (P,)),
    Row("igamma_grad_a", "blind", lambda x: lax.igamma_grad_a(Q, x), (P,)),
    Row("regularized_incomplete_beta", "pass", lambda x: lax.betainc(P, Q, x), (U,)),
    Row("zeta", "blind", lambda x: lax.zeta(jnp.full(4, 2.5), x), (P,)),
    Row("bessel_i0e", "pass", lax.bessel_i0e, (P,)),
    Row("bessel_i1e", "pass", lax.bessel_i1e, (P,)),
    Row("clamp", "pass", lambda x: lax.clamp(-0.3, x, 0.4), (V,)),
    Row("rem", "pass", lambda x: lax.rem(x, Q), (P,)),
    Row("nextafter", "blind", lambda x: jnp.nextafter(x, jnp.inf), (P,)),
    Row("max", "pass", lambda x: jnp.maximum(x, 0.1), (V,), "constant"),
    Row("min", "pass", lambda x: jnp.minimum(x, 0.1), (V,), "constant"),
    Row("div", "pass", lambda x: 2.0 / x, (P,), "reciprocal"),
    Row("mul", "pass", lambda x: x * x, (V,), "square"),
    # Products, quotients, soft maxima.
    Row("mul", "shared", lambda x, y: x * y, (V, W), "product"),
    Row("div", "shared", lambda x, y: x / y, (V, P), "quotient"),
    Row("cholesky", "shared", lambda x: lax.linalg.cholesky(x @ x.T + 0.0), (M,)),
    Row("custom_linear_solve", "shared", lambda a: jnp.linalg.solve(a, M), (S,), "matrix"),
    Row("custom_linear_solve", "shared", jnp.linalg.solve, (S, M), "both"),
    Row(
        "triangular_solve",
        "shared",
        lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True),
        (S, M),
        "both",
    ),
    Row("mul", "shared", lambda x, y: x * y, (M, N[:, :1]), "product-broadcast"),
    Row("div", "shared", lambda x, y: x / y, (M, 1.0 + P[:3, None]), "quotient-broadcast"),
    Row("div", "shared", lambda x: x / x.sum(1, keepdims=True), (M * M + 0.1,), "normalised"),
    Row("dot_general", "shared", lambda x, y: x @ y.T, (M, N), "product"),
    Row("dot_general", "shared", lambda x: x @ x.T, (M,), "square"),
    Row("reduce_prod", "shared", lambda x: jnp.prod(x, axis=1), (M,)),
    Row("cumprod", "shared", lambda x: lax.cumprod(x), (V,)),
    Row("cumprod", "shared", lambda x: lax.cumprod(x, axis=1, reverse=True), (M,), "reverse"),
    Row("cumlogsumexp", "shared", lambda x: lax.cumlogsumexp(x), (V,)),
    # Bodies.
    Row("jit", "linear", lambda x: jax.jit(lambda x: x @ M.T)(x), (V,)),
    Row("custom_jvp_call", "linear", lambda x: _mixes(x), (V,)),
    Row("custom_vjp_call", "linear", lambda x: _mixes_too(x), (V,)),
    Row("remat2", "linear", lambda x: jax.checkpoint(lambda x: x @ M.T)(x), (V,)),
    Row("cond", "linear", lambda x: lax.cond(x[0] < 99, lambda x: x * 2.0, lambda x: -x, x), (V,)),
    Row("scan", "linear", lambda x: lax.scan(lambda c, a: (c + a, c), x[0], x), (V,)),
    # No rule.
    Row(
        "while", "none", lambda x: lax.while_loop(lambda x: x[0] > 1.0, lambda x: x / 2.0, x), (V,)
    ),
    Row("eigh", "none", lambda x: jnp.linalg.eigh(x + x.T)[0], (S,)),
    Row("eig", "none", lambda x: jnp.linalg.eigvals(x), (S,), tolerance=1e-4),
    Row("svd", "none", lambda x: lax.linalg.svd(x, compute_uv=False), (M,)),
    Row("qr", "none", lambda x: lax.linalg.qr(x, full_matrices=False), (M.T,)),
    Row("lu", "none", lambda x: lax.linalg.lu(x)[0], (S,)),
    Row("linear_call", "none", _linear_call, (V,)),
    Row("reduce", "none", lambda x: lax.reduce(x, 0.0, lambda a, b: a + b * 1.0, (0,)), (M,)),
    Row("scatter-mul", "none", lambda x, u: x.at[INDICES].mul(u, unique_indices=True), (V, W[:2])),
    Row("atan2", "none", lambda x, y: lax.atan2(x, y), (P, Q), "both"),
    Row("pow", "none", lambda x, y: lax.pow(x, y), (P, Q), "both"),
    # No relevance passes: what comes this way is a constant factor.
    Row("stop_gradient", "linear", _gated(lax.stop_gradient), (V,)),
    Row("eq", "linear", _gated(lambda x: x == V), (V,)),
    Row("ne", "linear", _gated(lambda x: x != V[0]), (V,)),
    Row("lt", "linear", _gated(lambda x: x < 0.3), (V,)),
    Row("le", "linear", _gated(lambda x: x <= 0.3), (V,)),
    Row("gt", "linear", _gated(lambda x: x > 0.3), (V,)),
    Row("ge", "linear", _gated(lambda x: x >= 0.3), (V,)),
    Row("and", "linear", _gated(lambda x: (x > 0) & (x < 1)), (V,)),
    Row("or", "linear", _gated(lambda x: (x < 0) | (x > 0.5)), (V,)),
    Row("xor", "linear", _gated(lambda x: (x < 0) ^ (x > 0.5)), (V,)),
    Row("not", "linear", _gated(lambda x: ~(x < 0)), (V,)),
    Row("is_finite", "linear", _gated(jnp.isfinite), (V,)),
    Row("sign", "linear", _gated(jnp.sign), (V,)),
    Row("floor", "linear", _gated(jnp.floor), (V,)),
    Row("ceil", "linear", _gated(jnp.ceil), (V,)),
    Row("round", "linear", _gated(lambda x: lax.round(x * 3.0)), (V,)),
    Row("argmax", "linear", _gated(lambda x: jnp.argmax(x) + 1), (V,)),
    Row("argmin", "linear", _gated(lambda x: jnp.argmin(x) + 1), (V,)),
    Row("reduce_and", "linear", _gated(lambda x: jnp.all(x < 99)), (V,)),
    Row("reduce_or", "linear", _gated(lambda x: jnp.any(x > 0)), (V,)),
    Row("reduce_xor", "linear", _gated(lambda x: lax.reduce_xor(x > 0.3, axes=(0,))), (V,)),
    Row("iota", "linear", lambda x: x * jnp.arange(4.0), (V,)),
    Row("shift_left", "linear", _gated(lambda x: _bits(x) << 1), (V,)),
    Row(
        "shift_right_logical",
        "linear",
        _gated(lambda x: lax.shift_right_logical(_bits(x), 1)),
        (V,),
    ),
    Row("shift_right_arithmetic", "linear", _gated(lambda x: _bits(x) >> 1), (V,)),
    Row("population_count", "linear", _gated(lambda x: lax.population_count(_bits(x))), (V,)),
    Row("clz", "linear", _gated(lambda x: lax.clz(_bits(x))), (V,)),
    Row("mulhi", "linear", _gated(lambda x: lax.mulhi(_words(x) << 20, _words(x) << 20)), (V,)),
    Row(
        "bitcast_convert_type",
        "linear",
        _gated(lambda x: lax.bitcast_convert_type(x, jnp.int32) >> 28),
        (V,),
    ),
    Row("random_seed", "linear", _gated(lambda x: jax.random.uniform(_key(x), (4,))), (V,)),
    Row("random_bits", "linear", _gated(lambda x: jax.random.bits(_key(x), (4,), jnp.uint8)), (V,)),
    Row(
        "random_split",
        "linear",
        _gated(lambda x: jax.random.normal(jax.random.split(_key(x))[1], 4)),
        (V,),
    ),
    Row(
        "random_fold_in",
        "linear",
        _gated(lambda x: jax.random.normal(jax.random.fold_in(_key(x), 3), 4)),
        (V,),
    ),
    Row(
        "random_wrap",
        "linear",
        _gated(
            lambda x: jax.random.normal(
                jax.random.wrap_key_data(_words(x)[:2], impl="threefry2x32"), 4
            )
        ),
        (V,),
    ),
    Row(
        "random_unwrap", "linear", _gated(lambda x: (jax.random.key_data(_key(x))[1] & 7) + 1), (V,)
    ),
    Row(
        "random_clone",
        "linear",
        _gated(lambda x: jax.random.normal(jax.random.clone(_key(x)), 4)),
        (V,),
    ),
    Row("random_gamma", "linear", _gated(lambda x: jax.random.gamma(_key(x), 2.0, (4,))), (V,)),
    Row(
        "rng_bit_generator",
        "linear",
        _gated(lambda x: lax.rng_bit_generator(_words(x), (4,))[1] >> 28),
        (V,),
    ),
    Row(
        "debug_callback",
        "linear",
        lambda x: (jax.debug.callback(lambda v: None, x), x * 2.0)[1],
        (V,),
    ),
]

# Primitives that came with JAX 0.11 or later.
NEWER = [
    Row("log2", "pass", jnp.log2, (P,)),
    Row("one_minus_square", "pass", lambda x: jax.jvp(jnp.tanh, (x,), (jnp.ones(4),))[1], (V,)),
    Row("polynomial", "pass", jnp.sinc, (P,)),
]
ROWS += [row for row in NEWER if _compat.primitive(row.primitive) is not None]

# Under `vmap` with a named axis, these stay in what relevance traces.
COLLECTIVES = {
    "psum": lambda x: lax.psum(x, "i"),
    "all_gather": lambda x: lax.all_gather(x, "i"),
    "ppermute": lambda x: lax.ppermute(x, "i", [(0, 1), (1, 0)]),
    "all_to_all": lambda x: (
        lax.all_to_all(x, "i", 0, 0) * (1.0 + lax.axis_index("i").astype(float))
    ),
    "axis_index": lambda x: x * (1.0 + lax.axis_index("i").astype(float)),
}

OTHER_RELEASE = "another name that some JAX release has for it, or only a Python function"
INNER = "made by JAX inside its own transformations, in no traced function"
MULTI = "only inside of shard_map: tests/sharding"
REFUSED = "changes an array in place: test_missing.py shows that it is refused"
EQUINOX = "of Equinox: tests/frameworks, where it is installed"
SPARSE = "of jax.experimental.sparse: tests/core/test_systems.py"
WITHOUT = {
    "maybe_set": EQUINOX,
    "select_if_vmap": EQUINOX,
    "bcoo_dot_general": SPARSE,
    "bcoo_todense": SPARSE,
    "bcoo_extract": SPARSE,
    "bcoo_fromdense": SPARSE,
    "bcoo_transpose": SPARSE,
    "bcoo_reduce_sum": SPARSE,
    "custom_vmap_call": "tests/core/test_systems.py",
    "new_ref": REFUSED,
    "mutable_array": REFUSED,
    "get": REFUSED,
    "swap": REFUSED,
    "addupdate": REFUSED,
    "ref_addupdate": REFUSED,
    "freeze": REFUSED,
    "region": "a call that its author marked: tests/core/test_regions.py",
    "pjit": OTHER_RELEASE,
    "core_call": OTHER_RELEASE,
    "call": OTHER_RELEASE,
    "eval_jaxpr": OTHER_RELEASE,
    "copy_p": OTHER_RELEASE,
    "expand_dims": OTHER_RELEASE,
    "checkpoint": OTHER_RELEASE,
    "checkpoint_name": OTHER_RELEASE,
    "ragged_dot": OTHER_RELEASE,
    "random_gamma_grad": OTHER_RELEASE,
    "empty2": OTHER_RELEASE,
    "closed_call": INNER,
    "custom_lin": INNER,
    "eq_to": "the total order of floats that sort uses inside of itself",
    "lt_to": "the total order of floats that sort uses inside of itself",
    "le_to": "the total order of floats that sort uses inside of itself",
    "threefry2x32": "inside of the primitives for random keys, which are kept whole",
    "rng_uniform": "has no derivative and no batching rule, and no other use than in tests of JAX",
    "create_token": "takes and gives no arrays",
    "after_all": "takes and gives no arrays",
    "shard_map": MULTI,
    "psum_invariant": MULTI,
    "reduce_scatter": MULTI,
    "all_gather_invariant": MULTI,
    "pbroadcast": MULTI,
    "ragged_all_to_all": "XLA has it for GPUs and TPUs only",
    "pmax": "JAX has no derivative for it: tests/sharding shows that it is refused",
    "pmin": "JAX has no derivative for it",
    **dict.fromkeys(
        ("pallas_call", "ffi_call", "pure_callback", "io_callback", "tpu_custom_call"),
        "cannot be seen into: test_missing.py shows that it is refused",
    ),
    "pvary": MULTI,
    "mesh_cast": MULTI,
    "reshard": MULTI,
    "select_and_scatter": "no public function makes it",
    "householder_product": "JAX has no derivative for it",
    "reduce_window": "JAX has no derivative for it",
    "hessenberg": "JAX has no derivative for it",
    "schur": "JAX has no derivative for it",
    "tridiagonal": "JAX has no derivative for it",
}


def primitives_of(jaxpr: Any) -> Iterator[str]:
    """The names of all primitives of a jaxpr and of those inside it."""
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield eqn.primitive.name
        for value in eqn.params.values():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(getattr(item, "jaxpr", item), "eqns"):
                    yield from primitives_of(item)


# What a row is called for, and what other releases or flags make of it.
ALIASES = {"random_gamma": {"while", "random_gamma"}, "remat2": {"remat2", "remat", "checkpoint"}}


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row_has_its_primitive(row):
    found = set(primitives_of(jax.make_jaxpr(zoo.users_own(row.f))(*row.args)))
    assert found & ALIASES.get(row.primitive, {row.primitive}), f"traced to {sorted(found)}"


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_gradient_and_relevance(row):
    """With the gradient rule it is the gradient; otherwise what the kind of the row says."""
    if row.primitive == "while":
        with pytest.raises(relprop.MissingRuleError, match="while"):
            relprop.relevance(row.score, Gradient(), row.numbers)(*row.args)
        return

    @jax.jit
    def everything(*args):
        out = {}
        if row.kind != "blind":
            out["by rule"] = relprop.relevance(row.score, Gradient(), row.numbers)(*args)
            out["gradient"] = jax.grad(row.score, row.numbers)(*args)
        if row.kind != "none":
            out["R"] = relprop.value_and_relevance(
                row.score, Epsilon(), row.numbers, on_suspicion="ignore"
            )(*args)
        if row.kind in ("pass", "blind"):
            weights = jax.grad(lambda y: zoo.score(lambda: y)())(row.f(*args))
            out["passed"] = (weights * row.f(*args),)
        return out

    out = everything(*row.args)
    if row.kind != "blind":
        close(out["by rule"], out["gradient"], row.tolerance)
    if row.kind == "none":
        return
    value, relevance = out["R"]
    tolerance = max(row.tolerance, 1e-4)  # the stabiliser takes a little
    if row.kind == "linear":
        expected = tuple(x * g for x, g in zip(row.args, out["gradient"], strict=True))
        close(relevance, expected, tolerance)
    if row.kind in ("pass", "blind"):
        close(relevance, out["passed"], tolerance)
    size = sum(float(jnp.sum(jnp.abs(r))) for r in relevance)
    assert size > 1e-3, "the row says nothing: all relevance is zero"
    assert abs(sum(float(jnp.sum(r)) for r in relevance) - float(value)) <= tolerance * size


@pytest.mark.parametrize("row", [r for r in ROWS if r.kind == "none"], ids=str)
def test_without_a_rule_it_is_refused(row):
    with pytest.raises(relprop.MissingRuleError, match=rf"(?m)^  {row.primitive}: ") as caught:
        relprop.relevance(row.score, Epsilon(), row.numbers)(*row.args)
    assert "test_primitives.py:" in str(caught.value)


@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize("rule", [Gradient(), Epsilon()], ids=["gradient", "epsilon"])
def test_collectives(name, rule):
    x = draw.distinct(2, 2, 3)
    score = zoo.score(COLLECTIVES[name])
    traced = jax.make_jaxpr(COLLECTIVES[name], axis_env=[("i", 2)])(x[0])
    assert name in set(primitives_of(traced))

    def each(x):
        gradient = jax.grad(score)(x)
        expected = gradient if rule == Gradient() else x * gradient
        return relprop.relevance(score, rule)(x), expected

    close(*jax.vmap(each, axis_name="i")(x))


# Before any page of the docs registers a primitive of its own.
REGISTERED = frozenset(relprop.propagators.registered())


def test_every_registered_primitive_has_a_row_or_a_reason():
    covered = {row.primitive for row in ROWS} | set(COLLECTIVES)
    elsewhere = {row.primitive for row in NEWER}
    assert REGISTERED - covered - elsewhere - set(WITHOUT) == set(), "neither a row nor a reason"
    assert covered & set(WITHOUT) == set(), "a row and a reason for none"


def test_every_newer_primitive_is_registered_where_it_exists():
    # One table serves several releases: names that a release lacks do no harm.
    registered = set(relprop.propagators.registered())
    assert {row.primitive for row in NEWER} <= registered


def test_every_row_is_of_a_registered_primitive():
    registered = set(relprop.propagators.registered())
    assert {row.primitive for row in ROWS} | set(COLLECTIVES) <= registered
    # Some names stand for a primitive that this release calls otherwise.
    named = {name for _, names in relprop.propagators.TABLE for name in names.split()}
    assert set(WITHOUT) <= registered | named, "a reason for something that is not registered"


def test_every_primitive_of_the_zoo_is_registered():
    registered = set(relprop.propagators.registered())
    registered |= {"platform_index", "debug_print"}  # these have no operands that depend on inputs
    found: dict[str, str] = {}
    for case in zoo.CASES:
        if not case.framework:
            f, args = case.explained()
            for name in primitives_of(jax.make_jaxpr(f)(*args)):
                found.setdefault(name, case.name)
    assert {name: case for name, case in found.items() if name not in registered} == {}
    assert len(found) > 80
