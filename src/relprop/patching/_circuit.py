"""Circuits: edges that are kept, while all others carry what the corrupted run has there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from relprop._arguments import argument_numbers, check_score
from relprop._core.graph import Environment
from relprop._core.trace import trace
from relprop._errors import InputError
from relprop.patching._edges import Edges
from relprop.patching._runs import check_pair, difference
from relprop.patching._segments import all_values, segment
from relprop.patching._wires import INPUT, LOGITS, Layer, Wires
from relprop.places.opened import Opened


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Circuit:
    """Some of the edges of a function.

    Attributes:
        edges: all of them, with their scores.
        kept: which of them are in the circuit.
    """

    edges: Edges
    kept: Bool[Array, "writers readers"]

    @property
    def names(self) -> tuple[str, ...]:
        """The kept edges, in order of evaluation."""
        pairs = zip(*np.nonzero(np.asarray(self.kept)), strict=True)
        return tuple(f"{self.edges.writers[u]}->{self.edges.readers[v]}" for u, v in pairs)

    def to_json(self, **cfg: Any) -> dict[str, Any]:
        """A tree for `json.dump`, in the format of the MIB benchmark.

        Args:
            **cfg: what is to be said of the model, such as its name; the numbers of layers and
                heads are there anyway.

        Source: Mueller et al. 2025 (the circuit track).
        """
        edges, kept = self.edges, np.asarray(self.kept)
        scores, exists = np.asarray(edges.scores), np.asarray(edges.exists)
        in_graph = {INPUT: False, LOGITS: False, **dict.fromkeys(edges.writers, False)}
        strength = dict.fromkeys(in_graph, 0.0)
        rows: dict[str, Any] = {}
        for u, v in zip(*np.nonzero(exists), strict=True):
            writer, reader = edges.writers[u], edges.readers[v]
            rows[f"{writer}->{reader}"] = {
                "score": float(scores[u, v]),
                "in_graph": bool(kept[u, v]),
            }
            for node in (writer, reader.split("<")[0]):
                in_graph[node] = in_graph.get(node, False) or bool(kept[u, v])
            strength[writer] += float(scores[u, v])
        nodes = {
            name: {"in_graph": on, "score": strength.get(name, 0.0)}
            for name, on in in_graph.items()
        }
        attention = [name for name in edges.writers if name.startswith("a")]
        layers = {name.split(".")[0] for name in attention} or {*edges.writers} - {INPUT}
        counts = {
            "n_layers": len(layers),
            "n_heads": len(attention) // len(layers) if attention else 0,
        }
        return {"cfg": counts | cfg, "nodes": nodes, "edges": rows}


def top(edges: Edges, count: int, by: str = "amount") -> Circuit:
    """The circuit of the edges with the largest scores.

    Args:
        edges: scored edges.
        count: how many are kept; more than there are keeps all.
        by: ``"amount"``, whatever their sign, or ``"score"``.

    Raises:
        InputError: the count is negative, or there is no such order.

    >>> import numpy as np
    >>> scores = np.array([[0.5, -2.0]])
    >>> edges = Edges(scores, scores != 0, ("input",), ("m0", "logits"))
    >>> top(edges, 1).names, top(edges, 1, by="score").names
    (('input->logits',), ('input->m0',))
    """
    if count < 0 or by not in ("amount", "score"):
        raise InputError(f"top(edges, count, by) got {count!r} and {by!r}; by is amount or score.")
    scores = jnp.abs(edges.scores) if by == "amount" else jnp.asarray(edges.scores)
    ranked = jnp.argsort(jnp.where(edges.exists, -scores, jnp.inf).ravel(), stable=True)
    place = jnp.argsort(ranked).reshape(scores.shape)
    return Circuit(edges, (place < count) & jnp.asarray(edges.exists))


def circuit_score(
    f: Callable[..., Any],
    clean: Sequence[Any],
    corrupted: Sequence[Any],
    argnums: int | Sequence[int] = 0,
) -> Callable[[Bool[Array, "writers readers"]], Float[Array, ""]]:
    r"""The score of a circuit: kept edges carry what is computed, all others the corrupted run.

    .. math:: \text{reader } v \text{ reads}\quad
              \sum_{u \to v \in C} u + \sum_{u \to v \notin C} u_{corrupted}

    With all edges it is the clean score, with none the corrupted one.

    Args:
        f: as for `edges`; the explained arguments may be integers.
        clean: as for `edges`.
        corrupted: as for `edges`.
        argnums: as for `edges`.

    Returns:
        A function of which edges are kept, writers by readers in the order of `Edges`; to be
        compiled, and mapped over circuits.

    Raises:
        InputError: as for `edges`.

    Source: Hanna et al. 2024, section 2 (evaluation of circuits).
    """
    check_pair(clean, corrupted)
    opened = Opened.of(f, clean, argnums, has_aux=False)
    check_score(opened.trace.out_shapes, "")
    wires = Wires.of(opened.anatomy)
    numbers = argument_numbers(argnums, len(corrupted))
    others = trace(f, corrupted, numbers, integers=True).arrays
    runs = tuple(all_values(wires.graph, a) for a in (opened.trace.arrays, others))
    evaluation = _Evaluation(wires, *runs)

    def score(kept: Bool[Array, "writers readers"]) -> Float[Array, ""]:
        shape = (len(wires.writers), len(wires.readers))
        if jnp.shape(kept) != shape:
            raise InputError(
                f"A circuit of this function is an array of {shape[0]} writers by {shape[1]} "
                f"readers, got the shape {jnp.shape(kept)}."
            )
        return evaluation.score(jnp.asarray(kept))

    return score


@dataclasses.dataclass(frozen=True, eq=False)
class _Evaluation:
    """A function cut between its layers, with the values of its two runs."""

    wires: Wires
    ours: Environment
    theirs: Environment

    def score(self, kept: Array) -> Array:
        first = self.wires.first
        changes = difference(self.theirs[first], self.ours[first])[None]
        column = 0
        for layer in self.wires.layers:
            read = {}
            for part, value in layer.parts.items():
                count = len(layer.readers(part))
                inputs = self._inputs(layer.stream, changes, kept[:, column : column + count])
                read[value] = self._computed(layer, part, value, inputs)
                column += count
            changes = jnp.concatenate([changes, self._written(layer, read)])
        (stream,) = self._inputs(self.wires.last, changes, kept[:, column:])
        out = self.wires.graph.outputs[0]
        return self._segment([self.wires.last], out)(stream)

    def _inputs(self, stream: Any, changes: Array, kept: Array) -> Array:
        """What readers read: the corrupted stream, and what kept edges add to that."""
        base = self.theirs[stream]
        added = jnp.tensordot(kept[: len(changes)].T.astype(changes.dtype), changes, 1)
        return base[None] + added.astype(base.dtype)

    def _computed(self, layer: Layer, part: str, value: Any, inputs: Array) -> Array:
        run = self._segment([layer.stream], value)
        if not part:
            return run(inputs[0])
        heads = layer.heads[part]

        def of_head(head: Array, x: Array) -> Array:
            return jnp.where(heads.mask(head), run(x), 0)

        return jnp.sum(jax.vmap(of_head)(jnp.arange(heads.count), inputs), axis=0)

    def _written(self, layer: Layer, read: Mapping[Any, Array]) -> Array:
        if layer.attention is None:
            new = read[layer.branch]
        else:
            new = self._segment([*read], layer.attention.mixed)(*read.values())
        known = layer.branch if layer.attention is None else layer.attention.mixed
        change = difference(self.theirs[known], new)
        return layer.written(self.wires.graph, self.ours, lambda value: change)

    def _segment(self, starts: Sequence[Any], stop: Any) -> Callable[..., Array]:
        run = segment(self.wires.graph, self.ours, starts, stop)
        assert run is not None
        return run
