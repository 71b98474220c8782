"""What one part of a network computes for another: gates before a loop, modulation, experts."""

import jax
import jax.numpy as jnp
from jax import lax

from ..grammar import D, T, normal, piece

sigmoid = jax.nn.sigmoid


@piece(wz=normal(D, D), bz=normal(D), wc=normal(D, D), bc=normal(D))
def gates_of_all_turns(wz, bz, wc, bc):
    """A recurrence whose gates don't depend on its state: in the loop, or before it."""

    def run(step, *inputs):
        def turn(h, entries):
            h = step(h, *entries)
            return h, h

        return lax.scan(turn, jnp.zeros(D), inputs)[1]

    def in_the_loop(x):
        return run(lambda h, r: mixed(h, sigmoid(r @ wz + bz), jnp.tanh(r @ wc + bc)), x)

    def mixed(h, z, c):
        return (1 - z) * h + z * c

    def before(x):
        return run(mixed, sigmoid(x @ wz + bz), jnp.tanh(x @ wc + bc))

    def factors_before(x):
        z = sigmoid(x @ wz + bz)
        return run(lambda h, a, b: a * h + b, 1 - z, z * jnp.tanh(x @ wc + bc))

    def indexed(x):
        z, c = sigmoid(x @ wz + bz), jnp.tanh(x @ wc + bc)

        def turn(t, state):
            h = mixed(state[0], z[t], c[t])
            return h, lax.dynamic_update_slice(state[1], h[None], (t, 0))

        return lax.fori_loop(0, T, turn, (jnp.zeros(D), jnp.zeros((T, D))))[1]

    def entry_by_entry(x):
        z, c = sigmoid(x @ wz + bz), jnp.tanh(x @ wc + bc)

        def column(z, c):
            return lax.scan(lambda h, s: (mixed(h, *s),) * 2, 0.0, (z, c))[1]

        return jax.vmap(column, 1, 1)(z, c)

    def together(x):
        """Both sigmoids in one array, of which the loop takes parts."""
        y = jnp.concatenate([x @ wz + bz, x @ wc + bc], -1)

        def step(h, r):
            z = sigmoid(jnp.stack([r[:D], -r[:D]]))
            return (1 - z[0]) * h + z[0] * jnp.tanh(r[D:])

        return run(step, y)

    return {
        "in the loop": in_the_loop,
        "layers before": lambda x: run(
            lambda h, a, b: mixed(h, sigmoid(a), jnp.tanh(b)), x @ wz + bz, x @ wc + bc
        ),
        "gates before": before,
        "factors before": factors_before,
        "fori_loop": indexed,
        "vmap of numbers": entry_by_entry,
        "parts of one sigmoid": together,
    }


@piece(w=normal(D, 2 * D), b=normal(2 * D), v=normal(D, D))
def modulated(w, b, v):
    """A scale about one, and a shift, of a condition, as in diffusion transformers."""

    def apart(x):
        h = jax.nn.silu(x.mean(0))
        return ((1 + (h @ w[:, :D] + b[:D])) * x + (h @ w[:, D:] + b[D:])) @ v

    def conditioned(modulate):
        return lambda x: modulate(x, jax.nn.silu(x.mean(0, keepdims=True)) @ w + b) @ v

    def expanded(x, y):
        scale, shift = jnp.split(y, 2, -1)
        return (x[None] * (1 + scale[:, None]) + shift[:, None])[0]

    return {
        "two layers": apart,
        "split": conditioned(lambda x, y: x * (1 + y[:, :D]) + y[:, D:]),
        "split, expanded": conditioned(expanded),
        "of one row": conditioned(lambda x, y: x * (1 + y[0, :D]) + y[0, D:]),
        "folded": conditioned(
            lambda x, y: (lambda s: x * (s[:, 0] + 1) + s[:, 1])(y.reshape(1, 2, D))
        ),
        "dynamic slices": conditioned(
            lambda x, y: (
                x * (lax.dynamic_slice_in_dim(y, 0, D, 1) + 1)
                + lax.dynamic_slice_in_dim(y, D, D, 1)
            )
        ),
        "vmap over tokens": conditioned(
            lambda x, y: jax.vmap(lambda r: r * (1 + y[0, :D]) + y[0, D:])(x)
        ),
        "map over tokens": conditioned(
            lambda x, y: lax.map(lambda r: r * (1 + y[0, :D]) + y[0, D:], x)
        ),
    }


@piece(w=normal(D, 3), u=normal(3, D, D), c=normal(3, D))
def mixture_of_experts(w, u, c):
    """Weights of a router are no signal that an expert's activation opens for."""

    def experts(x):
        return jax.nn.relu(jnp.einsum("ti,eio->teo", x, u) + c)

    def listed(x):
        p = jax.nn.softmax(x @ w)
        return sum(p[:, e : e + 1] * jax.nn.relu(x @ u[e] + c[e]) for e in range(3))

    def scanned(x):
        def add(total, expert):
            return total + expert[2][:, None] * jax.nn.relu(x @ expert[0] + expert[1]), None

        return lax.scan(add, jnp.zeros((T, D)), (u, c, jax.nn.softmax(x @ w).T))[0]

    return {
        "einsum": lambda x: jnp.einsum("te,teo->to", jax.nn.softmax(x @ w), experts(x)),
        "p @ experts": lambda x: (jax.nn.softmax(x @ w)[:, None] @ experts(x))[:, 0],
        "multiplied and summed": lambda x: (jax.nn.softmax(x @ w)[..., None] * experts(x)).sum(1),
        "listed": listed,
        "scan": scanned,
    }


@piece(w=normal(D, 4), u=normal(4, D, D), c=normal(4, D))
def chosen_experts(w, u, c):
    """Weights and biases of experts that are looked up, or results of all experts."""

    def routed(apply):
        def f(x):
            scores, places = lax.top_k(x @ w, 2)
            return jnp.einsum("tk,tko->to", jax.nn.softmax(scores), apply(x, places))

        return f

    def results(x, places):
        outs = jax.nn.relu(jnp.einsum("ti,eio->teo", x, u) + c)
        return jnp.take_along_axis(outs, places[..., None], 1)

    def parameters(x, places):
        return jax.nn.relu(jnp.einsum("ti,tkio->tko", x, u[places]) + c[places])

    def by_token(x, places):
        return jax.vmap(lambda r, own: jax.vmap(lambda e: jax.nn.relu(r @ u[e] + c[e]))(own))(
            x, places
        )

    return {
        "results": routed(results),
        "parameters": routed(parameters),
        "vmap": routed(by_token),
    }


@piece(w=normal(D, D), b=normal(D))
def gate_for_all_tokens(w, b):
    """One gate per channel, as in squeeze and excitation, divided by its denominator."""

    def gated(times):
        return lambda x: times(x, x.mean(0) @ w + b)

    return {
        "x*sigmoid": gated(lambda x, a: x * sigmoid(a)),
        "x/(1 + exp(-a))": gated(lambda x, a: x / (1 + jnp.exp(-a))),
        "x/(1 + exp(-a))[None]": gated(lambda x, a: x / (1 + jnp.exp(-a))[None]),
        "einsum": gated(lambda x, a: jnp.einsum("td,d->td", x, sigmoid(a))),
        "repeated": gated(lambda x, a: x * jnp.repeat(sigmoid(a)[None], T, 0)),
    }


@piece(w=normal(D, 3), v=normal(D, 3, D))
def outer_products(w, v):
    """A state of each channel, as state spaces have: what is multiplied has no sum."""

    def entering(product):
        return lambda x: jnp.einsum("tdn,dnj->tj", jnp.tanh(product(x, x @ w)), v)

    return {
        "x[..., None]*b": entering(lambda x, b: x[:, :, None] * b[:, None]),
        "einsum": entering(lambda x, b: jnp.einsum("td,tn->tdn", x, b)),
        "einsum, b first": entering(lambda x, b: jnp.einsum("tn,td->tdn", b, x)),
        "vmap of outer": entering(jax.vmap(jnp.outer)),
        "matmul": entering(lambda x, b: x[:, :, None] @ b[:, None]),
    }


@piece(w=normal(D, D), u=normal(D, D), v=normal(D, D))
def two_keys(w, u, v):
    """Scores with a soft cap, put side by side and then exponentiated."""

    def weighted(shares):
        def f(x):
            q, k = x @ w, x @ u
            p = shares((q * k).sum(-1), (q * jnp.roll(k, 1, 0)).sum(-1))
            return p[0][:, None] * (x @ v) + p[1][:, None] * jnp.roll(x @ v, 1, 0)

        return f

    def cap(z):
        return 5 * jnp.tanh(z / 5)

    return {
        "capped, stacked": weighted(lambda a, b: jax.nn.softmax(jnp.stack([cap(a), cap(b)]), 0)),
        "stacked, capped": weighted(lambda a, b: jax.nn.softmax(cap(jnp.stack([a, b])), 0)),
        "joined, capped": weighted(
            lambda a, b: jax.nn.softmax(cap(jnp.concatenate([a[None], b[None]])), 0)
        ),
        "last axis": weighted(lambda a, b: jax.nn.softmax(cap(jnp.stack([a, b], -1)), -1).T),
    }
