"""Attention: the softmax, the mask, the heads and the order in which sums are taken."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..grammar import HEADS, D, T, each, normal, piece
from ..wrappers import WRAPPERS, bodies
from .softmax import spellings_of_masked_softmax, spellings_of_softmax

_ONE_HEAD = {name: normal(D, D) for name in ("wq", "wk", "wv", "wo")}
BODIES = ("jit", "checkpoint", "custom_jvp", "custom_vjp", "cond", "map_over_batch",
          "scan_of_length_one")  # fmt: skip


def _lse(z):
    return jax.nn.logsumexp(z, -1, keepdims=True)


def _chunks(array, size):
    return array.reshape(-1, size, *array.shape[1:])


def mixtures(size):
    """Ways of taking the mean of values by scores, of which none is softmax(z) @ v."""

    def exponential(z):
        return jnp.exp(z - z.max(-1, keepdims=True))

    def ones_column(z, v):
        out = exponential(z) @ jnp.concatenate([v, jnp.ones((size, 1))], 1)
        return out[:, :-1] / out[:, -1:]

    def merged_by_sigmoid(z, v):
        half = size // 2
        a, b = jax.nn.softmax(z[:, :half]) @ v[:half], jax.nn.softmax(z[:, half:]) @ v[half:]
        la, lb = _lse(z[:, :half]), _lse(z[:, half:])
        return a * jax.nn.sigmoid(la - lb) + b * jax.nn.sigmoid(lb - la)

    def merged_by_difference(z, v):
        half = size // 2
        a, b = jax.nn.softmax(z[:, :half]) @ v[:half], jax.nn.softmax(z[:, half:]) @ v[half:]
        return a - jax.nn.sigmoid(_lse(z[:, half:]) - _lse(z[:, :half])) * (a - b)

    def merged_by_weights(z, v):
        half = size // 2
        parts = [(z[:, :half], v[:half]), (z[:, half:], v[half:])]
        total = jnp.logaddexp(*(_lse(s) for s, _ in parts))
        return sum(jnp.exp(_lse(s) - total) * (jax.nn.softmax(s) @ u) for s, u in parts)

    def merged_sums(z, v):
        half = size // 2
        parts = [(z[:, :half], v[:half]), (z[:, half:], v[half:])]
        m = z.max(-1, keepdims=True)
        sums = [(jnp.exp(s - m) @ u, jnp.exp(s - m).sum(-1, keepdims=True)) for s, u in parts]
        return (sums[0][0] + sums[1][0]) / (sums[0][1] + sums[1][1])

    def online(chunk):
        def f(z, v):
            def step(carry, part):
                m, total, out = carry
                s, u = part
                new = jnp.maximum(m, s.max(0))
                scale, p = jnp.exp(m - new), jnp.exp(s - new)
                out = out * scale[:, None] + p.T @ u
                return (new, total * scale + p.sum(0), out), None

            start = (jnp.full((T,), -1e30), jnp.zeros(T), jnp.zeros((T, v.shape[1])))
            (_, total, out), _ = lax.scan(step, start, (_chunks(z.T, chunk), _chunks(v, chunk)))
            return out / total[:, None]

        return f

    def blocks(z, v):
        half = size // 2
        parts = [(z[:, :half], v[:half]), (z[:, half:], v[half:])]
        weights = jnp.stack([jax.nn.logsumexp(s, -1) for s, _ in parts])
        return weights, [jax.nn.softmax(s) @ u for s, u in parts]

    def merged_by_logsumexp(z, v):
        weights, outs = blocks(z, v)
        total = jax.nn.logsumexp(weights, 0)
        return sum(o * jnp.exp(w - total)[:, None] for o, w in zip(outs, weights, strict=True))

    def merged_by_softmax(z, v):
        weights, outs = blocks(z, v)
        return (jnp.stack(outs) * jax.nn.softmax(weights, 0)[..., None]).sum(0)

    def merged_by_einsum(z, v):
        weights, outs = blocks(z, v)
        return jnp.einsum("bt,btd->td", jax.nn.softmax(weights, 0), jnp.stack(outs))

    def flash(z, v):
        m, total, out = jnp.full((T,), -jnp.inf), jnp.zeros(T), jnp.zeros((T, v.shape[1]))
        for i in range(0, size, 2):
            s, u = z[:, i : i + 2], v[i : i + 2]
            new = jnp.maximum(m, s.max(-1))
            p, scale = jnp.exp(s - new[:, None]), jnp.exp(m - new)
            m, total, out = new, total * scale + p.sum(-1), out * scale[:, None] + p @ u
        return out / total[:, None]

    def flash_by_logsumexp(z, v):
        total, out = jnp.full((T,), -jnp.inf), jnp.zeros((T, v.shape[1]))
        for i in range(0, size, 2):
            s, u = z[:, i : i + 2], v[i : i + 2]
            new = jnp.logaddexp(total, jax.nn.logsumexp(s, -1))
            out = out * jnp.exp(total - new)[:, None] + jnp.exp(s - new[:, None]) @ u
            total = new
        return out

    return {
        "blocks by logsumexp": merged_by_logsumexp,
        "blocks by softmax": merged_by_softmax,
        "blocks by einsum": merged_by_einsum,
        "flash, unrolled": flash,
        "flash by logsumexp": flash_by_logsumexp,
        "(e @ v)/sum": lambda z, v: (lambda e: e @ v / e.sum(-1, keepdims=True))(exponential(z)),
        "(e @ v)*(1/sum)": lambda z, v: (lambda e: e @ v * (1 / e.sum(-1, keepdims=True)))(
            exponential(z)
        ),
        "(p @ v)/p.sum()": lambda z, v: (lambda p: p @ v / p.sum(-1, keepdims=True))(
            jax.nn.softmax(z)
        ),
        "(e @ v)/(e @ 1)": lambda z, v: (lambda e: (e @ v) / (e @ jnp.ones((size, 1))))(
            exponential(z)
        ),
        "a column of ones": ones_column,
        "einsum": lambda z, v: jnp.einsum("qk,kd->qd", jax.nn.softmax(z), v),
        "multiplied and summed": lambda z, v: (jax.nn.softmax(z)[:, :, None] * v[None]).sum(1),
        "(vT @ pT)T": lambda z, v: (v.T @ jax.nn.softmax(z).T).T,
        "two blocks by sigmoid": merged_by_sigmoid,
        "two blocks by the difference": merged_by_difference,
        "two blocks by weights": merged_by_weights,
        "two blocks of sums": merged_sums,
        "online by key": online(1),
        "online by two keys": online(2),
        "queries by map": lambda z, v: lax.map(lambda r: jax.nn.softmax(r) @ v, z),
        "chunks of queries by map": lambda z, v: lax.map(
            lambda r: jax.nn.softmax(r) @ v, _chunks(z, 2)
        ).reshape(T, -1),
        "queries by vmap": lambda z, v: jax.vmap(lambda r: jax.nn.softmax(r) @ v)(z),
        "query by query": lambda z, v: jnp.stack([jax.nn.softmax(z[i]) @ v for i in range(T)]),
        "the heaviest of all": lambda z, v: (
            lambda weights, chosen: jnp.einsum("qk,qkd->qd", jax.nn.softmax(weights), v[chosen])
        )(*lax.top_k(z, size)),
        **each(
            lambda wrap: wrap(lambda z, v: jax.nn.softmax(z) @ v),
            bodies("softmax(z) @ v", *BODIES),
        ),
    }


@piece(attention=True, **_ONE_HEAD)
def attention(wq, wk, wv, wo):
    """One head: every softmax, and every mixture."""

    def by(mix):
        def f(x):
            scores = (x @ wq) @ (x @ wk).T / np.sqrt(D)
            return x + mix(scores, x @ wv) @ wo

        return f

    maps = each(lambda softmax: by(lambda z, v: softmax(z) @ v), spellings_of_softmax(T))
    return maps | each(by, mixtures(T))


@piece(attention=True, **_ONE_HEAD)
def causal_attention(wq, wk, wv, wo):
    mask = jnp.tril(jnp.ones((T, T), bool))

    def by(softmax):
        def f(x):
            scores = (x @ wq) @ (x @ wk).T / np.sqrt(D)
            return x + softmax(scores) @ (x @ wv) @ wo

        return f

    def grown(x):
        """Token by token with a cache, as in decoding."""
        q, k, v = x @ wq, x @ wk, x @ wv
        rows = [jax.nn.softmax(q[i] @ k[: i + 1].T / np.sqrt(D)) @ v[: i + 1] for i in range(T)]
        return x + jnp.stack(rows) @ wo

    def delayed(x):
        e = jnp.exp((x @ wq) @ (x @ wk).T / np.sqrt(D)) * mask
        return x + (e @ (x @ wv)) / e.sum(-1, keepdims=True) @ wo

    return each(by, spellings_of_masked_softmax(mask)) | {
        "with a cache": grown,
        "(e*mask @ v)/sum": delayed,
    }


@piece(
    attention=True,
    **{name: normal(D, D) for name in ("wq", "wk", "wv", "wo")},
    **{name: normal(D) for name in ("bq", "bk", "bv", "bo")},
)
def many_heads(wq, wk, wv, wo, bq, bk, bv, bo):
    size = D // HEADS
    scale = size**-0.5

    def heads(z):
        return z.reshape(T, HEADS, size).swapaxes(0, 1)

    def merged(o):
        return o.swapaxes(0, 1).reshape(T, D)

    def maps(q, k, v):
        return jax.nn.softmax(q @ k.swapaxes(1, 2) * scale) @ v

    def by(attend):
        return lambda x: (
            x + merged(attend(heads(x @ wq + bq), heads(x @ wk + bk), heads(x @ wv + bv))) @ wo + bo
        )

    def fused(x):
        w, b = jnp.concatenate([wq, wk, wv], 1), jnp.concatenate([bq, bk, bv])
        return x + (merged(maps(*map(heads, jnp.split(x @ w + b, 3, -1)))) @ wo + bo)

    def stacked(x):
        qkv = jnp.einsum("td,kde->kte", x, jnp.stack([wq, wk, wv]))
        qkv = qkv + jnp.stack([bq, bk, bv])[:, None]
        return x + (merged(maps(*map(heads, qkv))) @ wo + bo)

    def einsums(x):
        def project(w, b):
            return jnp.einsum("td,dhe->the", x, w.reshape(D, HEADS, size)) + b.reshape(HEADS, size)

        q, k, v = project(wq, bq), project(wk, bk), project(wv, bv)
        p = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k) * scale)
        o = jnp.einsum("hqk,khd->qhd", p, v)
        return x + (jnp.einsum("qhd,hdo->qo", o, wo.reshape(HEADS, size, D)) + bo)

    def outputs_summed(x):
        o = maps(heads(x @ wq + bq), heads(x @ wk + bk), heads(x @ wv + bv))
        return x + (jnp.einsum("hqd,hdo->hqo", o, wo.reshape(HEADS, size, D)).sum(0) + bo)

    def scale_in_weights(x):
        q = heads(x @ (wq * scale) + bq * scale)
        p = jax.nn.softmax(q @ heads(x @ wk + bk).swapaxes(1, 2))
        return x + (merged(p @ heads(x @ wv + bv)) @ wo + bo)

    def with_scores(scores):
        return lambda q, k, v: jax.nn.softmax(scores(q, k)) @ v

    return {
        "heads": lambda x: (
            x + (merged(maps(heads(x @ wq + bq), heads(x @ wk + bk), heads(x @ wv + bv))) @ wo + bo)
        ),
        "x + o @ wo + bo": by(maps),
        "head by head": by(
            lambda q, k, v: jnp.stack(
                [jax.nn.softmax(q[i] @ k[i].T * scale) @ v[i] for i in range(HEADS)]
            )
        ),
        "vmap over heads": by(jax.vmap(lambda q, k, v: jax.nn.softmax(q @ k.T * scale) @ v)),
        "map over heads": by(
            lambda q, k, v: lax.map(
                lambda a: jax.nn.softmax(a[0] @ a[1].T * scale) @ a[2], (q, k, v)
            )
        ),
        "fused": fused,
        "stacked": stacked,
        "einsums": einsums,
        "outputs summed": outputs_summed,
        "scale in weights": scale_in_weights,
        "scaled queries": by(with_scores(lambda q, k: (q * scale) @ k.swapaxes(1, 2))),
        "both scaled": by(
            with_scores(lambda q, k: (q * scale**0.5) @ (k * scale**0.5).swapaxes(1, 2))
        ),
        "scores divided": by(with_scores(lambda q, k: q @ k.swapaxes(1, 2) / (1 / scale))),
        "scores multiplied and summed": by(
            with_scores(lambda q, k: (q[:, :, None] * k[:, None]).sum(-1) * scale)
        ),
        "keys first": by(
            lambda q, k, v: jax.nn.softmax(k @ q.swapaxes(1, 2) * scale, axis=1).swapaxes(1, 2) @ v
        ),
        "softmax by hand": by(
            lambda q, k, v: (lambda e: (e / e.sum(-1, keepdims=True)) @ v)(
                jnp.exp(q @ k.swapaxes(1, 2) * scale)
            )
        ),
        "checkpoint": by(jax.checkpoint(maps)),
        "custom_vjp": by(WRAPPERS["custom_vjp"](maps)),
    }


@piece(attention=True, wq=normal(D, D), wk=normal(D, 3), wv=normal(D, 3), wo=normal(D, D))
def shared_keys(wq, wk, wv, wo):
    """Heads that share keys and values."""
    size = D // HEADS

    def by(attend):
        def f(x):
            q = (x @ wq).reshape(T, HEADS, size) * size**-0.5
            return x + attend(q, x @ wk, x @ wv).reshape(T, D) @ wo

        return f

    def heads(q, k, v):
        p = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k))
        return jnp.einsum("hqk,khd->qhd", p, v)

    def shared(q, k, v):
        return jnp.einsum("hqk,kd->qhd", jax.nn.softmax(jnp.einsum("qhd,kd->hqk", q, k)), v)

    return {
        "repeat": by(
            lambda q, k, v: heads(
                q, jnp.repeat(k[:, None], HEADS, 1), jnp.repeat(v[:, None], HEADS, 1)
            )
        ),
        "broadcast": by(
            lambda q, k, v: heads(
                q,
                jnp.broadcast_to(k[:, None], (T, HEADS, size)),
                jnp.broadcast_to(v[:, None], (T, HEADS, size)),
            )
        ),
        "tile": by(
            lambda q, k, v: heads(
                q,
                jnp.tile(k, (1, HEADS)).reshape(T, HEADS, size),
                jnp.tile(v, (1, HEADS)).reshape(T, HEADS, size),
            )
        ),
        "shared": by(shared),
        "vmap": by(
            lambda q, k, v: jax.vmap(lambda q: jax.nn.softmax(q @ k.T) @ v, in_axes=1, out_axes=1)(
                q
            )
        ),
    }


@piece(attention=True, angles=normal(T, D // 2, scale=1.0), **_ONE_HEAD)
def rotary_attention(angles, wq, wk, wv, wo):
    half = D // 2
    c, s = jnp.cos(angles), jnp.sin(angles)
    c2, s2 = jnp.concatenate([c, c], -1), jnp.concatenate([s, s], -1)
    signed = jnp.concatenate([-s, s], -1)

    def halves(z):
        a, b = z[:, :half], z[:, half:]
        return jnp.concatenate([a * c - b * s, b * c + a * s], -1)

    def stacked(z):
        a, b = jnp.split(z, 2, -1)
        return jnp.stack([a * c - b * s, a * s + b * c], 1).reshape(T, D)

    def complex_numbers(z):
        turned = lax.complex(z[:, :half], z[:, half:]) * jnp.exp(1j * angles)
        return jnp.concatenate([turned.real, turned.imag], -1)

    def by(rotate):
        def f(x):
            q, k = rotate(x @ wq), rotate(x @ wk)
            return x + jax.nn.softmax(q @ k.T / np.sqrt(D)) @ (x @ wv) @ wo

        return f

    return {
        "rotate_half": by(lambda z: z * c2 + jnp.concatenate([-z[:, half:], z[:, :half]], -1) * s2),
        "halves": by(halves),
        "stacked": by(stacked),
        "rolled": by(lambda z: z * c2 + jnp.roll(z, half, -1) * signed),
        "complex numbers": by(complex_numbers),
    }


@piece(**_ONE_HEAD)
def attention_pooling(wq, wk, wv, wo):
    """A weight for each token, and the mean of tokens by it."""
    del wk

    def by(pool):
        return lambda x: x + pool(x @ wq[:, 0], x @ wv) @ wo

    def exponential(z):
        return jnp.exp(z - z.max())

    return {
        "softmax(z) @ v": by(lambda z, v: jax.nn.softmax(z) @ v),
        "(p[:, None]*v).sum(0)": by(lambda z, v: (jax.nn.softmax(z)[:, None] * v).sum(0)),
        "einsum": by(lambda z, v: jnp.einsum("t,td->d", jax.nn.softmax(z), v)),
        "e/e.sum() @ v": by(lambda z, v: (lambda e: e / e.sum() @ v)(exponential(z))),
        "(e @ v)/e.sum()": by(lambda z, v: (lambda e: (e @ v) / e.sum())(exponential(z))),
        "average": by(lambda z, v: jnp.average(v, axis=0, weights=exponential(z))),
        "exp(log_softmax)": by(lambda z, v: jnp.exp(jax.nn.log_softmax(z)) @ v),
        "axis 0": by(lambda z, v: (jax.nn.softmax(z[:, None], axis=0) * v).sum(0)),
    }
