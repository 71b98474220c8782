"""Layers: which operations of a plan belong together, and which parts of it repeat."""

from __future__ import annotations

import dataclasses
import os.path
import re
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np

from relprop._inspect import PlannedOperation
from relprop.plots._places import starred

_WEIGHTED = ("dense", "convolution")
#: Of paths, what says which array of a layer it is, and what Flax NNX has behind these.
_LEAVES = ("kernel", "weight", "w", "scale", "embedding")
_VALUES = ("value", "raw_value")


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Operations ``start`` to ``start + count * period``, which are the same period over and over.

    Attributes:
        start: the first operation.
        period: how many operations come again.
        count: how often they are there.
    """

    start: int
    period: int
    count: int

    @property
    def stop(self) -> int:
        """The first operation behind."""
        return self.start + self.count * self.period

    def turns(self) -> Iterator[range]:
        """The operations of each turn."""
        for turn in range(self.count):
            yield range(self.start + turn * self.period, self.start + (turn + 1) * self.period)


def repeats(
    things: Sequence[Hashable], reads: Sequence[Sequence[int]] = (), least: int = 1
) -> list[Repeat]:
    """Parts of a sequence that come again at once, the largest first found; in order, apart.

    Args:
        things: a sequence.
        reads: of each thing, the indices of those it reads, -1 for an input. Where a part may
            begin at several places, it begins where the fewest values pass from turn to turn.
        least: how many things at least are saved by drawing a part once.

    >>> repeats(list("xababaabcz"))
    [Repeat(start=1, period=2, count=2), Repeat(start=5, period=1, count=2)]
    """
    codes = {thing: code for code, thing in enumerate(dict.fromkeys(things))}
    found: list[Repeat] = []
    _search(np.array([codes[t] for t in things], int), _passing(reads), 0, least, found)
    return sorted(found, key=lambda repeat: repeat.start)


def _search(
    codes: np.ndarray, passing: Sequence[int], start: int, least: int, found: list[Repeat]
) -> None:
    """The largest repeat of a part of the sequence, then those before and behind it."""
    best = None
    for period in range(1, len(codes) // 2 + 1):
        for begin, length in _runs(codes[period:] == codes[:-period]):
            count = length // period + 1
            saved = (count - 1) * period
            if count > 1 and saved >= least and (best is None or saved > _saved(best)):
                slack = length - saved
                at = start + begin
                offset = min(range(slack + 1), key=lambda o: passing[at + o] if passing else o)
                best = Repeat(at + offset, period, count)
    if best is None:
        return
    found.append(best)
    _search(codes[: best.start - start], passing, start, least, found)
    _search(codes[best.stop - start :], passing, best.stop, least, found)


def _passing(reads: Sequence[Sequence[int]]) -> list[int]:
    """How many values made before each thing are read by it or later."""
    last = {source: i for i, sources in enumerate(reads) for source in sources}
    return [sum(source < i <= end for source, end in last.items()) for i in range(len(reads))]


def _saved(repeat: Repeat) -> int:
    return (repeat.count - 1) * repeat.period


def _runs(equal: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and length of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], equal.astype(int), [0]])))
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield begin, end - begin


def signature(operation: PlannedOperation) -> Hashable:
    """What two operations share that do the same in two layers."""
    return (
        operation.structure,
        operation.primitive,
        operation.rule,
        operation.shapes_in,
        operation.shapes_out,
        operation.depth,
        operation.region,
        starred(operation.path),
        starred(operation.scope),
    )


Layers = Callable[[PlannedOperation], str]


def layers(
    operations: Sequence[PlannedOperation], named: Layers | None = None
) -> dict[str, list[int]]:
    """Name -> indices of the operations of a layer, in order of evaluation.

    A block that repeats is a layer in each of its turns; elsewhere each product with a weight
    begins one. A layer is named after what the scopes or parameters in it have in common.

    Args:
        operations: a plan, without what lies inside of others.
        named: the name of the layer of an operation, to choose differently.
    """
    if named is not None:
        groups: list[tuple[str, list[int]]] = []
        for i, operation in enumerate(operations):
            name = named(operation)
            if not groups or groups[-1][0] != name:
                groups.append((name, []))
            groups[-1][1].append(i)
        return _unique(groups)
    index = {op.number: i for i, op in enumerate(operations)}
    reads = [[index.get(source, -1) for source in op.reads] for op in operations]
    blocks = [
        repeat
        for repeat in repeats([signature(op) for op in operations], reads)
        if sum(_weighted(operations[i]) for i in next(repeat.turns())) > 1
    ]
    starts = {turn.start for repeat in blocks for turn in repeat.turns()}
    starts |= {repeat.stop for repeat in blocks}
    inside = {i for repeat in blocks for turn in repeat.turns() for i in turn}
    parts: list[list[int]] = []
    has_weight = False
    for i, operation in enumerate(operations):
        begins = i not in inside and has_weight and _weighted(operation)
        if not parts or i in starts or begins:
            parts.append([])
            has_weight = False
        parts[-1].append(i)
        has_weight |= _weighted(operation)
    return _unique([(_name([operations[i] for i in part]), part) for part in parts])


def _weighted(operation: PlannedOperation) -> bool:
    # A loop has no rule of its own, and holds layers or is one.
    return operation.structure in _WEIGHTED or operation.rule is None


def _name(operations: Sequence[PlannedOperation]) -> str:
    """What the scopes have in common, or the parameters, or the first structure with a weight."""
    for names in (
        [op.scope for op in operations if op.scope],
        [layer_of(op.path) for op in operations if op.path],
    ):
        if shared := common(names):
            return shared
    first = next((op for op in operations if _weighted(op)), operations[0])
    return first.scope or layer_of(first.path) or first.structure


def layer_of(path: str) -> str:
    """The layer that a parameter belongs to: its path without the argument and the array.

    Variables of Flax Linen hold a collection each, of which `params` says nothing about the layer.

    >>> layer_of("params/attention/value/kernel"), layer_of("p/conv1/kernel/value"), layer_of("w")
    ('attention/value', 'conv1', 'w')
    >>> layer_of("variables/params/Dense_0/kernel")
    'Dense_0'
    """
    parts = [part for part in re.split("[./]", path) if part]
    parts = parts[1:] or parts
    if len(parts) > 2 and parts[0] == "params":
        parts = parts[1:]
    if parts[-2:-1] and parts[-2] in (*_LEAVES, "bias") and parts[-1] in _VALUES:
        parts.pop()
    if len(parts) > 1 and parts[-1] in _LEAVES:
        parts.pop()
    return "/".join(parts)


def common(names: Sequence[str]) -> str:
    """The first parts of paths that all of them have.

    >>> common(["block1/mlp/up", "block1/mlp/down"]), common(["a", "b"])
    ('block1/mlp', '')
    """
    parts = [name.split("/") for name in names]
    shared = os.path.commonprefix(parts) if parts else []
    return "/".join(shared)


def _unique(groups: Sequence[tuple[str, list[int]]]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for name, part in groups:
        free, count = name, 1
        while free in out:
            count += 1
            free = f"{name} ({count})"
        out[free] = part
    return out
