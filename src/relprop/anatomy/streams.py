"""Streams of tokens: which tokens look at which in the attention of a model, and in what order.

Tokens stay what they are through layers, norms and residual additions: their axis is the same one
(`Axes`). A map of attention has two axes, of those that look and of those that are looked at; where
the two are not the same, that is cross-attention between two streams. What mixes values by a map
belongs to the stream of the queries, with all that was done to those before. Whatever else mixes
tokens (convolutions, recurrences, shifts, means that are added) makes other tokens of them, and is
told of (`Application.mixers`, `TokenFlow.mixers`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from relprop._core.graph import Equation, Value
from relprop._core.plan import Plan
from relprop.anatomy.axes import Dim
from relprop.anatomy.blocks import Attention
from relprop.anatomy.following import Reader
from relprop.anatomy.known import Known, Seen


@dataclasses.dataclass(frozen=True)
class Stream:
    """Tokens that are the same from layer to layer.

    Attributes:
        name: of the arguments and parameters that they come from.
        size: how many there are.
        constant: whether they come from nothing that is explained.
        entry: the first value that is of these tokens; None if that is inside of a loop.
        layout: its axes: ``"batch"``, ``"token"`` or empty.
    """

    name: str
    size: int
    constant: bool = False
    entry: Value | None = dataclasses.field(default=None, repr=False, compare=False)
    layout: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.size} token{'s' * (self.size != 1)})"


@dataclasses.dataclass(frozen=True)
class Application:
    """One application of attention: tokens of a stream look at those of a stream.

    Attributes:
        block: the attention.
        map: its number, in the order of `relprop.places.AttentionMaps`.
        rounds: the steps of the loops around it; None for a loop whose steps are parts of one map,
            such as heads or chunks of the queries.
        queries: number of the stream that looks.
        keys: number of the stream that is looked at.
        before: numbers of the earlier applications by which the tokens that look were updated, and
            not of those behind what these have looked at.
        keys_before: likewise for the keys.
        mixed: those of them that were of other streams: tokens were joined, taken apart or
            averaged in between.
        mixers: what did that, in words.
        leading: what the axes of the map beside those of queries and keys are of, and their sizes:
            ``"batch"``, ``"head"``, ``"queries"`` for chunks of those, or ``"window"``, for parts
            of a stream. Loops whose steps are parts of the map come first.
        axes: where the axes of queries and keys are among those of the map; None for one query.
        rows: which tokens look, where it is some of those that are looked at: a chunk of them, or
            the class token alone; None if all do.
        columns: the keys that are tokens, where there are others (sinks); None if all are.
        obstacle: why the map cannot be told; empty if it can.
    """

    block: Attention = dataclasses.field(repr=False)
    map: int
    rounds: tuple[int | None, ...]
    queries: int
    keys: int
    before: frozenset[int]
    keys_before: frozenset[int]
    mixed: frozenset[int]
    mixers: tuple[str, ...]
    leading: tuple[tuple[str, int], ...]
    axes: tuple[int | None, int]
    rows: tuple[int, ...] | None = None
    columns: tuple[int, ...] | None = None
    obstacle: str = ""

    @property
    def crosses(self) -> bool:
        """Whether it is cross-attention."""
        return self.queries != self.keys

    @property
    def windows(self) -> bool:
        """Whether the map is one of several for parts of a stream."""
        return any(kind == "window" for kind, _ in self.leading)

    def __str__(self) -> str:
        return f"{self.block} at {self.block.source}"


@dataclasses.dataclass(frozen=True)
class TokenFlow:
    """All attention on the way to the outputs, in order of evaluation.

    Attributes:
        streams: of tokens.
        applications: by their numbers, those from which an output is computed.
        last: numbers of the applications by which the tokens were updated that the outputs are
            read from.
        mixers: what mixes tokens outside of all attention, before the first or after the last, so
            that a token is not what it is called after: in words.
        positions: stream -> the tokens that the outputs are read from, as far as that is known.
    """

    streams: tuple[Stream, ...] = ()
    applications: Mapping[int, Application] = dataclasses.field(default_factory=dict)
    last: frozenset[int] = frozenset()
    mixers: tuple[str, ...] = ()
    positions: Mapping[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @property
    def read(self) -> tuple[int, ...]:
        """The streams that the outputs are read from."""
        return tuple(sorted({self.applications[j].queries for j in self.last}))


def token_flow(plan: Plan, names: Mapping[Value, str]) -> TokenFlow:
    """Follows all tokens through a function.

    Args:
        plan: of the function, as `relprop.anatomy.anatomy_of` makes it.
        names: of the inputs of its graph that are explained.
    """
    reader = Reader(plan)
    known = {value: reader.source(value) for value in plan.graph.inputs if value in plan.active}
    outputs = reader.body(plan, known, ())
    return _Naming(reader, known, plan, names).flow([out for out in outputs if out is not None])


class _Naming:
    """From looks with axes to streams with names."""

    def __init__(
        self,
        reader: Reader,
        known: Mapping[Value, Known],
        plan: Plan,
        names: Mapping[Value, str],
    ):
        self.reader, self.known, self.plan, self.names = reader, known, plan, names
        self.axes, self.sources = reader.axes, reader.sources

    def flow(self, outputs: Sequence[Known]) -> TokenFlow:
        seen = self.reader.seen
        last = frozenset().union(*(out.applications for out in outputs))
        reached = self._reached(last)
        origins: dict[object, frozenset[Value]] = {}
        looking = {j: seen[j].looking if seen[j].rows is None else seen[j].looked for j in reached}
        queries = {j: self._key(seen[j].queries, looking[j]) for j in reached}
        keys = {j: self._key(seen[j].keys, seen[j].looked) for j in reached}
        for j in reached:
            for key, known in ((queries[j], seen[j].queries), (keys[j], seen[j].keys)):
                origins[key] = origins.get(key, frozenset()) | known.origins
        number = {key: n for n, key in enumerate(origins)}
        applications = {}
        for j in reached:
            one = seen[j]
            changed = [(i, one.queries, queries[j]) for i in one.queries.applications]
            changed += [(i, one.keys, keys[j]) for i in one.keys.applications]
            changed = [(i, known, key) for i, known, key in changed if queries[i] != key]
            by = [self._mixer(known, key, queries[i]) for i, known, key in changed]
            applications[j] = Application(
                block=self.reader.blocks[one.map],
                map=one.map,
                rounds=one.rounds,
                queries=number[queries[j]],
                keys=number[keys[j]],
                before=one.queries.applications,
                keys_before=one.keys.applications,
                mixed=frozenset(i for i, _, _ in changed),
                mixers=self._described(by),
                leading=tuple(self._leading(one)),
                axes=one.axes,
                rows=one.rows,
                columns=one.columns,
                obstacle=one.obstacle,
            )
        batch = {
            axis
            for j in reached
            for i, dim in enumerate(seen[j].shape)
            if i not in seen[j].axes
            for axis in self.axes.find(dim)
        }
        ends = {key for j, key in queries.items() if j in last}
        by = [e for e in (self._before(j, queries, keys) for j in reached) if e]
        by += [e for e in (self._after(out, key) for out in outputs for key in ends) if e]
        places = {number[key]: self._positions(outputs, key) for key in ends}
        return TokenFlow(
            self._streams(origins, batch & self.sources),
            applications,
            last,
            self._described(by),
            {n: found for n, found in places.items() if found is not None},
        )

    def _reached(self, last: frozenset[int]) -> list[int]:
        found: set[int] = set()
        queue = list(last)
        while queue:
            j = queue.pop()
            if j not in found:
                found.add(j)
                one = self.reader.seen[j]
                queue += [*one.queries.applications, *one.keys.applications]
        return sorted(found)

    def _key(self, known: Known, dim: Dim) -> object:
        """What tells streams apart; a single token has no axis and is told by its origin."""
        return known.origins if self.axes.size(dim) == 1 else self.axes.find(dim)

    def _described(self, by: Sequence[Equation | None]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.reader.described(e) for e in by if e is not None))

    def _mixer(self, known: Known, after: object, before: object) -> Equation | None:
        """What made other tokens of those of a look before."""
        if not isinstance(before, tuple):
            return None
        axes = after if isinstance(after, tuple) else ()
        pooled = [axis for axis in known.pooled if self.axes.related((axis,), before)]
        found = self.axes.mixer((*axes, *pooled), before)
        return found or next((known.pooled[axis] for axis in pooled), None)

    def _before(
        self, j: int, queries: Mapping[int, object], keys: Mapping[int, object]
    ) -> Equation | None:
        """What mixes the tokens of an argument, one for one, before anything looks at them."""
        one = self.reader.seen[j]
        for known, key in ((one.queries, queries[j]), (one.keys, keys[j])):
            if not known.applications and isinstance(key, tuple):
                found = self.axes.mixed_first(key, self.sources)
                if found is not None:
                    return found
        return None

    def _after(self, out: Known, key: object) -> Equation | None:
        """What mixes the tokens of the last look, one for one, before they are read."""
        if not isinstance(key, tuple):
            return None
        axes = (*out.pooled, *(axis for dim in out.shape for axis in dim))
        return self.axes.mixed_evenly(axes, key)

    def _positions(self, outputs: Sequence[Known], key: object) -> tuple[int, ...] | None:
        """The tokens that the outputs are read from, if they are picked by their number."""
        if not isinstance(key, tuple):
            return None
        size, found = self.axes.size(key), set()
        for out in outputs:
            for axis in (*out.pooled, *(axis for dim in out.shape for axis in dim)):
                numbers = self.axes.within((axis,), key)
                if numbers is not None:
                    found.update(numbers)
                elif self.axes.related((axis,), key):
                    return None
        return tuple(sorted(found)) if 0 < len(found) < size else None

    def _leading(self, one: Seen) -> Iterator[tuple[str, int]]:
        tokens = self.axes.ancestry(one.looked) | self.axes.ancestry(one.looking)
        for i, dim in enumerate(one.shape):
            if i in one.axes:
                continue
            if i in one.chunks:
                yield "queries", self.axes.size(dim)
                continue
            for axis in self.axes.find(dim):
                kind = "window" if self.axes.ancestry((axis,)) & tokens else "head"
                yield "batch" if axis in self.sources else kind, self.axes.size((axis,))

    def _streams(
        self, origins: Mapping[object, frozenset[Value]], batch: set[int]
    ) -> tuple[Stream, ...]:
        order = {value: i for i, value in enumerate(self.plan.graph.inputs)}
        streams: list[Stream] = []
        for key, values in origins.items():
            parts = [self.names.get(v, "") for v in sorted(values, key=lambda v: order[v])]
            plain = "+".join(part for part in parts if part) or "constants"
            taken = {stream.name for stream in streams}
            numbered = (f"{plain}#{n}" if n else plain for n in itertools.count())
            name = next(name for name in numbered if name not in taken)
            size = self.axes.size(key) if isinstance(key, tuple) else 1
            streams.append(Stream(name, size, not values, *self._entry(key, batch)))
        return tuple(streams)

    def _entry(self, key: object, batch: set[int]) -> tuple[Value | None, tuple[str, ...]]:
        """The first value that is of the tokens of a stream, and what its axes are."""
        steps = [out for step in self.plan.steps for out in step.operation.outputs]
        for value in (*self.plan.graph.inputs, *steps):
            known = self.known.get(value)
            if known is None:
                continue
            dims = [set(self.axes.find(dim)) for dim in known.shape]
            tokens = set(key) if isinstance(key, tuple) else set()
            layout = tuple(
                "token" if dim and dim <= tokens else "batch" if dim and dim <= batch else ""
                for dim in dims
            )
            there = [a for dim in known.shape for a in self.axes.find(dim) if a in tokens]
            if tuple(there) == key or known.origins == key:
                return value, layout
        return None, ()
