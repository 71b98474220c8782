"""``python -m benchmarks.attribution``: transformer attribution relative to one forward pass.

The reference implementation of Chefer et al. takes 10.74 times the FLOPs of a forward pass for one
explanation of ViT-B/16 (counted by PyTorch), layer by layer in Python.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Annotated

import jax
import jax.numpy as jnp
import typer
from rich.console import Console
from rich.table import Table

import relprop
from benchmarks.measure import measure
from relprop import chefer

SIZES = {"ViT-Ti/16": (192, 3), "ViT-S/16": (384, 6), "ViT-B/16": (768, 12)}
COLUMNS = ("flops", "memory", "wall", "trace", "compile")


def main(
    only: Annotated[str, typer.Option(help="Measure sizes whose name contains this.")] = "",
    out: Annotated[pathlib.Path | None, typer.Option(help="Write the numbers as JSON.")] = None,
    runs: Annotated[int, typer.Option(help="Runs per function; the quickest counts.")] = 3,
) -> None:
    """Prints a table per size, for batches of 1 and 8, with start_layer 1."""
    console = Console()
    console.print(f"jax {jax.__version__}, relprop {relprop.__version__}, float32")
    results = []
    for name, (width, heads) in SIZES.items():
        if only not in name:
            continue
        config = {
            "img_size": 224, "patch_size": 16, "in_chans": 3, "num_classes": 1000,
            "embed_dim": width, "depth": 12, "num_heads": heads, "mlp_ratio": 4.0, "qkv_bias": True,
        }  # fmt: skip
        model = chefer.ViT.init(config, jax.random.key(0))
        for batch in (1, 8):
            x = jnp.zeros((batch, 3, 224, 224))
            base = measure(lambda model, x: model(x), model, x, runs=runs)
            table = Table(
                title=f"{name}, batch {batch}: forward {base.flops / 1e9:.1f} GFLOP, "
                f"{base.wall * 1e3:.0f} ms"
            )
            for column in ("relative to a forward pass", *COLUMNS):
                table.add_column(column)
            for label, explain in EXPLANATIONS.items():
                cost = measure(explain, model, x, runs=runs)
                ratios = cost.relative_to(base)
                table.add_row(label, *(f"{ratios[column]:.2f}" for column in COLUMNS))
                results.append(
                    {"model": name, "batch": batch, "function": label, "ratio": ratios}
                    | {"cost": dataclasses.asdict(cost)}
                )
            console.print(table)
    if out is not None:
        out.write_text(json.dumps(results, indent=1))


def _gradient(model, x):
    return jax.value_and_grad(lambda x: model(x)[:, 3].sum())(x)


def _attribution(model, x):
    def explain(x):
        return relprop.transformer_attribution(lambda x: model(x[None])[0, 3], start_layer=1)(x)

    return jax.vmap(explain)(x)


EXPLANATIONS = {
    "value_and_grad": _gradient,
    "chefer.generate_lrp": lambda m, x: chefer.generate_lrp(m, x, index=3, start_layer=1),
    "relprop.transformer_attribution": _attribution,
}

if __name__ == "__main__":
    typer.run(main)
