"""Relevance through a chain of reasoning: from the answer to the chain, and on to the text."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from relprop._errors import InputError
from relprop.tokens._explain import explain
from relprop.tokens._model import LanguageModel
from relprop.tokens._targets import Span


def hops(
    model: LanguageModel,
    text: Any,
    target: Span,
    chain: tuple[int, int],
    count: int = 1,
    **options: Any,
) -> Float[np.ndarray, "hops t"]:
    r"""Relevance of the tokens of one text through a chain of reasoning in it, hop by hop.

    An answer is often read off the last step of the reasoning before it. So the relevance that the
    tokens of the chain got is where the next explanation begins: of their logits, weighted by

    .. math:: w_t = R_t / \sum_{s \in \text{chain}} |R_s|,

    which is one pass for the whole chain. As many explanations as there are hops, and one.

    Args:
        model: as for `explain`.
        text: one text, the chain in it.
        target: the answer.
        chain: where the reasoning is in the text: its first position and that after its last.
        count: how many hops.
        **options: as for `explain`.

    Returns:
        Relevance of each token per hop, the first row that for the answer itself. The rows that
        follow are in units of logits of the chain.

    Raises:
        InputError: as for `explain`, or several texts were given, or no hop.

    >>> import jax.numpy as jnp
    >>> from relprop import tokens
    >>> model = tokens.LanguageModel(
    ...     embed=lambda params, ids: params[ids],
    ...     logits=lambda params, embeds, ids, mask: jnp.cumsum(embeds, 1) @ params.T,
    ...     params=jnp.eye(4) + 1,
    ... )
    >>> hops(model, [0, 1, 2], tokens.Span([3]), chain=(1, 3)).shape
    (2, 4)
    """
    if count < 1:
        raise InputError(f"`count` must be at least 1, got {count}.")
    result = explain(model, text, target, **options)
    if result.is_batch:
        raise InputError("Hops go through one text: explain the texts of a batch one by one.")
    part = Span(within=chain, of=target.of)
    columns = np.flatnonzero(result.mask)[slice(*chain)]  # padding does not count
    found = [result.relevance]
    for _ in range(count):
        inside = found[-1][columns]
        whole = float(np.abs(inside).sum())
        if not whole:
            found.append(np.zeros_like(found[0]))
            continue
        weights = tuple((inside / whole).tolist())
        hop = explain(model, text, dataclasses.replace(part, weights=weights), **options)
        found.append(np.pad(hop.relevance, (0, len(found[0]) - len(hop.relevance))))
    return np.stack(found)
