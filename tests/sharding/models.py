"""A transformer block on one device, and the ways in which people spread it over several."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

HEADS = 4
DATA, FEATURES, HIDDEN = (2, 8), 16, 32


@functools.cache
def mesh(kind: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    """Two by four devices: `d` for data and `t` for tensors or sequences."""
    return jax.make_mesh((2, 4), ("d", "t"), axis_types=(kind,) * 2)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape) / np.sqrt(shape[0])


X = 4 * normal(0, *DATA, FEATURES)
SHAPES = {
    **{name: (FEATURES, FEATURES) for name in ("query", "key", "value", "out")},
    **{name: (FEATURES, HIDDEN) for name in ("up", "gate")},
    "down": (HIDDEN, FEATURES),
    "bias": (1, 1, FEATURES),
}
PARAMS = {name: normal(i + 1, *shape) for i, (name, shape) in enumerate(SHAPES.items())}
COLUMNS, ROWS = P(None, "t"), P("t", None)
REPLICATED = {name: P() for name in SHAPES}
# Tensor parallel: first layers split by their outputs, second ones by their inputs.
TENSOR = {name: ROWS if name in ("out", "down") else COLUMNS for name in SHAPES} | {"bias": P()}


def norm(x, mean=jnp.mean):
    return x * lax.rsqrt(mean(x * x, -1, keepdims=True) + 1e-5)


def heads(x, count):
    return x.reshape(*x.shape[:2], count, -1)


def attend(q, k, v):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2.0
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)


def projections(h, p, count=HEADS):
    return [heads(h @ p[name], count) for name in ("query", "key", "value")]


def hidden(h, p):
    return jax.nn.silu(h @ p["gate"]) * (h @ p["up"])


def block(x, p):
    """On one device."""
    a = attend(*projections(norm(x), p))
    x = x + a.reshape(x.shape) @ p["out"]
    return x + (hidden(norm(x), p) @ p["down"] + p["bias"])


def tensor_parallel(x, p):
    a = attend(*projections(norm(x), p, HEADS // 4))
    x = x + lax.psum(a.reshape(*x.shape[:2], -1) @ p["out"], "t")
    return x + (lax.psum(hidden(norm(x), p) @ p["down"], "t") + p["bias"])


def sequence_parallel(x, p):
    """Tensor parallel, with the sequence split outside of the layers."""

    def gathered(h):
        return lax.all_gather(h, "t", axis=1, tiled=True)

    def scattered(part):
        return lax.psum_scatter(part, "t", scatter_dimension=1, tiled=True)

    a = attend(*projections(gathered(norm(x)), p, HEADS // 4))
    x = x + scattered(a.reshape(*a.shape[:2], -1) @ p["out"])
    return x + (scattered(hidden(gathered(norm(x)), p) @ p["down"]) + p["bias"])


def all_to_all(x, p):
    """The sequence split, but for attention, where the heads are."""
    q, k, v = (lax.all_to_all(y, "t", 2, 1, tiled=True) for y in projections(norm(x), p))
    a = lax.all_to_all(attend(q, k, v), "t", 1, 2, tiled=True)
    x = x + a.reshape(x.shape) @ p["out"]
    return x + (hidden(norm(x), p) @ p["down"] + p["bias"])


def keys_split(x, p):
    """Each device attends to its own keys; the softmax goes over all devices."""
    q, k, v = projections(norm(x), p)
    q = lax.all_gather(q, "t", axis=1, tiled=True)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2.0
    top = lax.pmax(lax.stop_gradient(scores.max(-1, keepdims=True)), "t")
    e = jnp.exp(scores - top)
    weights = e / lax.psum(e.sum(-1, keepdims=True), "t")
    parts = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    a = lax.psum_scatter(parts, "t", scatter_dimension=1, tiled=True)
    x = x + a.reshape(x.shape) @ p["out"]
    return x + (hidden(norm(x), p) @ p["down"] + p["bias"])


def features_split(x, p):
    """Everything split along the features, norms and sums of all layers included."""

    def mean(x, axis, keepdims):
        return lax.pmean(jnp.mean(x, axis, keepdims=keepdims), "t")

    def layer(h, name):
        return lax.psum_scatter(h @ p[name], "t", scatter_dimension=2, tiled=True)

    h = norm(x, mean)
    a = attend(*(heads(layer(h, name), HEADS // 4) for name in ("query", "key", "value")))
    x = x + layer(a.reshape(x.shape), "out")
    h = norm(x, mean)
    return x + (layer(jax.nn.silu(layer(h, "gate")) * layer(h, "up"), "down") + p["bias"])


def ring(x, p):
    """Keys and values go round, in a scan."""
    q, k, v = projections(norm(x), p)

    def hop(carry, _):
        k, v, above, below = carry
        e = jnp.exp(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2.0)
        above = above + jnp.einsum("bhqk,bkhd->bqhd", e, v)
        below = below + jnp.moveaxis(e.sum(-1), 1, 2)
        k, v = (lax.ppermute(a, "t", [(i, (i + 1) % 4) for i in range(4)]) for a in (k, v))
        return (k, v, above, below), None

    start = (k, v, jnp.zeros_like(v), jnp.zeros_like(v[..., 0]))
    (_, _, above, below), _ = lax.scan(hop, start, None, length=4)
    return x + (above / below[..., None]).reshape(x.shape) @ p["out"]


def ring_on_one_device(x, p):
    q, k, v = projections(norm(x), p)

    def hop(carry, pair):
        above, below = carry
        k, v = pair
        e = jnp.exp(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2.0)
        above = above + jnp.einsum("bhqk,bkhd->bqhd", e, v)
        return (above, below + jnp.moveaxis(e.sum(-1), 1, 2)), None

    pairs = tuple(jnp.stack(jnp.split(a, 4, axis=1)) for a in (k, v))
    (above, below), _ = lax.scan(hop, (jnp.zeros_like(v), jnp.zeros_like(v[..., 0])), pairs)
    return x + (above / below[..., None]).reshape(x.shape) @ p["out"]


def sharded(function, inputs, params, check_vma=True):
    """A function on all devices, with what splits the input and the parameters."""
    return jax.shard_map(
        function,
        mesh=mesh(),
        in_specs=(inputs, params),
        out_specs=inputs,
        check_vma=check_vma,
    )


_SEQUENCE, _FEATURES = P("d", "t", None), P("d", None, "t")
_BY_ROWS = dict.fromkeys(SHAPES, ROWS) | {"bias": P(None, None, "t")}
# Name: on one device, on several, and how input and parameters are split.
LAYOUTS = {
    "tensor parallel": (block, tensor_parallel, P("d"), TENSOR),
    "sequence parallel": (block, sequence_parallel, _SEQUENCE, TENSOR),
    "all to all": (block, all_to_all, _SEQUENCE, REPLICATED),
    "keys split": (block, keys_split, _SEQUENCE, REPLICATED),
    "features split": (block, features_split, _FEATURES, _BY_ROWS),
    "ring": (ring_on_one_device, ring, _SEQUENCE, REPLICATED),
}
