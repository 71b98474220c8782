"""Biases behind a scale that is not the weight's, such as one per token.

``(x @ W) * c + b`` is ``(x * c) @ W + b``, a layer with a bias, where c differs along axes of x.
Where it differs along axes of both, the bias is added before: ``(x @ W + b / c) * c``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.linear import Addition, Contraction, Dense, Division, Multiplication
from relprop.reading.draft import Draft
from relprop.reading.numbers import is_literal


def before_scales(draft: Draft) -> None:
    """Adds a bias to its layer, whatever its result is scaled by before."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        kind = registry.lookup(equation.primitive)
        if isinstance(kind, Addition) and (found := _scaled_layer(draft, equation)):
            function, inputs = _from_input(found) or _from_result(draft, found)
            sign = kind.sign
            first = equation.inputs[0] is found.scaled

            def added(b: Array, *arrays: Array, function=function, sign=sign, first=first) -> Array:
                # The bias with its sign, and that of the layer.
                own = -1 if sign < 0 and not first else 1
                return function(own, -b if sign < 0 and first else b, *arrays)

            made[equation] = draft.derived(
                added, [found.bias, *inputs], equation, equation.outputs[0]
            )
    if made:
        draft.put(made)


class _ScaledLayer(NamedTuple):
    """A layer whose result is multiplied with a constant before a bias is added."""

    layer: Equation
    position: int  # of what is explained
    factor: Atom
    divides: bool
    scaled: Value
    bias: Atom

    @property
    def kind(self) -> Contraction:
        found = registry.lookup(self.layer.primitive)
        assert isinstance(found, Contraction)
        return found

    def differs_along(self, position: int) -> bool:
        """Whether the factor differs along axes that come from one operand, and no others."""
        axes = self.kind.carried(self.layer, position)
        start = len(self.scaled.shape) - len(self.factor.shape)
        return all(n == 1 or axis in axes for axis, n in enumerate(self.factor.shape, start))


def _scaled_layer(draft: Draft, addition: Equation) -> _ScaledLayer | None:
    index, (out,) = draft.index, addition.outputs
    if len(index.operands(addition)) != 1 or len(addition.inputs) != 2:
        return None
    (scaled,) = index.operands(addition)
    bias = addition.inputs[1 - addition.inputs.index(scaled)]
    scale = index.maker.get(scaled)
    if scale is None or index.only_reader(scaled) is not addition or scaled.shape != out.shape:
        return None
    kind = registry.lookup(scale.primitive)
    if not isinstance(kind, Multiplication | Division) or len(index.operands(scale)) != 1:
        return None
    (value,) = index.operands(scale)
    at, divides = scale.inputs.index(value), isinstance(kind, Division)
    layer, factor = index.maker.get(value), scale.inputs[1 - at]
    if layer is None or index.only_reader(value) is not scale or (divides and at == 1):
        return None
    if not isinstance(registry.lookup(layer.primitive), Contraction) or value.shape != out.shape:
        return None
    if len(index.operands(layer)) != 1 or index.varies(bias):
        return None
    position = layer.inputs.index(index.operands(layer)[0])
    found = _ScaledLayer(layer, position, factor, divides, scaled, bias)
    if is_literal(index.maker, layer.inputs[1 - position]):
        return None  # What nobody has learnt is no layer.
    if factor in index.touched:  # It is no part of a weight, nor is what it divides a bias.
        own = isinstance(found.kind, Dense) and found.differs_along(position)
    else:
        own = not found.differs_along(1 - position)
    return found if own else None


def _from_input(found: _ScaledLayer):
    """The layer of what is scaled before."""
    if not isinstance(found.kind, Dense) or not found.differs_along(found.position):
        return None
    shape = found.scaled.shape

    def layer(sign: int, b: Array, factor: Array, *operands: Array) -> Array:
        arrays = list(operands)
        dtype = arrays[found.position].dtype
        scale = jnp.broadcast_to(jnp.asarray(factor, dtype), shape)
        arrays[found.position] = found.kind.with_scaled_result(
            found.layer,
            found.position,
            arrays[found.position],
            1 / scale if found.divides else scale,
        )
        (out,) = found.layer.evaluate(arrays)
        return (out if sign > 0 else -out) + b

    return layer, [found.factor, *found.layer.inputs]


def _from_result(draft: Draft, found: _ScaledLayer):
    """The layer with the bias that gives the other one once it is scaled."""
    known = draft.known(found.factor)
    whole = known is not None and bool(np.all(known != 0))

    def layer(sign: int, b: Array, factor: Array, h: Array) -> Array:
        c = jnp.asarray(factor, h.dtype)
        c = 1 / c if found.divides else c
        b = jnp.broadcast_to(jnp.asarray(b, h.dtype), h.shape)
        h = h if sign > 0 else -h
        if whole:
            return (h + b / c) * c
        there = c != 0
        total = (h + jnp.where(there, b / jnp.where(there, c, 1), 0)) * c
        # Where nothing is left of the layer there is only the bias.
        return total + jnp.where(there, jnp.zeros((), b.dtype), b)

    return layer, [found.factor, found.layer.outputs[0]]
