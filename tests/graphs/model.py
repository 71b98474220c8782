"""A small transformer with transcoders, and the same as a function of all nodes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import relprop

LAYERS, HEADS, TOKENS, WIDTH, DEPTH, FEATURES, LOGITS = 2, 2, 4, 6, 3, 10, 5
PLACES = [f"m{i} in features" for i in range(LAYERS)]
NAMES = [*(f"{kind}{i}" for kind in ("features", "errors") for i in range(LAYERS)), "x"]


def parameters():
    draw = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(draw.standard_normal(shape) / shape[0] ** 0.5, jnp.float32)

    layers = [
        {
            **{name: array(WIDTH, HEADS * DEPTH) for name in ("q", "k", "v")},
            "o": array(HEADS * DEPTH, WIDTH),
            "up": array(WIDTH, 8),
            "down": array(8, WIDTH),
            "encoder": array(WIDTH, FEATURES),
            "encoder bias": 0.2 * array(FEATURES),
            "decoder": array(FEATURES, WIDTH),
            "decoder bias": 0.2 * array(WIDTH),
        }
        for _ in range(LAYERS)
    ]
    return {"layers": layers, "head": array(WIDTH, LOGITS), "head bias": array(LOGITS)}


PARAMS = parameters()
X = jnp.asarray(np.random.default_rng(1).standard_normal((TOKENS, WIDTH)), jnp.float32)


def norm(x, frozen=lambda v: v):
    return x * frozen(jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5))


def attention(x, p, frozen=lambda v: v):
    h = norm(x, frozen)
    q, k, v = (
        (h @ p[name]).reshape(TOKENS, HEADS, DEPTH).swapaxes(0, 1) for name in ("q", "k", "v")
    )
    scores = jnp.where(jnp.tri(TOKENS, dtype=bool)[None], q @ k.swapaxes(1, 2), -jnp.inf)
    heads = frozen(jax.nn.softmax(scores, -1)) @ v
    return x + heads.swapaxes(0, 1).reshape(TOKENS, -1) @ p["o"]


def plain(x, params):
    """The logits of the last position; MLPs are named where they begin and end."""
    for i, p in enumerate(params["layers"]):
        x = attention(x, p)
        h = relprop.named(norm(x), f"m{i} in")
        x = x + relprop.named(jax.nn.gelu(h @ p["up"]) @ p["down"], f"m{i} out")
    return norm(x)[-1] @ params["head"] + params["head bias"]


def encode(p):
    return lambda v: jax.nn.relu(v @ p["encoder"] + p["encoder bias"][None])


def decode(p):
    return lambda a: a @ p["decoder"] + p["decoder bias"][None]


def featured(f=plain):
    for i, p in enumerate(PARAMS["layers"]):
        f = relprop.splice(f, f"m{i} in", encode(p), decode(p), into=f"m{i} out")
    return f


def biases():
    """What depends on no node, by the names that `laid_open` has for it."""
    each = {
        f"{kind} bias {i}": p[f"{kind} bias"]
        for i, p in enumerate(PARAMS["layers"])
        for kind in ("encoder", "decoder")
    }
    return each | {"head bias": PARAMS["head bias"]}


def laid_open(parts):
    """Features before their activation and logits, of all that contributes to them.

    Attention maps and denominators of norms are constants, and features are read from `parts`, so
    that all is linear in these.
    """
    frozen, x = jax.lax.stop_gradient, parts["x"]
    targets = []
    for i, p in enumerate(PARAMS["layers"]):
        x = attention(x, p, frozen)
        targets.append(norm(x, frozen) @ p["encoder"] + parts[f"encoder bias {i}"][None])
        x = x + parts[f"features{i}"] @ p["decoder"] + parts[f"decoder bias {i}"][None]
        x = x + parts[f"errors{i}"]
    logits = norm(x, frozen)[-1] @ PARAMS["head"] + parts["head bias"]
    return [*targets, logits - jnp.mean(logits)]


def values():
    """The values of all that `laid_open` reads, in a run of the function."""
    x, parts = X, {"x": X} | biases()
    for i, p in enumerate(PARAMS["layers"]):
        x = attention(x, p)
        h = norm(x)
        out = jax.nn.gelu(h @ p["up"]) @ p["down"]
        parts[f"features{i}"] = encode(p)(h)
        parts[f"errors{i}"] = out - decode(p)(parts[f"features{i}"])
        x = x + out
    return parts
