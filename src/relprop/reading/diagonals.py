"""A product with a diagonal matrix is a scale; the sum of a diagonal one, that of its diagonal.

``diag(r) @ x`` is ``r[:, None] * x``, ``x @ (eye(n) * g)`` is ``x * g``; that of ``x @ x.T`` and
the trace of an outer product are sums of squares. A matrix is diagonal where the code says so:
it is something times an identity, or something chosen where two positions are equal.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Literal
from relprop.propagators.linear import Dense, Division, Multiplication
from relprop.reading.draft import Draft
from relprop.reading.numbers import is_literal
from relprop.reading.repeats import simplified

_Made = tuple[tuple[Atom, ...], Callable[..., Array]] | None


class Diagonal(NamedTuple):
    """A value that is zero wherever its positions along two axes differ.

    Attributes:
        axes: the two, in order.
        inputs: what its diagonal is computed from.
        entries: that diagonal, along the first of the axes; the second is gone.
    """

    axes: tuple[int, int]
    inputs: tuple[Atom, ...]
    entries: Callable[..., Array]


def without_diagonals(draft: Draft) -> None:
    """Writes what is done with diagonal matrices as what it does to their diagonal."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if not any(out in draft.index.dependent for out in equation.outputs):
            continue
        if equation.name == "reduce_sum":
            new = [*_summed(draft, equation)]
        elif isinstance(registry.lookup(equation.primitive), Dense):
            new = [*_scaled(draft, equation)] or [*_picked(draft, equation)]
        elif equation.name == "gather":
            new = [*_gathered(draft, equation)]
        else:
            continue
        if new:
            made[equation] = new
    if made:
        draft.put(made)
        simplified(draft)


def _summed(draft: Draft, equation: Equation) -> Iterator[Equation]:
    """A sum over one axis of a diagonal matrix, or over both."""
    axes = set(equation.params["axes"])
    found = _diagonal(draft, equation.inputs[0])
    if found is None or not axes.intersection(found.axes):
        return
    first, second = found.axes
    # What is left of the pair is the first axis; if the first is summed, the second stays there.
    rest = axes - {first, second} | ({first} if {first, second} <= axes else set())
    kept = [a for a in range(len(equation.inputs[0].shape)) if a != second]
    place = {a: i for i, a in enumerate(kept)}
    wanted = [a for a in range(len(kept) + 1) if a not in axes]
    left = [a for a in kept if a not in rest]
    order = [left.index(first if a == second else a) for a in wanted]

    def total(*arrays: Array) -> Array:
        entries = found.entries(*arrays).sum(tuple(place[a] for a in rest))
        return jnp.transpose(entries, order).astype(equation.outputs[0].dtype)

    yield from draft.derived(total, found.inputs, equation, equation.outputs[0])


def _scaled(draft: Draft, equation: Equation) -> Iterator[Equation]:
    """A product with a diagonal matrix."""
    contracting, batch = equation.params["dimension_numbers"]
    for side in (0, 1):
        found = _diagonal(draft, equation.inputs[side])
        if found is None or len(contracting[side]) != 1:
            continue
        (summed,) = contracting[side]
        own = [a for a in range(len(equation.inputs[side].shape)) if a not in batch[side]]
        if summed not in found.axes or sorted(found.axes) != own:
            continue
        yield from draft.derived(
            _scale(equation, side, found),
            (*found.inputs, equation.inputs[1 - side]),
            equation,
            equation.outputs[0],
        )
        return


def _picked(draft: Draft, equation: Equation) -> Iterator[Equation]:
    """A product with a diagonal matrix, one axis of which is kept: it picks a diagonal."""
    contracting, batch = equation.params["dimension_numbers"]
    for side in (0, 1):
        found, other = _diagonal(draft, equation.inputs[side]), equation.inputs[1 - side]
        kept, summed = batch[side], contracting[side]
        whole = len(equation.inputs[side].shape) == 2
        if found is None or not whole or (len(kept), len(summed)) != (1, 1):
            continue
        first, second = sorted((*batch[1 - side], *contracting[1 - side]))
        made_of = _entries(draft, other, (first, second), other.shape)
        if made_of is not None:
            yield from draft.derived(
                _pick(equation, found, made_of[1], first),
                (*found.inputs, *made_of[0]),
                equation,
                equation.outputs[0],
            )
            return


def _pick(
    equation: Equation, found: Diagonal, entries: Callable[..., Array], first: int
) -> Callable[..., Array]:
    """The product of two diagonals, the axis of which comes first."""
    out, count = equation.outputs[0], len(found.inputs)

    def product(*arrays: Array) -> Array:
        scale = found.entries(*arrays[:count]).reshape(-1, *[1] * (len(out.shape) - 1))
        return (jnp.moveaxis(entries(*arrays[count:]), first, 0) * scale).astype(out.dtype)

    return product


def _scale(equation: Equation, side: int, found: Diagonal) -> Callable[..., Array]:
    """The product of a diagonal with the other factor, entry by entry."""
    contracting, batch = equation.params["dimension_numbers"]
    (along,) = contracting[1 - side]
    ranks = [len(atom.shape) for atom in equation.inputs[:2]]
    free = [
        a for a in range(ranks[1 - side]) if a not in batch[1 - side] and a != along
    ]  # Of the other factor.
    # The axis that was summed over is, in the result, the one that the matrix has brought.
    order = [*batch[1 - side], *((along, *free) if side == 0 else (*free, along))]
    kept = [a for a in range(ranks[side]) if a != found.axes[1]]
    turned = [kept.index(a) for a in (*batch[side], found.axes[0])]
    position = len(batch[0]) if side == 0 else len(order) - 1
    ones = [i for i in range(len(batch[0]), len(order)) if i != position]

    def product(*arrays: Array) -> Array:
        *made_of, x = arrays
        scale = jnp.expand_dims(jnp.transpose(found.entries(*made_of), turned), ones)
        return (jnp.transpose(x, order) * scale).astype(equation.outputs[0].dtype)

    return product


def _gathered(draft: Draft, equation: Equation) -> Iterator[Equation]:
    """The diagonal of a matrix, entry by entry."""
    value, places = equation.inputs
    numbers = equation.params["dimension_numbers"]
    if (
        len(value.shape) != 2
        or numbers.start_index_map != (0, 1)
        or numbers.collapsed_slice_dims != (0, 1)
        or not is_literal(draft.index.maker, places)
    ):
        return
    known = draft.known(places)
    n = min(value.shape)
    wanted = np.repeat(np.arange(n)[:, None], 2, axis=1)
    if known is None or known.shape != wanted.shape or (known != wanted).any():
        return
    made_of = _entries(draft, value, (0, 1), value.shape)
    if made_of is not None and value.shape == (n, n):
        yield from draft.derived(made_of[1], made_of[0], equation, equation.outputs[0])


def _diagonal(draft: Draft, atom: Atom) -> Diagonal | None:
    """The diagonal that a matrix has by its making; numbers of the code stay a matrix."""
    maker = draft.index.maker.get(atom)
    if maker is None or len(atom.shape) < 2:
        return None
    if is_literal(draft.index.maker, atom):
        return _identity(draft.known(atom))
    kind = registry.lookup(maker.primitive)
    if isinstance(kind, Multiplication) and not isinstance(kind, Division):
        for mask, value in (maker.inputs, maker.inputs[::-1]):
            pattern = _pattern(draft, mask, atom)
            found = None if pattern is None else _of(draft, pattern, value)
            if found is not None:
                return found
    if maker.name == "select_n" and len(maker.inputs) == 3:
        predicate, no, yes = maker.inputs
        pattern = _pattern(draft, predicate, atom)
        for kept, nothing, flag in ((yes, no, True), (no, yes, False)):
            if pattern is not None and draft.index.number(nothing) == 0:
                return _of(draft, (pattern == flag).astype(float), kept)
    return None


def _identity(matrix: np.ndarray | None) -> Diagonal | None:
    """Of the matrices that are made of numbers of the code, that which changes nothing."""
    axes = None if matrix is None else _axes(matrix)
    if matrix is None or axes is None or not np.isin(matrix, (0, 1)).all():
        return None
    ones = np.ones([n for axis, n in enumerate(matrix.shape) if axis != axes[1]], matrix.dtype)
    return Diagonal(axes, (), lambda: jnp.asarray(ones))


def _pattern(draft: Draft, mask: Atom, like: Atom) -> np.ndarray | None:
    """What a constant of the code says of each entry of a matrix."""
    if mask.shape != like.shape or not is_literal(draft.index.maker, mask):
        return None
    return draft.known(mask)


def _of(draft: Draft, pattern: np.ndarray, value: Atom) -> Diagonal | None:
    """The diagonal of a value that is there only where a pattern is not zero."""
    axes = _axes(pattern)
    made_of = None if axes is None else _entries(draft, value, axes, pattern.shape)
    if axes is None or made_of is None:
        return None
    inputs, entries = made_of
    first, second = axes
    line = np.moveaxis(pattern, axes, (0, 1)).reshape(*pattern.shape[first : first + 1] * 2, -1)
    weights = line[..., 0].diagonal().reshape([-1, *[1] * (pattern.ndim - 2 - first)])

    def weighed(*arrays: Array) -> Array:
        result = entries(*arrays)
        return result if (weights == 1).all() else result * jnp.asarray(weights, result.dtype)

    return Diagonal((first, second), inputs, weighed)


def _axes(pattern: np.ndarray) -> tuple[int, int] | None:
    """The axes along which a pattern keeps nothing but what is equal, and the same everywhere."""
    for first, second in itertools.combinations(range(pattern.ndim), 2):
        n = pattern.shape[first]
        if n != pattern.shape[second] or n < 2:
            continue
        planes = np.moveaxis(pattern, (first, second), (0, 1)).reshape(n, n, -1)
        plane = planes[..., 0]
        if (planes == plane[..., None]).all() and ((plane != 0) == np.eye(n, dtype=bool)).all():
            return first, second
    return None


def _entries(draft: Draft, value: Atom, axes: tuple[int, int], shape: tuple[int, ...]) -> _Made:
    """What the diagonal of a value is computed from, and how, where that is less than the value.

    Args:
        draft: the reading.
        value: the value; where its axes are of length 1, it is the same along those of `shape`.
        axes: the two of the diagonal.
        shape: that of the matrix.
    """
    maker = draft.index.maker.get(value)
    first, second = axes
    if len(value.shape) != len(shape):
        return None
    if maker is not None and maker.name == "broadcast_in_dim" and len(maker.inputs) == 1:
        (inner,), to = maker.inputs, tuple(maker.params["broadcast_dimensions"])
        long = {axis for n, axis in zip(inner.shape, to, strict=True) if n > 1}
        if not isinstance(inner, Literal) and not {first, second} <= long:
            return (inner,), _repeated(axes, to, shape)
    if 1 in (value.shape[first], value.shape[second]):
        return (value,), _repeated(axes, tuple(range(len(shape))), shape)
    if maker is None or value.shape != shape:
        return None
    if maker.name == "dot_general":
        left, right, out = _letters(maker)
        spec = f"{left},{right}->{out.replace(out[second], '')}".replace(out[second], out[first])
        return maker.inputs[:2], lambda a, b: jnp.einsum(spec, a, b)
    if maker.name == "mul":
        parts = [_entries(draft, factor, axes, shape) for factor in maker.inputs]
        if any(part is None for part in parts):
            return None
        (ins, one), (more, other) = parts  # type: ignore[misc]
        return (*ins, *more), lambda *arrays: one(*arrays[: len(ins)]) * other(*arrays[len(ins) :])
    return None


def _repeated(
    axes: tuple[int, int], to: tuple[int, ...], shape: tuple[int, ...]
) -> Callable[..., Array]:
    """The diagonal of what has been repeated along one of its axes: an entry for each place."""
    first, second = axes

    kept = [axis for axis in range(len(shape)) if axis != second]

    def entries(x: Array) -> Array:
        place = {axis: kept.index(first if axis == second else axis) for axis in range(len(shape))}
        own = [place[axis] for n, axis in zip(x.shape, to, strict=True) if n > 1]
        x = x.reshape([n for n in x.shape if n > 1]) if len(own) < x.ndim else x
        x = jnp.transpose(x, sorted(range(len(own)), key=lambda i: own[i]))
        result = [shape[axis] for axis in kept]
        if x.shape == tuple(result):
            return x
        rows = [n if i in own else 1 for i, n in enumerate(result)]
        return jnp.broadcast_to(x.reshape(rows), result)

    return entries


def _letters(product: Equation) -> tuple[str, str, str]:
    """The axes of both factors and of the result of a contraction, as of an einsum."""
    contracting, batch = product.params["dimension_numbers"]
    names = iter(string.ascii_letters)
    shared = [next(names) for _ in (*batch[0], *contracting[0])]
    texts, free = [], []
    for side, atom in enumerate(product.inputs[:2]):
        known = dict(zip((*batch[side], *contracting[side]), shared, strict=True))
        own = [known.get(axis) or next(names) for axis in range(len(atom.shape))]
        free += [n for axis, n in enumerate(own) if axis not in known]
        texts.append("".join(own))
    return texts[0], texts[1], "".join((*shared[: len(batch[0])], *free))
