"""Transformer attribution relative to one forward pass.

The reference implementation of Chefer et al. takes 10.74 times the FLOPs of a forward pass for one
explanation of ViT-B/16 (counted by PyTorch), layer by layer in Python.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

import relprop
from benchmarks.measure import absolute, compare
from benchmarks.results import Options, Result
from relprop import chefer

COLUMNS = ("flops", "memory", "wall", "trace", "compile")
BOUNDS = {"flops": 4.9, "wall": 5.5}
IMAGE, PATCH = 224, 16
SIZES = {"ViT-B/16": (768, 12), "ViT-S/16": (384, 6), "ViT-Ti/16": (192, 3)}


def results(options: Options) -> Iterator[Result]:
    """A result per size and batch, with start_layer 1; bounds are those of ViT-B/16."""
    sizes = {"miniature": (32, 2)} if options.quick else SIZES
    for name, (width, heads) in sizes.items():
        for batch in options.batches:
            case = f"{name}, batch {batch}"
            if not options.wants(case):
                continue
            size, depth = (32, 1) if options.quick else (IMAGE, 12)
            model = _vit(size, width, heads, depth)
            x = jnp.zeros((batch, 3, size, size))
            base, *costs = compare(FUNCTIONS, model, x, runs=options.runs).values()
            yield Result("attribution", case, "forward", base.amounts, note=absolute(base))
            for label, cost in zip(list(FUNCTIONS)[1:], costs, strict=True):
                bounds = BOUNDS if label == "transformer_attribution" else {}
                yield Result(
                    "attribution", case, label, cost.amounts, cost.relative_to(base), bounds
                )


def _vit(size: int, width: int, heads: int, depth: int) -> chefer.ViT:
    config = {
        "img_size": size, "patch_size": PATCH, "in_chans": 3, "num_classes": 1000,
        "embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": 4.0, "qkv_bias": True,
    }  # fmt: skip
    return chefer.ViT.init(config, jax.random.key(0))


def _forward(model, x):
    return model(x)


def _gradient(model, x):
    return jax.value_and_grad(lambda x: model(x)[:, 3].sum())(x)


def _reference(model, x):
    return chefer.generate_lrp(model, x, index=3, start_layer=1)


def _attribution(model, x):
    def explain(x):
        return relprop.transformer_attribution(lambda x: model(x[None])[0, 3], start_layer=1)(x)

    return jax.vmap(explain)(x)


FUNCTIONS = {
    "forward": _forward,
    "value_and_grad": _gradient,
    "chefer.generate_lrp": _reference,
    "transformer_attribution": _attribution,
}
