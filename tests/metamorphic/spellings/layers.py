"""Layers with weights, and where their biases and scales may stand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..grammar import HEADS, D, T, after, each, normal, piece, positive
from ..wrappers import bodies

# What the product of a layer may be wrapped in while the bias stands outside.
BODIES = ("jit", "checkpoint", "custom_jvp", "custom_vjp", "cond", "switch", "vmap",
          "map_over_batch", "scan_of_length_one")  # fmt: skip


@piece(w=normal(D, D), b=normal(D))
def dense(w, b):
    def product(x):
        return x @ w

    def with_ones(x):
        rows = jnp.concatenate([w, b[None]], 0)
        return jnp.concatenate([x, jnp.ones((T, 1))], 1) @ rows

    def halves_around_a_number(x):
        rows = jnp.concatenate([w[:3], b[None] / 2, w[3:]], 0)
        return jnp.concatenate([x[:, :3], jnp.full((T, 1), 2.0), x[:, 3:]], 1) @ rows

    return {
        "x @ w + b": lambda x: x @ w + b,
        "b + x @ w": lambda x: b + x @ w,
        "x @ w - (-b)": lambda x: x @ w - (-b),
        "-(-(x @ w) - b)": lambda x: -(-(x @ w) - b),
        "-(x @ -w - b)": lambda x: -(x @ (-w) - b),
        "x @ w + b/2 + b/2": lambda x: x @ w + b / 2 + b / 2,
        "x @ w + 2b + (-b)": lambda x: x @ w + 2 * b + (-b),
        "b/2 + x @ w + b/2": lambda x: b / 2 + x @ w + b / 2,
        "1*b + 1*(x @ w)": lambda x: 1.0 * b + 1.0 * (x @ w),
        "x @ w + 0 + b": lambda x: x @ w + 0.0 + b,
        "x @ w + (b + 0)": lambda x: x @ w + (b + jnp.zeros(D)),
        "zeros + x @ w + b": lambda x: jnp.zeros((T, D)) + x @ w + b,
        "sum([x @ w, b])": lambda x: sum([x @ w, b]),
        "heads + b": lambda x: ((x @ w).reshape(T, HEADS, -1) + b.reshape(HEADS, -1)).reshape(T, D),
        "heads, transposed + b": lambda x: (
            ((x @ w).reshape(T, HEADS, -1).swapaxes(0, 1) + b.reshape(HEADS, 1, -1))
            .swapaxes(0, 1)
            .reshape(T, D)
        ),
        "split(x @ w) + parts of b": lambda x: jnp.concatenate(
            [h + c for h, c in zip(jnp.split(x @ w, 2, -1), jnp.split(b, 2), strict=True)], -1
        ),
        "split(x @ w + b)": lambda x: jnp.concatenate(jnp.split(x @ w + b, 2, -1), -1),
        "columns of w apart": lambda x: jnp.concatenate(
            [x @ w[:, :2] + b[:2], x @ w[:, 2:] + b[2:]], -1
        ),
        "b broadcast": lambda x: x @ w + jnp.broadcast_to(b, (T, D)),
        "vmap over tokens": jax.vmap(lambda r: r @ w + b),
        "vmap over columns": lambda x: jax.vmap(
            lambda column, c: x @ column + c, in_axes=(1, 0), out_axes=1
        )(w, b),
        "map over tokens": lambda x: lax.map(lambda r: r @ w + b, x),
        "token by token": lambda x: jnp.stack([x[i] @ w + b for i in range(T)]),
        "b token by token": lambda x: jnp.stack([(x @ w)[i] + b for i in range(T)]),
        "(wT @ xT + b)T": lambda x: (w.T @ x.T + b[:, None]).T,
        "at[].add(b)": lambda x: (x @ w).at[:].add(b),
        "where(True, ., 0)": lambda x: jnp.where(True, x @ w + b, 0),
        "squeezed": lambda x: (x[None] @ w)[0] + b,
        "expanded": lambda x: jnp.expand_dims(x @ w, 1)[:, 0] + b,
        "padded, cut, + b": lambda x: jnp.pad(x @ w, ((0, 0), (0, 2)))[:, :D] + b,
        "kept by name, + b": lambda x: jax.ad_checkpoint.checkpoint_name(x @ w, "kept") + b,
        "a row of ones": with_ones,
        "a row of ones in front": lambda x: (
            (
                jnp.concatenate([b[None], w], 0).T
                @ jnp.pad(x, ((0, 0), (1, 0)), constant_values=1).T
            ).T
        ),
        "a row within": halves_around_a_number,
        "rows of zeros": lambda x: jnp.pad(x, ((0, 0), (0, 2))) @ jnp.pad(w, ((0, 2), (0, 0))) + b,
        "stop_gradient(b)": lambda x: x @ w + lax.stop_gradient(b),
        **each(lambda wrap: lambda x: wrap(product)(x) + b, bodies("product", *BODIES)),
        **each(lambda wrap: lambda x: wrap(lambda h: h + b)(product(x)), bodies("+ b", *BODIES)),
    }


@piece(w=normal(D, D), b=normal(D))
def residual_layer(w, b):
    return {
        "t + (x @ w + b)": lambda x: x + (x @ w + b),
        "t + x @ w + b": lambda x: x + x @ w + b,
        "x @ w + b + t": lambda x: x @ w + b + x,
        "x @ w + t + b": lambda x: x @ w + x + b,
        "x @ w + (b + t)": lambda x: x @ w + (b + x),
        "b + x @ w + t": lambda x: b + x @ w + x,
        "t + b + x @ w": lambda x: x + b + x @ w,
        "b + t + x @ w": lambda x: b + x + x @ w,
        "t + (x @ w + b/2 + b/2)": lambda x: x + (x @ w + b / 2 + b / 2),
        "t + x @ w + b/2 + b/2": lambda x: x + x @ w + b / 2 + b / 2,
        "t + b/2 + x @ w + b/2": lambda x: x + b / 2 + x @ w + b / 2,
        "t - (-(x @ w) - b)": lambda x: x - (-(x @ w) - b),
        "t + x @ w - (-b)": lambda x: x + x @ w - (-b),
        "sum([t, x @ w, b])": lambda x: sum([x, x @ w, jnp.broadcast_to(b, x.shape)]),
        "at[].add": lambda x: x.at[:].add(x @ w).at[:].add(b),
        "checkpoint(x @ w) + t + b": lambda x: jax.checkpoint(lambda x: x @ w)(x) + x + b,
        "checkpoint(t + x @ w) + b": lambda x: jax.checkpoint(lambda x: x + x @ w)(x) + b,
        "scan of one, b outside": lambda x: (
            lax.scan(lambda h, u: (h + h @ u, None), x, w[None])[0] + b
        ),
    }


@piece(w=normal(D, D), b=normal(D))
def scaled_token_by_token(w, b):
    """A layer whose result has a scale of each token, as by a mask, and then a bias."""
    c = np.linspace(-1, 2, T)[:, None]
    mask = (np.arange(T) % 2)[:, None] * 1.0
    c = c * mask + (1 - mask)
    return {
        "(x * c) @ w + b": lambda x: (x * c) @ w + b,
        "(x @ w) * c + b": lambda x: (x @ w) * c + b,
        "b + c * (x @ w)": lambda x: b + c * (x @ w),
        "(x @ w) / (1 / c) + b": lambda x: (x @ w) / (1 / c) + b,
        "(x @ w) * c - (-b)": lambda x: (x @ w) * c - (-b),
        "b - (x @ -w) * c": lambda x: b - (x @ -w) * c,
        "vmap": lambda x: jax.vmap(lambda r, c: (r @ w) * c + b)(x, jnp.asarray(c)),
    }


@piece(w=normal(D, D), s=positive(2, D))
def scaled_group_by_group(w, s):
    """Weights with a scale of each group of inputs, as in four bits."""

    def products(x):
        return jnp.einsum("tgi,gio->tgo", x.reshape(T, 2, -1), w.reshape(2, -1, D))

    return {
        "x @ (w * s)": lambda x: x @ (w.reshape(2, -1, D) * s[:, None]).reshape(D, D),
        "(products * s).sum": lambda x: (products(x) * s).sum(1),
        "products.transpose": lambda x: (products(x).transpose(1, 0, 2) * s[:, None]).sum(0),
        "einsum of products and s": lambda x: jnp.einsum("tgo,go->to", products(x), s),
        "sum(products / (1 / s))": lambda x: (products(x) / (1 / s)).sum(1),
        "(products * 2 * s/2).sum": lambda x: (products(x) * 2 * (s / 2)).sum(1),
    }


@piece(w=normal(D, D))
def product(w):
    """A layer without a bias, as contractions may be written."""

    def batched(x):
        copies = jnp.broadcast_to(w, (T, D, D))
        return lax.dot_general(x[:, None, :], copies, (((2,), (1,)), ((0,), (0,))))[:, 0]

    def heads_then_sum(x):
        parts = jnp.einsum("thd,hdj->htj", x.reshape(T, HEADS, -1), w.reshape(HEADS, -1, D))
        return parts.sum(0)

    def convolution(x):
        return lax.conv_general_dilated(
            x[None], w[None], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )[0]

    return {
        "x @ w": lambda x: x @ w,
        "(wT @ xT)T": lambda x: (w.T @ x.T).T,
        "einsum": lambda x: jnp.einsum("ti,ij->tj", x, w),
        "einsum, weight first": lambda x: jnp.einsum("ij,ti->tj", w, x),
        "tensordot": lambda x: jnp.tensordot(x, w, 1),
        "inner": lambda x: jnp.inner(x, w.T),
        "-(x @ -w)": lambda x: -(x @ -w),
        "batched": batched,
        "vmap": jax.vmap(lambda r: r @ w),
        "vmap over columns": lambda x: jax.vmap(lambda c: x @ c, in_axes=1, out_axes=1)(w),
        "multiplied and summed": lambda x: (x[:, :, None] * w[None]).sum(1),
        "vmap of vdot": lambda x: jax.vmap(lambda r: jax.vmap(lambda c: jnp.vdot(r, c))(w.T))(x),
        "map": lambda x: lax.map(lambda r: r @ w, x),
        "columns apart": lambda x: jnp.concatenate([x @ w[:, :2], x @ w[:, 2:]], 1),
        "out heads": lambda x: jnp.einsum("ti,ihd->thd", x, w.reshape(D, HEADS, -1)).reshape(T, D),
        "in heads": lambda x: jnp.einsum(
            "thd,hdj->tj", x.reshape(T, HEADS, -1), w.reshape(HEADS, -1, D)
        ),
        "heads, then their sum": heads_then_sum,
        "rows apart": lambda x: x[:, :3] @ w[:3] + x[:, 3:] @ w[3:],
        "low rank": lambda x: _low_rank(x, w),
        "convolution of width 1": convolution,
        "linear_call": lambda x: jax.custom_derivatives.linear_call(
            lambda r, v: v @ r, lambda r, c: c @ r.T, w, x
        ),
        "precision": lambda x: jnp.matmul(x, w, precision="highest"),
        "ragged_dot": lambda x: lax.ragged_dot(x, w[None], jnp.array([T], jnp.int32)),
    }


def _low_rank(x, w):
    u, s, v = jnp.linalg.svd(w, full_matrices=False)
    return x @ (u * s) @ v


@piece(w=normal(D, D), b=normal(D))
def heads_summed(w, b):
    """An output projection by heads, and one bias for all of them."""
    parts = w.reshape(HEADS, -1, D)

    def heads(x):
        return x.reshape(T, HEADS, -1)

    return {
        "einsum + b": lambda x: jnp.einsum("thd,hdj->tj", heads(x), parts) + b,
        "x @ w + b": lambda x: x @ w + b,
        "flattened": lambda x: heads(x).reshape(T, D) @ parts.reshape(D, D) + b,
        "tensordot": lambda x: jnp.tensordot(heads(x), parts, 2) + b,
        "heads, sum, + b": lambda x: jnp.einsum("thd,hdj->htj", heads(x), parts).sum(0) + b,
        "vmap, sum, + b": lambda x: (
            jax.vmap(jnp.matmul, in_axes=(1, 0))(heads(x), parts).sum(0) + b
        ),
        "b + sum of heads": lambda x: b + jnp.einsum("thd,hdj->thj", heads(x), parts).sum(1),
    }


@piece(w=normal(D, D), b=normal(D))
def scaled_layer(w, b):
    s = 0.7
    return {
        "x @ (w*s) + b": lambda x: x @ (w * s) + b,
        "(x @ w)*s + b": lambda x: (x @ w) * s + b,
        "s*(x @ w) + b": lambda x: s * (x @ w) + b,
        "(x @ w)/(1/s) + b": lambda x: (x @ w) / (1 / s) + b,
        "(x @ w + b/s)*s": lambda x: (x @ w + b / s) * s,
        "b - (x @ w)*(-s)": lambda x: b - (x @ w) * (-s),
        "(x @ w)*sqrt(s)*sqrt(s) + b": lambda x: (x @ w) * s**0.5 * s**0.5 + b,
        "(x*s) @ w + b": lambda x: (x * s) @ w + b,
    }


@piece(w=normal(D, D), g=positive(D), b=normal(D))
def scaled_channels(w, g, b):
    """A layer with a scale for each channel, as of weights of eight bits."""
    return {
        "x @ (w*g) + b": lambda x: x @ (w * g) + b,
        "(x @ w)*g + b": lambda x: (x @ w) * g + b,
        "(x @ w)/(1/g) + b": lambda x: (x @ w) / (1 / g) + b,
        "g*(x @ w + b/g)": lambda x: g * (x @ w + b / g),
        "((x @ w) + b/g)*g + 0": lambda x: ((x @ w) + b / g) * g + 0.0,
        "einsum(x @ w, g) + b": lambda x: jnp.einsum("ti,i->ti", x @ w, g) + b,
        "(x @ w) @ diag(g) + b": lambda x: (x @ w) @ jnp.diag(g) + b,
        "(x @ w) @ (eye*g) + b": lambda x: (x @ w) @ (jnp.eye(D) * g) + b,
        "vmap": jax.vmap(lambda r: (r @ w) * g + b),
    }


def _batch_norms(m, v, g, b):
    """A batch norm at inference, as a function of what it follows."""
    std = jnp.sqrt(v + 1e-5)
    scale = g / std
    return {
        "(h - m)*rsqrt(v)*g + b": lambda h: (h - m) * lax.rsqrt(v + 1e-5) * g + b,
        "(h - m)*(rsqrt(v)*g) + b": lambda h: (h - m) * (lax.rsqrt(v + 1e-5) * g) + b,
        "(h - m)/sqrt(v)*g + b": lambda h: (h - m) / jnp.sqrt(v + 1e-5) * g + b,
        "h*s + c": lambda h: h * scale + (b - m * scale),
        "c + s*h": lambda h: (b - m * scale) + scale * h,
        "h*s - m*s + b": lambda h: h * scale - m * scale + b,
        "(h - m)*s + b": lambda h: (h - m) * scale + b,
        "g*(h - m)*v**-.5 + b": lambda h: g * (h - m) * (v + 1e-5) ** -0.5 + b,
        "g/std*(h - m) + b": lambda h: g / std * (h - m) + b,
        "(g*(h - m))/std + b": lambda h: (g * (h - m)) / std + b,
        "b - (m - h)*s": lambda h: b - (m - h) * scale,
        "-((m - h)*s) + b": lambda h: -((m - h) * scale) + b,
        "exp(-.5 log v)": lambda h: (h - m) * jnp.exp(-0.5 * jnp.log(v + 1e-5)) * g + b,
        "reciprocal": lambda h: (h - m) * jnp.reciprocal(std) * g + b,
        "vmap": jax.vmap(lambda r: (r - m) * lax.rsqrt(v + 1e-5) * g + b),
        "transposed": lambda h: ((h.T - m[:, None]) * scale[:, None] + b[:, None]).T,
        "jax.nn.standardize": lambda h: (
            jax.nn.standardize(h, mean=m, variance=v, epsilon=1e-5) * g + b
        ),
        "checkpoint": jax.checkpoint(lambda h: (h - m) * scale + b),
    }


_STATISTICS = {"m": normal(D), "v": positive(D), "g": positive(D), "c": normal(D)}


@piece(w=normal(D, D), b=normal(D), **_STATISTICS)
def batch_norm_behind(w, b, m, v, g, c):
    norms = _batch_norms(m, v, g, c)
    scale = g / jnp.sqrt(v + 1e-5)
    spellings = each(lambda norm: lambda x: jax.nn.relu(norm(x @ w + b)), norms)
    spellings["a mode that is off"] = lambda x: (
        lambda h, off=False: jax.nn.relu(
            (h - jnp.where(off, h.mean(0), m)) / jnp.sqrt(jnp.where(off, h.var(0), v) + 1e-5) * g
            + c
        )
    )(x @ w + b)
    spellings["merged by hand"] = lambda x: jax.nn.relu(x @ (w * scale) + ((b - m) * scale + c))
    spellings["no bias, m - b"] = lambda x: jax.nn.relu((x @ w - (m - b)) * scale + c)
    return spellings


@piece(w=normal(D, D), b=normal(D), **_STATISTICS)
def batch_norm_in_front(w, b, m, v, g, c):
    norms = _batch_norms(m, v, g, c)
    scale = g / jnp.sqrt(v + 1e-5)
    spellings = each(lambda norm: lambda x: norm(jax.nn.relu(x)) @ w + b, norms)
    spellings["merged by hand"] = lambda x: (
        jax.nn.relu(x) @ (scale[:, None] * w) + ((c - m * scale) @ w + b)
    )
    return spellings


@piece(w=normal(D, D), a=normal(D, 2), c=normal(2, D), b=normal(D))
def low_rank_update(w, a, c, b):
    """A layer that was adapted, as by LoRA."""
    return {
        "x @ (w + a @ c) + b": lambda x: x @ (w + a @ c) + b,
        "x @ w + (x @ a) @ c + b": lambda x: x @ w + (x @ a) @ c + b,
        "x @ w + x @ (a @ c) + b": lambda x: x @ w + x @ (a @ c) + b,
    }


@piece(ws=normal(3, D, D), bs=normal(3, D))
def layers_in_a_row(ws, bs):
    def step(h, layer):
        return jax.nn.relu(h @ layer[0] + layer[1]), None

    def in_order(apply):
        return lambda x: functools.reduce(lambda h, p: apply(h, *p), zip(ws, bs, strict=True), x)

    def then_the_last(x):
        h = lax.scan(step, x, (ws[:2], bs[:2]))[0]
        return jax.nn.relu(h @ ws[2] + bs[2])

    def activated_next(x):
        h = lax.scan(
            lambda h, p: (jax.nn.relu(h) @ p[0] + p[1], None), x @ ws[0] + bs[0], (ws[1:], bs[1:])
        )[0]
        return jax.nn.relu(h)

    def bias_next(x):
        h = lax.scan(
            lambda h, p: (jax.nn.relu(h + p[1]) @ p[0], None), x @ ws[0], (ws[1:], bs[:-1])
        )
        return jax.nn.relu(h[0] + bs[-1])

    def product_in(wrap):
        return in_order(lambda h, w, b: jax.nn.relu(wrap(jnp.matmul)(h, w) + b))

    return {
        "unrolled": in_order(lambda h, w, b: jax.nn.relu(h @ w + b)),
        "scan": lambda x: lax.scan(step, x, (ws, bs))[0],
        "scan, unroll=3": lambda x: lax.scan(step, x, (ws, bs), unroll=3)[0],
        "scan of checkpoint": lambda x: lax.scan(jax.checkpoint(step), x, (ws, bs))[0],
        "fori_loop": lambda x: lax.fori_loop(0, 3, lambda i, h: jax.nn.relu(h @ ws[i] + bs[i]), x),
        "a scan, then the last": then_the_last,
        "scan, activated next": activated_next,
        "scan, bias next": bias_next,
        "scan, product in jit": lambda x: lax.scan(
            lambda h, p: (jax.nn.relu(jax.jit(jnp.dot)(h, p[0]) + p[1]), None), x, (ws, bs)
        )[0],
        "products in jit": product_in(jax.jit),
        "products in checkpoint": product_in(jax.checkpoint),
        "products in cond": in_order(
            lambda h, w, b: jax.nn.relu(lax.cond(True, lambda h: h @ w, lambda h: h, h) + b)
        ),
        "biases in cond": in_order(
            lambda h, w, b: jax.nn.relu(lax.cond(True, lambda h: h + b, lambda h: h, h @ w))
        ),
        "products in map": in_order(lambda h, w, b: jax.nn.relu(lax.map(lambda r: r @ w, h) + b)),
        "a jit per layer": in_order(
            lambda h, w, b: jax.jit(lambda h, w, b: jax.nn.relu(h @ w + b))(h, w, b)
        ),
    }


@piece(w=normal(D, D), u=normal(D, D), b=normal(D))
def two_layers_one_bias(w, u, b):
    """Sums of two products: whose the bias is makes a difference under rules of signs."""

    def step(x):
        return jnp.tanh(x)

    return {
        "(x @ w + b) + h @ u": lambda x: (x @ w + b) + step(x) @ u,
        "b + x @ w + h @ u": lambda x: b + x @ w + step(x) @ u,
        "h @ u + (x @ w + b)": lambda x: step(x) @ u + (x @ w + b),
        "-(-(x @ w) - b) + h @ u": lambda x: -(-(x @ w) - b) + step(x) @ u,
        "x @ w + h @ u + b": lambda x: x @ w + step(x) @ u + b,
        "concatenated": lambda x: (
            jnp.concatenate([x, step(x)], -1) @ jnp.concatenate([w, u], 0) + b
        ),
    }


@piece(w=normal(D, D), u=normal(D, D), v=normal(D, D), b=normal(D))
def one_value_read_twice(w, u, v, b):
    def readers(h):
        return jax.nn.relu(h) @ u + jnp.tanh(h) @ v

    return {
        "computed once": lambda x: readers(x @ w + b),
        "computed twice": lambda x: jax.nn.relu(x @ w + b) @ u + jnp.tanh(x @ w + b) @ v,
        "a bias in each": lambda x: (lambda h: jax.nn.relu(h + b) @ u + jnp.tanh(h + b) @ v)(x @ w),
        "one in a checkpoint": lambda x: (
            jax.checkpoint(lambda x: jax.nn.relu(x @ w + b))(x) @ u + jnp.tanh(x @ w + b) @ v
        ),
    }


@piece(w=normal(D, D), b=normal(D), v=normal(D, D))
def activated_layer(w, b, v):
    """A layer with its bias before a function, put together in other ways."""

    order = np.array([2, 0, 1, 5, 4, 3])

    def outer(total, row):
        return total + row[0][:, None] * row[1][None], None

    def blocks_of_columns(x):
        def write(i, out):
            block = lax.dynamic_slice(w, (0, 2 * i), (D, 2))
            return lax.dynamic_update_slice(out, x @ block, (0, 2 * i))

        return lax.fori_loop(0, D // 2, write, jnp.zeros((T, D))) + b

    def blocks_of_rows(x):
        def add(i, out):
            block = lax.dynamic_slice(w, (2 * i, 0), (2, D))
            return out + lax.dynamic_slice(x, (0, 2 * i), (T, 2)) @ block

        return lax.fori_loop(0, D // 2, add, jnp.zeros((T, D))) + b

    spellings = {
        "x @ w + b": lambda x: x @ w + b,
        "b - x @ (-w)": lambda x: b - x @ (-w),
        "-1*(x @ (-w)) + b": lambda x: -1.0 * (x @ (-w)) + b,
        "columns stacked, + b": lambda x: jnp.stack([x @ w[:, i] for i in range(D)], -1) + b,
        "rolled, + b": lambda x: jnp.roll(x @ jnp.roll(w, 1, 1), -1, 1) + b,
        "another order, + b": lambda x: (x @ w[:, order])[:, np.argsort(order)] + b,
        "flipped, + b": lambda x: jnp.flip(x @ w[:, ::-1], 1) + b,
        "blocks of columns": blocks_of_columns,
        "blocks of rows": blocks_of_rows,
        "scan of products": lambda x: lax.scan(outer, jnp.zeros((T, D)), (x.T, w))[0] + b,
    }
    return after(lambda h: jnp.tanh(h) @ v, spellings)
