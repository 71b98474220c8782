"""Which axes of different values are one and the same: those along which the same tokens lie.

An axis is followed from value to value: a sum or an activation keeps all of them, a product of
matrices those that it doesn't sum over, a reshape those that it doesn't cut. Entries that are only
picked, by slices, gathers and concatenations, are known by their number, so that an axis taken
apart and put together again is the one that it was. Where tokens are mixed a new axis begins, which
remembers what it was made from and by what: along an axis entries depend on each other no more than
where it began. What was summed over an axis depends on all of it (`Laid.pooled`), and mixes the
tokens that it is added to.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from relprop._core.graph import Equation

#: One axis of an array: none where its size is 1, several where a reshape merged them.
Dim = tuple[int, ...]
Shape = tuple[Dim, ...]
#: The numbers that an operand of indices is known to have; None where they are not known.
Numbers = Callable[[object], "np.ndarray | None"]


@dataclasses.dataclass(frozen=True)
class Laid:
    """How the entries of a value lie along axes.

    Attributes:
        shape: its axes.
        pooled: axes that every entry depends on as a whole, and what summed or picked there.
    """

    shape: Shape
    pooled: Mapping[int, Equation] = dataclasses.field(default_factory=dict)


class Axes:
    """All axes of one function, known by number."""

    def __init__(self) -> None:
        self._same: list[int] = []
        self._sizes: list[int] = []
        self._parents: list[tuple[int, ...]] = []
        self._halves: dict[tuple[int, int], tuple[int, int]] = {}
        self._whole: dict[tuple[int, int], int] = {}
        self._mixes: set[int] = set()
        self._made_by: dict[int, Equation] = {}
        self._picks: dict[int, tuple[int, np.ndarray]] = {}
        self._picked: dict[tuple[int, bytes], int] = {}
        self._flat: dict[Dim, int] = {}
        self._twins: dict[Dim, Dim] = {}
        self._ancestry: dict[int, frozenset[int]] = {}

    def new(self, size: int, parents: Iterable[int] = ()) -> Dim:
        """An axis that begins here, made from others."""
        return () if size == 1 else (self._new(size, parents),)

    def of(self, shape: Sequence[int]) -> Shape:
        """New axes for an array that nothing is known of."""
        return tuple(self.new(n) for n in shape)

    def mixed(self, size: int, dims: Iterable[int], by: Equation) -> Dim:
        """An axis whose entries depend on several of others each."""
        dim = self.new(size, dims)
        self._mixes.update(dim)
        self._made_by.update((axis, by) for axis in dim)
        return dim

    @property
    def count(self) -> int:
        """How many axes there are."""
        return len(self._same)

    def made(self, begun: int, by: Equation) -> None:
        """Notes what has made the axes from a number on, where that is not known yet."""
        for axis in range(begun, len(self._same)):
            self._made_by.setdefault(axis, by)

    def size(self, dim: Dim) -> int:
        return math.prod(self._sizes[axis] for axis in dim)

    def find(self, dim: Dim) -> Dim:
        """The same for all dims that turned out to be one."""
        return tuple(self._root(axis) for axis in dim)

    def ancestry(self, dim: Dim) -> set[int]:
        """The axes of a dim, and all that they were made from."""
        return set().union(*(self._ancestors(axis) for axis in self.find(dim)))

    def related(self, first: Dim, second: Dim) -> bool:
        """Whether two dims that are not the same come from one."""
        return not self.ancestry(first).isdisjoint(self.ancestry(second))

    def depends(self, axis: int, pooled: int) -> bool:
        """Whether entries along an axis are of the tokens that others were pooled of."""
        a, b = self.base(axis), self.base(pooled)
        return a in self._ancestors(b) or b in self._ancestors(a)

    def base(self, axis: int) -> int:
        """The axis that the entries were picked from."""
        axis = self._root(axis)
        return self._root(self._picks[axis][0]) if axis in self._picks else axis

    def numbers(self, axis: int) -> np.ndarray:
        """The numbers of the entries that were picked from its base."""
        axis = self._root(axis)
        return self._picks[axis][1] if axis in self._picks else np.arange(self._sizes[axis])

    def unite(self, first: Dim, second: Dim) -> None:
        """Notes that two dims are the same, as far as they are cut alike."""
        first, second = self.find(first), self.find(second)
        if [self._sizes[a] for a in first] != [self._sizes[b] for b in second]:
            return
        for a, b in zip(first, second, strict=True):
            # Of two, the one of which more is known.
            kept, gone = sorted((self._root(a), self._root(b)), key=self._is_plain)
            if kept != gone:
                self._same[gone] = kept
                self._parents[kept] = (*self._parents[kept], *self._parents[gone])
                self._ancestry.clear()

    def regroup(self, shape: Shape, sizes: Sequence[int]) -> Shape:
        """The axes after a reshape: merged ones remember their parts, cut ones their whole."""
        left = [axis for dim in shape for axis in self.find(dim) if self._sizes[axis] > 1]
        result: list[Dim] = []
        for n in sizes:
            taken: list[int] = []
            while left and self.size(tuple(taken)) < n:
                taken.append(left.pop(0))
            found = self.size(tuple(taken))
            if found > n and n % (head := found // self._sizes[taken[-1]]) == 0:
                whole, part = taken[-1], n // head
                if self._sizes[whole] % part == 0:
                    taken[-1], rest = self._cut(whole, part)
                    left.insert(0, rest)
                    found = n
            if found != n:  # Cut across: nothing is left of what was there.
                begun = len(result)
                rest = [*taken, *left]
                return (*result, *(self.new(m, rest) for m in sizes[begun:]))
            result.append(self.joined(taken))
        return tuple(result)

    def joined(self, axes: Sequence[int]) -> Dim:
        """Several axes as one dim, without cuts that have been mended."""
        for i, pair in enumerate(zip(axes, axes[1:], strict=False)):
            if pair in self._whole:
                return self.joined([*axes[:i], self._whole[pair], *axes[i + 2 :]])
        return tuple(axes)

    def told_apart(self, shape: Shape) -> Shape:
        """With an axis of its own wherever one comes a second time, the same for all maps."""
        result: list[Dim] = []
        for dim in map(self.find, shape):
            while dim and dim in result:
                if dim not in self._twins:
                    self._twins[dim] = self.new(self.size(dim), dim)
                dim = self._twins[dim]
            result.append(dim)
        return tuple(result)

    def pick(self, dim: Dim, numbers: np.ndarray) -> Dim:
        """Some entries along a dim, in some order; all of them in theirs are the dim itself."""
        dim = self.find(dim)
        if not dim or not len(numbers):
            return self.new(len(numbers), dim)
        whole = self._flattened(dim)
        base, indices = self.base(whole), self.numbers(whole)[numbers]
        if len(indices) == self._sizes[base] and (indices == np.arange(len(indices))).all():
            return next((d for d, flat in self._flat.items() if flat == base), (base,))
        key = (base, indices.astype(np.int64).tobytes())
        if key not in self._picked:
            axis = self._new(len(indices), (base,))
            self._picked[key], self._picks[axis] = axis, (base, indices)
        return (self._picked[key],)

    def concatenated(self, dims: Sequence[Dim | None], sizes: Sequence[int]) -> Dim:
        """Dims after one another; None where nothing is known of one."""
        flat = [
            self._flattened(dim) if dim else self._new(n, ())
            for dim, n in zip(dims, sizes, strict=True)
        ]
        bases = {self.base(axis) for axis in flat}
        numbers = [self.numbers(axis) for axis in flat]
        if len(bases) == 1:
            return self.pick((*bases,), np.concatenate(numbers))
        return self.new(sum(sizes), flat)

    def mixer(self, axes: Iterable[int], of: Iterable[int]) -> Equation | None:
        """What first mixed or moved the tokens along some axes, since they were along others."""
        of = set(self.find(tuple(of)))
        chain = [a for a in self.ancestry(tuple(axes)) - of if of & self._ancestors(a)]
        made = [a for a in chain if a in self._mixes] or [a for a in chain if a in self._made_by]
        return self._made_by.get(min(made)) if made else None

    def mixed_evenly(self, axes: Iterable[int], of: Iterable[int]) -> Equation | None:
        """The same, only where there still is one entry for each token."""
        of = set(self.find(tuple(of)))
        for axis in sorted(self.ancestry(tuple(axes)) - of, reverse=True):
            if axis in self._mixes and of & self._ancestors(axis):
                if self._sizes[axis] == self._sizes[self._root(self._parents[axis][0])]:
                    return self._made_by[axis]
        return None

    def _is_plain(self, axis: int) -> tuple[bool, int]:
        return (axis not in self._picks, axis)

    def mixed_first(self, axes: Iterable[int], sources: Iterable[int]) -> Equation | None:
        """What mixed the entries of sources, one for one, until they were those along axes."""
        sources = set(sources)
        queue = [*axes]
        while queue:
            axis = self.base(queue.pop(0))
            size = self._sizes[axis]
            parents = [p for p in self.find(self._parents[axis]) if self._sizes[p] <= size]
            if axis in sources:
                continue
            if axis in self._mixes:
                if any(self._sizes[s] == size for s in sources & self._ancestors(axis)):
                    return self._made_by[axis]
                if not self._parents[axis]:  # As of a cache that a loop writes to: what is in it?
                    return self._made_by[axis]
                if self._sizes[self._root(self._parents[axis][0])] != size:
                    continue  # Here tokens begin, such as patches of an image.
            queue.extend(parents)
        return None

    def within(self, dim: Dim, whole: Dim) -> tuple[int, ...] | None:
        """The numbers of the entries along a dim that were picked from another."""
        dim, whole = self.find(dim), self.find(whole)
        if dim == whole:
            return tuple(range(self.size(dim)))
        if len(dim) != 1 or not whole:
            return None
        (axis,), base = dim, self._flattened(whole)
        if self.base(axis) != self.base(base):
            return None
        numbers = {int(n): i for i, n in enumerate(self.numbers(base))}
        wanted = [int(n) for n in self.numbers(axis)]
        return tuple(numbers[n] for n in wanted) if set(wanted) <= set(numbers) else None

    def _ancestors(self, axis: int) -> frozenset[int]:
        if axis not in self._ancestry:
            found: set[int] = set()
            queue = [axis]
            while queue:
                one = self._root(queue.pop())
                if one in found:
                    continue
                if one in self._ancestry:
                    found |= self._ancestry[one]
                    continue
                found.add(one)
                queue.extend(self._parents[one])
            self._ancestry[axis] = frozenset(found)
        return self._ancestry[axis]

    def _new(self, size: int, parents: Iterable[int]) -> int:
        self._same.append(len(self._same))
        self._sizes.append(size)
        self._parents.append(tuple(parents))
        return self._same[-1]

    def _root(self, axis: int) -> int:
        while self._same[axis] != axis:
            axis = self._same[axis]
        return axis

    def _cut(self, whole: int, part: int) -> tuple[int, int]:
        """An axis in two, the same two each time."""
        key = (whole, part)
        if key not in self._halves:
            rest = self._sizes[whole] // part
            halves = self._new(part, (whole,)), self._new(rest, (whole,))
            self._halves[key], self._whole[halves] = halves, whole
        return self._halves[key]

    def _flattened(self, dim: Dim) -> int:
        """A dim as one axis, the same one each time."""
        if len(dim) == 1:
            return self._root(dim[0])
        if dim not in self._flat:
            self._flat[dim] = self._new(self.size(dim), dim)
        return self._flat[dim]
