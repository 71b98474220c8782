"""An average that is divided by the sum of its weights last is one by weights that sum to one."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Equation
from relprop.propagators.linear import Division
from relprop.reading.algebra import Algebra
from relprop.reading.draft import Draft
from relprop.reading.terms import Symbol, power, summed


def averaged(
    draft: Draft, algebra: Algebra, equation: Equation, position: int
) -> list[Equation] | None:
    """``(e * v).sum() / e.sum()`` as the sum of ``(e / e.sum()) * v``."""
    atom, other = equation.inputs[position], equation.inputs[1 - position]
    total = draft.index.maker.get(atom)
    product = None if total is None else draft.index.maker.get(total.inputs[0])
    if total is None or total.name != "reduce_sum" or not draft.index.only_reader(atom):
        return None
    if product is None or product.name != "mul" or other.shape != atom.shape:
        return None
    axes = total.params["axes"]
    divides = isinstance(registry.lookup(equation.primitive), Division)
    for factor, value in (product.inputs, product.inputs[::-1]):
        if factor not in draft.index.exponentials[0] or factor.shape != product.outputs[0].shape:
            continue
        index = algebra.indices(factor.shape)
        bound = [s for a, s in enumerate(index) if a in axes and isinstance(s, Symbol)]
        own = summed(algebra.of(factor, index), bound)
        free = tuple(s for a, s in enumerate(index) if a not in axes)
        if algebra.of(other, free) == (own if divides else power(own, -1)):

            def normalised(e: Array, v: Array, s: Array) -> Array:
                s = jnp.expand_dims(s, axes)
                return jnp.sum((e / s if divides else e * s) * v, axes)

            return draft.derived(normalised, [factor, value, other], equation, equation.outputs[0])
    return None
