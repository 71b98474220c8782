"""Changes to relevance at places inside a function: masks and seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from relprop._core.graph import Value
from relprop._core.plan import Plan
from relprop._core.relevance import Relevance, add
from relprop._errors import InputError

# The numbers of an edit, from the relevance that has arrived at a value and from that value.
Compute = Callable[[Array, Array], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """What is done to the relevance of a value when all of it has arrived.

    Attributes:
        array: the numbers, of the shape of the value, in front of it one axis per loop around.
        make: a function that computes them on the way back, in place of an array.
        name: of the place, for messages.
    """

    array: Shaped[Array, "..."] | None
    make: Compute | None = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})
    kind: ClassVar[str]

    def numbers(self, arrived: Array, value: Array) -> Array:
        """The numbers for one value, of its shape."""
        if self.make is None:
            assert self.array is not None
            return self.array.astype(arrived.dtype)
        made = jnp.asarray(self.make(arrived, value))
        if not fits(made.shape, arrived.shape):
            raise InputError(
                f"The {self.kind} computed for {self.name!r} has shape {made.shape}, which does "
                f"not broadcast to that of the value, {arrived.shape}."
            )
        return jnp.broadcast_to(made, arrived.shape).astype(arrived.dtype)

    def of_shape(self, shape: tuple[int, ...]) -> Edit:
        """The same with an array of the whole shape."""
        if self.array is None:
            return self
        return dataclasses.replace(self, array=jnp.broadcast_to(self.array, shape))

    def apply(self, relevance: Relevance | None, value: Array) -> Relevance | None:
        """The relevance that goes on; None where there is none."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Mask(Edit):
    """Multiplies relevance, in whatever form it has arrived."""

    kind: ClassVar[str] = "mask"

    def apply(self, relevance, value):
        if relevance is None:
            return None
        mask = self.numbers(relevance.total(value), value)
        return relevance.map(lambda part: part * mask)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Seed(Edit):
    """Adds relevance to what has arrived."""

    kind: ClassVar[str] = "seed"

    def apply(self, relevance, value):
        arrived = (relevance or Relevance()).total(value)
        return add(relevance, Relevance(share=self.numbers(arrived, value)))


Edits = Mapping[Value, Sequence[Edit]]


def within(edits: Edits, plan: Plan) -> dict[Value, Sequence[Edit]]:
    """The edits of values that a plan or the bodies inside it compute."""
    if not edits:
        return {}
    here = {value for body in plan.nested() for value in body.graph.values()}
    return {value: own for value, own in edits.items() if value in here}


def fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of a shape can be broadcast to another shape."""
    return len(shape) <= len(target) and all(
        n in (1, m) for n, m in zip(reversed(shape), reversed(target), strict=False)
    )
