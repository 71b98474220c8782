"""Models in Equinox, Equimo, Haiku, Penzai and plain JAX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from census.entry import Entry, Model, counts
from census.trees import features, perturbed

L = 2
WIDTH = 16
HEADS = 2
TOKENS = 5


def entries() -> Iterator[Entry]:
    """All of them."""
    yield Entry("transformer", "equinox", equinox_transformer, tier="fast")
    yield Entry("cnn", "equinox", equinox_cnn)
    yield Entry("recurrent", "equinox", equinox_recurrent)
    yield Entry("vit", "equimo", equimo_vit)
    yield Entry("transformer", "haiku", haiku_transformer)
    yield Entry("lstm", "haiku", haiku_lstm)
    yield Entry("resnet18", "haiku", lambda: haiku_net("ResNet18", counts(activation=17)))
    yield Entry("mobilenetv1", "haiku", lambda: haiku_net("MobileNetV1", counts(activation=27)))
    yield Entry("llama", "penzai", penzai_llama)
    yield Entry("mlp", "plain", plain_mlp)
    yield Entry("attention", "plain", plain_attention, tier="fast")
    yield Entry("linear_attention", "plain", plain_linear_attention)


def equinox_model(module: Any, x: jax.Array, expected: Mapping[str, int], *more: Any) -> Model:
    """A module of Equinox in inference mode; `more` are further arguments of it."""
    import equinox as eqx

    params, static = eqx.partition(eqx.nn.inference_mode(module), eqx.is_inexact_array)

    def function(params: Any, x: jax.Array) -> jax.Array:
        out = eqx.combine(params, static)(x, *more)
        return out[0] if isinstance(out, tuple) else out

    return Model(function, perturbed(params), x, expected=expected)


def equinox_transformer() -> Model:
    """Rotary embeddings, RMSNorm, GELU."""
    import equinox as eqx

    class Block(eqx.Module):
        norms: list[Any]
        attention: Any
        rope: Any
        mlp: Any

        def __init__(self, key: jax.Array):
            keys = jax.random.split(key)
            self.norms = [eqx.nn.RMSNorm(WIDTH) for _ in range(2)]
            self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=keys[0])
            self.rope = eqx.nn.RotaryPositionalEmbedding(WIDTH // HEADS)
            self.mlp = eqx.nn.MLP(WIDTH, WIDTH, 24, 1, activation=jax.nn.gelu, key=keys[1])

        def rotate(self, query: Any, key: Any, value: Any) -> Any:
            turn = jax.vmap(self.rope, in_axes=1, out_axes=1)
            return turn(query), turn(key), value

        def __call__(self, x: jax.Array) -> jax.Array:
            y = jax.vmap(self.norms[0])(x)
            x = x + self.attention(y, y, y, process_heads=self.rotate)
            return x + jax.vmap(lambda token: self.mlp(self.norms[1](token)))(x)

    class Transformer(eqx.Module):
        blocks: list[Block]
        norm: Any

        def __init__(self, key: jax.Array):
            self.blocks = [Block(k) for k in jax.random.split(key, L)]
            self.norm = eqx.nn.LayerNorm(WIDTH)

        def __call__(self, x: jax.Array) -> jax.Array:
            for block in self.blocks:
                x = block(x)
            return jax.vmap(self.norm)(x)

    expected = counts(attention=L, norm=2 * L + 1, activation=L)
    return equinox_model(Transformer(jax.random.key(0)), features(TOKENS, WIDTH), expected)


def equinox_cnn() -> Model:
    """Convolution, batch norm with its state, group norm, poolings."""
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 3)
    layers = [
        eqx.nn.Conv2d(3, 8, 3, key=keys[0]),
        eqx.nn.BatchNorm(8, axis_name="batch", mode="ema"),
        eqx.nn.Lambda(jax.nn.leaky_relu),
        eqx.nn.MaxPool2d(2, 2),
        eqx.nn.Conv2d(8, 8, 3, key=keys[1]),
        eqx.nn.GroupNorm(2, 8),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.AdaptiveAvgPool2d(1),
        eqx.nn.Lambda(jnp.ravel),
        eqx.nn.Linear(8, 10, key=keys[2]),
    ]
    module, state = eqx.nn.make_with_state(lambda: eqx.nn.Sequential(layers))()
    return equinox_model(module, features(3, 12, 12), counts(norm=1, activation=2), state)


def equinox_recurrent() -> Model:
    """LSTM, then GRU; the body of each scan counts once."""
    import equinox as eqx

    class Recurrent(eqx.Module):
        lstm: Any
        gru: Any

        def __init__(self, key: jax.Array):
            keys = jax.random.split(key)
            self.lstm = eqx.nn.LSTMCell(WIDTH, WIDTH, key=keys[0])
            self.gru = eqx.nn.GRUCell(WIDTH, WIDTH, key=keys[1])

        def __call__(self, x: jax.Array) -> jax.Array:
            start = (jnp.zeros(WIDTH), jnp.zeros(WIDTH))

            def step(state: Any, token: jax.Array) -> Any:
                state = self.lstm(token, state)
                return state, state[0]

            _, hidden = jax.lax.scan(step, start, x)
            last, _ = jax.lax.scan(lambda h, t: (self.gru(t, h), None), start[0], hidden)
            return last

    # This GRU is ``new + update * (old - new)``: its update gate is one product.
    expected = counts(activation=5 + 3, gate=3 + 2, recurrence=2)
    return equinox_model(Recurrent(jax.random.key(0)), features(TOKENS, WIDTH), expected)


def equimo_vit() -> Model:
    """The vision transformer of Equimo."""
    import equimo.models

    model = equimo.models.VisionTransformer(
        img_size=16,
        in_channels=3,
        dim=WIDTH,
        patch_size=4,
        num_heads=[HEADS],
        depths=[L],
        num_classes=10,
        key=jax.random.key(0),
    )
    expected = counts(attention=L, norm=2 * L + 1, activation=L)
    return equinox_model(model, features(3, 16, 16), expected, jax.random.key(1))


def haiku_model(forward: Any, x: jax.Array, expected: Mapping[str, int]) -> Model:
    """A function of ``(x, is_training)`` that uses modules of Haiku."""
    import haiku as hk

    transformed = hk.transform_with_state(forward)
    params, state = transformed.init(jax.random.key(0), x, True)
    # Nothing was averaged yet: all variances would be zero.
    state = {
        name: jax.tree.map(jnp.ones_like, s) if "var_ema" in name else s
        for name, s in state.items()
    }

    def function(params: Any, x: jax.Array) -> jax.Array:
        return transformed.apply(params, state, None, x, False)[0]

    return Model(function, perturbed(params), x, expected=expected)


def haiku_transformer() -> Model:
    """Post-norm blocks."""
    import haiku as hk

    def forward(x: jax.Array, is_training: bool) -> jax.Array:
        start = hk.initializers.VarianceScaling()
        for _ in range(L):
            attention = hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=start)
            x = hk.LayerNorm(-1, True, True)(x + attention(x, x, x))
            hidden = jax.nn.gelu(hk.Linear(24)(x))
            x = hk.LayerNorm(-1, True, True)(x + hk.Linear(WIDTH)(hidden))
        return x

    expected = counts(attention=L, norm=2 * L, activation=L)
    return haiku_model(forward, features(1, TOKENS, WIDTH), expected)


def haiku_lstm() -> Model:
    """An LSTM, unrolled in time."""
    import haiku as hk

    def forward(x: jax.Array, is_training: bool) -> jax.Array:
        cell = hk.LSTM(WIDTH)
        out, _ = hk.static_unroll(cell, x, cell.initial_state(1))
        return out[-1]

    # In the first step there is nothing to forget: the state is zero, so that is no gate.
    steps = TOKENS
    expected = counts(activation=5 * steps - 1, gate=3 * steps - 1, recurrence=1)
    return haiku_model(forward, features(steps, 1, WIDTH), expected)


def haiku_net(name: str, expected: Mapping[str, int]) -> Model:
    """A network of `haiku.nets`."""
    import haiku as hk

    def forward(x: jax.Array, is_training: bool) -> jax.Array:
        return getattr(hk.nets, name)(num_classes=10)(x, is_training)

    return haiku_model(forward, features(1, 32, 32, 3), expected)


def penzai_llama() -> Model:
    """The Llama-like transformer of Penzai on tokens; explained is its table of embeddings."""
    from penzai import pz
    from penzai.models.transformer.variants import llamalike_common as llamalike

    config = llamalike.LlamalikeTransformerConfig(
        num_kv_heads=1,
        query_head_multiplier=2,
        embedding_dim=WIDTH,
        projection_dim=8,
        mlp_hidden_dim=24,
        num_decoder_blocks=L,
        vocab_size=20,
        mlp_variant="swiglu",
        rope_wavelength=10_000.0,
        tie_embedder_and_logits=False,
    )
    model = llamalike.build_llamalike_transformer(config, init_base_rng=jax.random.key(0))
    unbound, variables = pz.unbind_params(model, freeze=True)
    # Penzai's arrays have named axes; their values are the leaves.
    (table, *params), tree = jax.tree.flatten(perturbed(variables))

    def function(params: Any, table: jax.Array) -> jax.Array:
        bound = pz.bind_variables(unbound, jax.tree.unflatten(tree, [table, *params]))
        tokens = pz.nx.wrap(jnp.array([3, 1, 4, 1, 5])).tag("seq")
        logits = bound(tokens, token_positions=pz.nx.arange("seq", TOKENS))
        return logits.untag("seq", "vocabulary").unwrap()[-1]

    expected = counts(attention=L, norm=2 * L + 1, activation=L, gate=L)
    return Model(function, params, table, target=(3,), expected=expected)


def plain_mlp() -> Model:
    """What a first tutorial has."""
    shapes = [(16, 24), (24, 24), (24, 10)]
    params = [(features(*shape) / 4, features(shape[1])) for shape in shapes]

    def function(params: Any, x: jax.Array) -> jax.Array:
        for weight, bias in params[:-1]:
            x = jnp.tanh(x @ weight + bias)
        weight, bias = params[-1]
        return x @ weight + bias

    return Model(function, params, features(16), target=(1,), expected=counts(activation=2))


def _qkv(params: Any, x: jax.Array) -> list[jax.Array]:
    return [(x @ w).reshape(1, TOKENS, HEADS, -1) for w in params["qkv"]]


def _attention_params() -> Any:
    keys = jax.random.split(jax.random.key(0), 4)
    weights = [jax.random.normal(k, (WIDTH, WIDTH)) / 4 for k in keys]
    return {"qkv": weights[:3], "out": weights[3]}


def plain_attention() -> Model:
    """`jax.nn.dot_product_attention`, causal."""

    def function(params: Any, x: jax.Array) -> jax.Array:
        mixed = jax.nn.dot_product_attention(*_qkv(params, x), is_causal=True)
        return x + mixed.reshape(x.shape) @ params["out"]

    x = features(1, TOKENS, WIDTH)
    return Model(function, _attention_params(), x, expected=counts(attention=1))


def plain_linear_attention() -> Model:
    """Attention without softmax: products with feature maps, and a sum that divides."""

    def function(params: Any, x: jax.Array) -> jax.Array:
        query, key, value = _qkv(params, x)
        query, key = jax.nn.elu(query) + 1, jax.nn.elu(key) + 1
        state = jnp.einsum("bthd,bthe->bhde", key, value)
        total = jnp.einsum("bthd,bhd->bth", query, key.sum(axis=1))
        mixed = jnp.einsum("bthd,bhde->bthe", query, state) / total[..., None]
        return x + mixed.reshape(x.shape) @ params["out"]

    x = features(1, TOKENS, WIDTH)
    return Model(function, _attention_params(), x, expected=counts(attention=1, activation=2))
