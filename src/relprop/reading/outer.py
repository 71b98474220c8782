"""Products without a sum: what contracts nothing is a product of entries, however it is written.

``einsum("td,dn->tdn", x, a)`` is ``x[:, :, None] * a``, and ``einsum("ti,i->ti", x, g)`` a scale.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Equation
from relprop.propagators.linear import Dense
from relprop.reading.draft import Draft


def multiplied(draft: Draft) -> None:
    """Writes contractions that sum over nothing as products."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if not isinstance(registry.lookup(equation.primitive), Dense):
            continue
        (out,) = equation.outputs
        contracting, batch = equation.params["dimension_numbers"]
        # What is behind a rounding depends on nothing yet, but may be a quantised layer.
        if not contracting[0] and out.inexact and out in draft.index.touched:
            product = functools.partial(_product, batch, out.dtype)
            made[equation] = draft.derived(product, equation.inputs, equation, out)
    if made:
        draft.put(made)


def _product(batch: Any, dtype: Any, a: Array, b: Array) -> Array:
    """Entries that both have come first, then those of the one, then those of the other."""
    count = len(batch[0])
    own = [
        jnp.transpose(x, (*axes, *(i for i in range(x.ndim) if i not in axes))).astype(dtype)
        for x, axes in zip((a, b), batch, strict=True)
    ]
    left = own[0].reshape((*own[0].shape, *(1,) * (own[1].ndim - count)))
    between = (1,) * (own[0].ndim - count)
    right = own[1].reshape((*own[1].shape[:count], *between, *own[1].shape[count:]))
    return left * right
