"""The axes of heads in what attention reads and writes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from relprop._core.graph import Graph, Value
from relprop._errors import InputError
from relprop.anatomy.blocks import Attention


@dataclasses.dataclass(frozen=True)
class HeadAxes:
    """Which axes of a value are heads.

    Attributes:
        shape: of the value.
        axes: those of heads, in order.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape[axis] for axis in self.axes)

    def mask(self, head: Any) -> Bool[Array, "..."]:
        """Where the entries of one head are."""
        here = jnp.ones(self.shape, bool)
        sizes = [self.shape[axis] for axis in self.axes]
        for axis, index in zip(self.axes, jnp.unravel_index(head, sizes), strict=True):
            here &= lax.broadcasted_iota(jnp.int32, self.shape, axis) == index
        return here

    def each(self, function: Any) -> Any:
        """The values of a function of the mask of a head, for all heads."""
        return jax.vmap(lambda head: function(self.mask(head)))(jnp.arange(self.count))


def head_axes(graph: Graph, block: Attention) -> dict[str, HeadAxes]:
    """Those of query, key, value and output of an attention.

    Raises:
        InputError: it cannot be told which they are.
    """
    carried, mixed = block.carried, block.mixed
    if len(block.compared) != 2 or carried is None or mixed is None:
        raise InputError(
            f"Of the attention at {block.source} it is not known what its queries, keys and values "
            "are. There are `relprop.patching.nodes` of its pattern and of its output."
        )
    query, key = block.compared
    compares = _product(graph, query, key)
    mixes = _product(graph, block.applied, carried)
    batch, free = _roles(compares, query)
    found = {"query": _axes(query, batch, free, [block.heads])}
    batch, free = _roles(compares, key)
    found["key"] = _axes(key, batch, free, [block.key_heads, block.heads])
    batch, free = _roles(mixes, carried)
    found["value"] = _axes(carried, batch, free, [block.key_heads, block.heads])
    # The axes of a product are those that it shares, then what is left of each operand.
    (_, (shared, _)) = mixes.params["dimension_numbers"]
    rest = range(len(shared), len(mixed.shape))
    found["output"] = _axes(mixed, range(len(shared)), rest, [block.heads])
    return found


def _product(graph: Graph, a: Any, b: Any) -> Any:
    for equation in graph.equations:
        if equation.name == "dot_general" and {*equation.inputs} == {a, b}:
            return equation
    raise InputError("The products of an attention are inside of a loop or of another function.")


def _roles(product: Any, operand: Any) -> tuple[Sequence[int], Sequence[int]]:
    """The axes that an operand of a product shares with the other one, and those that are left."""
    position = product.inputs.index(operand)
    contracting, batch = product.params["dimension_numbers"]
    used = {*contracting[position], *batch[position]}
    return batch[position], [i for i in range(len(operand.shape)) if i not in used]


def _axes(
    value: Value, batch: Sequence[int], free: Sequence[int], counts: Sequence[int]
) -> HeadAxes:
    """Of shared axes those that there are as many heads along as are known, the last of them."""
    for count in counts:
        for among in (sorted(batch), sorted({*batch, *free})):
            for size in range(len(among) + 1):
                for axes in itertools.combinations(reversed(among), size):
                    if count and math.prod(value.shape[axis] for axis in axes) == count:
                        return HeadAxes(value.shape, tuple(sorted(axes)))
    raise InputError(
        f"Of an attention whose products read {list(value.shape)} it is not known which axes are "
        "its heads."
    )
