"""The small networks that learn the planted tasks: functions of their parameters, in plain JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Params = dict[str, Any]


def dense(key: Any, inputs: int, outputs: int, bias: bool = True) -> Params:
    """A layer as it is before training."""
    kernel = jax.random.normal(key, (inputs, outputs)) / inputs**0.5
    return {"kernel": kernel, "bias": jnp.zeros(outputs)} if bias else {"kernel": kernel}


def apply(layer: Params, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
    """A dense layer."""
    y = x @ layer["kernel"]
    return y + _row(layer["bias"], y) if "bias" in layer else y


def _row(a: Any, like: Any) -> Any:
    """An array with as many axes as another, for a sum that promotes no ranks."""
    return a.reshape((1,) * (like.ndim - a.ndim) + a.shape)


def init_mlp(key: Any, widths: tuple[int, ...]) -> Params:
    """Dense layers of these widths, the first that of the input."""
    keys = jax.random.split(key, len(widths) - 1)
    pairs = zip(widths, widths[1:], strict=False)
    both = enumerate(zip(keys, pairs, strict=True))
    return {f"layer{i}": dense(k, *pair) for i, (k, pair) in both}


def mlp(params: Params, x: Float[Array, "b i"]) -> Float[Array, "b classes"]:
    """Dense layers with ReLU between."""
    for i in range(len(params)):
        x = apply(params[f"layer{i}"], x)
        x = jax.nn.relu(x) if i + 1 < len(params) else x
    return x


def init_cnn(key: Any, channels: tuple[int, ...], first: int, flat: int, classes: int) -> Params:
    """Convolutions of these channels, the first of `first` pixels a side, and a dense head."""
    keys = jax.random.split(key, len(channels))
    params: Params = {}
    for i, (a, b) in enumerate(zip((1, *channels), channels, strict=False)):
        side = first if i == 0 else 3
        scale = (2 / (side * side * a)) ** 0.5
        kernel = scale * jax.random.normal(keys[i], (side, side, a, b))
        params[f"conv{i}"] = {"kernel": kernel, "bias": jnp.zeros(b)}
    return params | {"head": dense(jax.random.fold_in(key, 9), flat, classes)}


def cnn(
    params: Params, x: Float[Array, "b h w c"], *, stride: int, pools: int, whole: bool = False
) -> Float[Array, "b classes"]:
    """Convolutions with ReLU, the last `pools` pooled; ``whole`` takes the maximum over places."""
    count = len(params) - 1
    for i in range(count):
        steps = (stride, stride) if i == 0 else (1, 1)
        x = jax.nn.relu(_conv(params[f"conv{i}"], x, steps))
        x = _pooled(x) if i >= count - pools else x
    x = jnp.max(x, axis=(1, 2)) if whole else x.reshape(len(x), -1)
    return apply(params["head"], x)


def _conv(layer: Params, x: Any, steps: tuple[int, int]) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, layer["kernel"], steps, "SAME", dimension_numbers=numbers)
    return y + _row(layer["bias"], y) if "bias" in layer else y


def _pooled(x: Any, maximum: bool = True) -> Any:
    window = (1, 2, 2, 1)
    if maximum:
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    return lax.reduce_window(x, 0.0, lax.add, window, window, "VALID") / 4


def grid_of_digits(params: Params, x: Float[Array, "b 16 16 1"]) -> Float[Array, "b 10"]:
    """`relprop.zoo`'s CNN over a whole grid: its head reads every cell, and the mean counts."""
    for i in (1, 2, 3):
        x = jax.nn.relu(_norm(params[f"norm{i}"], _conv(params[f"conv{i}"], x, (1, 1))))
        x = x if i == 1 else _pooled(x, maximum=i == 2)
    batch, height, width, channels = x.shape
    cells = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    return jnp.mean(apply(params["head"], cells.reshape(batch, -1, 4 * channels)), axis=1)


def cells_of_digits(params: Params, x: Float[Array, "b 16 16 1"]) -> Float[Array, "b 40"]:
    """That CNN on every cell by itself, with classes of its own: nothing connects the cells."""
    batch = x.shape[0]
    cells = x.reshape(batch, 2, 8, 2, 8, 1).swapaxes(2, 3).reshape(4 * batch, 8, 8, 1)
    return grid_of_digits(params, cells).reshape(batch, 40)


def _norm(layer: Params, x: Any) -> Any:
    scale = layer["scale"] * lax.rsqrt(layer["var"] + 1e-5)
    return (x - _row(layer["mean"], x)) * _row(scale, x) + _row(layer["bias"], x)


def init_transformer(
    key: Any, vocabulary: int, length: int, width: int, layers: int, classes: int, before: int = 0
) -> Params:
    """Embeddings, positions, pre-norm blocks and a head.

    Where `before` is not 0, each token is first given what as many tokens before it are.
    """
    keys = iter(jax.random.split(key, 3 + 6 * layers))
    params: Params = {
        "embedding": jax.random.normal(next(keys), (vocabulary, width)) / width**0.5,
        "positions": jax.random.normal(next(keys), (length, width)) / width**0.5,
        "head": dense(next(keys), width, classes),
        "norm": _unit(width),
    }
    if before:
        taps = jax.random.split(jax.random.fold_in(key, 8), before)
        each = (dense(tap, width, width, bias=False) for tap in taps)
        params["before"] = {f"tap{i}": tap for i, tap in enumerate(each, 1)}
    for i in range(layers):
        block = {name: dense(next(keys), width, width) for name in ("query", "key", "value", "out")}
        block["up"] = dense(next(keys), width, 2 * width)
        block["down"] = dense(next(keys), 2 * width, width)
        params[f"block{i}"] = block | {"norm1": _unit(width), "norm2": _unit(width)}
    return params


def transformer(
    params: Params,
    x: Float[Array, "b tokens width"],
    mask: Any = None,
    *,
    heads: int,
    causal: bool,
) -> Float[Array, "b classes"]:
    """Pre-norm blocks; read at the last token if `causal`, else at the first.

    What the mask says is no token, at the end of a text, is not looked at.
    """
    given = x
    for by, tap in enumerate(params.get("before", {}).values(), 1):
        x = x + apply(tap, jnp.pad(given[:, :-by], ((0, 0), (by, 0), (0, 0))))
    x = x + _row(params["positions"], x)
    for name in sorted(name for name in params if name.startswith("block")):
        block = params[name]
        with jax.named_scope(name):
            x = x + _attention(block, _layer_norm(block["norm1"], x), heads, causal, mask)
            hidden = jax.nn.gelu(apply(block["up"], _layer_norm(block["norm2"], x)))
            x = x + apply(block["down"], hidden)
    x = _layer_norm(params["norm"], x)
    if causal and mask is not None:
        last = jnp.sum(mask, axis=1, dtype=jnp.int32) - 1
        return apply(params["head"], jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0])
    return apply(params["head"], x[:, -1 if causal else 0])


def init_vit(key: Any, side: int, patch: int, width: int, layers: int, classes: int) -> Params:
    """A transformer of the patches of an image, after a class token."""
    tokens = (side // patch) ** 2 + 1
    params = init_transformer(key, 1, tokens, width, layers, classes)
    params["class_token"] = params.pop("embedding")
    return params | {"patches": dense(jax.random.fold_in(key, 9), patch * patch, width)}


def vit(
    params: Params, x: Float[Array, "b side side 1"], *, patch: int, heads: int
) -> Float[Array, "b classes"]:
    """A vision transformer of one channel, read at its class token."""
    batch, side = x.shape[:2]
    count = side // patch
    cut = x.reshape(batch, count, patch, count, patch).swapaxes(2, 3)
    seen = apply(params["patches"], cut.reshape(batch, count * count, patch * patch))
    first = jnp.broadcast_to(params["class_token"][None], (batch, 1, seen.shape[-1]))
    tokens = jnp.concatenate([first, seen], axis=1)
    return transformer(params, tokens, heads=heads, causal=False)


def init_compiled(vocabulary: int, length: int, width: int, key_size: int, classes: int) -> Params:
    """The shapes of what Tracr compiles: blocks that only attend, two of them."""

    def part(inputs: int, outputs: int) -> Params:
        return {"kernel": jnp.zeros((inputs, outputs)), "bias": jnp.zeros(outputs)}

    def block() -> Params:
        enter = {name: part(width, key_size) for name in ("query", "key", "value")}
        return enter | {"out": part(key_size, width)}

    params: Params = {"block0": block(), "block1": block()}
    params |= {"embedding": jnp.zeros((vocabulary, width)), "positions": jnp.zeros((length, width))}
    return params | {"head": {"kernel": jnp.zeros((width, classes))}}


def compiled(params: Params, x: Float[Array, "b tokens width"]) -> Float[Array, "b classes"]:
    """A compiled program, read at the last token: no norms, and attention that sees all."""
    x = x + _row(params["positions"], x)
    for name in ("block0", "block1"):
        with jax.named_scope(name):
            x = x + _attention(params[name], x, 1, False, None)
    return apply(params["head"], x[:, -1])


def _attention(block: Params, x: Any, heads: int, causal: bool, mask: Any) -> Any:
    split = (*x.shape[:2], heads, -1)
    query, key, value = (apply(block[n], x).reshape(split) for n in ("query", "key", "value"))
    seen = None if mask is None else mask[:, None, None, :]
    mixed = jax.nn.dot_product_attention(query, key, value, mask=seen, is_causal=causal)
    return apply(block["out"], mixed.reshape(*x.shape[:2], -1))


def _unit(width: int) -> Params:
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}


def _layer_norm(layer: Params, x: Any) -> Any:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    whitened = centred * lax.rsqrt(variance + 1e-5)
    return whitened * _row(layer["scale"], x) + _row(layer["bias"], x)


def init_lstm(key: Any, inputs: int, width: int, classes: int) -> Params:
    """A layer of four gates, its forget gate open, and a head."""
    keys = jax.random.split(key, 3)
    gates = dense(keys[0], inputs, 4 * width)
    gates["bias"] = gates["bias"].at[width : 2 * width].set(1.0)
    recurrent = dense(keys[1], width, 4 * width, bias=False)
    return {"input": gates, "recurrent": recurrent, "head": dense(keys[2], width, classes)}


def lstm(params: Params, x: Float[Array, "b steps i"]) -> Float[Array, "b classes"]:
    """An LSTM, read at the last step."""
    width = params["recurrent"]["kernel"].shape[0]

    def step(state, now):
        hidden, cell = state
        gates = apply(params["input"], now) + apply(params["recurrent"], hidden)
        enter, forget, signal, leave = jnp.split(gates, 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(signal)
        return (jax.nn.sigmoid(leave) * jnp.tanh(cell), cell), None

    start = jnp.zeros((len(x), width), x.dtype)
    (hidden, _), _ = lax.scan(step, (start, start), x.swapaxes(0, 1))
    return apply(params["head"], hidden)


def init_state_space(key: Any, inputs: int, width: int, states: int, classes: int) -> Params:
    """A selective state space between projections, after a short convolution."""
    keys = jax.random.split(key, 7)
    return {
        "in_proj": dense(keys[0], inputs, 2 * width),
        "conv": {
            "kernel": jax.random.normal(keys[1], (4, width)) / 2,
            "bias": jnp.zeros(width),
        },
        "x_proj": dense(keys[2], width, 1 + 2 * states, bias=False),
        "dt_proj": {"kernel": jnp.ones((1, width)), "bias": jnp.full(width, -1.0)},
        "log_rates": jnp.log(jnp.broadcast_to(jnp.arange(1.0, states + 1), (width, states))),
        "skip": jnp.ones(width),
        "head": dense(keys[3], width, classes),
    }


def state_space(params: Params, x: Float[Array, "b steps i"]) -> Float[Array, "b classes"]:
    """One Mamba block, averaged over the steps."""
    signal, gate = jnp.split(apply(params["in_proj"], x), 2, axis=-1)
    padded = jnp.pad(signal, ((0, 0), (3, 0), (0, 0)))
    kernel = [_row(row, padded) for row in params["conv"]["kernel"]]
    taps = [padded[:, i : i + x.shape[1]] * row for i, row in enumerate(kernel)]
    u = jax.nn.silu(sum(taps[1:], taps[0]) + _row(params["conv"]["bias"], padded))
    states = params["log_rates"].shape[1]
    with jax.named_scope("x_proj"):  # by which `relprop.presets.mamba_lrp` finds the selection
        selected = apply(params["x_proj"], u)
    step, enter, leave = jnp.split(selected, [1, 1 + states], axis=-1)
    step = jax.nn.softplus(apply(params["dt_proj"], step))
    decay = jnp.exp(-step[..., None] * _row(jnp.exp(params["log_rates"]), step[..., None]))
    drive = (step * u)[..., None] * enter[:, :, None, :]

    def advance(state, now):
        decay, drive, leave = now
        state = decay * state + drive
        return state, jnp.sum(state * leave[:, None, :], axis=-1)

    start = jnp.zeros((len(x), *params["log_rates"].shape), x.dtype)
    moved = (decay.swapaxes(0, 1), drive.swapaxes(0, 1), leave.swapaxes(0, 1))
    _, out = lax.scan(advance, start, moved)
    out = out.swapaxes(0, 1) + _row(params["skip"], u) * u
    return apply(params["head"], jnp.mean(out * jax.nn.silu(gate), axis=1))
