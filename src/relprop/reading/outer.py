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
from relprop.reading.repeats import simplified


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
        simplified(draft)  # What is scaled may have been transposed there and back.


def _product(batch: Any, dtype: Any, a: Array, b: Array) -> Array:
    """Entries that both have come first, then those of the one, then those of the other."""
    a, b, count = a.astype(dtype), b.astype(dtype), len(batch[0])
    free = [
        [i for i in range(x.ndim) if i not in axes] for x, axes in zip((a, b), batch, strict=True)
    ]
    if not free[1]:
        return _scaled(a, b, batch, free[0])
    if not free[0]:
        return _scaled(b, a, batch[::-1], free[1])
    left, right = (
        jnp.transpose(x, (*axes, *own)) for x, axes, own in zip((a, b), batch, free, strict=True)
    )
    left = left.reshape((*left.shape, *(1,) * len(free[1])))
    right = right.reshape((*right.shape[:count], *(1,) * len(free[0]), *right.shape[count:]))
    return left * right


def _scaled(x: Array, scale: Array, batch: Any, free: list[int]) -> Array:
    """A product with a factor that has no axes of its own; it leaves the others in their order."""
    order = sorted(range(len(batch[0])), key=lambda i: batch[0][i])
    scale = jnp.transpose(scale, [batch[1][i] for i in order])
    return jnp.transpose(x * jnp.expand_dims(scale, free), (*batch[0], *free))
