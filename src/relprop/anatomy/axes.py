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

from relprop._core import registry
from relprop._core.graph import Equation, Value

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
        """With an axis of its own wherever one comes a second time."""
        result: list[Dim] = []
        for dim in map(self.find, shape):
            result.append(self.new(self.size(dim), dim) if dim and dim in result else dim)
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


def through(
    axes: Axes, equation: Equation, operands: Sequence[Laid | None], numbers: Numbers
) -> list[Laid]:
    """The axes of the results of an equation.

    Args:
        axes: all axes, of which some may be found to be one.
        equation: the equation.
        operands: the axes of its operands; None for those that are of no interest.
        numbers: what is known of operands that say where others are taken from.
    """
    begun = axes.count
    if equation.name == "unstack":
        return _unstacked(axes, equation, operands[0])
    if equation.name in _SEVERAL:
        shapes = _SEVERAL[equation.name](axes, equation, [a and a.shape for a in operands])
    elif equation.name in _RULES and len(equation.outputs) == 1:
        known = [operand and operand.shape for operand in operands]
        shapes = [_RULES[equation.name](axes, equation, known, numbers)]
    elif _is_entrywise(equation):
        return [entrywise(axes, equation, out.shape, operands) for out in equation.outputs]
    else:
        shapes = [_any(axes, equation, out, operands) for out in equation.outputs]
    pooled = {p: by for a in operands if a is not None for p, by in a.pooled.items()}
    if equation.name in _LOSING:
        for operand in operands:
            if operand is not None:
                lost = _lost(axes, operand.shape, shapes[0])
                pooled.update((axis, equation) for axis in lost)
    elif equation.name == "reshape":
        dims = operands[0].shape if operands[0] is not None else ()
        single = [axis for dim in dims for axis in dim if axes.size((axis,)) == 1]
        pooled.update((axis, equation) for axis in single)
    if equation.name in ("stack", "concatenate"):
        shapes, pooled = _collected(axes, equation, operands, shapes, pooled)
    axes.made(begun, equation)
    return [settled(axes, Laid(shape, pooled)) for shape in shapes]


def _unstacked(axes: Axes, equation: Equation, whole: Laid | None) -> list[Laid]:
    """Each entry along an axis by itself."""
    along = equation.params["axis"]
    assert whole is not None
    rest = tuple(dim for i, dim in enumerate(whole.shape) if i != along)
    dim = whole.shape[along]
    picks = [axes.pick(dim, np.arange(n, n + 1)) for n in range(len(equation.outputs))]
    return [
        settled(axes, Laid(rest, {**whole.pooled, **dict.fromkeys(pick, equation)}))
        for pick in picks
    ]


def _collected(
    axes: Axes,
    equation: Equation,
    operands: Sequence[Laid | None],
    shapes: list[Shape],
    pooled: Mapping[int, Equation],
) -> tuple[list[Shape], Mapping[int, Equation]]:
    """Entries of one axis that were taken one by one, and put together again."""
    along = equation.params["axis" if equation.name == "stack" else "dimension"]
    single = [
        {axes.base(p): p for p in a.pooled if axes.size((p,)) == 1} if a is not None else {}
        for a in operands
    ]
    stacked = equation.name == "stack" or all(
        a is not None and axes.size(a.shape[along]) == 1 for a in operands
    )
    for base in single[0] if stacked and len(operands) > 1 else ():
        picks = [of.get(base) for of in single]
        # No part may be of a second entry.
        if not all(
            a is not None
            and pick is not None
            and [p for p in a.pooled if axes.depends(base, p)] == [pick]
            for pick, a in zip(picks, operands, strict=True)
        ):
            continue
        numbers = np.concatenate([axes.numbers(pick) for pick in picks if pick is not None])
        if len(set(numbers.tolist())) == len(numbers):
            (shape,) = shapes
            dim = axes.pick((base,), numbers)
            kept = {p: by for p, by in pooled.items() if p not in picks}
            return [(*shape[:along], dim, *shape[along + 1 :])], kept
    return shapes, pooled


def settled(axes: Axes, laid: Laid) -> Laid:
    """With new axes for those along which every entry depends on all of them."""
    if not laid.pooled:
        return laid
    pooled = dict(laid.pooled)
    shape = []
    for dim in laid.shape:
        result = []
        for axis in dim:
            by = [p for p in laid.pooled if axes.depends(axis, p)]
            result.extend(
                axes.mixed(axes.size((axis,)), (axis, *by), laid.pooled[by[0]]) if by else (axis,)
            )
            for p in by:
                pooled.pop(p, None)
        shape.append(tuple(result))
    return Laid(tuple(shape), pooled)


def entrywise(
    axes: Axes, equation: Equation, sizes: Sequence[int], operands: Sequence[Laid | None]
) -> Laid:
    """What is computed entry by entry: axes that meet are one, or mix what comes from one."""
    alike = [
        a
        for a in operands
        if a is not None and tuple(axes.size(dim) for dim in a.shape) == tuple(sizes)
    ]
    pooled = {p: by for a in operands if a is not None for p, by in a.pooled.items()}
    if not alike:
        return settled(axes, Laid(axes.of(sizes), pooled))
    first, *others = alike
    shape, before = list(first.shape), dict(first.pooled)
    for other in others:
        for i, (a, b) in enumerate(zip(shape, other.shape, strict=True)):
            a, b = axes.find(a), axes.find(b)
            if a == b:
                continue
            if not a or not b:
                shape[i] = a or b
                continue
            by = [p for p in before if any(axes.depends(axis, p) for axis in b)]
            by += [p for p in other.pooled if any(axes.depends(axis, p) for axis in a)]
            if by or axes.related(a, b):
                known = {**before, **other.pooled}
                cause = known[by[0]] if by else axes.mixer(b, a) or axes.mixer(a, b) or equation
                shape[i] = axes.mixed(sizes[i], (*a, *b, *by), cause)
                for p in by:
                    pooled.pop(p, None)
            else:
                axes.unite(a, b)
        before.update(other.pooled)
    return settled(axes, Laid(tuple(shape), pooled))


def _is_entrywise(equation: Equation) -> bool:
    kind = registry.lookup(equation.primitive)
    return kind.elementwise or equation.name in _ENTRYWISE


def _lost(axes: Axes, before: Shape, after: Shape) -> set[int]:
    """The axes of an operand that a result does not have, nor anything made from them."""
    left = [axis for dim in after for axis in axes.find(dim)]
    lost = []
    for axis in (axis for dim in before for axis in axes.find(dim)):
        if axis in left:
            left.remove(axis)
        else:
            lost.append(axis)
    gone = set()
    for axis in lost:
        base = axes.base(axis)
        heir = next((b for b in left if base in (axes.base(b), *axes.ancestry((b,)))), None)
        if heir is None:
            gone.add(axis)
        elif len(before) == len(after):
            left.remove(heir)
    return gone


def _any(axes: Axes, equation: Equation, out: Value, operands: Sequence[Laid | None]) -> Shape:
    """What nobody has said how it mixes may mix all."""
    every = [axis for a in operands if a is not None for dim in a.shape for axis in dim]
    ranked = [a.shape for a in operands if a is not None and len(a.shape) == len(out.shape)]
    result = []
    for i, n in enumerate(out.shape):
        own = ranked[0][i] if ranked and axes.size(ranked[0][i]) == n else ()
        result.append(axes.mixed(n, (*own, *every), equation))
    return tuple(result)


def _kept(
    axes: Axes, shape: Shape, sizes: Sequence[int], equation: Equation, mixed: Iterable[int] = ()
) -> Shape:
    """The axes whose size stays, but for some that are mixed all the same."""
    mixed = tuple(mixed)
    return tuple(
        dim if axes.size(dim) == n and i not in mixed else axes.mixed(n, dim, equation)
        for i, (dim, n) in enumerate(zip(shape, sizes, strict=True))
    )


def _reshape(axes, equation, operands, numbers):
    del numbers
    return axes.regroup(operands[0], equation.outputs[0].shape)


def _transpose(axes, equation, operands, numbers):
    del axes, numbers
    return tuple(operands[0][i] for i in equation.params["permutation"])


def _squeeze(axes, equation, operands, numbers):
    del axes, numbers
    gone = equation.params["dimensions"]
    return tuple(dim for i, dim in enumerate(operands[0]) if i not in gone)


def _reduce(axes, equation, operands, numbers):
    del axes, numbers
    gone = equation.params["axes"]
    return tuple(dim for i, dim in enumerate(operands[0]) if i not in gone)


def _broadcast(axes, equation, operands, numbers):
    del numbers
    (out,) = equation.outputs
    placed = dict(zip(equation.params["broadcast_dimensions"], operands[0] or (), strict=False))
    return tuple(
        placed[i] if i in placed and axes.size(placed[i]) == n else axes.new(n)
        for i, n in enumerate(out.shape)
    )


def _tile(axes, equation, operands, numbers):
    """Copies after one another; of a single entry it is as a broadcast."""
    del numbers
    (out,) = equation.outputs
    whole = ((),) * (len(out.shape) - len(operands[0])) + tuple(operands[0])
    return tuple(
        dim if axes.size(dim) == n else axes.mixed(n, dim, equation) if dim else axes.new(n)
        for dim, n in zip(whole, out.shape, strict=True)
    )


def _concatenate(axes, equation, operands, numbers):
    del numbers
    along = equation.params["dimension"]
    known = [shape for shape in operands if shape is not None]
    result = list(known[0])
    for other in known[1:]:
        for i, (a, b) in enumerate(zip(result, other, strict=True)):
            if i != along and axes.find(a) != axes.find(b):
                if axes.related(a, b):
                    result[i] = axes.mixed(axes.size(a), (*a, *b), equation)
                else:
                    axes.unite(a, b)
    result[along] = axes.concatenated(
        [shape and shape[along] for shape in operands],
        [atom.shape[along] for atom in equation.inputs],
    )
    return tuple(result)


def _stack(axes, equation, operands, numbers):
    del numbers
    along = equation.params["axis"]
    known = [shape for shape in operands if shape is not None]
    result = list(known[0])
    for other in known[1:]:
        for i, (a, b) in enumerate(zip(result, other, strict=True)):
            if axes.find(a) != axes.find(b):
                if axes.related(a, b):
                    result[i] = axes.mixed(axes.size(a), (*a, *b), equation)
                else:
                    axes.unite(a, b)
    return (*result[:along], axes.new(len(operands)), *result[along:])


def _split(axes, equation, operands):
    along, sizes = equation.params["axis"], equation.params["sizes"]
    starts = np.cumsum([0, *sizes])
    return [
        tuple(
            axes.pick(dim, np.arange(start, start + n)) if i == along else dim
            for i, dim in enumerate(operands[0])
        )
        for start, n in zip(starts, sizes, strict=False)
    ]


def _slice(axes, equation, operands, numbers):
    del numbers
    params = equation.params
    strides = params["strides"] or (1,) * len(operands[0])
    ranges = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return tuple(
        axes.pick(dim, np.arange(*of)) for dim, of in zip(operands[0], ranges, strict=True)
    )


def _dynamic_slice(axes, equation, operands, numbers):
    starts = [numbers(atom) for atom in equation.inputs[1:]]
    result = []
    for dim, n, size, start in zip(
        operands[0], equation.inputs[0].shape, equation.outputs[0].shape, starts, strict=True
    ):
        if size == n:
            result.append(dim)
        elif start is None:
            result.append(axes.mixed(size, dim, equation))
        else:
            first = min(max(int(start), 0), n - size)
            result.append(axes.pick(dim, np.arange(first, first + size)))
    return tuple(result)


def _dynamic_update_slice(axes, equation, operands, numbers):
    """A part overwritten: what was there and what comes, one after the other."""
    whole, update = equation.inputs[:2]
    old, new = operands[:2]
    starts = [numbers(atom) for atom in equation.inputs[2:]]
    result = []
    for i, (n, size, start) in enumerate(zip(whole.shape, update.shape, starts, strict=True)):
        a, b = (shape and shape[i] for shape in (old, new))
        if n == size:
            if a and b and axes.find(a) != axes.find(b):
                if axes.related(a, b):
                    b = axes.mixed(n, (*a, *b), equation)
                else:
                    axes.unite(a, b)
            result.append(b if b is not None else a)
        elif start is None:
            result.append(axes.mixed(n, (*(a or ()), *(b or ())), equation))
        else:
            first = min(max(int(start), 0), n - size)
            before, after = np.arange(first), np.arange(first + size, n)
            parts = [
                (a and axes.pick(a, before), len(before)),
                (b, size),
                (a and axes.pick(a, after), len(after)),
            ]
            dims, sizes = zip(*(part for part in parts if part[1]), strict=True)
            result.append(axes.concatenated(dims, sizes))
    return tuple(result)


def _pad(axes, equation, operands, numbers):
    del numbers
    (out,) = equation.outputs
    if operands[0] is None:
        return axes.of(out.shape)
    result = []
    for dim, n, (low, high, inner) in zip(
        operands[0], equation.inputs[0].shape, equation.params["padding_config"], strict=True
    ):
        if not (low or high or inner):
            result.append(dim)
            continue
        if inner or not dim:
            result.append(axes.mixed(int((n - 1) * (inner + 1) + 1 + low + high), dim, equation))
            continue
        kept = axes.pick(dim, np.arange(max(0, -low), n - max(0, -high)))
        parts = [(None, max(low, 0)), (kept, axes.size(kept)), (None, max(high, 0))]
        dims, sizes = zip(*((d, int(m)) for d, m in parts if m), strict=True)
        result.append(axes.concatenated(dims, sizes) if len(dims) > 1 else kept)
    return tuple(result)


def product(axes: Axes, equation: Equation, operands: Sequence[Shape | None]) -> Shape:
    """The axes of a product of matrices; those that it sums over are gone."""
    (contracting, batch) = equation.params["dimension_numbers"]
    sides = [
        [operand[i] if operand is not None else axes.new(n) for i, n in enumerate(atom.shape)]
        for operand, atom in zip(operands, equation.inputs, strict=True)
    ]
    result = []
    for i, j in zip(*batch, strict=True):
        a, b = axes.find(sides[0][i]), axes.find(sides[1][j])
        if a and b and a != b and axes.related(a, b):
            result.append(axes.mixed(axes.size(a), (*a, *b), equation))
            continue
        axes.unite(a, b)
        result.append(sides[0 if operands[0] is not None else 1][(i, j)[operands[0] is None]])
    if all(operand is not None for operand in operands):
        for i, j in zip(*contracting, strict=True):
            a, b = axes.find(sides[0][i]), axes.find(sides[1][j])
            if not axes.related(a, b):
                axes.unite(a, b)
    return (
        *result,
        *(
            dim
            for side, dims in enumerate(sides)
            for i, dim in enumerate(dims)
            if i not in contracting[side] and i not in batch[side]
        ),
    )


def _product(axes, equation, operands, numbers):
    del numbers
    return product(axes, equation, operands)


def _convolution(axes, equation, operands, numbers):
    del numbers
    (out,) = equation.outputs
    if operands[0] is None:
        return axes.of(out.shape)
    params, kernel = equation.params, equation.inputs[1]
    layout = params["dimension_numbers"]
    result = list(axes.of(out.shape))
    result[layout.out_spec[0]] = operands[0][layout.lhs_spec[0]]
    dims = zip(layout.lhs_spec[2:], layout.rhs_spec[2:], layout.out_spec[2:], strict=True)
    for i, window, j in dims:
        (result[j],) = _kept(
            axes, (operands[0][i],), (out.shape[j],), equation, [0] * (kernel.shape[window] > 1)
        )
    return tuple(result)


def _window(axes, equation, operands, numbers):
    del numbers
    out, params = equation.outputs[0], equation.params
    windows = params["window_dimensions"]
    wide = [i for i, n in enumerate(windows) if n > 1]
    return _kept(axes, operands[0], out.shape, equation, wide)


def _reverse(axes, equation, operands, numbers):
    del numbers
    turned = equation.params["dimensions"]
    return tuple(
        axes.pick(dim, np.arange(axes.size(dim))[::-1]) if i in turned else dim
        for i, dim in enumerate(operands[0])
    )


def _cumulative(axes, equation, operands, numbers):
    del numbers
    out = equation.outputs[0]
    return _kept(axes, operands[0], out.shape, equation, [equation.params["axis"]])


def _fourier(axes, equation, operands, numbers):
    del numbers
    out, rank = equation.outputs[0], len(operands[0])
    over = range(rank - len(equation.params["fft_lengths"]), rank)
    return _kept(axes, operands[0], out.shape, equation, over)


def _sort(axes, equation, operands):
    """Which token comes where depends on the values."""
    along = equation.params["dimension"]
    return [
        _kept(axes, shape, out.shape, equation, [along]) if shape else axes.of(out.shape)
        for shape, out in zip(operands, equation.outputs, strict=True)
    ]


def _largest(axes, equation, operands):
    last = len(operands[0]) - 1
    return [_kept(axes, operands[0], out.shape, equation, [last]) for out in equation.outputs]


def _alongside(axes, equation, operands):
    """Operands handed on as they are."""
    return [
        shape if shape is not None else axes.of(out.shape)
        for shape, out in zip(operands, equation.outputs, strict=True)
    ]


def _gather(axes, equation, operands, numbers):
    (out,) = equation.outputs
    if operands[0] is None:
        return axes.of(out.shape)
    layout = equation.params["dimension_numbers"]
    gone = {*layout.collapsed_slice_dims, *layout.operand_batching_dims}
    rest = [dim for i, dim in enumerate(operands[0]) if i not in gone]
    chosen = [axis for i in gone for axis in operands[0][i]]
    indices = numbers(equation.inputs[1])
    others = [i for i in range(len(out.shape)) if i not in layout.offset_dims]
    result: list[Dim] = [()] * len(out.shape)
    simple = len(gone) == len(layout.start_index_map) == 1 and not layout.operand_batching_dims
    if indices is not None and simple and len(others) == 1:
        (dim,) = (operands[0][i] for i in gone)
        where = np.clip(indices.reshape(-1), 0, axes.size(dim) - 1)
        result[others[0]] = axes.pick(dim, where)
    else:
        batched = dict(
            zip(layout.start_indices_batching_dims, layout.operand_batching_dims, strict=True)
        )
        for number, i in enumerate(others):
            result[i] = (
                operands[0][batched[number]]
                if number in batched
                else axes.mixed(out.shape[i], chosen, equation)
            )
    sizes = [n for i, n in enumerate(equation.params["slice_sizes"]) if i not in gone]
    kept = [i for i in range(len(operands[0])) if i not in gone]
    for i, dim, n, of in zip(layout.offset_dims, rest, sizes, kept, strict=True):
        if axes.size(dim) == n:
            result[i] = dim
        elif indices is not None and indices.size == 1 and layout.start_index_map == (of,):
            first = min(max(int(indices.reshape(())), 0), axes.size(dim) - n)
            result[i] = axes.pick(dim, np.arange(first, first + n))
        else:
            result[i] = axes.mixed(n, dim, equation)
    return tuple(result)


def _scatter(axes, equation, operands, numbers):
    """Where something that depends on what is explained is put between others, all may be mixed."""
    del numbers
    (out,) = equation.outputs
    old, _, new = operands[:3]
    if new is None:
        return old if old is not None else axes.of(out.shape)
    layout = equation.params["dimension_numbers"]
    fixed = {*layout.inserted_window_dims, *layout.operand_batching_dims}
    window = [i for i in range(len(out.shape)) if i not in fixed]
    update = dict(zip(window, layout.update_window_dims, strict=True))
    sizes = equation.inputs[2].shape
    kept = [j for i, j in update.items() if sizes[j] == out.shape[i]]
    moved = [axis for j, dim in enumerate(new) if j not in kept for axis in dim]
    result = []
    for i, n in enumerate(out.shape):
        a = old[i] if old is not None else ()
        b = new[update[i]] if i in update else ()
        whole = i in update and update[i] in kept
        if whole and (not a or axes.find(a) == axes.find(b)):
            result.append(b)
        elif whole and not axes.related(a, b):
            axes.unite(a, b)
            result.append(a)
        else:
            result.append(axes.mixed(n, (*a, *(b if whole else moved)), equation))
    return tuple(result)


_RULES: dict[str, Callable[..., Shape]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "cumlogsumexp": _cumulative,
    "cummax": _cumulative,
    "cummin": _cumulative,
    "cumprod": _cumulative,
    "cumsum": _cumulative,
    "dot_general": _product,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "fft": _fourier,
    "gather": _gather,
    "pad": _pad,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
    "reduce_prod": _reduce,
    "reduce_sum": _reduce,
    "reduce_window_max": _window,
    "reduce_window_min": _window,
    "reduce_window_sum": _window,
    "reshape": _reshape,
    "rev": _reverse,
    "scatter": _scatter,
    "scatter-add": _scatter,
    "scatter-max": _scatter,
    "scatter-min": _scatter,
    "scatter-mul": _scatter,
    "scatter-sub": _scatter,
    "slice": _slice,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
_SEVERAL: dict[str, Callable[..., list[Shape]]] = {
    "approx_top_k": _largest,
    "optimization_barrier": _alongside,
    "sort": _sort,
    "split": _split,
    "top_k": _largest,
}
# What sums over axes, or leaves out all entries but one.
_LOSING = (
    "broadcast_in_dim conv_general_dilated dot_general gather reduce_max reduce_min reduce_prod "
    "reduce_sum squeeze"
).split()
# Entry by entry, though relevance is not passed as by a function of entries.
_ENTRYWISE = (
    "add add_any add_jaxvals sub mul div neg real imag conj complex stop_gradient sign floor ceil "
    "round copy copy_p name sharding_constraint reshard device_put mesh_cast pvary pbroadcast "
    "psum psum_invariant pmax pmin checkpoint_name bitcast_convert_type random_gamma_grad"
).split()
