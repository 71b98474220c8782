"""The layers of the reference models, in the layouts of PyTorch, as plain JAX functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def linear(x, weight, bias=None):
    y = x @ weight.T
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


def conv(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    dims = weight.ndim - 2
    y = lax.conv_general_dilated(
        x,
        weight,
        (stride,) * dims,
        [(padding, padding)] * dims,
        rhs_dilation=(dilation,) * dims,
        feature_group_count=groups,
    )
    return _add_channels(y, bias)


def conv_transpose(x, weight, bias=None, stride=1, padding=0):
    dims = weight.ndim - 2
    kernel = jnp.flip(jnp.swapaxes(weight, 0, 1), axis=tuple(range(2, weight.ndim)))
    reach = weight.shape[2] - 1 - padding
    y = lax.conv_general_dilated(
        x, kernel, (1,) * dims, [(reach, reach)] * dims, lhs_dilation=(stride,) * dims
    )
    return _add_channels(y, bias)


def _add_channels(y, bias):
    if bias is None:
        return y
    return y + jnp.broadcast_to(bias.reshape(1, -1, *[1] * (y.ndim - 2)), y.shape)


def max_pool(x, size, stride=None, padding=0):
    stride = stride or size
    pads = [(0, 0), (0, 0)] + [(padding, padding)] * (x.ndim - 2)
    window = (1, 1) + (size,) * (x.ndim - 2)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, (1, 1) + (stride,) * (x.ndim - 2), pads)


def avg_pool(x, size, stride=None, padding=0):
    stride = stride or size
    pads = [(0, 0), (0, 0)] + [(padding, padding)] * (x.ndim - 2)
    window = (1, 1) + (size,) * (x.ndim - 2)
    total = lax.reduce_window(x, 0.0, lax.add, window, (1, 1) + (stride,) * (x.ndim - 2), pads)
    return total / size ** (x.ndim - 2)


def batch_norm(x, sd, name, eps=1e-5):
    def channels(a):
        return jnp.broadcast_to(a.reshape(1, -1, *[1] * (x.ndim - 2)), x.shape)

    inverse = 1 / jnp.sqrt(sd[f"{name}.running_var"] + eps)
    centred = x - channels(sd[f"{name}.running_mean"])
    return centred * channels(inverse * sd[f"{name}.weight"]) + channels(sd[f"{name}.bias"])


def named(prefix, sd):
    return {k[len(prefix) + 1 :]: v for k, v in sd.items() if k.startswith(prefix + ".")}


def layer(sd, name):
    return sd[f"{name}.weight"], sd.get(f"{name}.bias")


def mlp(x, sd):
    h = jax.nn.relu(linear(x, *layer(sd, "fc1")))
    h = jax.nn.relu(linear(h, *layer(sd, "fc2")))
    return linear(h, *layer(sd, "fc3"))


def cnn_with_batch_norm(x, sd):
    h = jax.nn.relu(batch_norm(conv(x, *layer(sd, "conv1"), padding=1), sd, "bn1"))
    h = jax.nn.relu(batch_norm(conv(h, *layer(sd, "conv2"), padding=1), sd, "bn2"))
    h = avg_pool(max_pool(h, 2), 2).reshape(x.shape[0], -1)
    return linear(jax.nn.relu(linear(h, *layer(sd, "fc1"))), *layer(sd, "fc2"))
