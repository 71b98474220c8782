"""Networks of the usual sizes in plain JAX: ViT, BERT, GPT-2, a Llama, VGG16 and ResNet-50.

Each function returns a score of the input, the shape of the input and the shapes of the weights.
Nothing is computed: to count FLOPs and bytes a function is compiled for shapes alone, and
`initialised` makes arrays of them for those who want to run it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

Loop = Literal["unrolled", "checkpoint", "scan", "scan of checkpoints"]


@dataclasses.dataclass(frozen=True)
class Model:
    """A function to be explained.

    Attributes:
        score: of an input and weights, a scalar.
        x: shape of the input.
        weights: shapes of the weights, a tree.
    """

    score: Callable[..., jax.Array]
    x: jax.ShapeDtypeStruct
    weights: Any

    def initialised(self) -> tuple[jax.Array, Any]:
        """An input and weights, drawn at random in the scale that keeps activations alive."""
        leaves, tree = jax.tree.flatten((self.x, self.weights))
        keys = jax.random.split(jax.random.key(0), len(leaves))

        def draw(key, like):
            fan_in = max(math.prod(like.shape[:-1]), 1) if like.ndim > 1 else 1
            return jax.random.normal(key, like.shape, like.dtype) / fan_in**0.5

        return jax.tree.unflatten(tree, map(draw, keys, leaves))


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The sizes of a transformer, and how its layers are written.

    Attributes:
        kind: vit (pre-norm), bert (post-norm), gpt2 (causal, pre-norm) or llama (causal, RMS
            norms, rotary positions, grouped queries, gated MLP).
        tokens: length of the sequence.
        width: of the residual stream.
        hidden: width of the MLP.
        heads: of the attention.
        groups: heads of keys and values.
        depth: number of layers.
        classes: entries of the output.
        loop: a Python loop or `lax.scan`, with a `jax.checkpoint` around each layer or without.
        dtype: of everything.
    """

    kind: Literal["vit", "bert", "gpt2", "llama"]
    tokens: int
    width: int = 768
    hidden: int = 3072
    heads: int = 12
    groups: int = 12
    depth: int = 12
    classes: int = 1000
    loop: Loop = "unrolled"
    dtype: Any = jnp.float32

    def model(self, batch: int) -> Model:
        """The function for a batch: of images for a ViT, else of embeddings."""
        blocks = {name: (self.depth, *shape) for name, shape in self._block_shapes().items()}
        if self.loop in ("unrolled", "checkpoint"):
            shapes: Any = [self._block_shapes() for _ in range(self.depth)]
        else:
            shapes = blocks
        weights = {"blocks": shapes, "head": (self.width, self.classes), "norm": (self.width,)}
        x = (batch, self.tokens, self.width)
        if self.kind == "vit":
            side = 16 * math.isqrt(self.tokens - 1)
            x = (batch, side, side, 3)
            weights |= {
                "patch": (16, 16, 3, self.width),
                "patch_bias": (self.width,),
                "class": (self.width,),
                "position": (self.tokens, self.width),
            }
        struct = functools.partial(jax.ShapeDtypeStruct, dtype=self.dtype)
        return Model(self.score, struct(x), jax.tree.map(struct, weights, is_leaf=_is_shape))

    def score(self, x: jax.Array, weights: Any) -> jax.Array:
        """The score of one class, summed over the batch."""
        if self.kind == "vit":
            x = _patches(x, weights)
        step = jax.checkpoint(self._block) if "checkpoint" in self.loop else self._block
        if isinstance(weights["blocks"], list):
            for block in weights["blocks"]:
                x = step(x, block)
        else:
            x, _ = lax.scan(lambda x, w: (step(x, w), None), x, weights["blocks"])
        last = x[:, 0 if self.kind in ("vit", "bert") else -1]
        if self.kind != "bert":
            last = self._norm(last, weights, "norm")
        return (last @ weights["head"])[:, 0].sum()

    def _block_shapes(self) -> dict[str, tuple[int, ...]]:
        width, hidden, inner = self.width, self.hidden, self.width // self.heads * self.groups
        shapes = {
            "query": (width, width),
            "key": (width, inner),
            "value": (width, inner),
            "out": (width, width),
            "up": (width, hidden),
            "down": (hidden, width),
            "norm1": (width,),
            "norm2": (width,),
        }
        if self.kind == "llama":
            return shapes | {"gate": (width, hidden)}
        biases = {f"{name}_bias": shape[-1:] for name, shape in shapes.items()}
        return shapes | biases

    def _block(self, x: jax.Array, w: Any) -> jax.Array:
        if self.kind == "bert":
            x = self._norm(x + self._attention(x, w), w, "norm1")
            return self._norm(x + self._mlp(x, w), w, "norm2")
        x = x + self._attention(self._norm(x, w, "norm1"), w)
        return x + self._mlp(self._norm(x, w, "norm2"), w)

    def _norm(self, x: jax.Array, w: Any, name: str) -> jax.Array:
        if self.kind != "llama":
            x = x - x.mean(axis=-1, keepdims=True)
        scale = lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        out, bias = x * scale * _like(w[name], x), w.get(f"{name}_bias")
        return out if bias is None else out + _like(bias, x)

    def _attention(self, x: jax.Array, w: Any) -> jax.Array:
        batch, tokens, size = *x.shape[:2], self.width // self.heads
        query, key, value = (
            _dense(x, w, name).reshape(batch, tokens, -1, size)
            for name in ("query", "key", "value")
        )
        if self.kind == "llama":
            query, key = _rotated(query), _rotated(key)
        mixed = jax.nn.dot_product_attention(
            query, key, value, is_causal=self.kind in ("gpt2", "llama")
        )
        return _dense(mixed.reshape(x.shape), w, "out")

    def _mlp(self, x: jax.Array, w: Any) -> jax.Array:
        if self.kind == "llama":
            return (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]
        return _dense(jax.nn.gelu(_dense(x, w, "up"), approximate=self.kind == "gpt2"), w, "down")


@dataclasses.dataclass(frozen=True)
class ConvNet:
    """VGG16 or ResNet-50 on square images, batch norms folded into the convolutions.

    Attributes:
        kind: which of the two.
        size: of the images.
    """

    kind: Literal["vgg16", "resnet50"]
    size: int = 224

    def model(self, batch: int) -> Model:
        """The function for a batch of images."""
        x = jax.ShapeDtypeStruct((batch, self.size, self.size, 3), jnp.float32)
        shapes: list[jax.ShapeDtypeStruct] = []

        def noted(*shape: int) -> jax.Array:
            shapes.append(jax.ShapeDtypeStruct(shape, jnp.float32))
            return jnp.zeros(shape)

        jax.eval_shape(lambda x: self._network(x, noted), x)
        return Model(self.score, x, shapes)

    def score(self, x: jax.Array, weights: Any) -> jax.Array:
        """The score of one class, summed over the batch."""
        supply = iter(weights)
        return self._network(x, lambda *shape: next(supply))[:, 0].sum()

    def _network(self, x: jax.Array, weight: Callable[..., jax.Array]) -> jax.Array:
        return _vgg16(x, weight) if self.kind == "vgg16" else _resnet50(x, weight)


def _vgg16(x: jax.Array, weight: Callable[..., jax.Array]) -> jax.Array:
    for channels, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(layers):
            x = jax.nn.relu(_convolution(x, weight, channels, 3))
        x = _max_pool(x, 2, 2, "VALID")
    x = x.reshape(x.shape[0], -1)
    for units in (4096, 4096):
        x = jax.nn.relu(_linear(x, weight, units))
    return _linear(x, weight, 1000)


def _resnet50(x: jax.Array, weight: Callable[..., jax.Array]) -> jax.Array:
    x = _max_pool(jax.nn.relu(_convolution(x, weight, 64, 7, 2)), 3, 2, "SAME")
    for stage, layers in enumerate((3, 4, 6, 3)):
        channels = 64 * 2**stage
        for layer in range(layers):
            stride = 2 if stage and not layer else 1
            y = jax.nn.relu(_convolution(x, weight, channels, 1))
            y = jax.nn.relu(_convolution(y, weight, channels, 3, stride))
            y = _convolution(y, weight, 4 * channels, 1)
            if not layer:
                x = _convolution(x, weight, 4 * channels, 1, stride)
            x = jax.nn.relu(x + y)
    return _linear(x.mean(axis=(1, 2)), weight, 1000)


def _convolution(x, weight, channels: int, size: int, stride: int = 1) -> jax.Array:
    kernel, bias = weight(size, size, x.shape[-1], channels), weight(channels)
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=dimensions)
    return y + _like(bias, y)


def _linear(x, weight, units: int) -> jax.Array:
    y = x @ weight(x.shape[-1], units)
    return y + _like(weight(units), y)


def _max_pool(x: jax.Array, size: int, stride: int, padding: str) -> jax.Array:
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def _patches(images: jax.Array, w: Any) -> jax.Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(
        images, w["patch"], (16, 16), "VALID", dimension_numbers=dimensions
    )
    x = (x + _like(w["patch_bias"], x)).reshape(x.shape[0], -1, x.shape[-1])
    first = jnp.broadcast_to(w["class"], (x.shape[0], 1, x.shape[-1]))
    x = jnp.concatenate([first, x], axis=1)
    return x + _like(w["position"], x)


def _dense(x: jax.Array, w: Any, name: str) -> jax.Array:
    y, bias = x @ w[name], w.get(f"{name}_bias")
    return y if bias is None else y + _like(bias, y)


def _rotated(x: jax.Array) -> jax.Array:
    """Rotary positions on the two halves of each head."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * 1e4 ** (-jnp.arange(half) / half)
    cos, sin = (f(angles).astype(x.dtype)[None, :, None] for f in (jnp.cos, jnp.sin))
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _like(weight: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(weight, x.shape)


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


ARCHITECTURES: dict[str, Transformer | ConvNet] = {
    "ViT-B/16": Transformer("vit", tokens=197),
    "BERT-base": Transformer("bert", tokens=128, classes=2),
    "GPT-2 small": Transformer("gpt2", tokens=128, classes=50257),
    "Llama, 12 layers": Transformer("llama", tokens=128, hidden=2048, groups=4, classes=32000),
    "VGG16": ConvNet("vgg16"),
    "ResNet-50": ConvNet("resnet50"),
}
