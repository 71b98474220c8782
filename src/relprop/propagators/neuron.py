"""A layer with its activation function, as one operation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop._core.graph import Equation
from relprop._core.linear_map import LinearMap
from relprop._core.operation import Operation, Propagator
from relprop._core.registry import operation_of
from relprop._core.relevance import precise
from relprop._core.site import Site


@dataclasses.dataclass(frozen=True)
class Neuron(Propagator):
    """A layer with weights and the function of each entry that follows it.

    Args:
        layer: what is linear.
        moves: what only moves its results.
        function: what is a function of each of them.
    """

    layer: Operation
    moves: tuple[Equation, ...]
    function: Operation
    first_is_main: ClassVar[bool] = True

    def structure(self, operation, active):
        return "neuron"

    def before(self, site: Site) -> LinearMap:
        """The layer by itself, its results moved to where the function takes them."""
        known = dict(
            zip(site.operation.inputs, zip(site.values, site.active, strict=True), strict=True)
        )
        values, active = zip(*(known[atom] for atom in self.layer.inputs), strict=True)
        outputs = self.layer.propagator.evaluate(self.layer, values)
        linear = Site(self.layer, active, values, outputs).linear
        bias = linear.bias
        if bias is not None:
            bias = self._moved(jnp.broadcast_to(bias, linear.output.shape))
        return LinearMap(
            linear.inputs,
            self._moved(linear.output),
            lambda xs, w: self._moved(linear.apply(xs, w)),
            linear.weight,
            bias,
        )

    def activate(self, site: Site, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The function, of other results of the layer."""
        known = dict(zip(site.operation.inputs, site.values, strict=True))
        start = self.moves[-1].outputs[0] if self.moves else self.layer.outputs[0]
        values: Sequence[Any] = [
            z.astype(start.dtype) if atom is start else known[atom] for atom in self.function.inputs
        ]
        (out,) = self.function.propagator.evaluate(self.function, values)
        return precise(out)

    def _moved(self, value: Any) -> Any:
        for equation in self.moves:
            step = operation_of(equation)
            (value,) = step.propagator.evaluate(step, [value])
        return value
