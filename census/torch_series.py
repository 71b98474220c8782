"""Models of Hugging Face's transformers for series, proteins and sound, and diffusers' networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from census.entry import Entry, counts
from census.torch_text import SIZES, classifier
from census.torch_vision import WAV2VEC2, WIDTH, L, vision

WHOLE: Mapping[str, Any] = {"output": "last_hidden_state", "target": None}


def entries() -> Iterator[Entry]:
    """All of them."""
    yield from series()
    yield from proteins()
    yield from audio()


def drawn(*shape: int) -> np.ndarray:
    """Numbers of a shape."""
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def series() -> Iterator[Entry]:
    """Forecasts."""
    patches = {
        "num_input_channels": 2,
        "context_length": 32,
        "patch_length": 8,
        "patch_stride": 8,
        "d_model": WIDTH,
        "num_hidden_layers": L,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "prediction_length": 4,
    }
    forecast = {"output": "prediction_outputs", "explained": {"past_values": drawn(1, 32, 2)}}
    forecast["target"] = (0, 1, 0)
    # Batch norms between the layers are constant; what is scaled is the series.
    yield vision(
        "patchtst",
        "PatchTSTForPrediction",
        patches,
        counts(attention=L, norm=1, activation=L),
        **forecast,
    )
    yield vision(
        "patchtst_layernorm",
        "PatchTSTForPrediction",
        {**patches, "norm_type": "layernorm"},
        counts(attention=L, norm=2 * L + 1, activation=L),
        **forecast,
    )
    # MLPs over time and over features, each with a norm, a GELU and a gate that is a softmax.
    yield vision(
        "patchtsmixer",
        "PatchTSMixerForPrediction",
        {**patches, "num_layers": L, "norm_mlp": "LayerNorm", "dropout": 0.0, "head_dropout": 0.0},
        counts(norm=2 * L + 1, activation=2 * L, gate=2 * L),
        **forecast,
    )
    # Two norms per layer, none at the end; the scale of queries is constant. SiLU where patches
    # come in, a ReLU per layer. The series is scaled by its first patch.
    yield vision(
        "timesfm",
        "TimesFmModel",
        {
            "patch_length": 8,
            "context_length": 32,
            "horizon_length": 8,
            "num_hidden_layers": L,
            "hidden_size": WIDTH,
            "intermediate_size": 48,
            "head_dim": 8,
            "num_attention_heads": 4,
        },
        counts(attention=L, norm=2 * L + 1, activation=L + 1),
        explained={"past_values": drawn(1, 32)},
        constants={
            "past_values_padding": np.zeros((1, 32), np.int64),
            "freq": np.zeros((1, 1), np.int64),
        },
        **WHOLE,
    )


def proteins() -> Iterator[Entry]:
    """Chains of amino acids."""
    # Pre-norm with a last norm; tanh in the head.
    yield classifier(
        "esm",
        "EsmForSequenceClassification",
        {**SIZES, "position_embedding_type": "rotary", "pad_token_id": 1},
        counts(attention=L, norm=2 * L + 1, activation=L + 1),
    )


def audio() -> Iterator[Entry]:
    """Waves."""
    wave = {"input_values": drawn(1, 160)}
    # As wav2vec2, and two halves of a sigmoid that open for each other and for a position bias:
    # which of them is the gate is asked.
    yield vision(
        "wavlm",
        "WavLMModel",
        WAV2VEC2,
        counts(attention=L, norm=2 * L + 3, activation=L + 3 + L),
        explained=wave,
        **WHOLE,
    )
    # A layer norm after each convolution, and five convolutions of positions.
    yield vision(
        "data2vec_audio",
        "Data2VecAudioModel",
        {**WAV2VEC2, "num_conv_pos_embeddings": 2},
        counts(attention=L, norm=2 * L + 2 + 2 + 2, activation=L + 2 + 2),
        explained=wave,
        **WHOLE,
    )
    # Two halves of an MLP around attention and a gated convolution: five norms, two swish and one
    # more after the convolution, whose batch norm is constant, and a sigmoid gate.
    yield vision(
        "wav2vec2_conformer",
        "Wav2Vec2ConformerModel",
        {**WAV2VEC2, "conv_depthwise_kernel_size": 3, "position_embeddings_type": "rotary"},
        counts(attention=L, norm=5 * L + 3, activation=4 * L + 2, gate=L),
        explained=wave,
        **WHOLE,
    )
    # Snake activations, in both halves: two in each of three residual units of two stages, one per
    # stage and a last one. The code that is chosen, with the gradient of its argument; tanh.
    yield vision(
        "dac",
        "DacModel",
        {
            "encoder_hidden_size": 8,
            "downsampling_ratios": [2, 2],
            "decoder_hidden_size": 16,
            "upsampling_ratios": [2, 2],
            "n_codebooks": 1,
            "codebook_size": 8,
            "codebook_dim": 4,
            "hidden_size": 16,
        },
        counts(activation=2 * (2 * (6 + 1) + 1) + 2),
        explained={"input_values": drawn(1, 1, 32)},
        output="audio_values",
        target=(0, 3),
    )
    # Two convolutions with gated linear units, then a transformer with pre-norms.
    yield vision(
        "speech_to_text_encoder",
        "Speech2TextForConditionalGeneration",
        {
            "d_model": WIDTH,
            "encoder_layers": L,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "conv_channels": 16,
            "vocab_size": 64,
            "input_feat_per_channel": 8,
        },
        # The decoder has one token: its own attention and two of its norms are constant.
        counts(attention=L + 1, norm=2 * L + 1 + 2, activation=2 + L + 1, gate=2),
        explained={"input_features": drawn(1, 16, 8)},
        constants={"decoder_input_ids": np.array([[2]])},
        target=(0, 0, 3),
    )
