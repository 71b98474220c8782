"""The functions that are measured: a score of an input, weights closed over as an argument."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def _normal(key, *shape):
    return jax.random.normal(key, shape) / shape[0] ** 0.5


def mlp(width: int = 1024, depth: int = 6, batch: int = 64):
    """Dense layers with relu."""
    keys = jax.random.split(jax.random.key(0), depth)
    weights = [(_normal(k, width, width), jnp.full((width,), 0.1)) for k in keys]

    def score(x, weights):
        for w, b in weights:
            x = jax.nn.relu(x @ w + jnp.broadcast_to(b, (batch, width)))
        return x[:, 0].sum()

    return score, jax.random.normal(jax.random.key(1), (batch, width)), weights


def cnn(size: int = 64, channels: int = 32, batch: int = 4):
    """Convolutions with relu and max pooling, as in VGG."""
    plan = (channels, channels, 2 * channels, 2 * channels, 4 * channels, 4 * channels)
    keys = jax.random.split(jax.random.key(0), len(plan) + 1)
    weights, before = [], 3
    for key, after in zip(keys, plan, strict=False):
        kernel = jax.random.normal(key, (3, 3, before, after)) * (2 / (9 * before)) ** 0.5
        weights.append((kernel, jnp.full((after,), 0.05)))
        before = after
    head = _normal(keys[-1], before, 10)

    def score(x, weights):
        layers, head = weights
        for number, (kernel, bias) in enumerate(layers):
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + jnp.broadcast_to(bias, x.shape))
            if number % 2:
                x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return (x.mean(axis=(1, 2)) @ head)[:, 0].sum()

    x = jax.random.normal(jax.random.key(1), (batch, size, size, 3))
    return score, x, (weights, head)


def transformer(
    width: int = 384, depth: int = 6, heads: int = 6, tokens: int = 128, batch: int = 2,
    loop: str = "unrolled",
):  # fmt: skip
    """Pre-norm blocks with GELU; `loop` is unrolled, scan or remat (a scan of checkpoints)."""

    def block_weights(key):
        keys = jax.random.split(key, 4)
        return {
            "qkv": _normal(keys[0], width, 3 * width),
            "out": _normal(keys[1], width, width),
            "up": _normal(keys[2], width, 4 * width),
            "up_bias": jnp.full((4 * width,), 0.1),
            "down": _normal(keys[3], 4 * width, width),
        }

    weights = jax.vmap(block_weights)(jax.random.split(jax.random.key(0), depth))

    def normalise(x):
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred * lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + 1e-5)

    def block(x, w):
        split = (normalise(x) @ w["qkv"]).reshape(batch, tokens, 3, heads, width // heads)
        attended = jax.nn.dot_product_attention(split[:, :, 0], split[:, :, 1], split[:, :, 2])
        x = x + attended.reshape(batch, tokens, width) @ w["out"]
        up = normalise(x) @ w["up"]
        up = up + jnp.broadcast_to(w["up_bias"], up.shape)
        return x + jax.nn.gelu(up) @ w["down"]

    def score(x, weights):
        if loop == "unrolled":
            for number in range(depth):
                x = block(x, jax.tree.map(lambda a: a[number], weights))  # noqa: B023
        else:
            step = jax.checkpoint(block) if loop == "remat" else block
            x, _ = lax.scan(lambda x, w: (step(x, w), None), x, weights)
        return normalise(x)[:, 0, 0].sum()

    return score, jax.random.normal(jax.random.key(1), (batch, tokens, width)), weights


MODELS = {
    "mlp": mlp,
    "cnn": cnn,
    "transformer": transformer,
    "transformer, scan": lambda: transformer(loop="scan"),
    "transformer, scan of checkpoints": lambda: transformer(loop="remat"),
}
