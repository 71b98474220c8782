"""The query: the tokens whose rows are taken, which have to be such that the score is read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from relprop import _compat
from relprop._errors import InputError
from relprop.anatomy.streams import TokenFlow
from relprop.attribution.maps import Layer


def positions_of(query: int | str | Sequence[int], length: int) -> np.ndarray:
    """The numbers of the tokens of a query.

    Raises:
        InputError: there are no such tokens.
    """
    if isinstance(query, str):
        if query == "mean":
            return np.arange(length)
        wrong: Sequence[Any] = [query]
    else:
        numbers = np.atleast_1d(query).tolist()
        wrong = [n for n in numbers if type(n) is not int or not -length <= n < length]
        if numbers and not wrong:
            return np.asarray(numbers) % length
    raise InputError(
        f"query is {query!r}, but there are {length} tokens: give a position, several, or 'mean'."
    )


def answered(
    tokens: Mapping[str, Float[Array, "n t"]],
    joint: Mapping[str, Float[Array, "n s t"]],
    flow: TokenFlow,
    asked: int,
    layers: Mapping[int, Layer],
    query: np.ndarray,
) -> dict[str, Float[Array, "n t"]]:
    """The rows of a query, unless they say nothing: the score is read from other tokens.

    The gradient of the last map of a stream tells which those are. A row of tokens that the score
    is not read from, and that no gradient reaches or that have seen nothing but themselves, is the
    row of the identity whatever the score is.

    Args:
        tokens: the rows.
        joint: all rows.
        flow: the streams.
        asked: the stream of the query.
        layers: all layers, those that do not count among them.
        query: its positions.

    Returns:
        The rows; while values are not known, with NaN where they say nothing.

    Raises:
        InputError: they say nothing.
    """
    own = {n: layer for n, layer in layers.items() if layer.application.queries == asked}
    last = [own[n] for n in own if not any(n in layer.application.before for layer in own.values())]
    if asked not in flow.read or not last:
        return dict(tokens)
    places, length = flow.positions.get(asked), last[0].gradient.shape[2]
    if len(own) == 1 and places is not None and not {*places} & {*query.tolist()}:
        raise _not_read(query, places, length)
    reads = _any([_reached(layer) for layer in last])[:, query]
    touched = _any([_reached(layer) for layer in own.values()])[:, query]
    others = {of: rows[:, query] != 0 for of, rows in joint.items()}
    name = flow.streams[asked].name
    if name in others:
        others[name] = others[name].at[:, np.arange(len(query)), query].set(False)
    seen = _any([jnp.any(rows, axis=-1) for rows in others.values()])
    everywhere = _any([_reached(layer) for layer in last])
    silent = ~reads & (~touched | ~seen) & jnp.any(everywhere, axis=1, keepdims=True)
    nothing = jnp.any(silent, axis=1)
    if _compat.is_traced(nothing):
        return {of: jnp.where(nothing[:, None], jnp.nan, rows) for of, rows in tokens.items()}
    if np.any(nothing):
        sample = int(np.argmax(nothing))
        there = np.flatnonzero(np.asarray(everywhere)[sample]).tolist()
        raise _not_read(query[np.asarray(silent)[sample]], there, length)
    return dict(tokens)


def _reached(layer: Layer) -> Bool[Array, "n q"]:
    return jnp.any(layer.gradient != 0, axis=(1, 3))


def _any(masks: Sequence[Bool[Array, "n q"]]) -> Bool[Array, "n q"]:
    return jnp.any(jnp.stack(masks), axis=0)


def _not_read(query: np.ndarray, places: Sequence[int], length: int) -> InputError:
    shown = ", ".join(map(str, places[:10])) + ", ..." * (len(places) > 10)
    return InputError(
        f"The score is not read from the query, token {', '.join(map(str, query.tolist()))} of "
        f"{length}: no gradient reaches its row of the attention maps, which is that of the "
        f"identity. The score is read from token {shown}: give `query={places[0]}`"
        + (" (or -1)." if places[0] == length - 1 else ", another of them, or several.")
    )
