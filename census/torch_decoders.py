"""Further decoders of Hugging Face's transformers, and those that are only in part attention.

The expectations say per layer what `census.torch_text` says for the family; see there.
"""

from __future__ import annotations

from collections.abc import Iterator

from census.entry import Entry, counts
from census.torch_text import EXPERTS, GATED, GROUPED, PRE_NORM, SIZES, L, text

HEADS = {**GROUPED, "head_dim": 8}
#: Norms of queries and keys beside those of the pre-norm family.
QUERY_NORMS = counts(attention=L, norm=4 * L + 1, activation=L, gate=L)
#: Each layer computes all chosen experts at once.
ROUTED = counts(attention=L, norm=2 * L + 1, activation=L, gate=L, router=L)
#: What Mamba-2 needs, in the names that most of the hybrids use.
MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 4,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 4,
}


def entries() -> Iterator[Entry]:
    """All of them."""
    yield from dense()
    yield from experts()
    yield from hybrids()


def dense() -> Iterator[Entry]:
    # As Olmo2, with a window in one of its layers.
    window = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
    yield text("olmo3", "Olmo3ForCausalLM", {**GROUPED, **window}, QUERY_NORMS)
    parallel = counts(attention=L, norm=L + 1, activation=L, gate=L)
    yield text("cohere2", "Cohere2ForCausalLM", {**GROUPED, **window, "pad_token_id": 0}, parallel)
    # Norms of queries and keys, of the embeddings and a last one; squared ReLU; a soft cap.
    yield text(
        "nanochat",
        "NanoChatForCausalLM",
        GROUPED,
        counts(attention=L, norm=4 * L + 2, activation=L + 1),
    )
    # xIELU without a gate; norms of queries and keys.
    yield text(
        "apertus",
        "ApertusForCausalLM",
        {**GROUPED, "pad_token_id": 0},
        counts(attention=L, norm=4 * L + 1, activation=L),
    )
    yield text("ministral", "MinistralForCausalLM", {**HEADS, "sliding_window": 4}, GATED)
    yield text("ministral3", "Ministral3ForCausalLM", {**HEADS, "sliding_window": None}, GATED)
    yield text("hunyuan", "HunYuanDenseV1ForCausalLM", {**HEADS, "pad_token_id": 0}, QUERY_NORMS)
    # No weights in its norms but those of queries and keys have; tanh-GELU.
    yield text("vaultgemma", "VaultGemmaForCausalLM", {**HEADS, **window}, capped())
    # Of two halves of the heads one less the other, and a norm of what they give.
    yield text(
        "diffllama",
        "DiffLlamaForCausalLM",
        {**GROUPED, "pad_token_id": 0},
        counts(attention=L, norm=3 * L + 1, activation=L, gate=L),
    )
    # Squared ReLU, gated; norms after the attention's values are mixed and after the gate.
    yield text(
        "bitnet",
        "BitNetForCausalLM",
        {**GROUPED, "pad_token_id": 0},
        counts(attention=L, norm=4 * L + 1, activation=L, gate=L),
    )
    # Norms of queries and keys; squared ReLU.
    yield text(
        "persimmon",
        "PersimmonForCausalLM",
        {**SIZES, "pad_token_id": 0},
        counts(attention=L, norm=4 * L + 1, activation=L),
    )
    yield text("cwm", "CwmForCausalLM", {**HEADS, **window, "pad_token_id": 0}, GATED)
    gpt = {"n_embd": 32, "n_layer": L, "n_head": 4, "n_positions": 64, "vocab_size": 64}
    # Post-norm, and no last norm.
    yield text(
        "openai_gpt",
        "OpenAIGPTLMHeadModel",
        gpt,
        counts(attention=L, norm=2 * L, activation=L),
        constants={},
    )
    yield text("ctrl", "CTRLLMHeadModel", {**gpt, "dff": 48}, PRE_NORM)


def capped() -> dict[str, int]:
    """Soft caps of attention's logits and of the model's."""
    return counts(attention=L, norm=2 * L + 1, activation=2 * L + 1, gate=L)


def experts() -> Iterator[Entry]:
    local = {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}
    yield text("granitemoe", "GraniteMoeForCausalLM", local, ROUTED)
    # A shared expert.
    yield text(
        "granitemoe_shared",
        "GraniteMoeSharedForCausalLM",
        {**local, "shared_intermediate_size": 24},
        counts(attention=L, norm=2 * L + 1, activation=2 * L, gate=2 * L, router=L),
    )
    # The first layer is dense and rotates; it has norms of queries and keys. The second has a
    # router by sigmoid and a shared expert.
    yield text(
        "llama4",
        "Llama4ForCausalLM",
        {
            **HEADS,
            "intermediate_size_mlp": 48,
            "num_local_experts": 4,
            "moe_layers": [1],
            "no_rope_layers": [1, 0],
        },
        counts(attention=L, norm=2 * L + 3, activation=4, gate=3, router=1),
    )
    yield text("phimoe", "PhimoeForCausalLM", local, ROUTED)
    yield text("flex_olmo", "FlexOlmoForCausalLM", {**local, "pad_token_id": 0}, olmoe())
    # The first layer is dense; sigmoid router, a shared expert; norms of queries and keys.
    glm = {
        **HEADS,
        **EXPERTS,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
        "pad_token_id": 0,
    }
    # Scores by sigmoids, which GLM divides by their sum, as the exponentials of a softmax are.
    one = counts(attention=L, norm=4 * L + 1, activation=L + 1, gate=L + 1, router=1)
    yield text("glm4_moe", "Glm4MoeForCausalLM", {**glm, "use_qk_norm": True}, one)
    yield text("dots1", "Dots1ForCausalLM", glm, {**one, "activation": L + 2})
    # A softmax router with a correction; a shared expert; the first layer is dense.
    yield text(
        "ernie4_5_moe",
        "Ernie4_5_MoeForCausalLM",
        {
            **HEADS,
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_num_shared_experts": 1,
            "moe_intermediate_size": 24,
            "moe_layer_start_index": 1,
            "pad_token_id": 0,
        },
        counts(attention=L, norm=2 * L + 1, activation=L + 1, gate=L + 1, router=1),
    )


def olmoe() -> dict[str, int]:
    """Norms of queries and keys, and experts."""
    return counts(attention=L, norm=4 * L + 1, activation=L, gate=L, router=L)


def hybrids() -> Iterator[Entry]:
    """Layers of attention beside recurrent ones or convolutions."""
    # A short convolution between two gates that are no activations; norms of queries and keys.
    lfm = {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
    yield text(
        "lfm2",
        "Lfm2ForCausalLM",
        {**GROUPED, **lfm},
        counts(attention=1, norm=2 * L + 3, activation=L, gate=L),
    )
    # Mamba (SiLU of the convolution and of the gate, softplus and exponential of the time step;
    # norms of step, input and output matrices), then attention; experts in the second layer.
    yield text(
        "jamba",
        "JambaForCausalLM",
        {
            **GROUPED,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
            "pad_token_id": 0,
        },
        counts(1, 2 * L + 4, activation=L + 4, gate=L + 1, router=1, recurrence=1),
    )
    # Mamba-2 with a norm of its gated output, then attention.
    one = counts(1, 2 * L + 2, activation=L + 4, gate=L + 1, recurrence=1)
    yield text("bamba", "BambaForCausalLM", {**GROUPED, **MAMBA2, "attn_layer_indices": [1]}, one)
    yield text(
        "granitemoe_hybrid",
        "GraniteMoeHybridForCausalLM",
        {
            **GROUPED,
            **MAMBA2,
            "layer_types": ["mamba", "attention"],
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 24,
        },
        counts(1, 2 * L + 2, activation=2 * L + 4, gate=2 * L + 1, router=L, recurrence=1),
    )
    # Attention and Mamba-2 in parallel in each layer; no norm in the latter.
    yield text(
        "falcon_h1",
        "FalconH1ForCausalLM",
        {**HEADS, **MAMBA2, "mamba_d_ssm": 64, "mamba_rms_norm": False},
        counts(L, 2 * L + 1, activation=5 * L, gate=2 * L, recurrence=L),
    )
    # Each layer is one of Mamba-2, an MLP with squared ReLU, or attention, after one norm; that of
    # Mamba-2 has a second norm.
    yield text(
        "nemotron_h",
        "NemotronHForCausalLM",
        {
            **HEADS,
            "num_hidden_layers": 3,
            "layers_block_type": ["mamba", "mlp", "attention"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "ssm_state_size": 4,
            "chunk_size": 4,
        },
        counts(1, 5, activation=4 + 1, gate=1, recurrence=1),
    )
    # RG-LRU: sigmoids of the input's gate and of the decay, the exponential of that, and the root
    # of one less its square, which scales the input; a GELU gate beside. Then attention. Gated MLPs
    # with GELU; a cap of the logits.
    yield text(
        "recurrent_gemma",
        "RecurrentGemmaForCausalLM",
        {
            **GROUPED,
            "lru_width": 32,
            "attention_window_size": 4,
            "block_types": ["recurrent", "attention"],
        },
        counts(1, 2 * L + 1, activation=4 + 1 + L + 1, gate=2 + 1 + L, recurrence=1),
    )
    # Gated delta rule, then attention with a sigmoid gate and norms of queries and keys; experts.
    yield text(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        {
            **HEADS,
            **EXPERTS,
            "num_experts": 4,
            "shared_expert_intermediate_size": 24,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        },
        # SiLU of the convolution, sigmoid of beta, softplus and exponential of the decay, SiLU of
        # the output's gate; the attention's sigmoid; per layer two SiLU and a sigmoid. Beta opens
        # for keys and for values.
        counts(
            1,
            2 * L + 1 + 3 + 2,
            activation=5 + 1 + 3 * L,
            gate=4 + 3 * L,
            router=L,
            recurrence=1,
        ),
    )
    # mLSTM: exponential input gates and sigmoid forget gates, soft caps of both, a sigmoid gate of
    # the output, norms of each head; SwiGLU; a cap of the logits.
    yield text(
        "xlstm",
        "xLSTMForCausalLM",
        {
            "hidden_size": 32,
            "num_hidden_layers": L,
            "num_heads": 4,
            "vocab_size": 64,
            "chunk_size": 2,
        },
        # Caps of both gates, log sigmoid, exponential, absolute value; sigmoid; SiLU; the last cap.
        counts(norm=3 * L + 1, activation=7 * L + 1, gate=2 * L, recurrence=L),
    )
    # Mamba in each layer, and one attention with an MLP before one of them, of twice the width.
    yield text(
        "zamba2",
        "Zamba2ForCausalLM",
        {
            **SIZES,
            "num_key_value_heads": 4,
            "mamba_ngroups": 2,
            "mamba_d_state": 4,
            "n_mamba_heads": 8,
            "chunk_size": 4,
            "layers_block_type": ["linear_attention", "hybrid"],
            "num_mem_blocks": 1,
            "use_mem_rope": True,
            "pad_token_id": 0,
        },
        counts(1, 2 * L + 3, activation=4 * L + 1, gate=L + 1, recurrence=L),
    )
    # Lightning attention, a loop over blocks, with a norm and a sigmoid gate; then softmax.
    yield text(
        "minimax",
        "MiniMaxForCausalLM",
        {
            **HEADS,
            "num_local_experts": 4,
            "layer_types": ["linear_attention", "full_attention"],
            "block_size": 4,
        },
        counts(L, 2 * L + 2, activation=L + 2, gate=L + 1, router=L),
    )
