"""Models in Flax NNX and Linen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from census.entry import Entry, Model, counts
from census.trees import features, perturbed

L = 2
WIDTH = 16
HEADS = 2
TOKENS = 5
PRE_NORM = counts(attention=L, norm=2 * L + 1, activation=L)


def entries() -> Iterator[Entry]:
    """All of them."""
    yield Entry("vit", "nnx", nnx_vit, tier="fast")
    yield Entry("causal_lm", "nnx", nnx_causal_lm)
    yield Entry("cnn", "nnx", nnx_cnn)
    yield Entry("scan_over_layers", "nnx", nnx_scan)
    yield Entry("recurrent", "nnx", nnx_recurrent)
    yield Entry("transformer", "linen", linen_transformer, tier="fast")
    yield Entry("cnn", "linen", linen_cnn)
    yield Entry("scan_and_remat", "linen", linen_scan)
    yield Entry("recurrent", "linen", linen_recurrent)
    yield Entry("weight_norm", "linen", linen_weight_norm)


def nnx_model(module: Any, x: jax.Array, expected: Mapping[str, int]) -> Model:
    """A module of NNX in inference mode."""
    from flax import nnx

    module.eval()
    graph, params, rest = nnx.split(module, (nnx.Param, nnx.BatchStat), ...)

    def function(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, params, rest)(x)

    return Model(function, perturbed(params), x, expected=expected)


def linen_model(module: Any, x: jax.Array, expected: Mapping[str, int]) -> Model:
    """A module of Linen."""
    variables = module.init(jax.random.key(0), x)
    return Model(module.apply, perturbed(variables), x, expected=expected)


def nnx_block() -> Callable[..., Any]:
    """A class of pre-norm transformer blocks."""
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs, norm: Any, activation: Any, gated: bool = False):
            self.norms = nnx.List([norm(WIDTH, rngs=rngs) for _ in range(2)])
            self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
            self.up = nnx.Linear(WIDTH, 24, rngs=rngs)
            self.gate = nnx.Linear(WIDTH, 24, rngs=rngs) if gated else None
            self.down = nnx.Linear(24, WIDTH, rngs=rngs)
            self.activation = activation

        def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
            x = x + self.attention(self.norms[0](x), mask=mask)
            y = self.norms[1](x)
            hidden = self.up(y)
            if self.gate is None:
                return x + self.down(self.activation(hidden))
            return x + self.down(self.activation(self.gate(y)) * hidden)

    return Block


def nnx_vit() -> Model:
    """Patches by a convolution, a class token, positions, blocks, a norm, a head."""
    from flax import nnx

    block = nnx_block()

    class ViT(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.patches = nnx.Conv(3, WIDTH, (4, 4), (4, 4), padding="VALID", rngs=rngs)
            self.token = nnx.Param(jnp.zeros((1, 1, WIDTH)))
            self.positions = nnx.Param(jnp.zeros((1, 17, WIDTH)))
            self.blocks = nnx.List([block(rngs, nnx.LayerNorm, nnx.gelu) for _ in range(L)])
            self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
            self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

        def __call__(self, image: jax.Array) -> jax.Array:
            x = self.patches(image).reshape(1, 16, WIDTH)
            x = jnp.concatenate([self.token[...], x], axis=1) + self.positions[...]
            for each in self.blocks:
                x = each(x)
            return self.head(self.norm(x[:, 0]))

    return nnx_model(ViT(nnx.Rngs(0)), features(1, 16, 16, 3), PRE_NORM)


def nnx_causal_lm() -> Model:
    """RMSNorm, SwiGLU, a causal mask."""
    from flax import nnx

    block = nnx_block()

    class Decoder(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            make = lambda: block(rngs, nnx.RMSNorm, nnx.silu, gated=True)  # noqa: E731
            self.blocks = nnx.List([make() for _ in range(L)])
            self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
            self.head = nnx.Linear(WIDTH, 20, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            mask = nnx.make_causal_mask(jnp.ones((1, TOKENS)))
            for each in self.blocks:
                x = each(x, mask)
            return self.head(self.norm(x))[:, -1]

    expected = counts(attention=L, norm=2 * L + 1, activation=L, gate=L)
    return nnx_model(Decoder(nnx.Rngs(0)), features(1, TOKENS, WIDTH), expected)


def nnx_cnn() -> Model:
    """Batch norm, group norm, both poolings."""
    from flax import nnx

    class CNN(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.batch = nnx.BatchNorm(8, rngs=rngs)
            self.second = nnx.Conv(8, 8, (3, 3), rngs=rngs)
            self.group = nnx.GroupNorm(8, num_groups=2, rngs=rngs)
            self.head = nnx.Linear(8, 10, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.max_pool(nnx.relu(self.batch(self.first(x))), (2, 2), (2, 2))
            x = nnx.avg_pool(nnx.elu(self.group(self.second(x))), (2, 2), (2, 2))
            return self.head(x.mean(axis=(1, 2)))

    return nnx_model(CNN(nnx.Rngs(0)), features(1, 16, 16, 3), counts(norm=1, activation=2))


def nnx_scan() -> Model:
    """All layers in one scan: its body counts once."""
    from flax import nnx

    block = nnx_block()

    class Stack(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            @nnx.split_rngs(splits=L)
            @nnx.vmap(in_axes=0, out_axes=0)
            def layers(rngs: nnx.Rngs) -> Any:
                return block(rngs, nnx.LayerNorm, nnx.gelu)

            self.layers = layers(rngs)
            self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            def forward(x: jax.Array, layer: Any) -> jax.Array:
                return layer(x)

            return self.norm(forward(x, self.layers))

    expected = counts(attention=1, norm=3, activation=1)
    return nnx_model(Stack(nnx.Rngs(0)), features(1, TOKENS, WIDTH), expected)


def nnx_recurrent() -> Model:
    """LSTM, then GRU; the body of each scan counts once."""
    from flax import nnx

    class Recurrent(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.lstm = nnx.RNN(nnx.OptimizedLSTMCell(WIDTH, WIDTH, rngs=rngs))
            self.gru = nnx.RNN(nnx.GRUCell(WIDTH, WIDTH, rngs=rngs))

        def __call__(self, x: jax.Array) -> jax.Array:
            zero = jnp.zeros((1, WIDTH))
            x = self.lstm(x, initial_carry=(zero, zero))
            return self.gru(x, initial_carry=zero)[:, -1]

    return nnx_model(Recurrent(nnx.Rngs(0)), features(1, TOKENS, WIDTH), CELLS)


#: LSTM: three sigmoids and two tanh, three gates. GRU: two sigmoids and a tanh; the reset gate,
#: the update gate and one minus it.
CELLS = counts(activation=5 + 3, gate=3 + 3, recurrence=2)


def linen_transformer() -> Model:
    """Pre-norm blocks."""
    from flax import linen as nn

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for _ in range(L):
                x = x + nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(x))
                x = x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(24)(nn.LayerNorm()(x))))
            return nn.Dense(10)(nn.LayerNorm()(x).mean(axis=1))

    return linen_model(Transformer(), features(1, TOKENS, WIDTH), PRE_NORM)


def linen_cnn() -> Model:
    """All norms of Linen."""
    from flax import linen as nn

    class CNN(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3))(x)))
            x = nn.swish(nn.GroupNorm(2)(nn.Conv(8, (3, 3), feature_group_count=2)(x)))
            x = nn.leaky_relu(nn.InstanceNorm()(nn.ConvTranspose(8, (2, 2), (2, 2))(x)))
            return nn.Dense(10)(nn.max_pool(x, (2, 2), (2, 2)).mean(axis=(1, 2)))

    return linen_model(CNN(), features(1, 8, 8, 3), counts(norm=2, activation=3))


def linen_scan() -> Model:
    """Layers in a scan, each rematerialised."""
    from flax import linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
            return x + nn.Dense(WIDTH)(nn.silu(nn.Dense(24)(nn.RMSNorm()(x)))), None

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            layers = nn.scan(
                nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=L
            )
            return layers()(x, None)[0]

    return linen_model(Stack(), features(1, WIDTH), counts(norm=1, activation=1))


def linen_recurrent() -> Model:
    """LSTM forwards and backwards, then GRU."""
    from flax import linen as nn

    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            ways = [nn.RNN(nn.OptimizedLSTMCell(WIDTH), reverse=r, keep_order=r) for r in (0, 1)]
            x = jnp.concatenate([way(x) for way in ways], axis=-1)
            return nn.RNN(nn.GRUCell(WIDTH))(x)[:, -1]

    expected = counts(activation=2 * 5 + 3, gate=2 * 3 + 3, recurrence=3)
    return linen_model(Recurrent(), features(1, TOKENS, WIDTH), expected)


def linen_weight_norm() -> Model:
    """Weight norm, which is constant, and a norm of the features."""
    from flax import linen as nn

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.softplus(nn.WeightNorm(nn.Dense(24))(x))
            x = nn.tanh(nn.WeightNorm(nn.Dense(WIDTH))(x))
            return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    return linen_model(Normed(), features(2, WIDTH), counts(norm=1, activation=2))
