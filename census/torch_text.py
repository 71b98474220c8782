"""Language models of Hugging Face's transformers, through torchax.

What is explained are embeddings; the score is one logit. Every model has `LAYERS` layers.
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
TOKENS = 6
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": L,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
NO_CACHE = {"use_cache": False}

# Expectations. A block of the pre-norm family, from LLaMA on, has two norms, and there is a last
# one; that of the BERT family has two norms, and the embeddings have one.
PRE_NORM = counts(attention=L, norm=2 * L + 1, activation=L)
GATED = counts(attention=L, norm=2 * L + 1, activation=L, gate=L)


def embeddings(tokens: int = TOKENS, width: int = WIDTH) -> np.ndarray:
    """A text of one sentence."""
    return np.random.default_rng(1).normal(size=(1, tokens, width)).astype(np.float32)


def text(
    name: str,
    kind: str,
    config: Mapping[str, Any],
    expected: Mapping[str, int],
    *,
    target: tuple[int, ...] | None = (0, -1, 3),
    output: str = "logits",
    explained: Mapping[str, np.ndarray] | None = None,
    constants: Mapping[str, Any] = NO_CACHE,
    tier: Tier = "all",
) -> Entry:
    """A language model."""
    explained = explained or {"inputs_embeds": embeddings()}
    build = functools.partial(
        transformers_model, kind, config, explained, constants, output, target, expected
    )
    return Entry(name, "torchax", build, tier)


def classifier(name: str, kind: str, config: Mapping[str, Any], expected: Any, **more: Any):
    """A bidirectional encoder with a classification head, which looks at the first token."""
    return text(name, kind, config, expected, target=(0, 1), **{"constants": {}, **more})


def entries() -> Iterator[Entry]:
    """All of them."""
    yield from encoders()
    yield from decoders()
    yield from gated_decoders()
    yield from experts()
    yield from encoder_decoders()
    yield from recurrent()


def encoders() -> Iterator[Entry]:
    # BERT: norm of the embeddings, two per layer; GELU per layer; tanh in the pooler.
    bert = counts(attention=L, norm=2 * L + 1, activation=L + 1)
    headless = counts(attention=L, norm=2 * L + 1, activation=L)
    head = "ForSequenceClassification"
    yield classifier("bert", "Bert" + head, SIZES, bert, tier="fast")
    # Its head has a dense layer with tanh.
    yield classifier("roberta", "Roberta" + head, SIZES, bert)
    distilbert = {"dim": WIDTH, "hidden_dim": 48, "n_layers": L, "n_heads": 4, "vocab_size": 64}
    # A ReLU in its head.
    yield classifier("distilbert", "DistilBert" + head, distilbert, bert)
    # GELU in its head.
    electra = {**SIZES, "embedding_size": WIDTH}
    yield classifier("electra", "Electra" + head, electra, bert)
    # One set of weights for all layers; tanh-GELU, and a tanh in the pooler.
    albert = {**SIZES, "embedding_size": WIDTH}
    yield classifier("albert", "Albert" + head, albert, bert)
    disentangled = {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "pooler_hidden_size": WIDTH,
    }
    # GELU in the pooler.
    yield classifier("deberta", "Deberta" + head, {**SIZES, **disentangled}, bert)
    yield classifier("deberta_v2", "DebertaV2" + head, {**SIZES, **disentangled}, bert)
    # Gated MLPs; the first layer has no norm before its attention, the embeddings and the last
    # layer have one. Its head is dense, GELU, norm.
    yield classifier(
        "modernbert",
        "ModernBert" + head,
        {**SIZES, "pad_token_id": 0, "local_attention": 4},
        counts(attention=L, norm=2 * L + 2, activation=L + 1, gate=L),
        tier="fast",
    )
    # tanh in its head.
    yield classifier("mpnet", "MPNet" + head, SIZES, bert)
    yield classifier("xlm_roberta", "XLMRoberta" + head, SIZES, bert)
    yield classifier("camembert", "Camembert" + head, SIZES, bert)
    yield classifier("ernie", "Ernie" + head, SIZES, bert)
    yield classifier("roformer", "RoFormer" + head, {**SIZES, "embedding_size": WIDTH}, bert)
    yield classifier("megatron_bert", "MegatronBert" + head, SIZES, bert)
    # Its dynamic convolutions are attention, too: values are mixed by softmaxes of a query and
    # its surroundings.
    convbert = counts(attention=2 * L, norm=2 * L + 1, activation=L + 1)
    yield classifier("convbert", "ConvBert" + head, {**SIZES, "embedding_size": WIDTH}, convbert)
    yield classifier("layoutlm", "LayoutLM" + head, SIZES, bert)
    # The Fourier transform in place of attention.
    yield classifier("fnet", "FNet" + head, SIZES, counts(norm=2 * L + 1, activation=L + 1))
    yield text(
        "squeezebert",
        "SqueezeBertModel",
        {**SIZES, "embedding_size": WIDTH},
        headless,
        output="last_hidden_state",
        target=None,
        constants={},
    )


def decoders() -> Iterator[Entry]:
    gpt2 = {"n_embd": WIDTH, "n_layer": L, "n_head": 4, "n_positions": 64, "vocab_size": 64}
    yield text("gpt2", "GPT2LMHeadModel", gpt2, PRE_NORM, tier="fast")
    yield text("gpt_neox", "GPTNeoXForCausalLM", {**SIZES, "rotary_pct": 0.25}, PRE_NORM)
    opt = {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": WIDTH, "dropout": 0.0}
    yield text("opt", "OPTForCausalLM", opt, PRE_NORM)
    neo = {
        "hidden_size": WIDTH,
        "num_layers": L,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
        "vocab_size": 64,
        "max_position_embeddings": 64,
    }
    yield text("gpt_neo", "GPTNeoForCausalLM", neo, PRE_NORM)
    # Attention and MLP in parallel, after one norm.
    parallel = counts(attention=L, norm=L + 1, activation=L)
    yield text("gptj", "GPTJForCausalLM", {**gpt2, "rotary_dim": 4}, parallel)
    yield text("codegen", "CodeGenForCausalLM", {**gpt2, "rotary_dim": 4}, parallel)
    yield text("phi", "PhiForCausalLM", SIZES, parallel)
    yield text(
        "falcon",
        "FalconForCausalLM",
        {**SIZES, "ffn_hidden_size": 48, "alibi": False},
        parallel,
    )
    # A norm of the embeddings as well; positions by ALiBi.
    bloom = {"hidden_size": WIDTH, "n_layer": L, "n_head": 4, "vocab_size": 64}
    yield text(
        "bloom", "BloomForCausalLM", bloom, counts(attention=L, norm=2 * L + 2, activation=L)
    )
    mpt = {"d_model": WIDTH, "n_layers": L, "n_heads": 4, "max_seq_len": 64, "vocab_size": 64}
    yield text("mpt", "MptForCausalLM", mpt, PRE_NORM)
    yield text("gpt_bigcode", "GPTBigCodeForCausalLM", gpt2, PRE_NORM)
    yield text("starcoder2", "Starcoder2ForCausalLM", GROUPED, PRE_NORM)
    yield text("biogpt", "BioGptForCausalLM", SIZES, PRE_NORM)
    yield text(
        "xglm",
        "XGLMForCausalLM",
        {
            "d_model": WIDTH,
            "ffn_dim": 48,
            "num_layers": L,
            "attention_heads": 4,
            "vocab_size": 64,
        },
        PRE_NORM,
    )
    # Squared ReLU; norms of one plus their weight.
    yield text("nemotron", "NemotronForCausalLM", GROUPED, PRE_NORM)


def gated_decoders() -> Iterator[Entry]:
    yield text("llama", "LlamaForCausalLM", GROUPED, GATED, tier="fast")
    yield text("mistral", "MistralForCausalLM", {**GROUPED, "sliding_window": 4}, GATED)
    yield text("qwen2", "Qwen2ForCausalLM", GROUPED, GATED)
    heads = {**GROUPED, "head_dim": 8}
    # Norms of queries and keys.
    query_norms = counts(attention=L, norm=4 * L + 1, activation=L, gate=L)
    yield text("qwen3", "Qwen3ForCausalLM", heads, query_norms)
    yield text("gemma", "GemmaForCausalLM", heads, GATED)
    # Norms before and after both halves of a block. The logits of attention and those of the
    # model are soft-capped: a tanh each.
    yield text(
        "gemma2",
        "Gemma2ForCausalLM",
        {**heads, "query_pre_attn_scalar": 8},
        counts(attention=L, norm=4 * L + 1, activation=2 * L + 1, gate=L),
    )
    # No caps, but norms of queries and keys.
    yield text(
        "gemma3",
        "Gemma3ForCausalLM",
        {**heads, "query_pre_attn_scalar": 8, "sliding_window": 4},
        counts(attention=L, norm=6 * L + 1, activation=L, gate=L),
        tier="fast",
    )
    yield text("phi3", "Phi3ForCausalLM", {**GROUPED, "pad_token_id": 0}, GATED)
    yield text("olmo", "OlmoForCausalLM", GROUPED, GATED)
    # Norms after both halves of a block instead of before, and of queries and keys.
    yield text("olmo2", "Olmo2ForCausalLM", GROUPED, query_norms)
    yield text("granite", "GraniteForCausalLM", GROUPED, GATED)
    yield text("stablelm", "StableLmForCausalLM", GROUPED, GATED)
    yield text("smollm3", "SmolLM3ForCausalLM", {**GROUPED, "pad_token_id": 0}, GATED)
    parallel = counts(attention=L, norm=L + 1, activation=L, gate=L)
    yield text("cohere", "CohereForCausalLM", {**GROUPED, "pad_token_id": 0}, parallel)
    yield text("glm", "GlmForCausalLM", {**heads, "pad_token_id": 0}, GATED)
    # Norms before and after both halves.
    yield text(
        "glm4",
        "Glm4ForCausalLM",
        {**heads, "pad_token_id": 0},
        counts(attention=L, norm=4 * L + 1, activation=L, gate=L),
    )
    yield text("exaone4", "Exaone4ForCausalLM", GROUPED, query_norms)
    yield text("helium", "HeliumForCausalLM", heads, GATED)
    yield text("seed_oss", "SeedOssForCausalLM", heads, GATED)
    yield text("ernie4_5", "Ernie4_5ForCausalLM", heads, GATED)
    # Squared ReLU and no gate.
    yield text("arcee", "ArceeForCausalLM", GROUPED, PRE_NORM)


def experts() -> Iterator[Entry]:
    # Each layer computes all chosen experts at once, so that it has one activation and one gate.
    routed = counts(attention=L, norm=2 * L + 1, activation=L, gate=L, router=L)
    mixtral = {**GROUPED, "num_local_experts": 4}
    yield text("mixtral", "MixtralForCausalLM", mixtral, routed, tier="fast")
    yield text(
        "mixtral/batched",
        "MixtralForCausalLM",
        {**mixtral, "experts_implementation": "batched_mm"},
        routed,
    )
    yield text(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        {**GROUPED, **EXPERTS, "head_dim": 8, "num_experts": 4},
        counts(attention=L, norm=4 * L + 1, activation=L, gate=L, router=L),
    )
    # Latent attention with norms of the compressed queries, and of keys and values. The first
    # layer is dense; the router of the second is a sigmoid, and it has shared experts.
    deepseek = {
        **SIZES,
        **EXPERTS,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    # The sigmoids of its scores are divided by their sum, as the exponentials of a softmax are.
    yield text(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        deepseek,
        counts(attention=L, norm=4 * L + 1, activation=L + 1, gate=L + 1, router=1),
    )
    # A shared expert with a sigmoid gate of its own.
    yield text(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        {**GROUPED, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 24},
        counts(attention=L, norm=2 * L + 1, activation=3 * L, gate=3 * L, router=L),
    )
    yield text(
        "olmoe",
        "OlmoeForCausalLM",
        {**GROUPED, **EXPERTS, "num_experts": 4, "pad_token_id": 0},
        counts(attention=L, norm=4 * L + 1, activation=L, gate=L, router=L),
    )
    # Attention sinks; SwiGLU with a factor in its sigmoid, both halves clamped before.
    sinks = counts(attention=L, norm=2 * L + 1, activation=2 * L, gate=L, router=L)
    yield text(
        "gpt_oss",
        "GptOssForCausalLM",
        {**GROUPED, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
        sinks,
    )


def encoder_decoders() -> Iterator[Entry]:
    # The decoder has attention to itself and to the encoder.
    both = {
        "inputs_embeds": embeddings(),
        "decoder_inputs_embeds": embeddings(4),
    }
    t5 = {
        "d_model": WIDTH,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": L,
        "num_heads": 4,
        "vocab_size": 64,
        "relative_attention_num_buckets": 8,
    }
    t5_norms = (2 * L + 1) + (3 * L + 1)
    yield text(
        "t5",
        "T5ForConditionalGeneration",
        t5,
        counts(attention=3 * L, norm=t5_norms, activation=2 * L),
        explained=both,
        tier="fast",
    )
    yield text(
        "t5_v1_1",
        "T5ForConditionalGeneration",
        {**t5, "feed_forward_proj": "gated-gelu"},
        counts(attention=3 * L, norm=t5_norms, activation=2 * L, gate=2 * L),
        explained=both,
    )
    bart = {
        "d_model": WIDTH,
        "encoder_layers": L,
        "decoder_layers": L,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "vocab_size": 64,
        "max_position_embeddings": 64,
    }
    post_norm = (2 * L + 1) + (3 * L + 1)
    yield text(
        "bart",
        "BartForConditionalGeneration",
        bart,
        counts(attention=3 * L, norm=post_norm, activation=2 * L),
        explained=both,
    )
    # Pre-norm, with norms of the embeddings and at the end.
    yield text(
        "mbart",
        "MBartForConditionalGeneration",
        bart,
        counts(attention=3 * L, norm=post_norm + 2, activation=2 * L),
        explained=both,
    )
    # Post-norm without a norm of the embeddings.
    yield text(
        "marian",
        "MarianMTModel",
        {**bart, "pad_token_id": 0, "decoder_start_token_id": 0, "decoder_vocab_size": 64},
        counts(attention=3 * L, norm=post_norm - 2, activation=2 * L),
        explained=both,
    )
    yield text(
        "pegasus",
        "PegasusForConditionalGeneration",
        bart,
        counts(attention=3 * L, norm=post_norm, activation=2 * L),
        explained=both,
    )


def recurrent() -> Iterator[Entry]:
    # A norm per layer and a last one. Per layer: SiLU after the convolution, softplus of the time
    # step, its exponential, and SiLU of the gate.
    mamba = {
        "hidden_size": WIDTH,
        "num_hidden_layers": L,
        "state_size": 4,
        "vocab_size": 64,
        "use_mambapy": False,
    }
    yield text(
        "mamba",
        "MambaForCausalLM",
        mamba,
        counts(norm=L + 1, activation=4 * L, gate=L, recurrence=L),
    )
    # A second norm per layer, of the gated output.
    yield text(
        "mamba2",
        "Mamba2ForCausalLM",
        {
            "hidden_size": WIDTH,
            "num_hidden_layers": L,
            "state_size": 4,
            "vocab_size": 64,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 2,
            "chunk_size": 4,
        },
        counts(norm=2 * L + 1, activation=4 * L, gate=L, recurrence=L),
    )
    # Two norms per layer, one of the embeddings and a last one; sigmoid gates in both halves,
    # exponentials of the keys in one, and a squared ReLU in the other.
    yield text(
        "rwkv",
        "RwkvForCausalLM",
        {
            "hidden_size": WIDTH,
            "num_hidden_layers": L,
            "attention_hidden_size": WIDTH,
            "intermediate_size": 48,
            "vocab_size": 64,
            "context_length": 64,
        },
        counts(norm=2 * L + 2, activation=4 * L, gate=2 * L, recurrence=L),
    )
    # Mamba with norms of the time step and of the input and output matrices.
    yield text(
        "falcon_mamba",
        "FalconMambaForCausalLM",
        mamba,
        counts(norm=4 * L + 1, activation=4 * L, gate=L, recurrence=L),
    )


def variants() -> Iterator[Entry]:
    """Some of them with the other implementation of attention; not counted as models."""
    names = ("bert", "modernbert", "gpt2", "llama", "qwen3", "gemma3", "mixtral", "opt", "t5")
    for entry in entries():
        if entry.name in names:
            build = functools.partial(entry.build, attention="sdpa")
            yield Entry(f"{entry.name}/sdpa", entry.family, build)
