"""Normalisations: a signal divided by a root of a statistic of itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..grammar import HEADS, D, T, after, before, each, normal, piece, positive
from ..wrappers import bodies

BODIES = ("jit", "checkpoint", "custom_jvp", "custom_vjp", "cond", "map_over_batch")


def _mean(z):
    return z.mean(-1, keepdims=True)


def _centred(z):
    return z - _mean(z)


def _by_entry(q):
    return functools.reduce(lambda a, c: a + c, [q[:, i] for i in range(q.shape[1])])[:, None]


# The mean of squares, which all norms below are made of.
MEANS_OF_SQUARES = {
    "mean(z*z)": lambda z: _mean(z * z),
    "mean(z**2)": lambda z: _mean(z**2),
    "mean(square)": lambda z: _mean(jnp.square(z)),
    "mean(|z|**2)": lambda z: _mean(jnp.abs(z) ** 2),
    "mean(power)": lambda z: _mean(jnp.power(z, 2.0)),
    "sum/n": lambda z: (z * z).sum(-1, keepdims=True) / D,
    "sum*(1/n)": lambda z: (z * z).sum(-1, keepdims=True) * (1 / D),
    "einsum": lambda z: jnp.einsum("ti,ti->t", z, z)[:, None] / D,
    "einsum with eye": lambda z: jnp.einsum("ij,kj,ik->i", z, z, jnp.eye(T))[:, None] / D,
    "eye in einsum": lambda z: jnp.einsum("ik,kj,ij->k", jnp.eye(T), z, z)[:, None] / D,
    "vmap of dot": lambda z: jax.vmap(jnp.dot)(z, z)[:, None] / D,
    "vmap of vdot": lambda z: jax.vmap(jnp.vdot)(z, z)[:, None] / D,
    "vmap of z @ z": lambda z: jax.vmap(lambda r: r @ r)(z)[:, None] / D,
    "(z*z) @ ones/n": lambda z: (z * z) @ jnp.ones((D, 1)) / D,
    "(z*z) @ (1/n)": lambda z: (z * z) @ jnp.full((D, 1), 1 / D),
    "norm**2": lambda z: jnp.linalg.norm(z, axis=-1, keepdims=True) ** 2 / D,
    "columns by hand": lambda z: (
        functools.reduce(lambda a, c: a + c, [z[:, i : i + 1] ** 2 for i in range(D)]) / D
    ),
    "fori_loop": lambda z: (
        lax.fori_loop(0, D, lambda i, a: a + z[:, i] ** 2, jnp.zeros(T))[:, None] / D
    ),
    "scan": lambda z: lax.scan(lambda a, c: (a + c * c, None), jnp.zeros(T), z.T)[0][:, None] / D,
    "cumsum[-1]": lambda z: jnp.cumsum(z * z, -1)[:, -1:] / D,
    "transposed": lambda z: (z.T * z.T).mean(0)[:, None],
    "diagonal of z @ zT": lambda z: jnp.diagonal(z @ z.T)[:, None] / D,
    "trace of outer": lambda z: jax.vmap(lambda r: jnp.trace(jnp.outer(r, r)))(z)[:, None] / D,
    "two halves": lambda z: (
        ((z[:, :3] ** 2).sum(-1, keepdims=True) + (z[:, 3:] ** 2).sum(-1, keepdims=True)) / D
    ),
    "halves, then entries": lambda z: _by_entry(z[:, :3] ** 2 + z[:, 3:] ** 2) / D,
    "entries of squares": lambda z: _by_entry(z * z) / D,
    "associative_scan": lambda z: lax.associative_scan(jnp.add, z * z, axis=1)[:, -1:] / D,
    "exp(logsumexp(log))": lambda z: jnp.exp(
        jax.nn.logsumexp(jnp.log(z * z), -1, keepdims=True) - np.log(D)
    ),
    "exp(logsumexp(2 log|z|))": lambda z: (
        jnp.exp(jax.nn.logsumexp(2 * jnp.log(jnp.abs(z)), -1, keepdims=True)) / D
    ),
    **each(lambda wrap: lambda z: wrap(_mean)(z * z), bodies("mean", *BODIES)),
    **each(lambda wrap: wrap(lambda z: _mean(z * z)), bodies("mean of squares", *BODIES)),
}

# The inverse root, of a value q > 0, and its product with the signal.
DIVISIONS = {
    "z*rsqrt": lambda z, q: z * lax.rsqrt(q),
    "z/sqrt": lambda z, q: z / jnp.sqrt(q),
    "z*(1/sqrt)": lambda z, q: z * (1 / jnp.sqrt(q)),
    "z*reciprocal(sqrt)": lambda z, q: z * jnp.reciprocal(jnp.sqrt(q)),
    "z*sqrt(1/q)": lambda z, q: z * jnp.sqrt(1 / q),
    "z*q**-.5": lambda z, q: z * q**-0.5,
    "z/q**.5": lambda z, q: z / q**0.5,
    "z*power(q, -.5)": lambda z, q: z * jnp.power(q, -0.5),
    "z*float_power": lambda z, q: z * jnp.float_power(q, -0.5),
    "z*exp(-.5 log q)": lambda z, q: z * jnp.exp(-0.5 * jnp.log(q)),
    "z/exp(.5 log q)": lambda z, q: z / jnp.exp(0.5 * jnp.log(q)),
    "z/maximum(sqrt, eps)": lambda z, q: z / jnp.maximum(jnp.sqrt(q), 1e-12),
    "z*rsqrt(maximum(q, 0))": lambda z, q: z * lax.rsqrt(jnp.maximum(q, 0.0)),
    "where(q > 0)": lambda z, q: z * jnp.where(q > 0, lax.rsqrt(jnp.where(q > 0, q, 1.0)), 0.0),
    "z/where(q == 0, 1, sqrt)": lambda z, q: z / jnp.where(q == 0, 1.0, jnp.sqrt(q)),
    "where(q > 0, z/sqrt, 0)": lambda z, q: jnp.where(
        q > 0, z / jnp.sqrt(jnp.where(q > 0, q, 1.0)), 0.0
    ),
    "broadcast root": lambda z, q: z * jnp.broadcast_to(lax.rsqrt(q), z.shape),
    "einsum": lambda z, q: jnp.einsum("ti,t->ti", z, lax.rsqrt(q)[:, 0]),
    "diag(rsqrt) @ z": lambda z, q: jnp.diag(lax.rsqrt(q)[:, 0]) @ z,
    "-(-z)/sqrt": lambda z, q: -(-z / jnp.sqrt(q)),
    **each(lambda wrap: lambda z, q: z * wrap(lax.rsqrt)(q), bodies("rsqrt", *BODIES)),
    "checkpoint(z/sqrt)": jax.checkpoint(lambda z, q: z / jnp.sqrt(q)),
    "jit(z*rsqrt)": jax.jit(lambda z, q: z * lax.rsqrt(q)),
}


@piece(w=normal(D, D), b=normal(D), g=positive(D), v=normal(D, D))
def rms_norm(w, b, g, v):
    eps = 1e-6
    square, divide = MEANS_OF_SQUARES["mean(z*z)"], DIVISIONS["z*rsqrt"]
    spellings = {"reference": lambda z: z * lax.rsqrt(_mean(z * z) + eps) * g}
    spellings |= each(lambda of: lambda z: divide(z, of(z) + eps) * g, MEANS_OF_SQUARES)
    spellings |= each(lambda by: lambda z: by(z, square(z) + eps) * g, DIVISIONS)
    spellings |= {
        "g*(.)": lambda z: g * (z * lax.rsqrt(_mean(z * z) + eps)),
        "z*(rsqrt*g)": lambda z: z * (lax.rsqrt(_mean(z * z) + eps) * g),
        "(z*g)*rsqrt": lambda z: (z * g) * lax.rsqrt(_mean(z * z) + eps),
        "1 + (g - 1)": lambda z: z * lax.rsqrt(_mean(z * z) + eps) * (1 + (g - 1)),
        "sqrt(n)*g/sqrt(sum)": lambda z: (
            z * (np.sqrt(D) * g) / jnp.sqrt((z * z).sum(-1, keepdims=True) + eps * D)
        ),
        "vmap": jax.vmap(lambda r: r * lax.rsqrt((r * r).mean() + eps) * g),
        "vmap of r @ r": jax.vmap(lambda r: r / jnp.sqrt(r @ r / D + eps) * g),
        "map of vdot": lambda z: lax.map(lambda r: r / jnp.sqrt(jnp.vdot(r, r) / D + eps) * g, z),
        "read twice": lambda z: z * jax.jit(lambda z: lax.rsqrt(_mean(z * z) + eps))(z + 0.0) * g,
        "stopped statistic": lambda z: z * lax.stop_gradient(lax.rsqrt(_mean(z * z) + eps)) * g,
    }
    return before(lambda x: x @ w + b, after(lambda z: z @ v, spellings))


@piece(w=normal(D, D), b=normal(D), v=normal(D, D))
def l2_norm(w, b, v):
    """Unit vectors, as for cosine similarity: no epsilon, and a root of a sum."""

    def total(z):
        return (z * z).sum(-1, keepdims=True)

    spellings = {
        "z/sqrt(sum)": lambda z: z / jnp.sqrt(total(z)),
        "z/norm": lambda z: z / jnp.linalg.norm(z, axis=-1, keepdims=True),
        "z*rsqrt(sum)": lambda z: z * lax.rsqrt(total(z)),
        "z/(norm/1)": lambda z: z / (jnp.linalg.norm(z, axis=-1, keepdims=True) / 1.0),
        "z/maximum(norm, 1e-12)": lambda z: (
            z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-12)
        ),
        "z/(norm + 1e-12)": lambda z: z / (jnp.linalg.norm(z, axis=-1, keepdims=True) + 1e-12),
        "vmap r/sqrt(r @ r)": jax.vmap(lambda r: r / jnp.sqrt(r @ r)),
        "einsum": lambda z: z / jnp.sqrt(jnp.einsum("ti,ti->t", z, z))[:, None],
        "safe": lambda z: (
            z / jnp.where(total(z) == 0, 1.0, jnp.sqrt(jnp.where(total(z) == 0, 1.0, total(z))))
        ),
        "mean*n": lambda z: z / jnp.sqrt(_mean(z * z) * D),
        "rms/sqrt(n)": lambda z: z / jnp.sqrt(_mean(z * z)) / np.sqrt(D),
        "matmul": lambda z: z * lax.rsqrt((z * z) @ jnp.ones((D, 1))),
        "checkpoint(norm)": lambda z: (
            z / jax.checkpoint(lambda z: jnp.linalg.norm(z, axis=-1, keepdims=True))(z)
        ),
        "map": lambda z: lax.map(lambda r: r / jnp.linalg.norm(r), z),
    }
    return before(lambda x: x @ w + b, after(lambda z: z @ v, spellings))


@piece(w=normal(D, D), b=normal(D), g=positive(D), c=normal(D), v=normal(D, D))
def layer_norm(w, b, g, c, v):
    eps = 1e-5

    def finish(z):
        return z * g + c

    def root(variance):
        return lambda z: finish(_centred(z) * lax.rsqrt(variance(z) + eps))

    def shifted(z):
        inverse = lax.rsqrt(z.var(-1, keepdims=True) + eps)
        return z * (inverse * g) + (c - _mean(z) * inverse * g)

    def both_scaled(z):
        inverse = lax.rsqrt(z.var(-1, keepdims=True) + eps)
        return finish(z * inverse - _mean(z) * inverse)

    def grouped(z):
        y = z.reshape(T, 1, D)
        y = (y - y.mean(2, keepdims=True)) / jnp.sqrt(y.var(2, keepdims=True) + eps)
        return finish(y.reshape(T, D))

    def columns(z):
        return ((z - z.mean(0)) / jnp.sqrt(z.var(0) + eps)).T

    def whole(z):
        return finish(_centred(z) / jnp.sqrt(z.var(-1, keepdims=True) + eps))

    squares = each(lambda of: root(lambda z: of(_centred(z))), MEANS_OF_SQUARES)
    divisions = each(
        lambda by: lambda z: finish(by(_centred(z), _mean(_centred(z) ** 2) + eps)), DIVISIONS
    )
    spellings = {
        "(z - m)/sqrt(var)": whole,
        **squares,
        **divisions,
        "var()": root(lambda z: z.var(-1, keepdims=True)),
        "E[z2] - E[z]2": root(lambda z: _mean(z * z) - _mean(z) ** 2),
        "maximum(0, E[z2] - E[z]2)": root(lambda z: jnp.maximum(0.0, _mean(z * z) - _mean(z) ** 2)),
        "|E[z2] - E[z]2|": root(lambda z: jnp.abs(_mean(z * z) - _mean(z) ** 2)),
        "E[zz by einsum] - E[z]2": root(
            lambda z: jnp.einsum("ti,ti->t", z, z)[:, None] / D - jnp.square(_mean(z))
        ),
        "mean by einsum": lambda z: (lambda y: finish(y * lax.rsqrt(_mean(y * y) + eps)))(
            z - jnp.einsum("ti->t", z)[:, None] / D
        ),
        "mean by matmul": lambda z: (lambda y: finish(y * lax.rsqrt(_mean(y * y) + eps)))(
            z - z @ jnp.full((D, 1), 1 / D)
        ),
        "centring matrix": lambda z: (lambda y: finish(y * lax.rsqrt(_mean(y * y) + eps)))(
            z @ (jnp.eye(D) - 1 / D)
        ),
        "std**2": root(lambda z: jnp.std(z, axis=-1, keepdims=True) ** 2),
        "ddof": root(lambda z: z.var(-1, keepdims=True, ddof=1) * ((D - 1) / D)),
        "jax.nn.standardize": lambda z: finish(jax.nn.standardize(z, epsilon=eps)),
        "vmap": jax.vmap(lambda r: (r - r.mean()) / jnp.sqrt(r.var() + eps) * g + c),
        "map": lambda z: lax.map(lambda r: (r - r.mean()) / jnp.sqrt(r.var() + eps) * g + c, z),
        "z*i - m*i": both_scaled,
        "z*(i*g) + (c - m*i*g)": shifted,
        "g*(z - m)/sqrt + c": lambda z: (
            g * _centred(z) / jnp.sqrt(z.var(-1, keepdims=True) + eps) + c
        ),
        "(z - m)*(rsqrt*g) + c": lambda z: (
            _centred(z) * (lax.rsqrt(z.var(-1, keepdims=True) + eps) * g) + c
        ),
        "group of all": grouped,
        "transposed": lambda z: finish(columns(z.T)),
        "jit(statistic)": lambda z: finish(
            _centred(z) * jax.jit(lambda z: lax.rsqrt(z.var(-1, keepdims=True) + eps))(z)
        ),
        "stopped statistic": lambda z: finish(
            _centred(z) * lax.stop_gradient(lax.rsqrt(z.var(-1, keepdims=True) + eps))
        ),
        "checkpoint(whole)": jax.checkpoint(whole),
        "cond(whole)": lambda z: lax.cond(True, whole, lambda z: z, z),
    }
    return before(lambda x: x @ w + b, after(lambda z: z @ v, spellings))


@piece(w=normal(D, D), b=normal(D), g=positive(D), c=normal(D), v=normal(D, D))
def group_norm(w, b, g, c, v):
    eps = 1e-5

    def grouped(statistics):
        def f(z):
            y = z.reshape(T, HEADS, D // HEADS)
            return statistics(y).reshape(T, D) * g + c

        return f

    def each(z):
        parts = [
            (p - _mean(p)) / jnp.sqrt(p.var(-1, keepdims=True) + eps)
            for p in jnp.split(z, HEADS, -1)
        ]
        return jnp.concatenate(parts, -1) * g + c

    places = np.repeat(np.arange(HEADS), 3)
    member = np.eye(HEADS)[places]

    def finish(y):
        return y * g + c

    def with_groups(total, spread):
        def f(z):
            y = z - spread(total(z) / 3)
            return finish(y / jnp.sqrt(spread(total(y * y) / 3) + eps))

        return f

    def by_matrix(y):
        centred = _centred(y)
        return centred * lax.rsqrt(jnp.einsum("thd,thd->th", centred, centred)[..., None] / 3 + eps)

    spellings = {
        "reshaped": grouped(lambda y: _centred(y) / jnp.sqrt(y.var(-1, keepdims=True) + eps)),
        "rsqrt": grouped(lambda y: _centred(y) * lax.rsqrt(_mean(_centred(y) ** 2) + eps)),
        "E[z2] - E[z]2": grouped(
            lambda y: _centred(y) * lax.rsqrt(_mean(y * y) - _mean(y) ** 2 + eps)
        ),
        "einsum": grouped(by_matrix),
        "split": each,
        "membership": with_groups(lambda y: y @ member, lambda s: s @ member.T),
        "membership, inverse root": lambda z: finish(
            (lambda y: y * ((((y * y) @ member / 3 + eps) ** -0.5) @ member.T))(
                z - z @ (member @ member.T) / 3
            )
        ),
        "segments": with_groups(
            lambda y: jax.ops.segment_sum(y.T, places, HEADS).T, lambda s: s[:, places]
        ),
        "windows": with_groups(
            lambda y: lax.reduce_window(y, 0.0, lax.add, (1, 3), (1, 3), "VALID"),
            lambda s: jnp.repeat(s, 3, axis=1),
        ),
        "vmap over groups": grouped(
            jax.vmap(lambda y: _centred(y) * lax.rsqrt(y.var(-1, keepdims=True) + eps), 1, 1)
        ),
    }
    return before(lambda x: x @ w + b, after(lambda z: z @ v, spellings))


@piece(w=normal(D, D), b=normal(D), g=positive(D), c=normal(D), v=normal(D, D))
def norm_by_other_roots(w, b, g, c, v):
    eps = 1e-5

    def over(root):
        return lambda z: root(_centred(z), z.var(-1, keepdims=True) + eps) * g + c

    def window(z):
        squares = lax.reduce_window(_centred(z) ** 2, 0.0, lax.add, (1, D), (1, 1), "VALID")
        return _centred(z) / jnp.sqrt(squares / D + eps) * g + c

    spellings = {
        "z/sqrt(q)": over(lambda y, q: y / jnp.sqrt(q)),
        "z/(q/sqrt(q))": over(lambda y, q: y / (q / jnp.sqrt(q))),
        "z*(sqrt(q)/q)": over(lambda y, q: y * (jnp.sqrt(q) / q)),
        "z*(q**-.25)**2": over(lambda y, q: y * (q**-0.25) ** 2),
        "a window": window,
        "g in two": lambda z: over(lambda y, q: y / jnp.sqrt(q) * g**-0.5 * g**0.5)(z),
        "where(q > 0, z/sqrt(q), z)": over(lambda y, q: jnp.where(q > 0, y / jnp.sqrt(q), y)),
    }
    return before(lambda x: x @ w + b, after(lambda z: z @ v, spellings))


@piece(w=normal(D, D), b=normal(D), v=normal(D, D))
def norm_over_tokens(w, b, v):
    """Statistics of a batch."""
    eps = 1e-5
    spellings = {
        "z.var(0)": lambda z: (z - z.mean(0)) * lax.rsqrt(z.var(0) + eps),
        "einsum": lambda z: (
            lambda y: y * lax.rsqrt(jnp.einsum("ti,ti->i", y, y) / T + eps)
        )(z - jnp.einsum("ti->i", z) / T),
        "ones/n @ z": lambda z: (
            lambda y: y * lax.rsqrt(jnp.ones(T) / T @ (y * y) + eps)
        )(z - jnp.ones(T) / T @ z),
        "vmap over features": jax.vmap(lambda f: (f - f.mean()) / jnp.sqrt(f.var() + eps), 1, 1),
    }  # fmt: skip
    return before(lambda x: x @ w + b, after(lambda z: z @ v, spellings))


@piece(w=normal(D, D), u=normal(D, D))
def normalised_and_back(w, u):
    """A series is divided by its deviation, and what was made of it multiplied by that again."""
    eps = 1e-5

    def between(parts):
        def f(x):
            mean, scale, normalised = parts(x)
            return (jnp.tanh(normalised @ w) @ u) * scale + mean

        return f

    def divided(x):
        scale = jnp.sqrt(x.var(0) + eps)
        return x.mean(0), scale, (x - x.mean(0)) / scale

    def inverted(x):
        inverse = lax.rsqrt(x.var(0) + eps)
        return x.mean(0), 1 / inverse, (x - x.mean(0)) * inverse

    def stopped(x):
        scale = lax.stop_gradient(jnp.sqrt(x.var(0) + eps))
        return x.mean(0), scale, (x - x.mean(0)) / scale

    def guarded(x):
        scale = jnp.sqrt(((x - x.mean(0)) ** 2).mean(0) + eps)
        scale = jnp.where(scale < 1e-9, 1.0, scale)
        return x.mean(0), scale, (x - x.mean(0)) / scale

    spellings = {
        "divided": divided,
        "reciprocal": inverted,
        "stopped": stopped,
        "guarded": guarded,
    }
    return each(between, spellings)


@piece(w=normal(D, D), g=positive(D), v=normal(D, D))
def response_norm(w, g, v):
    """Lengths of channels, divided by the mean of all."""

    def length(z):
        return jnp.sqrt((z * z).sum(0, keepdims=True))

    spellings = {
        "n/mean(n)": lambda z: z * (length(z) / (_mean(length(z)) + 1e-6)),
        "norm": lambda z: z * (lambda n: n / (n.mean() + 1e-6))(jnp.linalg.norm(z, axis=0)),
        "n*(1/mean(n))": lambda z: z * (length(z) * (1 / (_mean(length(z)) + 1e-6))),
        "reciprocal": lambda z: (length(z) * (_mean(length(z)) + 1e-6) ** -1) * z,
        "sum": lambda z: z * (length(z) / (length(z).sum() / D + 1e-6)),
    }
    return before(lambda x: jnp.tanh(x) @ w, after(lambda z: (z * g + z) @ v, spellings))


@piece(chains=False, w=normal(D, D), u=normal(D, D))
def cosine_similarity(w, u):
    """Of each token with each: two norms, before or after the product."""

    def norm(z):
        return jnp.linalg.norm(z, axis=-1, keepdims=True)

    def squares(z):
        return (z * z).sum(-1)

    spellings = {
        "unit vectors": lambda a, b: (a / norm(a)) @ (b / norm(b)).T,
        "(a @ bT)/(|a| |b|)": lambda a, b: a @ b.T / (norm(a) * norm(b).T),
        "(a @ bT)/|a|/|b|": lambda a, b: a @ b.T / norm(a) / norm(b).T,
        "(a @ bT)/outer": lambda a, b: a @ b.T / jnp.outer(norm(a), norm(b)),
        "rsqrt of the product": lambda a, b: (
            a @ b.T * lax.rsqrt(squares(a)[:, None] * squares(b)[None])
        ),
        "one by one": lambda a, b: jax.vmap(
            lambda r: jax.vmap(lambda s: r @ s / jnp.sqrt((r @ r) * (s @ s)))(b)
        )(a),
    }
    return each(lambda f: lambda x: f(x @ w, jnp.tanh(x) @ u), spellings)
