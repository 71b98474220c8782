"""Models as people write them by hand, after a paper and without a library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from census.entry import Entry, Model, counts
from census.trees import features

T, D = 6, 16
Shapes = Mapping[str, tuple[int, ...]]
Function = Callable[[Any, jax.Array], jax.Array]
QKVO: Shapes = dict.fromkeys(("q", "k", "v", "o"), (D, D))
EXPERTS: Shapes = {"router": (D, 4), "up": (4, D, 24), "down": (4, 24, D)}
#: The ends of the edges of a graph of five nodes.
SENDERS, RECEIVERS = jnp.array([0, 1, 2, 3, 4, 0, 2]), jnp.array([1, 2, 3, 4, 0, 2, 0])


def entries() -> Iterator[Entry]:
    """All of them."""
    series, nodes, images = features(2, 12, 5), features(5, D), features(2, 8, 8, 3)
    for name, function, shapes, x, expected in (
        ("itransformer", itransformer, SERIES, series, counts(1, norm=3, activation=1)),
        ("mixer_of_series", mixer_of_series, {"a": (12, 24), "b": (24, 8)}, series, SCALED),
        ("gatv2", gatv2, {"s": (D, 8), "r": (D, 8), "a": (2, 4)}, nodes, counts(1, activation=1)),
        ("graph_transformer", graph_transformer, QKVO, nodes, counts(1)),
        ("experts", experts, EXPERTS, features(T, D), ROUTED),
        ("experts_choose", experts_choose, EXPERTS, features(T, D), ROUTED),
        ("switch", switch, EXPERTS, features(T, D), ROUTED),
        ("convnext_v2", convnext, CONVNEXT, features(2, 8, D), counts(norm=2, activation=1)),
        ("gru_unrolled", gru, GRU, features(T, D), UNROLLED),
        ("retnet", retnet, {**QKVO, "g": (D, D)}, features(T, D), counts(1, 1, 1, 1)),
        ("delta_net", delta_net, {**QKVO, "b": (D, 1)}, features(T, D), DELTA),
        ("ngpt", ngpt, {**QKVO, "u": (D, D), "d": (D, D)}, features(T, D), counts(1, 7, 1)),
        ("dynamic_tanh", dynamic_tanh, QKVO, features(T, D), counts(1, activation=1)),
        ("sigmoid_attention", sigmoid_attention, QKVO, features(T, D), counts(1, activation=1)),
        ("hyena", hyena, {"i": (D, 3 * D), "f": (T, D), "o": (D, D)}, features(T, D), counts()),
        ("standardised", standardised, {"c": (3, 3, 3, D)}, images, counts(activation=1)),
    ):
        yield Entry(name, "own", lambda a=(function, shapes, x, expected): _model(*a))


def _model(function: Function, shapes: Shapes, x: jax.Array, expected: Mapping[str, int]) -> Model:
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = {
        name: jax.random.normal(key, shape) / max(shape[-2], 1) ** 0.5
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return Model(function, params, x, expected=expected)


# The series is divided by its deviation, and the forecast multiplied by it again.

SERIES: Shapes = {**QKVO, "e": (12, D), "u": (D, 2 * D), "d": (2 * D, D), "h": (D, 4)}
SCALED = counts(norm=1, activation=1)


def _scaled_back(x: jax.Array, forecast: Callable[[jax.Array], jax.Array]) -> jax.Array:
    mean = x.mean(1, keepdims=True)
    deviation = jnp.sqrt(x.var(1, keepdims=True) + 1e-5)
    return forecast((x - mean) / deviation) * deviation + mean


def itransformer(p: Any, x: jax.Array) -> jax.Array:
    """Variates are tokens."""

    def forecast(x: jax.Array) -> jax.Array:
        h = x.mT @ p["e"]
        h = _layer_norm(h + _attended(p, h, lambda z: jax.nn.softmax(z / 4)) @ p["o"])
        h = _layer_norm(h + jax.nn.gelu(h @ p["u"]) @ p["d"])
        return (h @ p["h"]).mT

    return _scaled_back(x, forecast)


def mixer_of_series(p: Any, x: jax.Array) -> jax.Array:
    """A layer over time."""
    return _scaled_back(x, lambda x: (jax.nn.relu(x.mT @ p["a"]) @ p["b"]).mT)


def _layer_norm(x: jax.Array) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def _attended(p: Any, x: jax.Array, normalised: Callable[[jax.Array], jax.Array]) -> jax.Array:
    return normalised(x @ p["q"] @ (x @ p["k"]).mT) @ (x @ p["v"])


# Attention among the neighbours of a node.


def _among_neighbours(scores: jax.Array, values: jax.Array) -> jax.Array:
    e = jnp.exp(scores - jax.ops.segment_max(scores, RECEIVERS, 5)[RECEIVERS])
    weights = e / jax.ops.segment_sum(e, RECEIVERS, 5)[RECEIVERS]
    return jax.ops.segment_sum(weights[..., None] * values, RECEIVERS, 5).reshape(5, -1)


def gatv2(p: Any, x: jax.Array) -> jax.Array:
    """Two heads; the activation is inside of the score."""
    sent, received = ((x @ p[name]).reshape(5, 2, 4) for name in "sr")
    scores = (jax.nn.leaky_relu(sent[SENDERS] + received[RECEIVERS], 0.2) * p["a"]).sum(-1)
    return _among_neighbours(scores, sent[SENDERS])


def graph_transformer(p: Any, x: jax.Array) -> jax.Array:
    """Queries of nodes meet the keys of their neighbours."""
    q, k, v = ((x @ p[name]).reshape(5, 4, 4) for name in "qkv")
    scores = (q[RECEIVERS] * k[SENDERS]).sum(-1) / 2
    return x + _among_neighbours(scores, v[SENDERS]) @ p["o"]


# Mixtures of experts.

ROUTED = counts(activation=1, router=1)


def experts(p: Any, x: jax.Array) -> jax.Array:
    """Two per token, with renormalised weights; all are computed."""
    weights, chosen = lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
    weights = weights / weights.sum(-1, keepdims=True)
    weights = jnp.zeros((T, 4)).at[jnp.arange(T)[:, None], chosen].set(weights)
    each = jax.nn.gelu(jnp.einsum("td,edh->eth", x, p["up"]))
    return x + jnp.einsum("eth,ehd,te->td", each, p["down"], weights)


def experts_choose(p: Any, x: jax.Array) -> jax.Array:
    """Each expert takes the three tokens that it has the largest share of."""
    weights, chosen = lax.top_k(jax.nn.softmax(x @ p["router"]).T, 3)
    each = jax.nn.gelu(jnp.einsum("ecd,edh->ech", x[chosen], p["up"]))
    each = jnp.einsum("ech,ehd->ecd", each, p["down"]) * weights[..., None]
    return x + jnp.zeros_like(x).at[chosen.reshape(-1)].add(each.reshape(-1, D))


def switch(p: Any, x: jax.Array) -> jax.Array:
    """One per token, whose weights are looked up."""
    shares = jax.nn.softmax(x @ p["router"])
    chosen = shares.argmax(-1)
    inner = jax.nn.relu(jnp.einsum("td,tdh->th", x, p["up"][chosen]))
    return x + shares.max(-1)[:, None] * jnp.einsum("th,thd->td", inner, p["down"][chosen])


# Convolutions, recurrences and what else is not quite a transformer.

CONVNEXT: Shapes = {"c": (7, 1, D), "u": (D, 4 * D), "d": (4 * D, D), "g": (1, 4 * D)}
GRU: Shapes = {f"{kind}{gate}": (D, D) for kind in "wu" for gate in "zrn"}
# The products with the first state, which is zero, are gates as well, but for one that is dropped.
UNROLLED = counts(activation=3 * T, gate=3 * T - 1, recurrence=1)
# What is written to the state is no gate.
DELTA = counts(norm=2, activation=3, recurrence=1)


def convnext(p: Any, x: jax.Array) -> jax.Array:
    """A block of ConvNeXt V2, with its global response norm."""
    h = lax.conv_general_dilated(
        x, p["c"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=D
    )
    h = jax.nn.gelu(_layer_norm(h) @ p["u"])
    length = jnp.linalg.norm(h, axis=1, keepdims=True)
    h = p["g"] * (h * (length / (length.mean(-1, keepdims=True) + 1e-6))) + h
    return x + h @ p["d"]


def gru(p: Any, x: jax.Array) -> jax.Array:
    """A loop of Python over time."""
    h = jnp.zeros(D)
    for token in x:
        z, r = (jax.nn.sigmoid(token @ p["w" + gate] + h @ p["u" + gate]) for gate in "zr")
        n = jnp.tanh(token @ p["wn"] + r * (h @ p["un"]))
        h = (1 - z) * n + z * h
    return h


def retnet(p: Any, x: jax.Array) -> jax.Array:
    """Retention: a map that decays with distance, and no softmax."""
    q, k, v = ((x @ p[name]).reshape(T, 2, 8).swapaxes(0, 1) for name in "qkv")
    distance = jnp.arange(T)[:, None] - jnp.arange(T)
    decay = jnp.where(distance >= 0, jnp.array([0.9, 0.97])[:, None, None] ** distance, 0)
    h = (q @ k.mT * decay) @ v
    h = h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6)
    return x + (jax.nn.silu(x @ p["g"]) * h.swapaxes(0, 1).reshape(T, D)) @ p["o"]


def delta_net(p: Any, x: jax.Array) -> jax.Array:
    """The delta rule: what a key has in the state is replaced by its value."""

    def unit(z: jax.Array) -> jax.Array:
        return z * lax.rsqrt((z * z).sum(-1, keepdims=True) + 1e-6)

    def step(state: jax.Array, token: Any) -> Any:
        q, k, v, b = token
        state = state + b * jnp.outer(k, v - k @ state)
        return state, q @ state

    q, k = (unit(jax.nn.silu(x @ p[name])) for name in "qk")
    token = (q, k, x @ p["v"], jax.nn.sigmoid(x @ p["b"]))
    return x + lax.scan(step, jnp.zeros((D, D)), token)[1] @ p["o"]


def ngpt(p: Any, x: jax.Array) -> jax.Array:
    """Everything is a unit vector."""

    def unit(z: jax.Array) -> jax.Array:
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)

    x = unit(x)
    scores = 4 * unit(x @ p["q"]) @ unit(x @ p["k"]).mT
    x = unit(x + 0.3 * (unit(jax.nn.softmax(scores) @ (x @ p["v"]) @ p["o"]) - x))
    return unit(x + 0.3 * (unit(jax.nn.silu(x @ p["u"]) @ p["d"]) - x))


def dynamic_tanh(p: Any, x: jax.Array) -> jax.Array:
    """A transformer without norms."""
    return x + _attended(p, jnp.tanh(0.7 * x), lambda z: jax.nn.softmax(z / 4)) @ p["o"]


def sigmoid_attention(p: Any, x: jax.Array) -> jax.Array:
    """Each token is looked at or not, whatever the others are."""
    return x + _attended(p, x, lambda z: jax.nn.sigmoid(z / 4 - 2)) @ p["o"]


def hyena(p: Any, x: jax.Array) -> jax.Array:
    """A long convolution by Fourier transforms, between two products."""
    a, b, v = jnp.split(x @ p["i"], 3, -1)
    transformed = jnp.fft.rfft(b * v, 2 * T, 0) * jnp.fft.rfft(p["f"], 2 * T, 0)
    return x + (a * jnp.fft.irfft(transformed, 2 * T, 0)[:T]) @ p["o"]


def standardised(p: Any, x: jax.Array) -> jax.Array:
    """A convolution whose weights are standardised, as in networks without norms."""
    c = p["c"]
    c = (c - c.mean((0, 1, 2))) / jnp.sqrt(c.var((0, 1, 2)) * 27 + 1e-4)
    return jax.nn.gelu(
        lax.conv_general_dilated(x, c, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )
