"""Gates: one factor says how much of the other passes."""

import jax
import jax.numpy as jnp
from jax import lax

from ..grammar import D, T, each, normal, piece
from ..wrappers import WRAPPERS, bodies

sigmoid = jax.nn.sigmoid
_TWO_LAYERS = {"w": normal(D, D), "b": normal(D), "u": normal(D, D), "c": normal(D),
               "v": normal(D, D)}  # fmt: skip

SIGMOIDS = {
    "sigmoid(a)": sigmoid,
    "lax.logistic(a)": lax.logistic,
    "expit(a)": jax.scipy.special.expit,
    "1/(1 + exp(-a))": lambda a: 1 / (1 + jnp.exp(-a)),
    "reciprocal(1 + exp(-a))": lambda a: jnp.reciprocal(1 + jnp.exp(-a)),
    "(1 + exp(-a))**-1": lambda a: (1 + jnp.exp(-a)) ** -1,
    ".5 + .5*tanh(a/2)": lambda a: 0.5 + 0.5 * jnp.tanh(a / 2),
    ".5*(1 + tanh(a/2))": lambda a: 0.5 * (1 + jnp.tanh(0.5 * a)),
    "(tanh(a/2) + 1)/2": lambda a: (jnp.tanh(a / 2) + 1) / 2,
    "exp(a)/(1 + exp(a))": lambda a: jnp.exp(a) / (1 + jnp.exp(a)),
    "exp(-softplus(-a))": lambda a: jnp.exp(-jax.nn.softplus(-a)),
    "exp(log_sigmoid(a))": lambda a: jnp.exp(jax.nn.log_sigmoid(a)),
    "1 - sigmoid(-a)": lambda a: 1 - sigmoid(-a),
    "where, stable": lambda a: jnp.where(
        a >= 0, 1 / (1 + jnp.exp(-jnp.abs(a))), jnp.exp(-jnp.abs(a)) / (1 + jnp.exp(-jnp.abs(a)))
    ),
    "softmax of two": lambda a: jax.nn.softmax(jnp.stack([a, jnp.zeros_like(a)]), axis=0)[0],
    **each(
        lambda wrap: wrap(sigmoid),
        bodies("sigmoid", "jit", "checkpoint", "custom_jvp", "custom_vjp", "cond"),
    ),
}

PRODUCTS = {
    "g*c": lambda g, c: g * c,
    "c*g": lambda g, c: c * g,
    "einsum": lambda g, c: jnp.einsum("td,td->td", g, c),
    "einsum, swapped": lambda g, c: jnp.einsum("td,td->td", c, g),
    "stack().prod(0)": lambda g, c: jnp.stack([g, c]).prod(0),
    "prod([c, g])": lambda g, c: jnp.prod(jnp.stack([c, g], -1), -1),
    "vmap": jax.vmap(lambda g, c: g * c),
    "vmap of numbers": jax.vmap(jax.vmap(lambda g, c: g * c)),
    "c/(1/g)": lambda g, c: c / (1 / g),
    "-(g*-c)": lambda g, c: -(g * -c),
    "2*(g*c/2)": lambda g, c: 2 * (g * (c / 2)),
    "c - c*(1 - g)": lambda g, c: c - c * (1 - g),
    "transposed": lambda g, c: (g.T * c.T).T,
    "flat": lambda g, c: (g.reshape(-1) * c.reshape(-1)).reshape(g.shape),
    "g*(c*1)": lambda g, c: g * (c * jnp.ones_like(c)),
    "checkpoint": jax.checkpoint(lambda g, c: g * c),
    "custom_jvp": WRAPPERS["custom_jvp"](lambda g, c: g * c),
    "cond": WRAPPERS["cond"](lambda g, c: g * c),
    "map": lambda g, c: lax.map(lambda a: a[0] * a[1], (g, c)),
}


def _all(gates, products, signal):
    """Every gate by the first product, and the first gate by every product."""
    gate, times = next(iter(gates.values())), next(iter(products.values()))
    return each(lambda g: lambda a, c: times(g(a), signal(c)), gates) | each(
        lambda by: lambda a, c: by(gate(a), signal(c)), products
    )


def _between_layers(spellings, w, b, u, c, v):
    return each(lambda f: lambda x: f(x @ w + b, x @ u + c) @ v, spellings)


@piece(**_TWO_LAYERS)
def glu(w, b, u, c, v):
    spellings = _all(SIGMOIDS, PRODUCTS, lambda c: c) | {
        "jax.nn.glu": lambda a, c: jax.nn.glu(jnp.concatenate([c, a], -1)),
        "c/(1 + exp(-a))": lambda a, c: c / (1 + jnp.exp(-a)),
        "c*exp(-softplus(-a))": lambda a, c: c * jnp.exp(-jax.nn.softplus(-a)),
        "c*exp(a)/(1 + exp(a))": lambda a, c: c * jnp.exp(a) / (1 + jnp.exp(a)),
    }
    return _between_layers(spellings, w, b, u, c, v)


@piece(**_TWO_LAYERS)
def gated_tanh(w, b, u, c, v):
    spellings = _all(SIGMOIDS, PRODUCTS, jnp.tanh) | {
        "tanh/(1 + exp(-a))": lambda a, c: jnp.tanh(c) / (1 + jnp.exp(-a)),
        "tanh by sigmoid": lambda a, c: sigmoid(a) * (2 * sigmoid(2 * c) - 1),
        "tanh by exp": lambda a, c: (
            sigmoid(a) * ((jnp.exp(c) - jnp.exp(-c)) / (jnp.exp(c) + jnp.exp(-c)))
        ),
    }
    return _between_layers(spellings, w, b, u, c, v)


@piece(w=normal(D, D), u=normal(D, D), v=normal(D, D))
def swiglu(w, u, v):
    both = jnp.concatenate([w, u], 1)

    def fused(split):
        def f(x):
            a, c = split(x @ both)
            return jax.nn.silu(a) * c @ v

        return f

    def apart(gate):
        return lambda x: gate(x @ w, x @ u) @ v

    def interleaved(x):
        h = x @ jnp.stack([w, u], -1).reshape(D, 2 * D)
        return jax.nn.silu(h[:, ::2]) * h[:, 1::2] @ v

    def stacked(x):
        a, c = jnp.einsum("ti,kij->ktj", x, jnp.stack([w, u]))
        return jax.nn.silu(a) * c @ v

    return {
        "silu(a)*c": apart(lambda a, c: jax.nn.silu(a) * c),
        "c*silu(a)": apart(lambda a, c: c * jax.nn.silu(a)),
        "(a*sigmoid(a))*c": apart(lambda a, c: a * sigmoid(a) * c),
        "a/(1 + exp(-a))*c": apart(lambda a, c: a / (1 + jnp.exp(-a)) * c),
        "einsum": apart(lambda a, c: jnp.einsum("td,td->td", jax.nn.silu(a), c)),
        "stack().prod(0)": apart(lambda a, c: jnp.stack([jax.nn.silu(a), c]).prod(0)),
        "checkpoint": apart(jax.checkpoint(lambda a, c: jax.nn.silu(a) * c)),
        "jit": apart(jax.jit(lambda a, c: jax.nn.silu(a) * c)),
        "vmap": apart(jax.vmap(lambda a, c: jax.nn.silu(a) * c)),
        "a*(sigmoid(a)*c)": apart(lambda a, c: a * (sigmoid(a) * c)),
        "(a*c)*sigmoid(a)": apart(lambda a, c: (a * c) * sigmoid(a)),
        "a*c/(1 + exp(-a))": apart(lambda a, c: a * c / (1 + jnp.exp(-a))),
        "fused, split": fused(lambda h: jnp.split(h, 2, -1)),
        "fused, sliced": fused(lambda h: (h[:, :D], h[:, D:])),
        "fused, reshaped": fused(lambda h: h.reshape(T, 2, D).swapaxes(0, 1)),
        "fused, interleaved": interleaved,
        "fused, stacked": stacked,
    }


@piece(w=normal(D, D), b=normal(D), s=normal(D), v=normal(D, D))
def gate_of_a_constant(w, b, s, v):
    """As r * b_hn at the first step of a GRU: the signal is a constant, the gate is not."""
    constant = jnp.broadcast_to(s, (T, D))
    products = {
        name: PRODUCTS[name]
        for name in ("g*c", "c*g", "einsum", "vmap", "checkpoint", "cond", "-(g*-c)", "map")
    }
    spellings = each(lambda by: lambda x: by(sigmoid(x @ w + b), constant), products)
    spellings |= each(lambda gate: lambda x: gate(x @ w + b) * s, SIGMOIDS)
    spellings["s/(1 + exp(-a))"] = lambda x: s / (1 + jnp.exp(-(x @ w + b)))
    return each(lambda f: lambda x: (jnp.tanh(x) + f(x)) @ v, spellings)


@piece(w=normal(D, D), u=normal(D, D), v=normal(D, D))
def interpolating_gate(w, u, v):
    """A gate between two signals, as in a GRU and in highway networks."""

    def mixed(mix):
        return lambda x: mix(sigmoid(x @ w), jnp.tanh(x @ u), x) @ v

    return {
        "(1 - z)*n + z*h": mixed(lambda z, n, h: (1 - z) * n + z * h),
        "z*h + (1 - z)*n": mixed(lambda z, n, h: z * h + (1 - z) * n),
        "h*z + n*(1 - z)": mixed(lambda z, n, h: h * z + n * (1 - z)),
        "h*z - n*(z - 1)": mixed(lambda z, n, h: h * z - n * (z - 1)),
        "n + z*(h - n)": mixed(lambda z, n, h: n + z * (h - n)),
        "n - z*n + z*h": mixed(lambda z, n, h: n - z * n + z * h),
        "checkpoint": mixed(jax.checkpoint(lambda z, n, h: (1 - z) * n + z * h)),
        "einsum": mixed(
            lambda z, n, h: jnp.einsum("td,td->td", 1 - z, n) + jnp.einsum("td,td->td", z, h)
        ),
    }


@piece(w=normal(D, D), u=normal(D, D), c=normal(D))
def film(w, u, c):
    """Features of an image, scaled by a condition: neither is a gate of the other."""

    def scaled(scale):
        return lambda x: scale(jax.nn.relu(x @ w), x @ u)

    return {
        "relu(f)*c": scaled(lambda f, c: f * c),
        "c*relu(f)": scaled(lambda f, c: c * f),
        "einsum": scaled(lambda f, c: jnp.einsum("td,td->td", f, c)),
        "stack().prod(0)": scaled(lambda f, c: jnp.stack([f, c]).prod(0)),
        "vmap": scaled(jax.vmap(lambda f, c: f * c)),
        "checkpoint": scaled(jax.checkpoint(lambda f, c: f * c)),
        "f/(1/c)": scaled(lambda f, c: f / (1 / c)),
    }


@piece(w=normal(D), u=normal(D, D), v=normal(D, D))
def gate_of_a_token(w, u, v):
    """One gate per token, contracted with its signal."""
    return {
        "(g[:, None]*c).sum(0)": lambda x: x + (sigmoid(x @ w)[:, None] * (x @ u)).sum(0) @ v,
        "g @ c": lambda x: x + (sigmoid(x @ w) @ (x @ u)) @ v,
        "einsum": lambda x: x + jnp.einsum("t,td->d", sigmoid(x @ w), x @ u) @ v,
        "cT @ g": lambda x: x + ((x @ u).T @ sigmoid(x @ w)) @ v,
        "vmap": lambda x: x + jax.vmap(jnp.multiply)(sigmoid(x @ w), x @ u).sum(0) @ v,
        "ones @ (g*c)": lambda x: x + (jnp.ones(T) @ (sigmoid(x @ w)[:, None] * (x @ u))) @ v,
    }
