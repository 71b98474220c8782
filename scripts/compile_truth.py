"""Compiles the transformer of the planted task ``compiled-induction`` with Tracr.

    pip install -c constraints.txt -e '.[circuits]'
    python scripts/compile_truth.py [--out DIR]

The program: find where the last token stood before, and say what came after it. Nothing is trained
and nothing drawn: the same program always has the same weights.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tracr.compiler import compiling
from tracr.rasp import rasp

from relprop._weights import write_weights
from relprop.truth import _text
from relprop.truth._tasks import RECIPES, WEIGHTS

TASK = "compiled-induction"
PARTS = {"query": "query", "key": "key", "value": "value", "out": "linear"}


def program() -> rasp.SOp:
    """The token after the earlier one that is like the last."""
    before = rasp.Select(rasp.indices, rasp.indices, lambda k, q: k == q - 1)
    previous = rasp.Aggregate(before, rasp.tokens, default=None).named("previous")
    alike = rasp.Select(previous, rasp.tokens, rasp.Comparison.EQ)
    return rasp.Aggregate(alike, rasp.tokens, default=None).named("induction")


def compiled() -> dict[str, Any]:
    """Its weights as `relprop.truth._models.compiled` takes them."""
    start, *words = _text.VOCABULARIES[TASK]
    length = _text.texts(TASK, 1).ids.shape[1]
    asked = program()
    model = compiling.compile_rasp_to_model(
        asked, vocab={*words}, max_seq_len=length - 1, compiler_bos=start
    )
    numbers = model.input_encoder.encoding_map
    params = {
        "embedding": model.params["token_embed"]["embeddings"][
            np.array([numbers[word] for word in (start, *words)])
        ],
        "positions": model.params["pos_embed"]["embeddings"],
    }
    for i in range(model.model_config.num_layers):
        layer = f"transformer/layer_{i}"
        # Nothing is left for the MLPs to do, and a head that is alone needs no split.
        assert not np.any(model.params[f"{layer}/mlp/linear_2"]["w"])
        parts = {ours: model.params[f"{layer}/attn/{name}"] for ours, name in PARTS.items()}
        params[f"block{i}"] = {
            ours: {"kernel": part["w"], "bias": part["b"]} for ours, part in parts.items()
        }
    assert model.model_config.num_heads == 1
    labels = [f"{asked.label}:{word}" for word in words]
    params["head"] = {
        "kernel": np.eye(len(model.residual_labels), dtype=np.float32)[
            :, [model.residual_labels.index(label) for label in labels]
        ]
    }
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    path = given.out / RECIPES[TASK].weights.name
    versions = {package: version(package) for package in ("jax", "tracr-pypi")}
    write_weights(path, compiled(), {"task": TASK, **versions})
    print(path)


if __name__ == "__main__":
    main()
