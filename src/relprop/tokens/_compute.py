"""What is compiled: predictions, and relevance for a batch of texts with several targets each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from relprop import _transform
from relprop._errors import InputError
from relprop.places import Place

if TYPE_CHECKING:
    from relprop.tokens._model import LanguageModel

#: Arguments of `relevance` that choose what is compiled.
SETTINGS = ("rules", "on_missing", "on_suspicion", "places", "rows_at_once", "per_dimension")


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


def predict(
    model: LanguageModel,
    params: Any,
    ids: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    positions: Int[Array, "b n"],
) -> Int[Array, "b n"]:
    """What the model likes best at each of some positions."""
    logits = outputs(model, params, model.embed(params, ids), ids, mask)
    best = jnp.argmax(logits, axis=-1)
    return jnp.take_along_axis(best, positions, axis=1)


def relevance(
    model: LanguageModel,
    params: Any,
    ids: Int[Array, "b t"],
    mask: Bool[Array, "b t"],
    positions: Int[Array, "b n"],
    targets: Int[Array, "b n"],
    contrast: Int[Array, "b n"] | None,
    *,
    rules: Any,
    on_missing: Any,
    on_suspicion: str,
    places: tuple[Place, ...],
    rows_at_once: int,
    per_dimension: bool,
) -> tuple[Float[Array, "b n"], Float[Array, "b n t *d"], Any]:
    """Scores, relevance of the tokens and relevance at places, for each target of each text.

    Texts are mapped over, never summed, so that no rule can mix them.
    """

    def score(params, embeds, ids, mask, position, target, contrast):
        logits = outputs(model, params, embeds, ids, mask)[0, position]
        return logits[target] - (0 if contrast is None else logits[contrast])

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

        return _mapped(of_row, rows, rows_at_once)

    return jax.vmap(of_text)(ids, mask, positions, targets, contrast)


def _mapped(f: Callable[[Any], Any], rows: Any, at_once: int) -> Any:
    """Maps f over rows, some at a time: those share one forward pass and the memory of it."""
    count = len(jax.tree.leaves(rows)[0])
    chunks = -(-count // at_once)
    if chunks == 1:
        return jax.vmap(f)(rows)
    size = -(-count // chunks)
    # Chunks of one size compile once; the last is filled up with its last row.
    chosen = jnp.minimum(jnp.arange(chunks * size), count - 1).reshape(chunks, size)
    found = jax.lax.map(lambda chunk: jax.vmap(f)(jax.tree.map(lambda x: x[chunk], rows)), chosen)
    return jax.tree.map(lambda x: x.reshape(chunks * size, *x.shape[2:])[:count], found)


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(getattr(x, "shape", ()))


def _described(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else f"a {type(x).__name__}"
