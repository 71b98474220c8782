"""Streams of tokens: which tokens look at which in the attention of a model, and in what order.

Tokens stay what they are through layers, norms and residual additions: their axis is the same one
(`Axes`). A map of attention has two axes, of those that look and of those that are looked at; where
the two are not the same, that is cross-attention between two streams. What mixes values by a map
belongs to the stream of the queries, with all that was done to those before.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from relprop import _compat
from relprop._core.graph import Equation, Value
from relprop._core.plan import Plan, Step
from relprop.anatomy.attention import all_attention
from relprop.anatomy.axes import Axes, Dim, Shape, through
from relprop.anatomy.blocks import Attention


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
class Look:
    """One application of attention: tokens of a stream look at those of a stream.

    Attributes:
        block: the attention.
        map: its number, in the order of `relprop.places.AttentionMaps`.
        rounds: the steps of the loops around it.
        queries: number of the stream that looks.
        keys: number of the stream that is looked at.
        before: numbers of the looks that made the queries what they are; not those that made what
            they have looked at.
        keys_before: the same of the keys.
        mixed: those of them that were of other streams: tokens were joined, taken apart or
            averaged in between.
        leading: what the axes of the map before the last two are of, and their sizes:
            ``"batch"``, ``"head"``, or ``"window"``, for parts of a stream.
    """

    block: Attention = dataclasses.field(repr=False)
    map: int
    rounds: tuple[int, ...]
    queries: int
    keys: int
    before: frozenset[int]
    keys_before: frozenset[int]
    mixed: frozenset[int]
    leading: tuple[tuple[str, int], ...]

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
        looks: number -> application of attention; those that do not reach the outputs are left
            out.
        last: the looks that the tokens were made by which the outputs are read from.
    """

    streams: tuple[Stream, ...] = ()
    looks: Mapping[int, Look] = dataclasses.field(default_factory=dict)
    last: frozenset[int] = frozenset()

    @property
    def read(self) -> tuple[int, ...]:
        """The streams that the outputs are read from."""
        return tuple(sorted({self.looks[j].queries for j in self.last}))


@dataclasses.dataclass(frozen=True)
class _Known:
    """What is known of a value: its axes, the looks that made its tokens, where they come from."""

    shape: Shape
    looks: frozenset[int] = frozenset()
    origins: frozenset[Value] = frozenset()


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A look, before it is known which axes are the same."""

    map: int
    rounds: tuple[int, ...]
    shape: Shape
    queries: _Known
    keys: _Known


def token_flow(plan: Plan, names: Mapping[Value, str]) -> TokenFlow:
    """Follows all tokens through a function.

    Args:
        plan: of the function, as `relprop.anatomy.anatomy_of` makes it.
        names: of the inputs of its graph that are explained.
    """
    reader = _Reader(plan)
    known = {value: reader.source(value) for value in plan.graph.inputs if value in plan.active}
    outputs = reader.read(plan, known, ())
    last = frozenset().union(*(out.looks for out in outputs if out is not None))
    return _Naming(reader, known, plan, names).flow(last)


class _Reader:
    """Evaluates a plan with what is known of its values in place of them."""

    def __init__(self, plan: Plan):
        self.axes = Axes()
        self.blocks = list(all_attention(plan))
        self.seen: list[_Seen] = []
        self._map = {block.value: number for number, block in enumerate(self.blocks)}
        self._applied = {block.mixed: block.applied for block in self.blocks}
        self._sources: list[Dim] = []

    def source(self, value: Value) -> _Known:
        """An explained input."""
        shape = self.axes.of(value.shape)
        self._sources.extend(shape)
        return _Known(shape, origins=frozenset([value]))

    @property
    def sources(self) -> set[int]:
        """The axes of the explained inputs."""
        return {axis for dim in self._sources for axis in self.axes.find(dim)}

    def read(
        self, plan: Plan, known: dict[Value, _Known], rounds: tuple[int, ...]
    ) -> list[_Known | None]:
        """What is known of the outputs, from what is known of the inputs; fills `known`."""
        nested = {step.operation.last: step for step in plan.steps if step.bodies}
        for equation in plan.graph.equations:
            operands = _of(known, equation.inputs)
            if all(operand is None for operand in operands):
                continue
            step = nested.get(equation)
            found = (
                self._inside(step, operands, rounds) if step else self._result(equation, operands)
            )
            for out, result in zip(equation.outputs, found, strict=True):
                if result is not None and out.inexact:
                    known[out] = self._attended(out, result, known, rounds)
        return _of(known, plan.graph.outputs)

    def _result(self, equation: Equation, operands: Sequence[_Known | None]) -> list[_Known]:
        shapes = [None if operand is None else operand.shape for operand in operands]
        both = _joined(operands)
        results = through(self.axes, equation, shapes)
        return [dataclasses.replace(both, shape=shape) for shape in results]

    def _attended(
        self, out: Value, result: _Known, known: Mapping[Value, _Known], rounds: tuple[int, ...]
    ) -> _Known:
        """Where attention begins or ends, the tokens are those that look, and no others."""
        if out in self._map:
            queries, keys = self._compared(self.blocks[self._map[out]], result, known)
            number = len(self.seen)
            self.seen.append(_Seen(self._map[out], rounds, result.shape, queries, keys))
            result = _Known(result.shape, queries.looks | {number}, queries.origins)
        applied = self._applied.get(out)
        if applied is not None:
            result = dataclasses.replace(known[applied], shape=result.shape)
        return result

    def _compared(
        self, block: Attention, result: _Known, known: Mapping[Value, _Known]
    ) -> tuple[_Known, _Known]:
        """Queries and keys of a map."""
        looking = self.axes.find(result.shape[-2])
        if len(block.compared) == 2:
            first, second = (known[value] for value in block.compared)
            dims = [{self.axes.find(dim) for dim in side.shape} for side in (first, second)]
            swapped = looking and looking in dims[1] and looking not in dims[0]
            return (second, first) if swapped else (first, second)
        # Queries that depend on nothing explained have an axis that comes from nowhere.
        constant = not self.axes.ancestry(looking) & self.sources
        return (_Known(result.shape) if constant else result), result

    def _inside(
        self, step: Step, operands: Sequence[_Known | None], rounds: tuple[int, ...]
    ) -> list[_Known | None]:
        if step.structure == "scan":
            return self._loop(step, operands, rounds)
        branches = []
        for body in step.bodies:
            given = operands[len(operands) - len(body.graph.inputs) :]
            branches.append(self.read(body, _placed(body, given), rounds))
        return [self._either(found) for found in zip(*branches, strict=True)]

    def _loop(
        self, step: Step, operands: Sequence[_Known | None], rounds: tuple[int, ...]
    ) -> list[_Known | None]:
        """A scan, step by step where there is attention in it."""
        (body,) = step.bodies
        params = step.operation.last.params
        consts, carried = _compat.scan_sizes(params)
        fixed, carry = list(operands[:consts]), list(operands[consts : consts + carried])
        stacked = operands[consts + carried :]
        slices = [a and dataclasses.replace(a, shape=a.shape[1:]) for a in stacked]
        lengthwise = [a.shape[0] for a in stacked if a is not None and a.shape]
        along = lengthwise[0] if lengthwise else self.axes.new(params["length"])
        numbers = range(params["length"])
        attends = any(value in self._map for value in _values(body))
        out: list[_Known | None] = [None] * len(body.graph.outputs[carried:])
        # Without attention a second round is there only for what the first one carries.
        for i in (reversed(numbers) if params["reverse"] else numbers) if attends else (0, 0):
            found = self.read(
                body, _placed(body, [*fixed, *carry, *slices]), (*rounds, i) if attends else rounds
            )
            carry = (
                found[:carried]
                if attends
                else [self._either(pair) for pair in zip(carry, found[:carried], strict=True)]
            )
            out = [self._either(pair) for pair in zip(out, found[carried:], strict=True)]
        ends = [a and dataclasses.replace(a, shape=(along, *a.shape)) for a in out]
        return [*carry, *ends]

    def _either(self, found: Sequence[_Known | None]) -> _Known | None:
        """What is known of a value that may be one of several."""
        first, *others = [value for value in found if value is not None] or [None]
        for other in others:
            for a, b in zip(first.shape, other.shape, strict=True):  # type: ignore[union-attr]
                self.axes.unite(a, b)
        return first and dataclasses.replace(_joined(found), shape=first.shape)


class _Naming:
    """From looks with axes to streams with names."""

    def __init__(
        self,
        reader: _Reader,
        known: Mapping[Value, _Known],
        plan: Plan,
        names: Mapping[Value, str],
    ):
        self.reader, self.known, self.plan, self.names = reader, known, plan, names
        self.axes, self.sources = reader.axes, reader.sources

    def flow(self, last: frozenset[int]) -> TokenFlow:
        seen = self.reader.seen
        reached = self._reached(last)
        origins: dict[object, frozenset[Value]] = {}
        queries = {j: self._key(seen[j].queries, seen[j].shape[-2]) for j in reached}
        keys = {j: self._key(seen[j].keys, seen[j].shape[-1]) for j in reached}
        for j in reached:
            for key, known in ((queries[j], seen[j].queries), (keys[j], seen[j].keys)):
                origins[key] = origins.get(key, frozenset()) | known.origins
        number = {key: n for n, key in enumerate(origins)}
        looks = {}
        for j in reached:
            one = seen[j]
            mixed = [i for i in one.queries.looks if queries[i] != queries[j]]
            mixed += [i for i in one.keys.looks if queries[i] != keys[j]]
            looks[j] = Look(
                block=self.reader.blocks[one.map],
                map=one.map,
                rounds=one.rounds,
                queries=number[queries[j]],
                keys=number[keys[j]],
                before=one.queries.looks,
                keys_before=one.keys.looks,
                mixed=frozenset(mixed),
                leading=tuple(self._leading(one.shape)),
            )
        batch = {
            axis for j in reached for dim in seen[j].shape[:-2] for axis in self.axes.find(dim)
        }
        return TokenFlow(self._streams(origins, batch & self.sources), looks, last)

    def _reached(self, last: frozenset[int]) -> list[int]:
        found: set[int] = set()
        queue = list(last)
        while queue:
            j = queue.pop()
            if j not in found:
                found.add(j)
                one = self.reader.seen[j]
                queue += [*one.queries.looks, *one.keys.looks]
        return sorted(found)

    def _key(self, known: _Known, dim: Dim) -> object:
        """What tells streams apart; a single token has no axis and is told by its origin."""
        return self.axes.find(dim) or known.origins

    def _leading(self, shape: Shape) -> Iterator[tuple[str, int]]:
        tokens = self.axes.ancestry(shape[-1]) | self.axes.ancestry(shape[-2])
        for axis in (axis for dim in shape[:-2] for axis in self.axes.find(dim)):
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


def _joined(operands: Sequence[_Known | None]) -> _Known:
    there = [operand for operand in operands if operand is not None]
    return _Known(
        (),
        frozenset().union(*(operand.looks for operand in there)),
        frozenset().union(*(operand.origins for operand in there)),
    )


def _of(known: Mapping[Value, _Known], atoms) -> list[_Known | None]:
    return [known.get(atom) for atom in atoms]


def _placed(body: Plan, given: Sequence[_Known | None]) -> dict[Value, _Known]:
    pairs = zip(body.graph.inputs, given, strict=True)
    return {value: known for value, known in pairs if known is not None}


def _values(plan: Plan):
    for step in plan.walk():
        yield from step.operation.outputs
