"""Vision models of Hugging Face's transformers that see videos or give depths, masks and boxes.

With them are further hierarchies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from census.entry import Entry, counts
from census.torch_vision import PATCHES, PRE_NORM, SIZE, WIDTH, L, pixels, vision

HEAD = "ForImageClassification"
WHOLE: Mapping[str, Any] = {"output": "last_hidden_state", "target": None}
#: A network of convolutions as a backbone: ReLUs in the stem, and two per block.
RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32],
    "depths": [1, 1],
    "layer_type": "basic",
    "out_features": ["stage2"],
}
#: DPT's fusion of four stages: two residual units of two ReLUs each, one unit in the deepest.
FUSION = 2 + 3 * 4


def entries() -> Iterator[Entry]:
    """All of them."""
    yield from hierarchies()
    yield from of_patches()
    yield from depths()
    yield from masks()
    yield from boxes()


def hierarchies() -> Iterator[Entry]:
    """Transformers with stages."""
    # Queries are pooled by their maximum between the stages.
    yield vision(
        "hiera",
        "Hiera" + HEAD,
        {
            "image_size": [SIZE, SIZE],
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "num_query_pool": 1,
            "masked_unit_size": [2, 2],
            "masked_unit_attention": [True, False],
        },
        counts(attention=2, norm=2 * 2 + 1, activation=2),
    )
    pvt = {
        "image_size": SIZE,
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "hidden_sizes": [16, 32],
        "patch_sizes": [4, 2],
        "strides": [4, 2],
        "num_attention_heads": [1, 2],
        "mlp_ratios": [2, 2],
    }
    # Norms: of patches per stage, of reduced keys in the first, two per block, a last one.
    yield vision(
        "pvt",
        "Pvt" + HEAD,
        {**pvt, "sequence_reduction_ratios": [2, 1]},
        counts(attention=2, norm=2 + 1 + 4 + 1, activation=2),
    )
    # A norm at the end of each stage.
    yield vision(
        "pvt_v2",
        "PvtV2" + HEAD,
        {**pvt, "patch_sizes": [7, 3], "sr_ratios": [2, 1]},
        counts(attention=2, norm=2 + 1 + 4 + 2, activation=2),
    )
    # Focal modulation in place of attention: per block a GELU of each of two levels and of the
    # mean, each weighed by a gate, and one in the MLP.
    yield vision(
        "focalnet",
        "FocalNet" + HEAD,
        {
            "image_size": SIZE,
            "embed_dim": 16,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
        },
        counts(norm=1 + 4 + 1 + 1, activation=2 * 4, gate=2 * 3),
    )
    mobile = {"image_size": 64, "num_labels": 10}
    # SiLU: stem 1, inverted residuals of four blocks 8, per mixed stage 5 and one per layer of 2, 4
    # and 3, the last convolution. Norms: two per layer and one per stage.
    yield vision(
        "mobilevit",
        "MobileViT" + HEAD,
        {
            **mobile,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32],
        },
        counts(attention=9, norm=2 * 9 + 3, activation=1 + 8 + 15 + 9 + 1),
        explained={"pixel_values": pixels(64)},
    )
    # Its attention weighs the keys by one softmax, and multiplies a ReLU of the values by the sum.
    yield vision(
        "mobilevitv2",
        "MobileViTV2" + HEAD,
        {
            **mobile,
            "n_attn_blocks": [1, 1, 1],
            "base_attn_unit_dims": [16, 24, 32],
            "width_multiplier": 0.25,
        },
        counts(attention=3, norm=3 * 3, activation=1 + 2 + 4 + 3 * (3 + 2), gate=3),
        explained={"pixel_values": pixels(64)},
    )
    # Hard swish: three in the stem, one per attention and per MLP, also of the two reductions.
    yield vision(
        "levit",
        "Levit" + HEAD,
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [4, 4, 4],
        },
        counts(attention=5, activation=3 + 3 * 2 + 2 * 2),
        explained={"pixel_values": pixels(64)},
    )
    # Queries, keys and values by convolutions; norms of patches per stage, and a last one.
    yield vision(
        "cvt",
        "Cvt" + HEAD,
        {
            "embed_dim": [16, 24, 32],
            "depth": [1, 2, 3],
            "num_heads": [1, 3, 4],
        },
        counts(attention=6, norm=3 + 12 + 1, activation=6),
    )


def of_patches() -> Iterator[Entry]:
    """The ViT family: with registers, masked, of latents, of videos."""
    yield vision(
        "dinov2_with_registers",
        "Dinov2WithRegisters" + HEAD,
        {**PATCHES, "mlp_ratio": 2, "num_register_tokens": 2},
        PRE_NORM,
    )
    # RMSNorm and SwiGLU; a norm of the patches.
    yield vision(
        "aimv2",
        "Aimv2VisionModel",
        {**PATCHES, "use_head": False},
        counts(attention=L, norm=2 * L + 2, activation=L, gate=L),
        **WHOLE,
    )
    # Which patches are masked is said by the noise.
    yield vision(
        "vit_mae",
        "ViTMAEForPreTraining",
        {
            **PATCHES,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 24,
        },
        counts(attention=L + 1, norm=2 * (L + 1) + 2, activation=L + 1),
        constants={"noise": np.random.default_rng(3).uniform(size=(1, 16)).astype(np.float32)},
        target=None,
    )
    # Latents look at pixels, then at themselves, and the class at the latents. Norms: of what is
    # looked at and before each MLP; those of the latents to begin with are constant.
    yield vision(
        "perceiver",
        "PerceiverForImageClassificationLearned",
        {
            "image_size": 8,
            "num_latents": 6,
            "d_latents": WIDTH,
            "num_self_attends_per_block": L,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 1,
            "num_labels": 10,
        },
        counts(attention=L + 2, norm=2 * L + 4, activation=L + 2),
        explained={"inputs": pixels(8)},
    )
    video = {"pixel_values": np.random.default_rng(1).normal(size=(1, 2, 3, 16, 16))}
    video = {"pixel_values": video["pixel_values"].astype(np.float32)}
    clips = {**PATCHES, "image_size": 16, "num_frames": 2}
    head = "ForVideoClassification"
    # Its last norm is that of the mean.
    yield vision("videomae", "VideoMAE" + head, clips, PRE_NORM, explained=video)
    # Attention in time, with a norm of its own, and in space.
    yield vision(
        "timesformer",
        "Timesformer" + head,
        clips,
        counts(attention=2 * L, norm=3 * L + 1, activation=L),
        explained=video,
    )
    yield vision(
        "vivit",
        "Vivit" + head,
        {**clips, "tubelet_size": [2, 8, 8]},
        PRE_NORM,
        explained=video,
    )


def depths() -> Iterator[Entry]:
    """A depth, or a finer image, per pixel."""
    depth = {"output": "predicted_depth", "target": None}
    stages = {"neck_hidden_sizes": [8, 8, 16, 16]}
    # GELU per layer and per readout; two ReLUs in the head. The last norm is not on the way.
    yield vision(
        "dpt",
        "DPTForDepthEstimation",
        {
            **PATCHES,
            **stages,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "fusion_hidden_size": 16,
        },
        counts(attention=4, norm=8, activation=4 + 4 + FUSION + 2),
        **depth,
    )
    backbone = {
        **PATCHES,
        "model_type": "dinov2",
        "num_hidden_layers": 4,
        "mlp_ratio": 2,
        "out_indices": [1, 2, 3, 4],
        "reshape_hidden_states": False,
    }
    # A norm of each stage that is looked at.
    yield vision(
        "depth_anything",
        "DepthAnythingForDepthEstimation",
        {
            **stages,
            "backbone_config": backbone,
            "patch_size": 8,
            "reassemble_hidden_size": WIDTH,
            "fusion_hidden_size": 16,
            "head_hidden_size": 8,
        },
        counts(attention=4, norm=8 + 4, activation=4 + FUSION + 2),
        **depth,
    )
    # Norms: patches, two per block and two of queries and keys, a last one. A leaky ReLU.
    yield vision(
        "swin2sr",
        "Swin2SRForImageSuperResolution",
        {
            "image_size": 16,
            "embed_dim": 16,
            "depths": [2],
            "num_heads": [2],
            "window_size": 4,
            "upscale": 2,
        },
        counts(attention=2, norm=1 + 8 + 1, activation=2 + 1),
        output="reconstruction",
        target=(0, 1, 3, 3),
        explained={"pixel_values": pixels(16)},
    )


def masks() -> Iterator[Entry]:
    """A class, or a part of an object, per pixel."""
    # Its tokens are constant before they look at the image. Attention: of the encoder; tokens to
    # image and image to tokens, twice, tokens to tokens in the second layer, tokens to image at the
    # end. Norms: two per layer and two in the neck; three and four per layer of the decoder, one at
    # its end, one while it grows. ReLUs: per layer, and two for each of four masks, of which three
    # are asked for.
    yield vision(
        "sam",
        "SamModel",
        {
            "vision_config": {
                "hidden_size": WIDTH,
                "output_channels": WIDTH,
                "num_hidden_layers": L,
                "num_attention_heads": 4,
                "image_size": SIZE,
                "patch_size": 8,
                "mlp_dim": 48,
                "window_size": 2,
                "global_attn_indexes": [1],
                "num_pos_feats": WIDTH // 2,
            },
            "prompt_encoder_config": {
                "hidden_size": WIDTH,
                "image_size": SIZE,
                "patch_size": 8,
                "mask_input_channels": 4,
            },
            "mask_decoder_config": {
                "hidden_size": WIDTH,
                "mlp_dim": 48,
                "num_attention_heads": 4,
                "iou_head_hidden_dim": WIDTH,
            },
        },
        counts(attention=L + 6, norm=2 * L + 2 + 7 + 2, activation=L + 2 + 2 + 8),
        output="pred_masks",
        target=None,
        constants={"input_points": np.array([[[[10.0, 12.0]]]], np.float32)},
    )
    convnext = {
        "model_type": "convnext",
        "hidden_sizes": [8, 16, 16, 32],
        "depths": [1, 1, 1, 1],
        "image_size": 64,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    # Norms: stem, one per block, three reductions, one per stage. GELU per block; ReLUs of four
    # pools and what joins them, three lateral ones, three after them, and the last.
    yield vision(
        "upernet",
        "UperNetForSemanticSegmentation",
        {"backbone_config": convnext, "hidden_size": 16, "use_auxiliary_head": False},
        counts(norm=1 + 4 + 3 + 4, activation=4 + 5 + 3 + 3 + 1),
        target=(0, 1, 20, 20),
        explained={"pixel_values": pixels(64)},
    )
    # Norms: as for the classifier, less the last. One ReLU in the decoder.
    yield vision(
        "segformer_segmentation",
        "SegformerForSemanticSegmentation",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [16, 32],
            "num_attention_heads": [1, 2],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 16,
        },
        counts(attention=2, norm=9, activation=3),
        target=(0, 1, 4, 4),
    )


def boxes() -> Iterator[Entry]:
    """Objects: the class of one query."""
    detr = {
        "backbone_config": RESNET,
        "d_model": WIDTH,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "num_queries": 4,
        "num_labels": 5,
    }
    # The queries are constant until they have looked at the image, and so are the first attention
    # among them and its norm. The decoder has a last norm.
    yield vision(
        "detr",
        "DetrForObjectDetection",
        detr,
        counts(attention=1 + 3, norm=2 + 5 + 1, activation=5 + 3),
        target=(0, 1, 2),
    )
    # Pre-norm, with last norms of both halves.
    yield vision(
        "table_transformer",
        "TableTransformerForObjectDetection",
        detr,
        counts(attention=1 + 3, norm=3 + 5 + 1, activation=5 + 3),
        target=(0, 1, 2),
    )
    # Its queries at the image are conditioned: a sigmoid and a ReLU make the reference points.
    yield vision(
        "conditional_detr",
        "ConditionalDetrForObjectDetection",
        detr,
        counts(attention=1 + 3, norm=2 + 5 + 1, activation=5 + 3 + 1),
        target=(0, 1, 2),
    )
    # Text is constant.
    yield vision(
        "owlvit",
        "OwlViTForObjectDetection",
        {
            "vision_config": PATCHES,
            "text_config": {
                "hidden_size": WIDTH,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "vocab_size": 64,
                "max_position_embeddings": 16,
                "eos_token_id": 2,
                "pad_token_id": 0,
            },
            "projection_dim": WIDTH,
        },
        # Norms before and after the blocks, of patches times the class token, and the length of
        # the embedding; an ELU and a gate scale the logits.
        counts(attention=L, norm=2 * L + 4, activation=L + 1, gate=1),
        target=(0, 3, 0),
        constants={"input_ids": np.array([[1, 5, 7, 2]])},
    )
