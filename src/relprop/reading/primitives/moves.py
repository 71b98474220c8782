"""Moves rename the indices of a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from relprop._core.graph import Equation, Value
from relprop.reading.algebra import Algebra
from relprop.reading.terms import Index, Symbol, Term, renamed_term


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
        elif n == 1:
            inner.append(int(start))
        else:
            inner.append(("slice", entry, int(start), int(stride)))
    return algebra.of(equation.inputs[0], tuple(inner))


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
    if not isinstance(index[axis], int):
        return None
    at = index[axis]
    for atom in equation.inputs:
        if at < atom.shape[axis]:
            inner = list(index)
            inner[axis] = at
            return algebra.of(atom, tuple(inner))
        at -= atom.shape[axis]
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
