"""A transformer as one writes it, and the same with all of its parts laid open for oracles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

LAYERS, HEADS, TOKENS, WIDTH, DEPTH = 2, 2, 4, 8, 4


def parameters(key=0):
    draw = np.random.default_rng(key)

    def array(*shape):
        return jnp.asarray(draw.standard_normal(shape) / shape[0] ** 0.5, jnp.float32)

    layers = [
        {
            **{name: array(WIDTH, HEADS * DEPTH) for name in ("q", "k", "v")},
            "o": array(HEADS * DEPTH, WIDTH),
            "up": array(WIDTH, 16),
            "down": array(16, WIDTH),
            "bias": 0.1 * array(WIDTH),
        }
        for _ in range(LAYERS)
    ]
    return {"layers": layers, "head": array(WIDTH, 3)}


def inputs():
    x, change = np.random.default_rng(1).standard_normal((2, TOKENS, WIDTH))
    return jnp.asarray(x, jnp.float32), jnp.asarray(x + 0.3 * change, jnp.float32)


def norm(x):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)


def causal(scores):
    return jnp.where(jnp.tri(scores.shape[-1], dtype=bool), scores, -jnp.inf)


def split(x):
    return x.reshape(x.shape[0], HEADS, DEPTH).swapaxes(0, 1)


def layer(x, p):
    h = norm(x)
    q, k, v = (split(h @ p[name]) for name in ("q", "k", "v"))
    maps = jax.nn.softmax(jax.vmap(causal)(q @ k.swapaxes(1, 2) / DEPTH**0.5), -1)
    heads = (maps @ v).swapaxes(0, 1).reshape(x.shape[0], HEADS * DEPTH)
    x = x + heads @ p["o"]
    return x + (jax.nn.gelu(norm(x) @ p["up"]) @ p["down"] + p["bias"][None])


def score(x, params):
    for p in params["layers"]:
        x = layer(x, p)
    return (norm(x)[-1] @ params["head"])[0]


def scanned(x, params):
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["layers"])
    x, _ = jax.lax.scan(lambda x, p: (layer(x, p), None), x, stacked)
    return (norm(x)[-1] @ params["head"])[0]


def laid_open(x, params, readers, hook=lambda name, value: value, stream=None):
    """The score, where each reader has an input of its own; and what each writer adds.

    Args:
        x: the embeddings.
        params: the parameters.
        readers: by name, what is added to the residual stream for that reader alone.
        hook: of the name of a value and the value.
        stream: of the name of a reader and what has been written so far, what it reads.
    """
    writers = {"input": x}
    stream = stream or (lambda name, written: sum(written.values()))

    def read(name):
        return norm(stream(name, writers) + readers.get(name, 0.0))

    for i, p in enumerate(params["layers"]):
        written = {}
        for h in range(HEADS):
            own = slice(h * DEPTH, (h + 1) * DEPTH)
            q, k, v = (
                hook(f"a{i}.h{h}.{n}", read(f"a{i}.h{h}<{n}>") @ p[n][:, own])
                for n in ("q", "k", "v")
            )
            pattern = hook(f"a{i}.h{h}.a", jax.nn.softmax(causal(q @ k.T / DEPTH**0.5), -1))
            mixed = hook(f"a{i}.h{h}.z", pattern @ v)
            written[f"a{i}.h{h}"] = mixed @ p["o"][own]
        writers |= written
        hidden = hook(f"m{i}.n", jax.nn.gelu(read(f"m{i}") @ p["up"]))
        writers[f"m{i}"] = hook(f"m{i}", hidden @ p["down"] + p["bias"][None])
    return (read("logits")[-1] @ params["head"])[0], writers
