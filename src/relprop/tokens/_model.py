"""A language model in two halves: the lookup of embeddings, and what follows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from relprop.tokens._compiled import Compiled


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
        bounds: lengths that padding must not cross: how many positions there are, or where the
            model begins to scale them.
        positions: how many positions have an embedding of their own; longer texts are then an
            error.
        start: of an encoder with a decoder, the mark between source and prefix; see
            `from_encoder_decoder`.

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
    bounds: tuple[int, ...] = ()
    positions: int | None = None
    start: int | None = None

    def __repr__(self) -> str:
        count = sum(x.size for x in jax.tree.leaves(self.params))
        return f"LanguageModel({count:,} parameters, vocabulary={self.vocabulary})"

    def clear_cache(self) -> None:
        """Gives back the memory of what was compiled for this model; it is compiled again.

        The last few programs are kept otherwise, and go when the model does. What JAX traced for
        them stays until `jax.clear_caches()`.
        """
        self._compiled.clear()
        self._memory.clear()

    @functools.cached_property
    def _compiled(self) -> Compiled:
        return Compiled()

    @functools.cached_property
    def _memory(self) -> dict[Any, Any]:
        """What has been found out about the model, see `_run`."""
        return {}
