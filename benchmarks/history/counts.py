"""Benchmarks for asv: XLA's counts relative to `jax.value_and_grad`, the same on every machine."""

import jax
import jax.numpy as jnp

import relprop
from relprop.rules import AlphaBeta, Epsilon, Gamma, Zero, ZPlus

RULES = {
    "LRP-0": Zero(),
    "epsilon": Epsilon(),
    "gamma": Gamma(),
    "z+": ZPlus(),
    "alpha-beta": AlphaBeta(),
}


def _mlp(x, weights):
    for w in weights:
        x = jax.nn.relu(x @ w)
    return x[:, 0].sum()


def _transformer(x, weights):
    def block(x, w):
        q, k, v = jnp.split((_normalised(x) @ w["qkv"])[:, :, None], 3, axis=-1)
        x = x + jax.nn.dot_product_attention(q, k, v)[:, :, 0] @ w["out"]
        return x + jax.nn.gelu(_normalised(x) @ w["up"]) @ w["down"]

    for w in weights:
        x = block(x, w)
    return x[:, 0, 0].sum()


def _normalised(x):
    x = x - x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-5)


def _convolutions(x, weights):
    for w in weights:
        x = jax.nn.relu(
            jax.lax.conv_general_dilated(
                x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )
    return x[..., 0].sum()


def _shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


_BLOCK = {
    "qkv": _shape(64, 192),
    "out": _shape(64, 64),
    "up": _shape(64, 256),
    "down": _shape(256, 64),
}
CASES = {
    "mlp": (_mlp, _shape(16, 256), [_shape(256, 256)] * 3),
    "convolutions": (
        _convolutions,
        _shape(2, 16, 16, 3),
        [_shape(3, 3, 3, 16), *[_shape(3, 3, 16, 16)] * 2],
    ),
    "transformer": (_transformer, _shape(1, 32, 64), [_BLOCK] * 2),
}


class Counts:
    """Ratios of an explanation to the gradient of the same function."""

    params = (list(CASES), list(RULES))
    param_names = ("case", "rule")

    def setup_cache(self):
        ratios = {}
        for case, (function, *args) in CASES.items():
            base = _counts(jax.value_and_grad(function), args)
            for name, rule in RULES.items():
                mine = _counts(relprop.value_and_relevance(function, rule), args)
                ratios[case, name] = [m / b for m, b in zip(mine, base, strict=True)]
        return ratios

    def track_flops(self, ratios, case, rule):
        return ratios[case, rule][0]

    def track_memory(self, ratios, case, rule):
        return ratios[case, rule][1]

    track_flops.unit = track_memory.unit = "times the gradient's"


def _counts(function, args):
    compiled = jax.jit(function).lower(*args).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes
    return compiled.cost_analysis()["flops"], memory
