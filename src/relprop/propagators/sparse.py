"""Propagators for products with sparse matrices, `jax.experimental.sparse`."""

from __future__ import annotations

import dataclasses

from relprop._core.relevance import common_dtype
from relprop.propagators.linear import Contraction


@dataclasses.dataclass(frozen=True)
class SparseContraction(Contraction):
    """`bcoo_dot_general`: a dense layer whose weights are the entries of a sparse matrix.

    The operands are those entries, their places, and the dense factor. Either factor may be the
    weight, as with `dot_general`; entries in one place are weights of their own.
    """

    def _factors(self, active):
        return active[0], active[2]

    def structure(self, operation, active):
        return super().structure(operation, self._factors(active))

    def linear(self, operation, active):
        return super().linear(operation, self._factors(active))

    def constants(self, operation, active):
        found = super().constants(operation, self._factors(active))
        return {2 * position: role for position, role in found.items()}

    def free(self, operation, active):
        return None

    def split(self, operation, active, values):
        entries, places, dense = values

        def apply(xs, w):
            left, right = (xs[0], w) if active[0] else (w, xs[0])
            (out,) = self.evaluate(operation, [left, places, right])
            return out

        return apply, dense if active[0] else entries

    def pull(self, operation, active, values):
        return None  # Its factors stand elsewhere.

    def evaluate(self, operation, values):
        entries, places, dense = values
        # One precision for both: the traced result type is that of the traced operands.
        if operation.last.params.get("preferred_element_type") is None:
            return operation.evaluate(values)
        kind = common_dtype(entries, dense)
        return operation.evaluate([entries, places, dense], preferred_element_type=kind)
