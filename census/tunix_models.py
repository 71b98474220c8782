"""Language models of tunix, Google's library of them in Flax NNX.

They take token ids; explained is the table of embeddings, of tied heads both uses.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from census.entry import Entry, Model, counts
from census.trees import perturbed

L = 2
TOKENS = jnp.array([[3, 1, 4, 1, 5]])
SIZES = {
    "num_layers": L,
    "embed_dim": 16,
    "hidden_dim": 24,
    "num_heads": 2,
    "head_dim": 8,
    "num_kv_heads": 1,
}
VOCABULARY = {"vocab_size": 32, "rope_theta": 10_000, "norm_eps": 1e-6}
GATED = counts(attention=L, norm=2 * L + 1, activation=L, gate=L)


def entries() -> Iterator[Entry]:
    """All of them."""
    yield entry("llama3", "Llama3", {**SIZES, **VOCABULARY}, GATED)
    yield entry("qwen2", "Qwen2", {**SIZES, **VOCABULARY}, GATED)
    # Norms of queries and keys.
    queries = counts(attention=L, norm=4 * L + 1, activation=L, gate=L)
    yield entry("qwen3", "Qwen3", {**SIZES, **VOCABULARY}, queries)
    # Experts one by one.
    yield entry(
        "qwen3_moe",
        "Qwen3",
        {**SIZES, **VOCABULARY, "num_experts": 4, "num_experts_per_tok": 2},
        counts(attention=L, norm=4 * L + 1, activation=4 * L, gate=4 * L, router=L),
    )
    # Norms before and after both halves of a block, and of queries and keys.
    yield entry(
        "gemma3",
        "Gemma3",
        {**SIZES, "num_embed": 32, "sliding_window_size": 4, "param_dtype": jnp.float32},
        counts(attention=L, norm=6 * L + 1, activation=L, gate=L),
    )


def entry(name: str, kind: str, config: Mapping[str, Any], expected: Mapping[str, int]) -> Entry:
    """One line."""
    return Entry(name, "tunix", functools.partial(built, kind, config, expected))


def built(kind: str, config: Mapping[str, Any], expected: Mapping[str, int]) -> Model:
    """A model on a few tokens; its score is a logit of the last."""
    from flax import nnx

    library = imported(kind.lower())
    module = getattr(library, kind)(library.ModelConfig(**config), rngs=nnx.Rngs(0))
    graph, params = nnx.split(module)
    params = perturbed(params)
    table = params["embedder"]["input_embedding"]
    count = TOKENS.shape[1]
    mask = jnp.tril(jnp.ones((1, count, count), bool))

    def function(params: Any, embeddings: jax.Array) -> jax.Array:
        params["embedder"]["input_embedding"] = table.replace(embeddings)
        logits, _ = nnx.merge(graph, params)(TOKENS, jnp.arange(count)[None], None, mask)
        return logits[0, -1]

    return Model(function, params, table[...], target=(3,), expected=expected)


def imported(name: str) -> Any:
    """The module of one model; the package itself would import what it trains with."""
    if "tunix" not in sys.modules:
        found = importlib.util.find_spec("tunix")
        if found is None:
            raise ModuleNotFoundError("No module named 'tunix'")
        package = types.ModuleType("tunix")
        package.__path__ = list(found.submodule_search_locations or ())
        sys.modules["tunix"] = package
    return importlib.import_module(f"tunix.models.{name}.model")
