"""Which axes of different values are one and the same: those along which the same tokens lie.

An axis is followed from value to value: a sum or an activation keeps all of them, a product of
matrices those that it doesn't sum over, a reshape those that it doesn't cut. Where an axis can't be
followed a new one begins, which remembers what it was made from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from relprop._core.graph import Equation, Value

#: One axis of an array: none where its size is 1, several where a reshape merged them.
Dim = tuple[int, ...]
Shape = tuple[Dim, ...]


class Axes:
    """All axes of one function, known by number."""

    def __init__(self) -> None:
        self._same: list[int] = []
        self._sizes: list[int] = []
        self._parents: list[tuple[int, ...]] = []
        self._halves: dict[tuple[int, int], tuple[int, int]] = {}
        self._whole: dict[tuple[int, int], int] = {}

    def new(self, size: int, parents: Iterable[int] = ()) -> Dim:
        """An axis that begins here, made from others."""
        return () if size == 1 else (self._new(size, parents),)

    def of(self, shape: Sequence[int]) -> Shape:
        """New axes for an array that nothing is known of."""
        return tuple(self.new(n) for n in shape)

    def size(self, dim: Dim) -> int:
        return math.prod(self._sizes[axis] for axis in dim)

    def find(self, dim: Dim) -> Dim:
        """The same for all dims that turned out to be one."""
        return tuple(self._root(axis) for axis in dim)

    def ancestry(self, dim: Dim) -> set[int]:
        """The axes of a dim, and all that they were made from."""
        found: set[int] = set()
        queue = [*self.find(dim)]
        while queue:
            axis = queue.pop()
            if axis not in found:
                found.add(axis)
                queue.extend(self.find(self._parents[axis]))
        return found

    def unite(self, first: Dim, second: Dim) -> None:
        """Notes that two dims are the same, as far as they are cut alike."""
        first, second = self.find(first), self.find(second)
        if [self._sizes[a] for a in first] != [self._sizes[b] for b in second]:
            return
        for a, b in zip(first, second, strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            if low != high:
                self._same[high] = low
                self._parents[low] = (*self._parents[low], *self._parents[high])

    def regroup(self, shape: Shape, sizes: Sequence[int]) -> Shape:
        """The axes after a reshape: merged ones remember their parts, cut ones their whole."""
        left = [axis for dim in shape for axis in self.find(dim)]
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
            result.append(self._joined(taken))
        return tuple(result)

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

    def _joined(self, axes: list[int]) -> Dim:
        """Without cuts that have been mended."""
        for i, pair in enumerate(zip(axes, axes[1:], strict=False)):
            if pair in self._whole:
                return self._joined([*axes[:i], self._whole[pair], *axes[i + 2 :]])
        return tuple(axes)


def through(axes: Axes, equation: Equation, operands: Sequence[Shape | None]) -> list[Shape]:
    """The axes of the results of an equation.

    Args:
        axes: all axes, of which some may be found to be one.
        equation: the equation.
        operands: the axes of its operands; None for those that are of no interest.
    """
    rule = _RULES.get(equation.name)
    if rule is not None and len(equation.outputs) == 1:
        return [rule(axes, equation, operands)]
    return [_alike(axes, out, operands) for out in equation.outputs]


def _alike(axes: Axes, out: Value, operands: Sequence[Shape | None]) -> Shape:
    """All axes of operands that have the shape of the result: entry by entry, or sums so far."""
    alike = [
        shape
        for shape in operands
        if shape is not None and tuple(axes.size(dim) for dim in shape) == out.shape
    ]
    if not alike:
        ranks = [s for s in operands if s is not None and len(s) == len(out.shape)]
        return _kept(axes, ranks[0], out.shape) if ranks else axes.of(out.shape)
    for other in alike[1:]:
        for a, b in zip(alike[0], other, strict=True):
            axes.unite(a, b)
    return alike[0]


def _kept(axes: Axes, shape: Shape, sizes: Sequence[int], cut: Iterable[int] = ()) -> Shape:
    """The axes whose size stays, but for some that are cut or mixed all the same."""
    return tuple(
        dim if axes.size(dim) == n and i not in tuple(cut) else axes.new(n, dim)
        for i, (dim, n) in enumerate(zip(shape, sizes, strict=True))
    )


def _reshape(axes, equation, operands):
    return axes.regroup(operands[0], equation.outputs[0].shape)


def _transpose(axes, equation, operands):
    del axes
    return tuple(operands[0][i] for i in equation.params["permutation"])


def _squeeze(axes, equation, operands):
    del axes
    gone = equation.params["dimensions"]
    return tuple(dim for i, dim in enumerate(operands[0]) if i not in gone)


def _reduce(axes, equation, operands):
    del axes
    gone = equation.params["axes"]
    return tuple(dim for i, dim in enumerate(operands[0]) if i not in gone)


def _broadcast(axes, equation, operands):
    (out,) = equation.outputs
    placed = dict(zip(equation.params["broadcast_dimensions"], operands[0] or (), strict=False))
    return tuple(
        placed[i] if i in placed and axes.size(placed[i]) == n else axes.new(n)
        for i, n in enumerate(out.shape)
    )


def _concatenate(axes, equation, operands):
    (out,) = equation.outputs
    along = equation.params["dimension"]
    known = [shape for shape in operands if shape is not None]
    for other in known[1:]:
        for i, (a, b) in enumerate(zip(known[0], other, strict=True)):
            if i != along:
                axes.unite(a, b)
    parts = [axis for shape in known for axis in shape[along]]
    joined = axes.new(out.shape[along], parts)
    return (*known[0][:along], joined, *known[0][along + 1 :])


def _product(axes, equation, operands):
    (contracting, batch) = equation.params["dimension_numbers"]
    shapes = [
        shape if shape is not None else axes.of(atom.shape)
        for shape, atom in zip(operands, equation.inputs, strict=True)
    ]
    left, right = shapes
    for first, second in ((contracting[0], contracting[1]), (batch[0], batch[1])):
        for i, j in zip(first, second, strict=True):
            axes.unite(left[i], right[j])
    free = [
        dim
        for side, shape in enumerate(shapes)
        for i, dim in enumerate(shape)
        if i not in contracting[side] and i not in batch[side]
    ]
    known = 0 if operands[0] is not None else 1
    return (*(shapes[known][i] for i in batch[known]), *free)


def _convolution(axes, equation, operands):
    (out,) = equation.outputs
    if operands[0] is None:
        return axes.of(out.shape)
    numbers = equation.params["dimension_numbers"]
    result = list(axes.of(out.shape))
    result[numbers.out_spec[0]] = operands[0][numbers.lhs_spec[0]]
    for i, j in zip(numbers.lhs_spec[2:], numbers.out_spec[2:], strict=True):
        (result[j],) = _kept(axes, (operands[0][i],), (out.shape[j],))
    return tuple(result)


def _reverse(axes, equation, operands):
    return _kept(axes, operands[0], equation.outputs[0].shape, cut=equation.params["dimensions"])


def _sort(axes, equation, operands):
    """Which token comes where depends on the values."""
    sorted_axis = equation.params["dimension"]
    return _kept(axes, operands[0], equation.outputs[0].shape, [sorted_axis])


def _gather(axes, equation, operands):
    (out,) = equation.outputs
    if operands[0] is None:
        return axes.of(out.shape)
    numbers = equation.params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    rest = [dim for i, dim in enumerate(operands[0]) if i not in gone]
    chosen = [axis for i in gone for axis in operands[0][i]]
    result = [axes.new(n, chosen) for n in out.shape]
    for i, dim in zip(numbers.offset_dims, rest, strict=True):
        (result[i],) = _kept(axes, (dim,), (out.shape[i],))
    return tuple(result)


_RULES: dict[str, Callable[..., Shape]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "gather": _gather,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
    "reduce_prod": _reduce,
    "reduce_sum": _reduce,
    "reshape": _reshape,
    "rev": _reverse,
    "sort": _sort,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
