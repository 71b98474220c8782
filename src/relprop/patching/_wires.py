"""The residual stream of a transformer: who writes to it, who reads from it, in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from relprop._core.graph import Environment, Graph, Value
from relprop._core.plan import Plan
from relprop._errors import InputError
from relprop.anatomy import anatomy_of
from relprop.anatomy.blocks import Attention, Residual
from relprop.anatomy.residual import all_residuals
from relprop.anatomy.wiring import Wiring
from relprop.patching._heads import HeadAxes, head_axes
from relprop.patching._segments import segment
from relprop.places.kinds import starting

INPUT, LOGITS = "input", "logits"


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """An attention or an MLP beside the stream.

    Attributes:
        name: ``a0``, ``m0``, ...
        stream: what it reads from the residual stream.
        branch: what it adds.
        attention: of an attention, how it is made up.
        heads: of an attention, the axes of heads in query, key, value and output.
    """

    name: str
    stream: Value
    branch: Value
    attention: Attention | None
    heads: dict[str, HeadAxes]

    @property
    def writers(self) -> list[str]:
        if self.attention is None:
            return [self.name]
        return [f"{self.name}.h{h}" for h in range(self.heads["output"].count)]

    @property
    def parts(self) -> dict[str, Value]:
        """What is computed from the stream: queries, keys and values, or all that is added."""
        if self.attention is None:
            return {"": self.branch}
        (query, key), carried = self.attention.compared, self.attention.carried
        assert carried is not None
        return {"query": query, "key": key, "value": carried}

    def readers(self, part: str) -> list[str]:
        if not part:
            return [self.name]
        return [f"{self.name}.h{h}<{part[0]}>" for h in range(self.heads[part].count)]

    def written(self, graph: Graph, known: Environment, change: Callable[[Value], Array]) -> Array:
        """What each of its writers adds to the stream by a change of what it computes.

        Args:
            graph: the function.
            known: all values of the run where a derivative is taken, should the way of heads to
                the stream not be linear.
            change: that of a value.
        """
        if self.attention is None:
            return change(self.branch)[None]
        mixed = self.attention.mixed
        assert mixed is not None
        to_stream = segment(graph, known, [mixed], self.branch)
        assert to_stream is not None
        slope, moved = known[mixed], change(mixed)

        def one(mask: Array) -> Array:
            return jax.jvp(to_stream, (slope,), (jnp.where(mask, moved, 0),))[1]

        return self.heads["output"].each(one)


@dataclasses.dataclass(frozen=True, eq=False)
class Wires:
    """All layers beside one residual stream, in order.

    Attributes:
        graph: the function.
        layers: attention and MLPs.
        first: the stream before them.
        last: the stream after them.
    """

    graph: Graph
    layers: tuple[Layer, ...]
    first: Value
    last: Value

    @classmethod
    def of(cls, plan: Plan) -> Wires:
        """Those of a plan.

        Raises:
            InputError: there is no residual stream, it is inside of a loop, or something else than
                sums leads from one layer to the next.
        """
        anatomy = anatomy_of(plan.graph, starting(plan))
        own = {*plan.graph.values()}
        found = [*all_residuals(anatomy)]
        blocks = [b for b in found if b.value in own and b.stream in own and b.branch in own]
        if not blocks or len(blocks) != len(found):
            raise InputError(
                f"Edges are between layers that add to a residual stream: {len(found)} such sum(s) "
                f"were found, {len(found) - len(blocks)} of them in a loop, a branch or another "
                "function inside. Write a loop over layers as a Python loop, so that each layer "
                "has a place of its own."
            )
        _check_chain(Wiring(anatomy), blocks)
        counts, layers = {"a": 0, "m": 0}, []
        for block in blocks:
            kind = "m" if block.attention is None else "a"
            heads = {} if block.attention is None else head_axes(plan.graph, block.attention)
            name = f"{kind}{counts[kind]}"
            assert block.stream is not None and block.branch is not None
            layers.append(Layer(name, block.stream, block.branch, block.attention, heads))
            counts[kind] += 1
        return cls(plan.graph, tuple(layers), layers[0].stream, blocks[-1].value)

    @property
    def writers(self) -> tuple[str, ...]:
        return (INPUT, *(name for layer in self.layers for name in layer.writers))

    @property
    def readers(self) -> tuple[str, ...]:
        named = (layer.readers(part) for layer in self.layers for part in layer.parts)
        return (*(name for names in named for name in names), LOGITS)

    @property
    def exists(self) -> Bool[np.ndarray, "writers readers"]:
        """Whether a writer comes before a reader."""
        order = {INPUT: -1, LOGITS: len(self.layers)}
        order |= {layer.name: i for i, layer in enumerate(self.layers)}

        def place(name: str) -> int:
            return order[name.split(".")[0]]

        return np.array([[place(u) < place(v) for v in self.readers] for u in self.writers])

    def changes(self, known: Environment, change: Callable[[Value], Array]) -> Array:
        """What each writer adds to the stream by a change of values, as `Layer.written` has it."""
        each = [layer.written(self.graph, known, change) for layer in self.layers]
        return jnp.concatenate([change(self.first)[None], *each])


def _check_chain(wiring: Wiring, blocks: list[Residual]) -> None:
    """Refuses what is no sum of the first value and all that is added."""
    broken = [
        f"  at {block.source}"
        for before, block in zip(blocks, blocks[1:], strict=False)
        if block.stream is None or wiring.origin(block.stream, "structural") is not before.value
    ]
    if broken:
        raise InputError(
            f"The residual stream is changed between {len(broken)} layer(s) and the next, as by a "
            "norm after each sum:\n" + "\n".join(broken) + "\nThen no writer adds to what a later "
            "reader reads; there are `relprop.patching.nodes` of such models, and no edges."
        )
