"""A language model in two halves: the lookup of embeddings, and what follows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from relprop.tokens import _compute


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
    """Any JAX model of tokens, split where relevance ends: at the embeddings.

    Samples reach `logits` with their own tokens first and padding last, however the caller padded
    them, so that positions count from 0 and causal models need no mask. Models that look both ways
    must use it.

    Args:
        embed: ``embed(params, ids)``: from ids ``[batch, tokens]`` to embeddings
            ``[batch, tokens, features]``.
        logits: ``logits(params, embeds, ids, mask)``: per token the logits
            ``[batch, tokens, vocabulary]`` of the next one (or of itself, for masked words), or
            scores ``[batch, classes]``. The mask is True at tokens, False at padding. The ids are
            for models that look at them once more, for example to find the end of the text.
        params: any tree of arrays. Its paths name the layers in composites.
        tokenizer: a tokenizer of transformers; needed only for text as strings.
        pad_id: what padding is filled with; ids that hold it need a mask.
        vocabulary: how many tokens have an embedding; larger ids are then an error.
        labels: of a classifier, the names of its classes.

    >>> import jax.numpy as jnp
    >>> model = LanguageModel(
    ...     embed=lambda params, ids: params[ids],
    ...     logits=lambda params, embeds, ids, mask: embeds @ params.T,
    ...     params=jnp.eye(5),
    ...     vocabulary=5,
    ... )
    """

    embed: Callable[[Any, Any], Any]
    logits: Callable[[Any, Any, Any, Any], Any]
    params: Any = ()
    tokenizer: Any = None
    pad_id: int | None = None
    vocabulary: int | None = None
    labels: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        count = sum(x.size for x in jax.tree.leaves(self.params))
        return f"LanguageModel({count:,} parameters, vocabulary={self.vocabulary})"

    # Compiled once per model and shape; what is compiled goes when the model does.
    @functools.cached_property
    def _shape_of_logits(self) -> Callable[[int, int], tuple[int, ...]]:
        return functools.cache(functools.partial(_compute.shape_of_logits, self))

    @functools.cached_property
    def _predict(self) -> Callable[..., Any]:
        return jax.jit(functools.partial(_compute.predict, self))

    @functools.cached_property
    def _relevance(self) -> Callable[..., Any]:
        return jax.jit(
            functools.partial(_compute.relevance, self), static_argnames=_compute.SETTINGS
        )
