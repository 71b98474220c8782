"""Networks of diffusers: what denoises, and what makes images smaller and larger again."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from census.entry import Entry, Model, counts
from census.torch_modules import from_module, randomised
from census.torch_series import drawn

TIME = np.array([3])


def entries() -> Iterator[Entry]:
    """All of them; time is constant."""
    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    unet = {**blocks, "sample_size": 8, "attention_head_dim": 4}
    # A residual block has two norms and two SiLU. There are two on the way down, two in the middle
    # and four on the way up; attention, with a norm, at the lower level, in the middle, and twice
    # on the way up; a last norm and SiLU. What time is made of is constant.
    yield diffuser(
        "unet_2d",
        "UNet2DModel",
        {
            **unet,
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        counts(attention=1 + 1 + 2, norm=2 * 8 + 4 + 1, activation=2 * 8 + 1),
        constants={"timestep": TIME},
    )
    # A transformer in place of the attention: norms before it and before each of its three parts;
    # it looks at itself and at the text, and has a GEGLU.
    yield diffuser(
        "unet_2d_condition",
        "UNet2DConditionModel",
        {
            **unet,
            "cross_attention_dim": 16,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        counts(2 * 4, 2 * 8 + 4 * 4 + 1, activation=2 * 8 + 4 + 1, gate=4),
        explained={"sample": drawn(1, 4, 8, 8), "encoder_hidden_states": drawn(1, 3, 16)},
        constants={"timestep": TIME},
    )
    # Encoder: a residual block per level and two in the middle; decoder: two per level, two in the
    # middle. Attention, with a norm, in both middles; a last norm and SiLU in both.
    yield diffuser(
        "autoencoder_kl",
        "AutoencoderKL",
        {
            **blocks,
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "latent_channels": 2,
        },
        counts(attention=2, norm=2 * (4 + 6) + 2 + 2, activation=2 * (4 + 6) + 2),
    )
    patches = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
    # Norms are scaled and shifted by time and class, which are constant; GELU; a last norm.
    yield diffuser(
        "dit",
        "DiTTransformer2DModel",
        {**patches, "in_channels": 4, "norm_num_groups": 4, "num_embeds_ada_norm": 10},
        counts(attention=2, norm=2 * 2 + 1, activation=2),
        explained={"hidden_states": drawn(1, 4, 8, 8)},
        constants={"timestep": TIME, "class_labels": np.array([1])},
    )
    # It looks at the text as well.
    yield diffuser(
        "pixart",
        "PixArtTransformer2DModel",
        {
            **patches,
            "in_channels": 4,
            "out_channels": 4,
            "norm_num_groups": 4,
            "cross_attention_dim": 16,
            "caption_channels": 16,
            "use_additional_conditions": False,
        },
        # The text comes through a layer with a GELU.
        counts(attention=4, norm=2 * 2 + 1, activation=2 + 1),
        explained={
            "hidden_states": drawn(1, 4, 8, 8),
            "encoder_hidden_states": drawn(1, 3, 16),
        },
        constants={
            "timestep": TIME,
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    )
    # Image and text look at both at once; of the last block's text nothing is kept. Norms before
    # attention and MLP of both streams, GELU in both; a last norm.
    yield diffuser(
        "sd3",
        "SD3Transformer2DModel",
        {
            **patches,
            "in_channels": 4,
            "out_channels": 4,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 8,
        },
        counts(attention=2, norm=2 * 2 + (2 + 1) + 1, activation=2 + 1),
        explained={
            "hidden_states": drawn(1, 4, 8, 8),
            "encoder_hidden_states": drawn(1, 3, 16),
        },
        constants={
            "timestep": TIME,
            "pooled_projections": drawn(1, 16),
        },
    )


def diffuser(
    name: str,
    kind: str,
    config: Mapping[str, Any],
    expected: Mapping[str, int],
    explained: Mapping[str, np.ndarray] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> Entry:
    """One line."""
    explained = explained or {"sample": drawn(1, 3, 8, 8)}
    build = functools.partial(built, kind, config, expected, explained, constants or {})
    return Entry(name, "diffusers", build)


def built(
    kind: str,
    config: Mapping[str, Any],
    expected: Mapping[str, int],
    explained: Mapping[str, np.ndarray],
    constants: Mapping[str, Any],
) -> Model:
    """A network from its configuration; its first result is looked at."""
    import diffusers

    module = randomised(lambda: getattr(diffusers, kind)(**config))
    constants = {**constants, "return_dict": False}
    first = lambda out: out[0]  # noqa: E731
    return from_module(module, dict(explained), constants, first, expected=expected)
