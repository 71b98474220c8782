"""A ViT as the users of each framework write it gives the map of the reference implementation."""

from __future__ import annotations

import json
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "jax")  # Keras reads it once, when it is imported.

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relprop.attribution import transformer_attribution
from relprop.interop import from_keras

pytestmark = pytest.mark.frameworks
GOLDEN = dict(np.load(pathlib.Path(__file__).parents[1] / "data" / "chefer_vit.npz"))
CONFIG = json.loads(str(GOLDEN["config"]))
WIDTH, HEADS, PATCH = CONFIG["embed_dim"], CONFIG["num_heads"], CONFIG["patch_size"]
HIDDEN, DEPTH, CLASSES = int(CONFIG["mlp_ratio"] * WIDTH), CONFIG["depth"], CONFIG["num_classes"]
TOKENS = (CONFIG["img_size"] // PATCH) ** 2
CASE = "img0/argmax"
PROJECTIONS = ("query", "key", "value")


def given(name):
    return GOLDEN[f"sd/{name}"]


def qkv(block, kind):
    """Weights ``[out, in]`` or biases of queries, keys and values."""
    return np.split(given(f"blocks.{block}.attn.qkv.{kind}"), 3)


def by_heads(weight):
    """From ``[heads * size, in]`` to ``[in, heads, size]``, or from a bias to ``[heads, size]``."""
    parts = weight.reshape(HEADS, WIDTH // HEADS, *weight.shape[1:])
    return parts if weight.ndim == 1 else np.moveaxis(parts, -1, 0)


def flax_nnx():
    nnx = pytest.importorskip("flax.nnx", reason="Flax is an extra")
    rngs = nnx.Rngs(0)

    class Block(nnx.Module):
        def __init__(self):
            self.norm1 = nnx.LayerNorm(WIDTH, epsilon=1e-6, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, WIDTH, decode=False, rngs=rngs)
            self.norm2 = nnx.LayerNorm(WIDTH, epsilon=1e-6, rngs=rngs)
            self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
            self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

        def __call__(self, x):
            x = x + self.attention(self.norm1(x))
            return x + self.down(nnx.gelu(self.up(self.norm2(x)), approximate=False))

    class ViT(nnx.Module):
        def __init__(self):
            size = (PATCH, PATCH)
            self.patches = nnx.Conv(3, WIDTH, size, strides=size, padding="VALID", rngs=rngs)
            self.cls = nnx.Param(jnp.asarray(given("cls_token")))
            self.positions = nnx.Param(jnp.asarray(given("pos_embed")))
            self.blocks = nnx.List([Block() for _ in range(DEPTH)])
            self.norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
            self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

        def __call__(self, x):
            x = self.patches(x).reshape(x.shape[0], TOKENS, WIDTH)
            x = jnp.concatenate([self.cls[...], x], axis=1) + self.positions[...]
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x)[:, 0])

    def dense(layer, name):
        layer.kernel = nnx.Param(jnp.asarray(given(f"{name}.weight").T))
        layer.bias = nnx.Param(jnp.asarray(given(f"{name}.bias")))

    def norm(layer, name):
        layer.scale = nnx.Param(jnp.asarray(given(f"{name}.weight")))
        layer.bias = nnx.Param(jnp.asarray(given(f"{name}.bias")))

    model = ViT()
    kernel = given("patch_embed.proj.weight").transpose(2, 3, 1, 0)
    model.patches.kernel = nnx.Param(jnp.asarray(kernel))
    model.patches.bias = nnx.Param(jnp.asarray(given("patch_embed.proj.bias")))
    norm(model.norm, "norm")
    dense(model.head, "head")
    for i, block in enumerate(model.blocks):
        norm(block.norm1, f"blocks.{i}.norm1")
        norm(block.norm2, f"blocks.{i}.norm2")
        dense(block.up, f"blocks.{i}.mlp.fc1")
        dense(block.down, f"blocks.{i}.mlp.fc2")
        pairs = zip(PROJECTIONS, qkv(i, "weight"), qkv(i, "bias"), strict=True)
        for name, weight, bias in pairs:
            layer = getattr(block.attention, name)
            layer.kernel = nnx.Param(jnp.asarray(by_heads(weight)))
            layer.bias = nnx.Param(jnp.asarray(by_heads(bias)))
        out = given(f"blocks.{i}.attn.proj.weight").T.reshape(HEADS, -1, WIDTH)
        block.attention.out.kernel = nnx.Param(jnp.asarray(out))
        block.attention.out.bias = nnx.Param(jnp.asarray(given(f"blocks.{i}.attn.proj.bias")))
    return model, lambda image: image.transpose(1, 2, 0)[None]


def equinox():
    eqx = pytest.importorskip("equinox", reason="Equinox is an extra")
    keys = iter(jax.random.split(jax.random.key(0), 4 * DEPTH + 2))

    class Block(eqx.Module):
        norm1: eqx.nn.LayerNorm
        attention: eqx.nn.MultiheadAttention
        norm2: eqx.nn.LayerNorm
        up: eqx.nn.Linear
        down: eqx.nn.Linear

        def __init__(self, i):
            self.norm1 = norm(eqx.nn.LayerNorm(WIDTH, 1e-6), f"blocks.{i}.norm1")
            biases = dict.fromkeys([f"use_{n}_bias" for n in (*PROJECTIONS, "output")], True)
            attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, **biases, key=next(keys))
            layers = (attention.query_proj, attention.key_proj, attention.value_proj)
            pairs = zip(layers, qkv(i, "weight"), qkv(i, "bias"), strict=True)
            filled = [with_weights(layer, w, b) for layer, w, b in pairs]
            filled.append(named(attention.output_proj, f"blocks.{i}.attn.proj"))
            self.attention = eqx.tree_at(
                lambda a: (a.query_proj, a.key_proj, a.value_proj, a.output_proj), attention, filled
            )
            self.norm2 = norm(eqx.nn.LayerNorm(WIDTH, 1e-6), f"blocks.{i}.norm2")
            self.up = named(eqx.nn.Linear(WIDTH, HIDDEN, key=next(keys)), f"blocks.{i}.mlp.fc1")
            self.down = named(eqx.nn.Linear(HIDDEN, WIDTH, key=next(keys)), f"blocks.{i}.mlp.fc2")

        def __call__(self, x):
            h = jax.vmap(self.norm1)(x)
            x = x + self.attention(h, h, h)
            h = jax.vmap(self.up)(jax.vmap(self.norm2)(x))
            return x + jax.vmap(self.down)(jax.nn.gelu(h, approximate=False))

    class ViT(eqx.Module):
        patches: eqx.nn.Conv2d
        cls: jax.Array
        positions: jax.Array
        blocks: list[Block]
        norm: eqx.nn.LayerNorm
        head: eqx.nn.Linear

        def __init__(self):
            patches = eqx.nn.Conv2d(3, WIDTH, PATCH, PATCH, key=next(keys))
            bias = given("patch_embed.proj.bias").reshape(-1, 1, 1)
            self.patches = with_weights(patches, given("patch_embed.proj.weight"), bias)
            self.cls = jnp.asarray(given("cls_token")[0])
            self.positions = jnp.asarray(given("pos_embed")[0])
            self.blocks = [Block(i) for i in range(DEPTH)]
            self.norm = norm(eqx.nn.LayerNorm(WIDTH, 1e-5), "norm")
            self.head = named(eqx.nn.Linear(WIDTH, CLASSES, key=next(keys)), "head")

        def __call__(self, x):
            x = self.patches(x).reshape(WIDTH, TOKENS).T
            x = jnp.concatenate([self.cls, x]) + self.positions
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x[0]))

    def with_weights(layer, weight, bias):
        arrays = (jnp.asarray(weight), jnp.asarray(bias))
        return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, arrays)

    def named(layer, name):
        return with_weights(layer, given(f"{name}.weight"), given(f"{name}.bias"))

    norm = named
    model = ViT()
    return lambda x: model(x)[None], lambda image: image


def keras():
    keras = pytest.importorskip("keras", reason="Keras is an extra")
    layers = keras.layers

    class Embedded(layers.Layer):
        """A class token before the patches, and positions."""

        def build(self, shape):
            self.cls = self.add_weight(shape=(1, 1, WIDTH), name="cls")
            self.positions = self.add_weight(shape=(1, TOKENS + 1, WIDTH), name="positions")

        def call(self, x):
            cls = keras.ops.repeat(self.cls, keras.ops.shape(x)[0], axis=0)
            return keras.ops.concatenate([cls, x], axis=1) + self.positions

    weights = {}

    def filled(layer, *arrays):
        weights[layer] = arrays
        return layer

    def dense(size, name, activation=None):
        arrays = given(f"{name}.weight").T, given(f"{name}.bias")
        return filled(layers.Dense(size, activation), *arrays)

    def norm(name, epsilon):
        arrays = given(f"{name}.weight"), given(f"{name}.bias")
        return filled(layers.LayerNormalization(epsilon=epsilon), *arrays)

    x = inputs = keras.Input((CONFIG["img_size"], CONFIG["img_size"], 3))
    kernel = given("patch_embed.proj.weight").transpose(2, 3, 1, 0)
    x = filled(layers.Conv2D(WIDTH, PATCH, PATCH), kernel, given("patch_embed.proj.bias"))(x)
    x = layers.Reshape((TOKENS, WIDTH))(x)
    x = filled(Embedded(), given("cls_token"), given("pos_embed"))(x)
    for i in range(DEPTH):
        pairs = zip(qkv(i, "weight"), qkv(i, "bias"), strict=True)
        arrays = [by_heads(array) for pair in pairs for array in pair]
        arrays.append(given(f"blocks.{i}.attn.proj.weight").T.reshape(HEADS, -1, WIDTH))
        arrays.append(given(f"blocks.{i}.attn.proj.bias"))
        attention = filled(layers.MultiHeadAttention(HEADS, WIDTH // HEADS), *arrays)
        h = norm(f"blocks.{i}.norm1", 1e-6)(x)
        x = layers.Add()([x, attention(h, h)])
        h = norm(f"blocks.{i}.norm2", 1e-6)(x)
        h = dense(WIDTH, f"blocks.{i}.mlp.fc2")(dense(HIDDEN, f"blocks.{i}.mlp.fc1", "gelu")(h))
        x = layers.Add()([x, h])
    outputs = dense(CLASSES, "head")(norm("norm", 1e-5)(x)[:, 0])
    model = keras.Model(inputs, outputs)
    for layer, arrays in weights.items():
        layer.set_weights([np.asarray(a) for a in arrays])
    fn, params = from_keras(model)
    return lambda x: fn(params, x), lambda image: image.transpose(1, 2, 0)[None]


def error(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("framework", [flax_nnx, equinox, keras])
def test_the_map_of_the_reference(framework):
    model, arranged = framework()
    index = int(GOLDEN[f"{CASE}/class_index"])

    def score(x):
        return model(x)[0, index]

    @jax.jit
    def explain(image):
        x = arranged(image)
        return transformer_attribution(score, start_layer=1)(x), score(x)

    tokens, logit = explain(jnp.asarray(GOLDEN["images"][0]))
    assert abs(logit - GOLDEN["logits_f64"][0, index]) < 1e-5
    # The reference's own float32 differs from its float64 by up to 2e-4 here.
    assert error(tokens[1:], GOLDEN[f"{CASE}/ta_s1_f64"][0]) < 2e-4
