"""What the connections between layers do to a score: edge attribution patching by any rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from relprop._arguments import argument_numbers
from relprop._batches import Batches
from relprop._core.forward import forward
from relprop._core.graph import Value
from relprop._core.relevance import Relevance
from relprop._core.trace import trace
from relprop._errors import InputError
from relprop._globs import glob
from relprop._run import Run
from relprop.composites import composite_of
from relprop.patching._runs import between, check_pair, difference
from relprop.patching._segments import all_values, pulled
from relprop.patching._wires import Layer, Wires
from relprop.places import Branches, Stream


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Edges:
    """Scores of all connections from writers to readers of a residual stream.

    Attributes:
        scores: in units of the score of the function; 0 where there is no edge.
        exists: whether the writer comes before the reader.
        writers: ``input``, heads of attention as ``a0.h1``, MLPs as ``m0``.
        readers: queries, keys and values of heads as ``a0.h1<q>``, MLPs, ``logits``. Of grouped
            queries the heads of keys and values are groups.
    """

    scores: Float[Array, "writers readers"]
    exists: Bool[Array, "writers readers"]
    writers: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    readers: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def by_name(self) -> dict[str, float]:
        """The scores of edges by their names, ``a0.h1->m0``, the largest amounts first."""
        scores, exists = np.asarray(self.scores), np.asarray(self.exists)
        pairs = sorted(zip(*np.nonzero(exists), strict=True), key=lambda p: -abs(scores[p]))
        return {f"{self.writers[u]}->{self.readers[v]}": float(scores[u, v]) for u, v in pairs}

    def _between(self, rows: Sequence[int], columns: Sequence[int]) -> Edges:
        """Those of some writers and readers alone."""
        some = np.ix_(rows, columns)
        writers, readers = (self.writers[i] for i in rows), (self.readers[i] for i in columns)
        return Edges(self.scores[some], self.exists[some], tuple(writers), tuple(readers))


def edges(
    f: Callable[..., Any],
    clean: Sequence[Any],
    corrupted: Sequence[Any],
    rules: Any,
    argnums: int | Sequence[int] = 0,
    *,
    steps: int = 1,
    batch_size: int | None = 16,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
    writers: str = "*",
    readers: str = "*",
) -> Edges:
    r"""What the score changes where one layer reads from another what that writes when corrupted.

    .. math:: s_{u \to v} = \sum (u_{corrupted} - u_{clean}) \; c_v

    with u what a head, an MLP or the embedding adds to the residual stream, and c the coefficient
    of the stream as one reader reads it: a head for its queries, keys or values, an MLP, or all
    that comes after the last layer. By `relprop.rules.Gradient` it is edge attribution patching.
    It takes two forward passes, one backward pass, and a pass through the projections per head.

    Layers, heads and the stream are found in the data flow. Layers must not be in a `scan`, where
    one place stands for all of them.

    Args:
        f: a function that returns a real scalar.
        clean: the tuple of its arguments.
        corrupted: a second one, of the same shapes.
        rules: as for `relprop.relevance`.
        argnums: as for `relprop.relevance`.
        steps: over how many inputs the coefficients are averaged, as for `nodes`.
        batch_size: how many of these at a time.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.
        writers: a glob on the names of the writers that are wanted, as ``"a0.*"``.
        readers: likewise.

    Raises:
        InputError: none of the readers reads what one of the writers writes, the arguments differ
            in shapes, no residual stream is found or none that only grows by sums, it is not known
            which axes are heads, or the stream has no coefficient by these rules.
        NothingMatchedError, MissingRuleError, RuleError: as for `relprop.relevance`.

    >>> import jax, jax.numpy as jnp, relprop
    >>> weights = jnp.eye(2), 2 * jnp.eye(2)
    >>> def f(x):
    ...     for w in weights:
    ...         x = x + jax.nn.relu(x @ w)
    ...     return x.sum()
    >>> clean, corrupted = (jnp.array([[1.0, 2.0]]),), (jnp.array([[0.0, 2.0]]),)
    >>> edges(f, clean, corrupted, relprop.rules.Gradient()).by_name()["m0->m1"]
    -2.0

    Source: Syed et al. 2024 (edge attribution patching); Hanna et al. 2024, section 3 (integrated).
    """
    check_pair(clean, corrupted)
    if steps < 1:
        raise InputError(f"`steps` must be at least 1, got {steps!r}.")
    start = Starting(f, argnums, rules, on_missing, on_suspicion)
    run = start(clean)
    wires = Wires.of(run.plan)
    chosen = _chosen(wires, writers, readers)
    ours = all_values(wires.graph, run.trace.arrays)
    theirs = all_values(wires.graph, start.arrays(corrupted))
    written = wires.changes(ours, lambda value: difference(ours[value], theirs[value]))
    if steps == 1:
        slopes = _slopes(run, wires, run.trace.arrays)
    else:

        def slope(part: Array) -> Array:
            arguments = between(clean, corrupted, argnums, part)
            return _slopes(run, wires, start.arrays(arguments))

        parts = jnp.arange(1.0, steps + 1) / steps
        slopes = Batches(batch_size).sum(slope, parts) / steps
    exists = jnp.asarray(wires.exists)
    flat = [a.reshape(a.shape[0], -1) for a in (written, slopes)]
    scores = jnp.where(exists, flat[0] @ flat[1].T, 0)
    return Edges(scores, exists, wires.writers, wires.readers)._between(*chosen)


def _chosen(wires: Wires, writers: str, readers: str) -> tuple[list[int], list[int]]:
    """The positions of the writers and readers that are wanted, of which some must be joined."""
    rows = [i for i, name in enumerate(wires.writers) if glob(name, writers)]
    columns = [i for i, name in enumerate(wires.readers) if glob(name, readers)]
    if not wires.exists[np.ix_(rows, columns)].any():
        raise InputError(
            f"No reader like {readers!r} reads what a writer like {writers!r} writes. Writers, in "
            f"order: {', '.join(wires.writers)}. Readers: {', '.join(wires.readers)}."
        )
    return rows, columns


@dataclasses.dataclass(frozen=True, eq=False)
class Starting:
    """A function with rules, to be planned on arguments so that its layers can be told."""

    f: Callable[..., Any]
    argnums: int | Sequence[int]
    rules: Any
    on_missing: Any = "error"
    on_suspicion: str = "warn"

    def __call__(self, args: Sequence[Any]) -> Run:
        composite, places = composite_of(self.rules), (Branches(), Stream())
        return Run.start(
            self.f, args, self.argnums, composite, self.on_missing, False, places=places,
            on_suspicion=self.on_suspicion,
        )  # fmt: skip

    def arrays(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """The inputs of the graph, of other arguments."""
        return trace(self.f, args, argument_numbers(self.argnums, len(args))).arrays


def _slopes(run: Run, wires: Wires, inputs: Sequence[Any]) -> Float[Array, "readers ..."]:
    """The coefficient of the stream as each reader reads it."""
    outputs, tape = forward(run.plan, inputs)
    derivative = run.composite.is_derivative
    of_score = {run.plan.graph.outputs[0]: run.seed(outputs[0])[0]}
    parts = [(layer, *pair) for layer in wires.layers for pair in layer.parts.items()]
    watched = [*(value for _, _, value in parts), wires.last]
    at = pulled(run.plan, tape, of_score, watched)  # type: ignore[arg-type]

    def back(layer: Layer, value: Value, coefficient: Array) -> Array:
        given = {value: _relevance(coefficient, derivative)}
        found = pulled(run.plan, tape, given, [layer.stream], stop=layer.stream)
        return _coefficient(found[layer.stream], layer.stream, derivative, layer.name)

    slopes = []
    for layer, part, value in parts:
        coefficient = _coefficient(at[value], value, derivative, f"{layer.name} {part}")
        if at[value] is None:  # As attention maps that are constants leave queries.
            empty = (len(layer.readers(part)), *layer.stream.shape)
            slopes.append(jnp.zeros(empty, coefficient.dtype))
        elif part:

            def of_head(mask, layer=layer, value=value, coefficient=coefficient):
                return back(layer, value, jnp.where(mask, coefficient, 0))

            slopes.append(layer.heads[part].each(of_head))
        else:
            slopes.append(back(layer, value, coefficient)[None])
    slopes.append(_coefficient(at[wires.last], wires.last, derivative, "logits")[None])
    return jnp.concatenate(slopes)


def _relevance(coefficient: Array, derivative: bool) -> Relevance:
    return Relevance(share=coefficient) if derivative else Relevance(multiplier=coefficient)


def _coefficient(
    relevance: Relevance | None, value: Value, derivative: bool, name: str
) -> Float[Array, "..."]:
    if relevance is None:
        return jnp.zeros(value.shape, jnp.promote_types(value.dtype, jnp.float32))
    wanted, other = relevance.multiplier, relevance.share
    if derivative:
        wanted, other = other, wanted
    if wanted is None or other is not None:
        raise InputError(
            f"By these rules {name.strip()} has no coefficient: what reads it hands on shares of "
            "relevance, in no proportion to its values. Use other rules."
        )
    return wanted
