"""Models with an encoder and a decoder, as a language model of one text: source, then prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from relprop._errors import InputError
from relprop.tokens._model import LanguageModel
from relprop.tokens._text import load_tokenizer


def from_encoder_decoder(
    embed: Callable[[Any, Any, Any], tuple[Any, Any]],
    logits: Callable[[Any, Any, Any, Any], Any],
    params: Any,
    tokenizer: Any = None,
    *,
    start_id: int,
    vocabulary: int,
    pad_id: int | None = None,
    bounds: Sequence[int] = (),
    positions: int | None = None,
) -> LanguageModel:
    r"""A model with an encoder and a decoder as a `LanguageModel`.

    Its text is the source, a mark, and what the decoder has been given or has generated so far:

    .. math:: s_1 \ldots s_n\ \langle start \rangle\ p_1 \ldots p_m ,

    so that every target, `Continuation` and `Span` among them, works as for a decoder alone, and
    the result has relevance of the source and of the prefix. Texts are sources: the mark is put
    after them. Ids that hold it already (`LanguageModel.start`) go on with a prefix of your own.

    Args:
        embed: ``embed(params, source, prefix)``: from ids ``[batch, tokens]`` of both to their
            embeddings, each ``[batch, tokens, features]``. Both are as wide as the whole text.
        logits: ``logits(params, source, mask, prefix)``: from embeddings of the source, a mask that
            is True at its tokens, and embeddings of the prefix, to the logits
            ``[batch, tokens, vocabulary]`` of the token after each of the prefix. The decoder must
            be causal: what follows the prefix is not masked.
        params: any tree of arrays.
        tokenizer: a tokenizer of transformers, or the folder of one.
        start_id: what the decoder begins with.
        vocabulary: how many tokens have an embedding.
        pad_id: what padding is filled with; by default that of the tokenizer.
        bounds: as for `LanguageModel`.
        positions: as for `LanguageModel`, of the source and of the prefix, each.

    Returns:
        The model. Its `start` is the id of the mark, which is no token of the vocabulary.

    Raises:
        InputError: `start_id` is no token of the vocabulary.

    >>> import jax.numpy as jnp
    >>> from relprop import tokens
    >>> def embed(params, source, prefix):
    ...     return params[source], params[prefix]
    >>> def logits(params, source, mask, prefix):
    ...     read = jnp.sum(jnp.where(mask[..., None], source, 0.0), axis=1, keepdims=True)
    ...     return (jnp.cumsum(prefix, axis=1) + read) @ params.T
    >>> model = tokens.from_encoder_decoder(
    ...     embed, logits, jnp.eye(4), start_id=0, vocabulary=4, pad_id=0
    ... )
    >>> print(tokens.explain(model, [2, 3, 2], tokens.NextToken(2)))
    token 2, score 2
      2        +1
      3        +0
      2        +1
      <start>  +0
    """
    if not 0 <= start_id < vocabulary:
        raise InputError(
            f"The decoder begins with token {start_id}, but there are {vocabulary} embeddings: "
            "`start_id` is one of the vocabulary."
        )
    tokenizer = load_tokenizer(tokenizer)

    def embedded(params: Any, ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        begin = ids == vocabulary
        known = jnp.where(begin, start_id, ids)
        source, prefix = embed(params, known, known)
        return jnp.where(_is_source(ids, vocabulary)[..., None], source, prefix)

    def scores(
        params: Any, embeds: Float[Array, "b t d"], ids: Int[Array, "b t"], mask: Bool[Array, "b t"]
    ) -> Float[Array, "b t v"]:
        own = _is_source(ids, vocabulary)
        count = jnp.sum(own, axis=1, keepdims=True)  # of tokens of the source
        columns = jnp.arange(ids.shape[1])[None]
        prefix = _rows(embeds, (columns + count) % ids.shape[1])
        limit = ids.shape[1] if positions is None else min(ids.shape[1], positions)
        found = logits(params, embeds[:, :limit], (own & mask)[:, :limit], prefix[:, :limit])
        # The logits stand where the tokens of the prefix do; before these there are none.
        places = jnp.clip(columns - count, 0, limit - 1)
        return _rows(found, places)

    return LanguageModel(
        embed=embedded,
        logits=scores,
        params=params,
        tokenizer=tokenizer,
        pad_id=getattr(tokenizer, "pad_token_id", None) if pad_id is None else pad_id,
        vocabulary=vocabulary,
        bounds=tuple(bounds),
        positions=positions,
        start=vocabulary,
    )


def _is_source(ids: Int[Array, "b t"], start: int) -> Bool[Array, "b t"]:
    """Where the source is: before the mark."""
    return jnp.cumsum(ids == start, axis=1) == 0


def _rows(x: Float[Array, "b t d"], places: Int[Array, "b t"]) -> Float[Array, "b t d"]:
    return jnp.take_along_axis(x, places[..., None], axis=1, mode="clip")
