"""Products with a part of a weight, such as its absolute values, without a copy of a large one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from relprop import _compat
from relprop._core.cpu import held, is_large, once_there
from relprop._core.linear_map import LinearMap

#: Entries of a part of a large weight.
PART = 2**23


@dataclasses.dataclass(frozen=True)
class Magnitudes:
    """A linear map with a part of each entry of its weight, without bias.

    They would be a copy of the weight. On CPUs, those of a large one are made and used in parts,
    one after the other.

    Attributes:
        linear: the map.
        given: relevance of its output; nothing here is made before that has arrived.
        of: the part, a function of single entries: the absolute values.
    """

    linear: LinearMap
    given: Float[Array, "*s"]
    of: Callable[[Array], Array] = jnp.abs

    def apply(self, part: Callable[[Array], Array]) -> Float[Array, "*s"]:
        """The output for a part of each input."""
        linear, parts = self.linear, self._parts
        inputs = tuple(part(self._later(x)) for x in linear.inputs)
        if parts is None:
            return linear.apply(inputs, self._weight)

        def of_part(start: Array | int, length: int) -> Array:
            return linear.apply(inputs, parts.weight(start, length))

        _, made = lax.scan(
            lambda _, at: (None, of_part(at, parts.length)), None, self._later(parts.starts)
        )
        # The parts side by side, along the axis that they are parts of.
        made = jnp.moveaxis(made, 0, parts.to)
        made = made.reshape(*made.shape[: parts.to], -1, *made.shape[parts.to + 2 :])
        if parts.rest:
            made = jnp.concatenate([made, of_part(parts.end, parts.rest)], parts.to)
        return made

    def transpose(self, coefficients: Float[Array, "*s"]) -> tuple[Array, ...]:
        r""":math:`p(w)^\top c` of the part p, one array per active operand."""
        linear, parts = self.linear, self._parts
        if parts is None:
            return linear.transpose(self._weight, coefficients)

        def of_part(start: Array | int, length: int) -> tuple[Array, ...]:
            own = lax.dynamic_slice_in_dim(coefficients, start, length, parts.to)
            return dataclasses.replace(linear, output=own).transpose(
                parts.weight(start, length), own
            )

        def step(totals: tuple[Array, ...], start: Array) -> tuple[tuple[Array, ...], None]:
            return tuple(map(jnp.add, totals, of_part(start, parts.length))), None

        totals = tuple(_compat.zeros(x) for x in linear.inputs)
        if parts.rest:
            totals = of_part(parts.end, parts.rest)
        totals, _ = lax.scan(step, totals, self._later(parts.starts))
        return totals

    def _later(self, array: Array) -> Array:
        """The same array, made when relevance has arrived."""
        return array if self._arrived is None else held(array, self._arrived)

    @functools.cached_property
    def _arrived(self) -> Array | None:
        return once_there(self.given)

    @functools.cached_property
    def _weight(self) -> Array:
        return self.of(self._later(self.linear.weight))

    @functools.cached_property
    def _parts(self) -> _Parts | None:
        """Parts of the weight; None where it is taken as a whole."""
        linear = self.linear
        if linear.free is None or linear.gate is not None or not is_large(linear.weight):
            return None
        return _Parts(linear.weight, self.of, *linear.free)


@dataclasses.dataclass(frozen=True, eq=False)
class _Parts:
    """A large weight in parts, equally long but for the last.

    Attributes:
        whole: the weight.
        of: what of each entry is wanted.
        own: the axis along which they are parts of it.
        to: the axis of the output that it becomes.
    """

    whole: Array
    of: Callable[[Array], Array]
    own: int
    to: int

    @property
    def length(self) -> int:
        """Of a part along its axis."""
        whole = self.whole.shape[self.own]
        return min(max(whole * PART // self.whole.size, 1), whole)

    @property
    def count(self) -> int:
        return self.whole.shape[self.own] // self.length

    @property
    def end(self) -> int:
        """Where the last one begins, the shorter one."""
        return self.count * self.length

    @property
    def rest(self) -> int:
        """The length of that one."""
        return self.whole.shape[self.own] - self.end

    @property
    def starts(self) -> Array:
        return self.length * jnp.arange(self.count)

    def weight(self, start: Array | int, length: int) -> Array:
        """What is wanted of the entries of a part."""
        return self.of(lax.dynamic_slice_in_dim(self.whole, start, length, self.own))
