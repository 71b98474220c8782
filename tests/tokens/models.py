"""Small models of tokens in plain JAX, and a tokenizer of words."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from relprop.tokens import LanguageModel

VOCABULARY = 12
WIDTH = 8
PAD = 11


class Words:
    """A tokenizer of whole words with the interface of transformers' tokenizers."""

    words = ["[CLS]", "the", "cat", "sat", "on", "mat", "##s", "<script>", "\x1b[31m", "a", "b"]
    all_special_ids = [0]
    pad_token_id = PAD

    def __call__(self, text, add_special_tokens=True):
        ids = [self.words.index(word) for word in text.split()]
        return {"input_ids": [0] * add_special_tokens + ids}

    def convert_ids_to_tokens(self, ids):
        return [self.words[i] if i < len(self.words) else None for i in ids]

    def decode(self, ids, **options):
        return "".join(f" {self.words[i]}" for i in ids)


def parameters(outputs=VOCABULARY, dtype=jnp.float32):
    keys = iter(jax.random.split(jax.random.key(0), 8))

    def normal(*shape):
        return jax.random.normal(next(keys), shape, dtype) / shape[0] ** 0.5

    return {
        "embed": 3 * normal(VOCABULARY, WIDTH),
        "positions": normal(20, WIDTH),
        **{name: normal(WIDTH, WIDTH) for name in ("query", "key", "value", "mlp")},
        "head": normal(WIDTH, outputs),
    }


def attended(params, embeds, visible):
    """One block of attention; visible: [batch, queries, keys]."""
    x = embeds + params["positions"][None, : embeds.shape[1]]
    query, key, value = (x @ params[name] for name in ("query", "key", "value"))
    scores = jnp.einsum("bqd,bkd->bqk", query, key)
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
    x = x + weights @ value
    return x + jax.nn.relu(x @ params["mlp"])


def embed(params, ids):
    return params["embed"][ids]


def causal_logits(params, embeds, ids, mask):
    length = embeds.shape[1]
    visible = jnp.tril(jnp.ones((length, length), bool))[None]
    return attended(params, embeds, visible) @ params["head"]


def masked_logits(params, embeds, ids, mask):
    return attended(params, embeds, mask[:, None, :]) @ params["head"]


def class_scores(params, embeds, ids, mask):
    x = attended(params, embeds, mask[:, None, :])
    x = jnp.where(mask[..., None], x, 0.0).sum(1) / mask.sum(1, keepdims=True, dtype=x.dtype)
    return x @ params["head"]


def causal(**options):
    options = {"params": parameters(), "pad_id": PAD, "vocabulary": VOCABULARY} | options
    return LanguageModel(embed, causal_logits, **options)


def bidirectional(**options):
    return LanguageModel(embed, masked_logits, parameters(), pad_id=PAD, **options)


def classifier(**options):
    return LanguageModel(embed, class_scores, parameters(outputs=3), pad_id=PAD, **options)


# Shared between tests, so that each shape compiles once.
CAUSAL, BIDIRECTIONAL, CLASSIFIER = causal(), bidirectional(), classifier()
