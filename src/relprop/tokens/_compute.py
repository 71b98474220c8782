"""What is compiled: predictions, and relevance for a batch of texts with several targets each."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from relprop import _transform
from relprop._errors import InputError
from relprop.places import Place
from relprop.tokens import _head, _staged
from relprop.tokens._model import LanguageModel


def outputs(
    model: LanguageModel,
    params: Any,
    embeds: Float[Array, "b t d"],
    ids: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
) -> Float[Array, "b p v"]:
    """Scores per position; a classifier has one position."""
    found = model.logits(params, embeds, ids, mask)
    return found[:, None] if found.ndim == 2 else found


def shape_of_logits(model: LanguageModel, batch: int, length: int) -> tuple[int, ...]:
    """Shape of ``[batch, tokens, vocabulary]`` or ``[batch, classes]``; runs nothing.

    Raises:
        InputError: a half of the model returns something else.
    """
    ids = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    mask = jax.ShapeDtypeStruct((batch, length), jnp.bool_)
    embeds = jax.eval_shape(model.embed, model.params, ids)
    if _shape(embeds)[:-1] != (batch, length) or not jnp.issubdtype(embeds.dtype, jnp.floating):
        raise InputError(
            "`embed` must return real embeddings [batch, tokens, features]; for ids "
            f"{list(ids.shape)} it gave {_described(embeds)}."
        )
    logits = jax.eval_shape(model.logits, model.params, embeds, ids, mask)
    shape = _shape(logits)
    per_token, per_text = shape[:2] == (batch, length) and len(shape) == 3, len(shape) == 2
    if not (per_token or (per_text and shape[0] == batch)):
        raise InputError(
            "`logits` must return [batch, tokens, vocabulary] or [batch, classes]; for embeddings "
            f"{list(embeds.shape)} it gave {_described(logits)}."
        )
    return shape


def logits_at(
    model: LanguageModel,
    params: Any,
    ids: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    positions: Int[Array, "b n"],
) -> Float[Array, "b n v"]:
    """The logits of each text at some positions."""

    def of_text(ids, mask, positions):
        def logits(embeds):
            return scores_at(model, params, embeds, ids[None], mask[None], positions)

        return _staged.in_turn(logits, model.embed(params, ids[None]))

    return jax.vmap(of_text)(ids, mask, positions)


def scores_at(
    model: LanguageModel,
    params: Any,
    embeds: Float[Array, "1 t d"],
    ids: Int[Array, "1 t"],
    mask: Bool[Array, "1 t"],
    positions: Int[Array, " k"],
) -> Float[Array, "k v"]:
    """Logits of a batch of one text at some positions, and of those only."""
    return _head.logits_at(
        functools.partial(outputs, model), (params, embeds, ids, mask), positions
    )


def relevance(
    model: LanguageModel,
    params: Any,
    ids: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    positions: Int[Array, "b n k"],
    targets: Int[Array, "b n k"],
    contrast: Int[Array, "b n k"] | None,
    weights: Float[Array, "b n k"] | None,
    *,
    rules: Any,
    on_missing: Any,
    on_suspicion: str,
    places: tuple[Place, ...],
    per_dimension: bool,
    of: str,
) -> tuple[Float[Array, "b n"], Float[Array, "b n t *d"], Any]:
    r"""Scores, relevance of the tokens and relevance at places, for each row of each text.

    The score of a row is a sum of k logits, of tokens :math:`v_i` at positions :math:`p_i`, minus
    those of the contrast, and weighted where there are weights:

    .. math:: \sum_i w_i (z_{p_i v_i} - z_{p_i c_i})

    Texts are mapped over, never summed, so that no rule can mix them.
    """

    def score(params, embeds, ids, mask, positions, targets, contrast, weights):
        if places:  # which have all tokens in them
            rows = outputs(model, params, embeds, ids, mask)[0, positions]
        else:
            rows = scores_at(model, params, embeds, ids, mask, positions)
        each = logits_of(rows, targets, contrast, of)
        each = each if weights is None else each * weights
        return each[0] if len(each) == 1 else each.sum()

    explain = _transform.value_and_relevance(
        score,
        rules,
        argnums=1,
        on_missing=on_missing,
        on_suspicion=on_suspicion,
        places=places,
    )

    def of_text(ids, mask, *rows):
        embeds = model.embed(params, ids[None])

        def of_row(row):
            value, found = explain(params, embeds, ids[None], mask[None], *row)
            found, inside = found if places else (found, None)
            return value, found[0] if per_dimension else found[0].sum(-1), inside

        return jax.vmap(of_row)(rows)

    return jax.vmap(of_text)(ids, mask, positions, targets, contrast, weights)


def logits_of(
    rows: Float[Array, "k v"],
    targets: Int[Array, " k"],
    contrast: Int[Array, " k"] | None,
    of: str,
) -> Float[Array, " k"]:
    """One entry of each row, minus another of each; of logits, or of their log-probabilities."""
    rows = jax.nn.log_softmax(rows, axis=-1) if of == "log_probability" else rows
    entries = jax.vmap(lambda row, entry: row[entry])
    each = entries(rows, targets)
    return each if contrast is None else each - entries(rows, contrast)


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(getattr(x, "shape", ()))


def _described(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else f"a {type(x).__name__}"
