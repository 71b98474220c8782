"""Attention in chunks of queries, whose maps are made again on the way back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attention_in_chunks(
    query: Float[Array, "*b t d"],
    key: Float[Array, "*b s d"],
    value: Float[Array, "*b s e"],
    mask: Bool[Array, "..."] | Float[Array, "..."] | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    chunk: int = 256,
) -> Float[Array, "*b t e"]:
    r"""Attention without an array of all queries and all keys.

    .. math:: \text{softmax}(s\, q k^\top + m)\, v

    A loop over chunks of queries, each in a `jax.checkpoint`: the largest array is that of one
    chunk, ``[*b, chunk, s]``, on the way forward, in the gradient and in an explanation. Values,
    gradients and relevance are those of attention as a whole, but for rounding; maps are computed
    twice.

    Args:
        query: ``[*b, t, d]``, heads among the axes in front.
        key: ``[*b, s, d]``.
        value: ``[*b, s, e]``.
        mask: True where a query sees a key, or numbers that are added to the scores; broadcast to
            ``[*b, t, s]``.
        is_causal: queries see no keys after them.
        scale: s, by default :math:`1 / \sqrt d`.
        chunk: how many queries at a time.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(12.0).reshape(1, 6, 2)
    >>> attention_in_chunks(x, x, x, is_causal=True, chunk=4)[0, 0].tolist()
    [0.0, 1.0]
    """
    length, size = query.shape[-2:]
    chunk = min(chunk, length)
    count = -(-length // chunk)
    scale = size**-0.5 if scale is None else scale
    query = _in_chunks(query * jnp.asarray(scale, query.dtype), count, chunk)
    shape = (*key.shape[:-2], length, key.shape[-2])
    if mask is not None:
        mask = jnp.reshape(mask, (1,) * (len(shape) - mask.ndim) + mask.shape)
        if mask.shape[-2] == length > 1:
            mask = _in_chunks(mask, count, chunk)
        else:
            mask = jnp.broadcast_to(mask[None], (count, *mask.shape))

    @jax.checkpoint
    def attended(number: Array, query: Array, mask: Array | None) -> Array:
        scores = jnp.einsum("...td,...sd->...ts", query, key)
        if mask is not None and mask.dtype != bool:
            scores = scores + jnp.broadcast_to(mask, scores.shape)
        elif mask is not None:
            scores = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf)
        if is_causal:
            rows = number * chunk + jnp.arange(chunk)
            seen = rows[:, None] >= jnp.arange(scores.shape[-1])[None]
            scores = jnp.where(jnp.broadcast_to(seen, scores.shape), scores, -jnp.inf)
        return jnp.einsum("...ts,...se->...te", jax.nn.softmax(scores, axis=-1), value)

    found = jax.lax.map(lambda some: attended(*some), (jnp.arange(count), query, mask))
    found = jnp.moveaxis(found, 0, -3)
    found = found.reshape(*found.shape[:-3], count * chunk, found.shape[-1])
    return found[..., :length, :]


def _in_chunks(array: Array, count: int, chunk: int) -> Array:
    """``[..., t, d]`` in parts of the same size, ``[count, ..., chunk, d]``."""
    *front, length, size = array.shape
    # The last rows again in place of those that are missing: what nobody reads must be numbers.
    rows = jnp.minimum(jnp.arange(count * chunk), length - 1)
    array = array if count * chunk == length else jnp.take(array, rows, axis=-2, mode="clip")
    return jnp.moveaxis(array.reshape(*front, count, chunk, size), -3, 0)
