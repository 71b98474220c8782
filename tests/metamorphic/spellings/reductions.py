"""Sums, means, poolings, residual sums, and operations that do nothing."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ..grammar import D, T, after, before, each, normal, piece
from ..wrappers import bodies


@piece(chains=False, w=normal(D, D), b=normal(D), v=normal(D, D))
def mean_over_tokens(w, b, v):
    spellings = {
        "mean": lambda h: h.mean(0),
        "sum/n": lambda h: h.sum(0) / T,
        "sum*(1/n)": lambda h: h.sum(0) * (1 / T),
        "(h/n).sum": lambda h: (h / T).sum(0),
        "(h*(1/n)).sum": lambda h: (h * (1 / T)).sum(0),
        "einsum": lambda h: jnp.einsum("td->d", h) / T,
        "einsum with 1/n": lambda h: jnp.einsum("td,t->d", h, jnp.full(T, 1 / T)),
        "ones @ h/n": lambda h: jnp.ones(T) @ h / T,
        "(ones/n) @ h": lambda h: (jnp.ones(T) / T) @ h,
        "reduce_window": lambda h: (
            lax.reduce_window(h, 0.0, lax.add, (T, 1), (1, 1), "VALID")[0] / T
        ),
        "vmap": lambda h: jax.vmap(jnp.mean, in_axes=1)(h),
        "where=": lambda h: jnp.mean(h, 0, where=jnp.ones((T, 1), bool)),
        "masked by ones": lambda h: (h * jnp.ones((T, 1))).sum(0) / jnp.ones((T, 1)).sum(0),
        "scan": lambda h: lax.scan(lambda c, r: (c + r, None), jnp.zeros(D), h)[0] / T,
        "fori_loop": lambda h: lax.fori_loop(0, T, lambda i, c: c + h[i], jnp.zeros(D)) / T,
        "one by one": lambda h: functools.reduce(jnp.add, [h[i] for i in range(T)]) / T,
        "average": lambda h: jnp.average(h, 0),
        "average by ones": lambda h: jnp.average(h, 0, weights=jnp.ones(T)),
        "cumsum[-1]": lambda h: jnp.cumsum(h, 0)[-1] / T,
        "segment_sum": lambda h: jax.ops.segment_sum(h, jnp.zeros(T, int), 1)[0] / T,
        "two steps": lambda h: h.reshape(2, 2, D).mean(0).mean(0),
        "checkpoint": lambda h: jax.checkpoint(lambda h: h.sum(0))(h) / T,
        "transposed": lambda h: h.T.mean(1),
    }
    return before(lambda x: jax.nn.relu(x @ w + b), after(lambda h: h @ v, spellings))


@piece(chains=False, w=normal(D, D), b=normal(D), v=normal(D, D))
def average_pooling(w, b, v):
    def image(x):
        return jax.nn.relu(x @ w + b).reshape(1, T, D, 1)

    def windows(h):
        return h.reshape(1, 2, 2, 3, 2, 1)

    def summed(h):
        return lax.reduce_window(h, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    spellings = {
        "reduce_window/4": lambda h: summed(h) / 4,
        "reduce_window*.25": lambda h: summed(h) * 0.25,
        "over counts": lambda h: summed(h) / summed(jnp.ones_like(h)),
        "mean of windows": lambda h: windows(h).mean((2, 4)),
        "in two steps": lambda h: windows(h).mean(2).mean(3),
        "strided sums": lambda h: (
            h[:, ::2, ::2] + h[:, 1::2, ::2] + h[:, ::2, 1::2] + h[:, 1::2, 1::2]
        ) / 4,
        "NCHW": lambda h: (
            lax.reduce_window(
                h.transpose(0, 3, 1, 2), 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"
            ).transpose(0, 2, 3, 1) / 4
        ),
        "a kernel of quarters": lambda h: lax.conv_general_dilated(
            h, jnp.full((2, 2, 1, 1), 0.25), (2, 2), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
    }  # fmt: skip
    return before(image, after(lambda h: h.reshape(-1) @ v, spellings))


@piece(chains=False, w=normal(D, D), b=normal(D), v=normal(D, D))
def max_pooling(w, b, v):
    def image(x):
        return (x @ w + b).reshape(1, T, D, 1)

    def windows(h):
        return h.reshape(1, 2, 2, 3, 2, 1)

    def flat(h):
        return windows(h)[0, ..., 0].transpose(0, 2, 1, 3).reshape(6, 4)

    spellings = {
        "reduce_window": lambda h: lax.reduce_window(
            h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
        ),
        "max of windows": lambda h: windows(h).max((2, 4)),
        "in two steps": lambda h: windows(h).max(2).max(3),
        "-min(-h)": lambda h: -windows(-h).min((2, 4)),
        "maximum of slices": lambda h: jnp.maximum(
            jnp.maximum(h[:, ::2, ::2], h[:, 1::2, ::2]),
            jnp.maximum(h[:, ::2, 1::2], h[:, 1::2, 1::2]),
        ),
        "stacked": lambda h: jnp.stack(
            [h[:, ::2, ::2], h[:, 1::2, ::2], h[:, ::2, 1::2], h[:, 1::2, 1::2]]
        ).max(0),
        "sort": lambda h: jnp.sort(flat(h), -1)[:, -1],
        "top_k": lambda h: lax.top_k(flat(h), 1)[0][:, 0],
        "argmax": lambda h: jnp.take_along_axis(flat(h), flat(h).argmax(-1)[:, None], -1)[:, 0],
        "NCHW": lambda h: lax.reduce_window(
            h.transpose(0, 3, 1, 2), -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"
        ).transpose(0, 2, 3, 1),
    }
    return before(image, after(lambda h: h.reshape(-1) @ v, spellings))


@piece(w=normal(D, D), b=normal(D), u=normal(D, D))
def residual_block(w, b, u):
    def f(x):
        return jax.nn.relu(x @ w + b) @ u

    return {
        "x + f": lambda x: x + f(x),
        "f + x": lambda x: f(x) + x,
        "x - (-f)": lambda x: x - (-f(x)),
        "1*x + 1*f": lambda x: 1.0 * x + 1.0 * f(x),
        "(2x + 2f)/2": lambda x: 0.5 * (2 * x + 2 * f(x)),
        "at[].add": lambda x: x.at[:].add(f(x)),
        "sum of stack": lambda x: jnp.stack([x, f(x)]).sum(0),
        "scan": lambda x: lax.scan(lambda c, _: (c + f(c), None), x, None, length=1)[0],
        "flat": lambda x: (x.reshape(-1) + f(x).reshape(-1)).reshape(x.shape),
        "tree.map": lambda x: jax.tree.map(jnp.add, {"a": x}, {"a": f(x)})["a"],
        "checkpoint(f)": lambda x: x + jax.checkpoint(f)(x),
        "checkpoint(x + f)": jax.checkpoint(lambda x: x + f(x)),
        "copied": lambda x: jnp.copy(x) + f(x),
        "einsum": lambda x: jnp.einsum("ktd->td", jnp.stack([x, f(x)])),
        "ones @ stack": lambda x: jnp.einsum("k,ktd->td", jnp.ones(2), jnp.stack([x, f(x)])),
    }


@piece(w=normal(D, D), u=normal(D, D), v=normal(D, D))
def sum_of_three(w, u, v):
    def f(x):
        return jax.nn.relu(x @ w)

    def g(x):
        return jnp.tanh(x @ u)

    spellings = {
        "(x + f) + g": lambda x: (x + f(x)) + g(x),
        "x + (f + g)": lambda x: x + (f(x) + g(x)),
        "(f + g) + x": lambda x: (f(x) + g(x)) + x,
        "(x + g) + f": lambda x: (x + g(x)) + f(x),
        "sum of stack": lambda x: jnp.stack([x, f(x), g(x)]).sum(0),
        "sum()": lambda x: sum([x, f(x), g(x)]),
        "3*mean": lambda x: 3 * jnp.stack([x, f(x), g(x)]).mean(0),
        "x - (-f) - (-g)": lambda x: x - (-f(x)) - (-g(x)),
        "checkpoint(x + f) + g": lambda x: jax.checkpoint(lambda x: x + f(x))(x) + g(x),
    }
    return after(lambda h: h @ v, spellings)


@piece(w=normal(D, D), b=normal(D), v=normal(D, D))
def nothing(w, b, v):
    """What changes no value must change no relevance."""
    last = jnp.array([3, 2, 1, 0])
    spellings = {
        "h": lambda h: h,
        "h + 0": lambda h: h + 0,
        "h*1": lambda h: h * 1,
        "h/1": lambda h: h / 1.0,
        "-(-h)": lambda h: -1 * (-h),
        "0 - (0 - h)": lambda h: 0.0 - (0.0 - h),
        "h + zeros": lambda h: h + jnp.zeros_like(h),
        "h*ones": lambda h: h * jnp.ones_like(h),
        "h**1": lambda h: h**1,
        "power(h, 1.)": lambda h: jnp.power(h, 1.0),
        "h/2*2": lambda h: h / 2 * 2,
        "(h + h)/2": lambda h: (h + h) / 2,
        "h + 1 - 1": lambda h: h + 1 - 1,
        "hTT": lambda h: h.T.T,
        "reshape": lambda h: h.reshape(-1).reshape(T, D),
        "pad, cut": lambda h: jnp.pad(h, ((1, 1), (0, 2)))[1:-1, :-2],
        "broadcast, indexed": lambda h: jnp.broadcast_to(h, (3, T, D))[1],
        "split, concatenated": lambda h: jnp.concatenate(jnp.split(h, 2, 1), 1),
        "concatenated, cut": lambda h: jnp.concatenate([h, h])[:T],
        "roll": lambda h: jnp.roll(jnp.roll(h, 2, 0), -2, 0),
        "flip": lambda h: jnp.flip(jnp.flip(h)),
        "take": lambda h: jnp.take(h, jnp.arange(T), axis=0),
        "permuted": lambda h: h[last][last],
        "h @ eye": lambda h: h @ jnp.eye(D),
        "eye @ h": lambda h: jnp.eye(T) @ h,
        "where(True)": lambda h: jnp.where(True, h, -h),
        "where(ones)": lambda h: jnp.where(jnp.ones_like(h, bool), h, 0),
        "where(h > 0, h, h)": lambda h: jnp.where(h > 0, h, h),
        "maximum(-inf)": lambda h: jnp.maximum(h, -jnp.inf),
        "clip": lambda h: jnp.clip(h, -1e9, 1e9),
        "cast": lambda h: lax.convert_element_type(h, jnp.float64),
        "reduce_precision": lambda h: lax.reduce_precision(h, 11, 52),
        "barrier": lax.optimization_barrier,
        "scan": lambda h: lax.scan(lambda c, _: (c, None), h, None, length=2)[0],
        "fori_loop": lambda h: lax.fori_loop(0, 3, lambda i, c: c, h),
        "map": lambda h: lax.map(lambda r: r, h),
        "at[].set": lambda h: jnp.zeros_like(h).at[:].set(h),
        "at[rows].set": lambda h: functools.reduce(
            lambda a, i: a.at[i].set(h[i]), range(T), jnp.zeros_like(h)
        ),
        "at[].add": lambda h: jnp.zeros_like(h).at[jnp.arange(T)].add(h),
        "dynamic_update_slice": lambda h: lax.dynamic_update_slice(
            jnp.zeros((T + 2, D)), h, (1, 0)
        )[1 : T + 1],
        "dynamic_slice": lambda h: lax.dynamic_slice(h, (0, 0), (T, D)),
        "tile": lambda h: jnp.tile(h, (2, 1))[T:],
        "repeat": lambda h: jnp.repeat(h, 2, axis=0)[::2],
        "mean of copies": lambda h: jnp.stack([h, h]).mean(0),
        "parts padded and added": lambda h: (
            jnp.pad(h[:, :3], ((0, 0), (0, 3))) + jnp.pad(h[:, 3:], ((0, 0), (3, 0)))
        ),
        "parts padded and added, in another order": lambda h: sum(
            jnp.pad(h[:, i : i + 2], ((0, 0), (i, D - 2 - i))) for i in (2, 0, 4)
        ),
        "rows padded and added": lambda h: (
            jnp.pad(h[:1], ((0, T - 1), (0, 0))) + jnp.pad(h[1:], ((1, 0), (0, 0)))
        ),
        "h + stop_gradient(0*h)": lambda h: h + lax.stop_gradient(h * 0),
        "dropout that is off": lambda h: jnp.where(
            jax.random.bernoulli(jax.random.key(0), 1.0, h.shape), h / 1.0, 0.0
        ),
        "einsum": lambda h: jnp.einsum("td->td", h),
        "switch": lambda h: lax.switch(1, [lambda h: -h, lambda h: h], h),
        **each(
            lambda wrap: wrap(lambda h: h),
            bodies("h", "jit", "checkpoint", "custom_jvp", "cond", "vmap"),
        ),
    }
    return before(lambda x: jax.nn.relu(x @ w + b), after(lambda h: h @ v, spellings))


@piece(w=normal(D, D), v=normal(D, D))
def guarded(w, v):
    """Masks, and what stands under them is read by nobody."""
    mask = jnp.arange(T * D).reshape(T, D) % 3 > 0

    return {
        "where(mask, x, 0)": lambda x: jnp.where(mask, x, 0.0) @ w,
        "x*mask": lambda x: (x * mask) @ w,
        "select": lambda x: lax.select(mask, x, jnp.zeros_like(x)) @ w,
        "where(mask, x, NaN), nan_to_num": lambda x: (
            jnp.nan_to_num(jnp.where(mask, x, jnp.nan)) @ w
        ),
        "where(mask, NaN under it, 0)": lambda x: (
            jnp.where(mask, jnp.where(mask, x, jnp.nan), 0.0) @ w
        ),
        "where(mask, x/mask, 0)": lambda x: jnp.where(mask, x / mask, 0.0) @ w,
        "double where": lambda x: jnp.where(mask, jnp.where(mask, x, 1.0), 0.0) @ w,
    }


@piece(v=normal(D, D))
def guarded_logarithm(v):
    """The logarithm of a number where it has one."""
    mask = (jnp.arange(T * D).reshape(T, D) % 3) > 0

    def number(x):
        return jnp.where(mask, jnp.abs(x) + 0.1, 0.0)

    return {
        "double where": lambda x: (
            jnp.where(mask, jnp.log(jnp.where(mask, number(x), 1.0)), 0.0) @ v
        ),
        "where(mask, log, 0)": lambda x: jnp.where(mask, jnp.log(number(x)), 0.0) @ v,
        "select": lambda x: lax.select(mask, jnp.log(number(x)), jnp.zeros((T, D))) @ v,
        "where, nan below": lambda x: (
            jnp.where(mask, jnp.log(jnp.where(mask, jnp.abs(x) + 0.1, -1.0)), 0.0) @ v
        ),
    }
