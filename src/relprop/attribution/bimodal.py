"""Relevance between the tokens of several streams, from the attention within and between them.

The relevancy maps of Chefer et al. 2021 (ICCV): R^sq says how much each token of stream q counts
for each token of stream s. The paper updates the maps of two modalities layer by layer; here each
application of attention adds its share to those that were there before *it*, which the data flow
tells. That is the same for models whose layers follow each other, co-attention in both directions
at once included, and needs no order where there is none.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop.anatomy.streams import TokenFlow

#: Stream -> how much its tokens count, for each token of one stream.
Rows = dict[int, Float[Array, "n s q"]]


class Relevancies:
    r"""The relevancy maps of a model.

    With :math:`\bar A = \mathbb{E}_h[(\nabla A \odot A)^+]` of each application, attention of a
    stream s to itself and to another stream q adds

    .. math::

        R^{ss} \mathrel{+}= \bar A R^{ss}, \quad R^{sq} \mathrel{+}= \bar A R^{sq}
        \qquad\text{and}\qquad
        R^{sq} \mathrel{+}= (\bar R^{ss})^\top \bar A \bar R^{qq}, \quad
        R^{ss} \mathrel{+}= \bar A R^{qs}.

    What q has seen of a third stream reaches s in the way of the last one.

    Args:
        flow: who looks at whom.
        maps: the maps A-bar, of those applications that count.

    Source: Chefer et al. 2021 (ICCV), eq. 5 to 11.
    """

    def __init__(self, flow: TokenFlow, maps: Mapping[int, Float[Array, "n s q"]]):
        self._flow, self._maps = flow, maps
        self._rows: dict[tuple[int, frozenset[int]], Rows] = {}
        first = next(iter(maps.values()))
        self._eyes = [jnp.eye(stream.size, dtype=first.dtype)[None] for stream in flow.streams]
        self._samples = first.shape[0]

    def of(self, stream: int, applications: frozenset[int]) -> Rows:
        """The maps R of all streams for the tokens of one, after some applications of attention."""
        found = self._without_identity(stream, applications)
        rows = {}
        for other, of in enumerate(self._flow.streams):
            shape = (self._samples, self._flow.streams[stream].size, of.size)
            rows[other] = found.get(other, jnp.zeros(shape, self._eyes[0].dtype))
        rows[stream] = rows[stream] + self._eyes[stream]
        return rows

    def _without_identity(self, stream: int, applications: frozenset[int]) -> Rows:
        # Without it, since a small number added to 1 and taken from it again is a worse number.
        key = (stream, applications)
        if key not in self._rows:
            own = sorted(j for j in applications if self._flow.applications[j].queries == stream)
            rows: Rows = {}
            if own:
                rows = dict(self._without_identity(stream, frozenset(own[:-1])))
                for other, added in self._added(own[-1]).items():
                    rows[other] = rows[other] + added if other in rows else added
            self._rows[key] = rows
        return self._rows[key]

    def _added(self, number: int) -> Rows:
        """What one application of attention adds."""
        if number not in self._maps:
            return {}
        application, a = self._flow.applications[number], self._maps[number]
        seen = self._without_identity(application.keys, application.keys_before)
        added = {q: jnp.matmul(a, r) for q, r in seen.items()}
        if not application.crosses:
            added[application.keys] = (
                added[application.keys] + a if application.keys in added else a
            )
            return added
        # Eq. 10 for the stream that is looked at, eq. 11 for what that has seen of others.
        own = self._without_identity(application.queries, application.before).get(
            application.queries
        )
        normal = functools.partial(self._normalised, stream=application.keys)
        mixed = jnp.matmul(a, normal(seen.get(application.keys)))
        ours = self._normalised(own, application.queries)
        added[application.keys] = jnp.matmul(jnp.swapaxes(ours, -1, -2), mixed)
        return added

    def _normalised(self, rows: Float[Array, "n s s"] | None, stream: int) -> Float[Array, "n s s"]:
        r"""The identity and what was added to it, each weighing as much as the other.

        .. math::

            \bar R = \hat R / S + I, \qquad \hat R = R - I, \quad S_{mn} = \sum_k \hat R_{mk}

        Source: eq. 8 and 9. Tokens that have seen nothing yet, where that is 0/0, are themselves.
        """
        eye = self._eyes[stream]
        if rows is None:
            return eye
        sums = jnp.sum(rows, axis=-1, keepdims=True)
        return jnp.where(sums == 0, 0, rows / jnp.where(sums == 0, 1, sums)) + eye
