"""Full LRP: the relevance of the tokens themselves, not that of attention maps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop._errors import InputError
from relprop.anatomy import anatomy_of
from relprop.anatomy.streams import Stream, TokenFlow, token_flow
from relprop.places import Inside, Place


@dataclasses.dataclass(frozen=True)
class Entries(Place):
    """Where the tokens of each stream are first: the argument, or the embeddings made of it."""

    def values(self, plan):
        explained = set(plan.active) & set(plan.graph.inputs)
        flow = token_flow(anatomy_of(plan.graph, explained), {})
        for number, stream in enumerate(flow.streams):
            if stream.entry is not None and not stream.constant:
                yield _name(number), stream.entry


def relevance_of_tokens(flow: TokenFlow, inside: Mapping[str, Inside]) -> dict[str, Array]:
    r"""The sums of relevance over all that a token consists of, :math:`R_t = \sum_d R_{td}`.

    Args:
        flow: the streams.
        inside: relevance at the `Entries` of the same function.

    Returns:
        Per stream ``(n, t)``.

    Raises:
        InputError: the first value of a stream is inside of a loop or region.
    """
    lost = [
        f"  {stream}"
        for number, stream in enumerate(flow.streams)
        if not stream.constant and _name(number) not in inside
    ]
    if lost:
        raise InputError(
            "These tokens begin inside of a loop or of one operation, where their relevance cannot "
            "be read:\n" + "\n".join(lost) + "\nExplain the embeddings, as an argument."
        )
    return {
        stream.name: _summed(inside[_name(number)].relevance, stream)
        for number, stream in enumerate(flow.streams)
        if not stream.constant
    }


def _summed(relevance: Float[Array, "..."], stream: Stream) -> Float[Array, "n t"]:
    axes = [i for kind in ("batch", "token") for i, k in enumerate(stream.layout) if k == kind]
    samples = math.prod(relevance.shape[i] for i, k in enumerate(stream.layout) if k == "batch")
    relevance = jnp.moveaxis(relevance, axes, range(len(axes)))
    return jnp.sum(relevance.reshape(samples, stream.size, -1), axis=-1)


def _name(number: int) -> str:
    return f"tokens {number}"
