"""Vision and audio models of Hugging Face's transformers, through torchax.

What is explained are pixels or features; the score is one class, or a projection.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from census.entry import Entry, Tier, counts
from census.torch_modules import transformers_model

LAYERS = L = 2
WIDTH = 32
SIZE = 32
PATCHES = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": L,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": 8,
}
#: Waves, by convolutions and then blocks.
WAV2VEC2 = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": L,
    "num_attention_heads": 4,
    "conv_dim": [16, 16],
    "conv_stride": [4, 2],
    "conv_kernel": [8, 3],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False,
}
#: Pre-norm blocks, a last norm, GELU in each block.
PRE_NORM = counts(attention=L, norm=2 * L + 1, activation=L)


def pixels(size: int = SIZE) -> np.ndarray:
    """One image."""
    return np.random.default_rng(1).normal(size=(1, 3, size, size)).astype(np.float32)


def vision(
    name: str,
    kind: str,
    config: Mapping[str, Any],
    expected: Mapping[str, int],
    *,
    output: str = "logits",
    target: tuple[int, ...] | None = (0, 1),
    explained: Mapping[str, np.ndarray] | None = None,
    constants: Mapping[str, Any] | None = None,
    tier: Tier = "all",
) -> Entry:
    """A model of one image, or of other features."""
    explained = explained or {"pixel_values": pixels()}
    build = functools.partial(
        transformers_model, kind, config, explained, constants or {}, output, target, expected
    )
    return Entry(name, "torchax", build, tier)


def entries() -> Iterator[Entry]:
    """All of them."""
    yield from transformers_of_patches()
    yield from hierarchies()
    yield from convolutions()
    yield from audio()


def transformers_of_patches() -> Iterator[Entry]:
    """The ViT family."""
    head = "ForImageClassification"
    yield vision("vit", "ViT" + head, PATCHES, PRE_NORM, tier="fast")
    yield vision("deit", "DeiT" + head, PATCHES, PRE_NORM)
    # Its last norm is that of the mean of the patches.
    yield vision("beit", "Beit" + head, {**PATCHES, "use_relative_position_bias": True}, PRE_NORM)
    yield vision("data2vec_vision", "Data2VecVision" + head, PATCHES, PRE_NORM)
    yield vision("dinov2", "Dinov2" + head, {**PATCHES, "mlp_ratio": 2}, PRE_NORM)
    yield vision(
        "dinov2_swiglu",
        "Dinov2" + head,
        {**PATCHES, "mlp_ratio": 2, "use_swiglu_ffn": True},
        counts(attention=L, norm=2 * L + 1, activation=L, gate=L),
    )
    yield vision("ijepa", "IJepa" + head, PATCHES, PRE_NORM)
    yield vision("vit_msn", "ViTMSN" + head, PATCHES, PRE_NORM)
    backbone = {"output": "last_hidden_state", "target": None}
    yield vision("dinov3_vit", "DINOv3ViTModel", PATCHES, PRE_NORM, **backbone)
    yield vision("yolos", "YolosModel", {**PATCHES, "image_size": [32, 32]}, PRE_NORM, **backbone)
    tower = {"vision_config": PATCHES}
    text = {**PATCHES, "vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 2}
    del text["image_size"], text["patch_size"]
    pair = {
        "output": "logits_per_image",
        "target": (0, 0),
        "constants": {"input_ids": np.array([[1, 5, 7, 2]])},
    }
    # Of the image's tower, the text being constant: a norm before the blocks and one after, and
    # the length of the embedding.
    yield vision(
        "clip",
        "CLIPModel",
        {**tower, "text_config": text, "projection_dim": WIDTH},
        counts(attention=L, norm=2 * L + 3, activation=L),
        **pair,
    )
    # A pooling by attention, with a norm and an MLP of its own.
    yield vision(
        "siglip",
        "SiglipModel",
        {**tower, "text_config": text},
        counts(attention=L + 1, norm=2 * L + 3, activation=L + 1),
        **pair,
    )


def hierarchies() -> Iterator[Entry]:
    """Transformers with stages."""
    swin = {
        "image_size": SIZE,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
    }
    head = "ForImageClassification"
    # Norms: of the patches, two per block, one per merging, a last one.
    yield vision("swin", "Swin" + head, swin, counts(attention=4, norm=11, activation=4))
    # Queries and keys have length one: two more norms per block.
    yield vision("swinv2", "Swinv2" + head, swin, counts(attention=4, norm=19, activation=4))
    segformer = {
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "sr_ratios": [2, 1],
        "hidden_sizes": [16, 32],
        "num_attention_heads": [1, 2],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "mlp_ratios": [2, 2],
    }
    # Norms: of the patches, of the reduced keys of the first stage, two per block, one per stage.
    yield vision(
        "segformer", "Segformer" + head, segformer, counts(attention=2, norm=9, activation=2)
    )
    pool = {
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "hidden_sizes": [16, 32],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "padding": [2, 1],
    }
    # Average pooling in place of attention; group norms with one group.
    yield vision("poolformer", "PoolFormer" + head, pool, counts(norm=5, activation=2))


def convolutions() -> Iterator[Entry]:
    """Convolutional networks; batch norm in inference is constant."""
    head = "ForImageClassification"
    resnet = {
        "embedding_size": 16,
        "hidden_sizes": [16, 32],
        "depths": [2, 2],
        "layer_type": "basic",
    }
    # ReLUs: one in the stem, two per block.
    yield vision("resnet", "ResNet" + head, resnet, counts(activation=9), tier="fast")
    yield vision(
        "resnet_bottleneck",
        "ResNet" + head,
        {**resnet, "layer_type": "bottleneck"},
        counts(activation=13),
    )
    convnext = {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2, "image_size": SIZE}
    # Norms: stem, one per block, one per reduction, a last one.
    yield vision("convnext", "ConvNext" + head, convnext, counts(norm=7, activation=4))
    # Global response normalisation in each block.
    yield vision("convnextv2", "ConvNextV2" + head, convnext, counts(norm=11, activation=4))
    small = {"depth_multiplier": 0.25, "min_depth": 8, "image_size": SIZE}
    # ReLU6: the stem, and two per layer of thirteen.
    yield vision("mobilenet_v1", "MobileNetV1" + head, small, counts(activation=27))
    # The stem, a depth-wise layer, two per layer of sixteen, the last layer.
    yield vision("mobilenet_v2", "MobileNetV2" + head, small, counts(activation=35))
    efficientnet = {
        "kernel_sizes": [3, 5],
        "in_channels": [32, 16],
        "out_channels": [16, 24],
        "depthwise_padding": [],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 4],
        "hidden_dim": 1280,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "image_size": SIZE,
    }
    # SiLU: stem, expansion (second block only), depth-wise, squeeze; a sigmoid; SiLU at the end.
    yield vision("efficientnet", "EfficientNet" + head, efficientnet, counts(activation=9, gate=2))
    regnet = {
        "embedding_size": 16,
        "hidden_sizes": [16, 32],
        "depths": [1, 2],
        "groups_width": 8,
        "layer_type": "y",
    }
    # ReLU: stem, three per layer and one in its squeeze; a sigmoid.
    yield vision("regnet_y", "RegNet" + head, regnet, counts(activation=16, gate=3))
    bit = {
        "embedding_size": 16,
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "num_groups": 4,
        "layer_type": "preactivation",
    }
    # Group norms with ReLU: three per block and a last one; standardised weights are constant.
    yield vision("bit", "Bit" + head, bit, counts(norm=7, activation=7))


def audio() -> Iterator[Entry]:
    """Models of sound."""
    rng = np.random.default_rng(2)
    backbone = {"output": "last_hidden_state", "target": None}
    whisper = {
        "d_model": WIDTH,
        "encoder_layers": L,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "num_mel_bins": 8,
        "max_source_positions": 10,
        "decoder_layers": 1,
        "vocab_size": 64,
        "classifier_proj_size": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    # GELU after two convolutions and in each block.
    yield vision(
        "whisper_encoder",
        "WhisperForAudioClassification",
        whisper,
        counts(attention=L, norm=2 * L + 1, activation=L + 2),
        explained={"input_features": rng.normal(size=(1, 8, 20)).astype(np.float32)},
    )
    # GELU after two convolutions, the positional one and in each block. Norms: a group norm in the
    # first convolution, that of the projection, that of the encoder, two per block.
    expected = counts(attention=L, norm=2 * L + 3, activation=L + 3)
    wave = {"input_values": rng.normal(size=(1, 160)).astype(np.float32)}
    yield vision("wav2vec2", "Wav2Vec2Model", WAV2VEC2, expected, explained=wave, **backbone)
    yield vision("hubert", "HubertModel", WAV2VEC2, expected, explained=wave, **backbone)
    ast = {**PATCHES, "num_mel_bins": 16, "max_length": 32, "patch_size": 8}
    ast |= {"frequency_stride": 8, "time_stride": 8}
    # The head has a norm.
    yield vision(
        "ast",
        "ASTForAudioClassification",
        ast,
        counts(attention=L, norm=2 * L + 2, activation=L),
        explained={"input_values": rng.normal(size=(1, 32, 16)).astype(np.float32)},
    )
