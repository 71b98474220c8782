"""Moves rename the indices of a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from relprop._core.graph import Equation, Value
from relprop.reading.algebra import Algebra
from relprop.reading.terms import ONE, REVERSED, Index, Symbol, Term, renamed_term


def same(algebra: Algebra, equation: Equation, index: Index) -> Term:
    """What is its operand."""
    return algebra.of(equation.inputs[0], index)


def transpose(algebra: Algebra, equation: Equation, index: Index) -> Term:
    """Axes in another order."""
    permutation = equation.params["permutation"]
    inner = {axis: index[i] for i, axis in enumerate(permutation)}
    return algebra.of(equation.inputs[0], tuple(inner[i] for i in range(len(inner))))


def broadcast(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Axes that are new, or of length 1 before."""
    if len(equation.inputs) != 1:
        return None
    shape = equation.inputs[0].shape
    axes = equation.params["broadcast_dimensions"]
    inner = tuple(0 if n == 1 else index[to] for n, to in zip(shape, axes, strict=True))
    return algebra.of(equation.inputs[0], inner)


def reshape(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Axes of length 1 come and go; others are split and joined in order."""
    before, after = equation.inputs[0].shape, equation.outputs[0].shape
    if not math.prod(before):
        return None
    inner: list[Any] = [0] * len(before)
    ins = [i for i, n in enumerate(before) if n != 1]
    outs = [i for i, n in enumerate(after) if n != 1]
    while ins or outs:
        group_in, group_out = [ins.pop(0)], [outs.pop(0)]
        size_in, size_out = before[group_in[0]], after[group_out[0]]
        while size_in != size_out:
            if size_in < size_out:
                group_in.append(ins.pop(0))
                size_in *= before[group_in[-1]]
            else:
                group_out.append(outs.pop(0))
                size_out *= after[group_out[-1]]
        flat = _flat([index[i] for i in group_out], [after[i] for i in group_out])
        parts = _parts(flat, [before[i] for i in group_in])
        for i, part in zip(group_in, parts, strict=True):
            inner[i] = part
    return algebra.of(equation.inputs[0], tuple(inner))


def _flat(entries: list[Any], sizes: list[int]) -> Any:
    if len(entries) == 1:
        return entries[0]
    first = entries[0]
    if isinstance(first, tuple) and first and first[0] == "part":
        whole, shape = first[1], first[3]
        if shape == tuple(sizes) and entries == [
            ("part", whole, i, shape) for i in range(len(sizes))
        ]:
            return whole
    return ("flat", tuple(entries), tuple(sizes))


def _parts(entry: Any, sizes: list[int]) -> list[Any]:
    if len(sizes) == 1:
        return [entry]
    if isinstance(entry, tuple) and entry and entry[0] == "flat" and entry[2] == tuple(sizes):
        return list(entry[1])
    return [("part", entry, i, tuple(sizes)) for i in range(len(sizes))]


def slice_(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Some entries along axes."""
    params = equation.params
    strides = params["strides"] or (1,) * len(index)
    shape = equation.inputs[0].shape
    inner = []
    for entry, start, stride, n, size in zip(
        index, params["start_indices"], strides, equation.outputs[0].shape, shape, strict=True
    ):
        if n == size:
            inner.append(entry)
        elif n == 1 or isinstance(entry, int):
            inner.append(int(start) + (0 if n == 1 else entry * int(stride)))
        else:
            inner.append(sliced(entry, int(start), int(stride)))
    return algebra.of(equation.inputs[0], tuple(inner))


def sliced(entry: Any, start: int, stride: int) -> Any:
    """The index of an entry of a slice; that of a slice of a slice is one of the whole."""
    if not isinstance(entry, Symbol) and entry[0] == "slice":
        _, inner, first, step = entry
        return ("slice", inner, start + first * stride, step * stride)
    return ("slice", entry, start, stride)


def reverse(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Entries counted from the end; twice that is as it was."""
    (atom,) = equation.inputs
    axes = equation.params["dimensions"]
    own = (
        _from_the_end(i, n) if a in axes else i
        for a, (i, n) in enumerate(zip(index, atom.shape, strict=True))
    )
    return algebra.of(atom, tuple(own))


def _from_the_end(entry: Any, size: int) -> Any:
    if isinstance(entry, int):
        return size - 1 - entry
    if not isinstance(entry, Symbol) and entry[0] == REVERSED:
        return entry[1]
    return (REVERSED, entry, size)


def pad(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Single entries, which come from inside or are those that are put around and between."""
    inner: list[Any] = []
    for entry, n, (low, high, between) in zip(
        index, equation.inputs[0].shape, equation.params["padding_config"], strict=True
    ):
        if not isinstance(entry, int):
            if low or high or between:
                return _one_number(algebra, equation, index)
            inner.append(entry)
            continue
        place, rest = divmod(entry - low, between + 1)
        if rest or not 0 <= place < n:
            return algebra.of(equation.inputs[1], ())
        inner.append(place)
    return algebra.of(equation.inputs[0], tuple(inner))


def _one_number(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """The number that is padded with the same number."""
    inside, around = algebra.of(equation.inputs[0], index), algebra.of(equation.inputs[1], ())
    plain = set(inside) <= {ONE} and set(around) <= {ONE}
    same = plain and abs(inside.get(ONE, 0.0) - around.get(ONE, 0.0)) < 1e-6
    return inside if same else None


def tile(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Axes of length 1, repeated."""
    (atom,), times = equation.inputs, equation.params["reps"]
    if len(times) != len(atom.shape):
        return None
    if any(n != 1 and count != 1 for n, count in zip(atom.shape, times, strict=True)):
        return None
    inner = (0 if n == 1 else i for n, i in zip(atom.shape, index, strict=True))
    return algebra.of(atom, tuple(inner))


def concatenate(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """One entry of what is put side by side, or all of one kind."""
    axis = equation.params["dimension"]
    if isinstance(index[axis], Symbol) and all(a.shape[axis] == 1 for a in equation.inputs):
        inner = (*index[:axis], 0, *index[axis + 1 :])
        return _common([algebra.of(a, inner) for a in equation.inputs], index[axis])
    found = _part_of(index[axis], [atom.shape[axis] for atom in equation.inputs])
    if found is None:
        return None
    number, entry = found
    return algebra.of(equation.inputs[number], (*index[:axis], entry, *index[axis + 1 :]))


def _part_of(entry: Any, sizes: Sequence[int]) -> tuple[int, Any] | None:
    """Which of several parts an index of all is in, and where."""
    if isinstance(entry, int):
        first = last = entry
    elif not isinstance(entry, Symbol) and entry[0] == "slice" and isinstance(entry[1], Symbol):
        first, last = entry[2], entry[2] + entry[3] * (entry[1].size - 1)
    else:
        return None
    for number, size in enumerate(sizes):
        if 0 <= first and last < size:
            if isinstance(entry, int):
                return number, first
            whole = first == 0 and entry[3] == 1 and entry[1].size == size
            return number, entry[1] if whole else ("slice", entry[1], first, entry[3])
        first, last = first - size, last - size
    return None


def stack(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """The same along an axis that is new."""
    axis = equation.params["axis"]
    inner = index[:axis] + index[axis + 1 :]
    if isinstance(index[axis], Symbol):
        return _common([algebra.of(a, inner) for a in equation.inputs], index[axis])
    if not isinstance(index[axis], int):
        return None
    return algebra.of(equation.inputs[index[axis]], inner)


def _common(terms: Sequence[Term], symbol: Symbol) -> Term | None:
    """The term of which others are the entries, in their order; None if there is none."""
    last = len(terms) - 1
    if not last:
        return None

    def entry(thing: Any) -> Any:
        """With an index in the place of the last number, but for sums that are written out."""
        if isinstance(thing, frozenset):
            return frozenset(map(entry, thing))
        if not isinstance(thing, tuple) or isinstance(thing, Symbol) or thing[:1] == ("add",):
            return thing
        if len(thing) == 3 and thing[0] == "value" and isinstance(thing[1], Value):
            pairs = zip(thing[2], thing[1].shape, strict=True)
            own = (symbol if i == last and n == symbol.size else i for i, n in pairs)
            return (*thing[:2], tuple(own))
        return tuple(map(entry, thing))

    found = {entry(product): c for product, c in terms[last].items()}
    each = (renamed_term(found, {symbol: i}) for i in range(len(terms)))
    return found if all(a == b for a, b in zip(each, terms, strict=True)) else None
