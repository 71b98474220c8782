"""Configurations with entries of every wrong kind: refused before anything is allocated."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

import relprop
from relprop import chefer
from tests.cli.values import VALUES

pytestmark = pytest.mark.frameworks

SMALL = {
    chefer.ViT: {"img_size": 4, "patch_size": 2, "embed_dim": 4, "depth": 1, "num_heads": 2},
    chefer.Bert: {
        "vocab_size": 9,
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 4,
        "max_position_embeddings": 5,
    },
    chefer.VGG: {"features": [2, "M"], "pool": 1, "hidden": [2], "num_classes": 3},
    chefer.ResNet: {"layers": [1], "width": 2, "num_classes": 3},
}


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.__name__)
def test_every_entry(kind, tmp_path):
    """Of every entry all these values in turn: refused, or the same tensors fit."""
    whole = kind.init(SMALL[kind], jax.random.key(0))
    safetensors.numpy.save_file(
        {name: np.asarray(x) for name, x in whole.params.items()}, tmp_path / "model.safetensors"
    )
    config = dataclasses.asdict(whole.config)
    count = refused = 0
    for key in [*config, "id2label"] if kind is chefer.Bert else config:
        for value in VALUES:
            (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
            count += 1
            try:
                model = kind.load(tmp_path)
            except relprop.InputError as error:
                refused += 1
                assert len(str(error)) < 5000
            else:
                assert model.params.keys() == whole.params.keys()
    assert refused > 0.7 * count


def test_more_layers_than_tensors(tmp_path):
    whole = chefer.ViT.init(SMALL[chefer.ViT], jax.random.key(0))
    with pytest.raises(relprop.InputError, match="(?s)missing: blocks.1.*and .* more"):
        chefer.ViT.from_state_dict(whole.params, SMALL[chefer.ViT] | {"depth": 512})
