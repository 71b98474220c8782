"""Sums over groups of entries, and one number for each group: a folded axis, however it is written.

With A the matrix that says which group an entry is in, ``h @ A`` is ``h.reshape(-1, n).sum(1)``, as
are a window as wide as its stride and a sum of segments, and ``A @ v`` is ``repeat(v, n)``, as is a
gather that takes each entry n times. Groups are equally large, and one comes after the other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.general import is_elementwise, is_move
from relprop.propagators.linear import Dense
from relprop.propagators.sums import ScatteredSum, Sum, WindowSum
from relprop.reading.draft import Draft
from relprop.reading.rows import rows_of

# Larger constants are not looked at.
_MOST = 1 << 16


class _Groups(NamedTuple):
    """What is done along an axis: summed in groups, or repeated, or one after the other.

    Attributes:
        axis: the axis of the operand.
        summed: how many neighbours are added up.
        repeated: how often each result is there.
        scale: what all are multiplied with.
    """

    axis: int
    summed: int
    repeated: int
    scale: float = 1.0

    def __call__(self, x: Array) -> Array:
        if self.summed > 1:
            shape = (*x.shape[: self.axis], -1, self.summed, *x.shape[self.axis + 1 :])
            x = x.reshape(shape).sum(self.axis + 1)
        if self.scale != 1:
            x = x * jnp.asarray(self.scale, x.dtype)
        if self.repeated > 1:
            spread = jnp.expand_dims(x, self.axis + 1)
            shape = (*x.shape[: self.axis + 1], self.repeated, *x.shape[self.axis + 1 :])
            whole = (*x.shape[: self.axis], -1, *x.shape[self.axis + 1 :])
            x = jnp.broadcast_to(spread, shape).reshape(whole)
        return x


def folded(draft: Draft) -> None:
    """Writes sums over groups, and what is the same for all of a group, by a folded axis."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if len(equation.outputs) != 1 or equation.outputs[0] not in draft.index.dependent:
            continue
        new: list[Equation] = []
        if equation.name == "reduce_window_sum":
            new = _window(draft, equation)
        elif equation.name == "gather":
            new = _repeated(draft, equation)
        elif equation.name == "scatter-add":
            new = _segments(draft, equation)
        elif isinstance(registry.lookup(equation.primitive), Dense):
            new = _membership(draft, equation)
        if new:
            made[equation] = new
    if made:
        draft.put(made)


def _put(draft: Draft, equation: Equation, value: Value, function: Callable) -> list[Equation]:
    (out,) = equation.outputs
    return draft.derived(lambda x: function(x).astype(out.dtype), [value], equation, out)


def _window(draft: Draft, equation: Equation) -> list[Equation]:
    """A window along one axis that is as wide as its stride."""
    (atom,), params = equation.inputs, equation.params
    window, strides = params["window_dimensions"], params["window_strides"]
    axes = [axis for axis, n in enumerate(window) if n > 1]
    plain = not any(map(any, params["padding"])) and all(
        set(params[name]) <= {1} for name in ("base_dilation", "window_dilation")
    )
    if not plain or len(axes) != 1 or tuple(window) != tuple(strides):
        return []
    (axis,) = axes
    if atom.shape[axis] % window[axis] or not isinstance(atom, Value):
        return []
    return _put(draft, equation, atom, _Groups(axis, window[axis], 1))


def _repeated(draft: Draft, equation: Equation) -> list[Equation]:
    """A gather that takes each entry along an axis several times, one after the other."""
    operand, indices = equation.inputs
    (out,) = equation.outputs
    size, more = math.prod(operand.shape), math.prod(out.shape)
    aside = operand not in draft.index.dependent or indices in draft.index.touched
    if aside or not size or more <= size or more > _MOST or operand in draft.index.exponentials[0]:
        return []
    if not _is_of_sums(draft, operand):
        return []
    longer = [a for a, (n, m) in enumerate(zip(operand.shape, out.shape, strict=False)) if n != m]
    known = (
        draft.known(indices) if len(longer) == 1 and len(operand.shape) == len(out.shape) else None
    )
    if known is None or more % size:
        return []
    with jax.ensure_compile_time_eval():
        numbers = jnp.arange(size, dtype=jnp.float32).reshape(operand.shape)
        taken = np.asarray(equation.evaluate([numbers, known])[0])
    groups = _Groups(longer[0], 1, more // size)
    wanted = np.repeat(np.arange(size).reshape(operand.shape), more // size, longer[0])
    same = wanted.shape == taken.shape and np.array_equal(wanted, taken)
    return _put(draft, equation, operand, groups) if same and isinstance(operand, Value) else []


def _is_of_sums(draft: Draft, atom: Atom) -> bool:
    """Whether a value is a function, entry by entry, of sums."""
    while (maker := draft.index.maker.get(atom)) is not None:
        kind = registry.lookup(maker.primitive)
        if isinstance(kind, Sum | WindowSum | ScatteredSum | Dense):
            return True
        operands = draft.index.operands(maker)
        if not operands or not (is_move(maker) or is_elementwise(maker)):
            return False
        (atom, *_) = operands
    return False


def _segments(draft: Draft, equation: Equation) -> list[Equation]:
    """Rows that are added to zeros by their numbers."""
    target, _, updates = equation.inputs
    if draft.index.number(target) != 0 or updates in draft.index.exponentials[0]:
        return []
    rows = rows_of(draft, equation)
    count = target.shape[0] if target.shape else 0
    if rows is None or not isinstance(updates, Value) or not count or len(rows) % count:
        return []
    width = len(rows) // count
    if width < 2 or not np.array_equal(rows, np.repeat(np.arange(count), width)):
        return []
    return _put(draft, equation, updates, _Groups(0, width, 1))


def _membership(draft: Draft, equation: Equation) -> list[Equation]:
    """A product with a matrix that says which group an entry is in."""
    contracting, batch = equation.params["dimension_numbers"]
    sides = [side for side in (0, 1) if equation.inputs[side] in draft.index.dependent]
    if len(sides) != 1 or any(batch) or len(contracting[0]) != 1:
        return []
    (side,) = sides
    value, matrix = equation.inputs[side], equation.inputs[1 - side]
    if len(matrix.shape) != 2 or math.prod(matrix.shape) > _MOST or matrix in draft.index.touched:
        return []
    known = draft.known(matrix)
    if known is None or not isinstance(value, Value):
        return []
    (axis,), (own,) = contracting[side], contracting[1 - side]
    groups = _groups_of(known if own == 0 else known.T, axis)
    if groups is None:
        return []
    # The axis of the groups comes last, or first where the matrix does.
    to = -1 if side == 0 else 0
    moved = functools.partial(jnp.moveaxis, source=axis, destination=to)
    return _put(draft, equation, value, lambda x: moved(groups(x)))


def _groups_of(matrix: np.ndarray, axis: int) -> _Groups | None:
    """What a product with a matrix does along an axis, if that has the form of groups."""
    n, m = matrix.shape
    if not matrix.size:
        return None
    scale = matrix.flat[0]
    if not np.isfinite(scale) or scale == 0 or matrix.dtype.kind not in "fiu":
        return None
    pattern = matrix / scale
    wide = int((pattern[0] != 0).sum())  # Of the first row: how often each result is there.
    tall = int((pattern[:, 0] != 0).sum())
    if max(wide, tall) < 2 or n % tall or m % wide or n // tall != m // wide or n == tall:
        return None
    wanted = np.kron(np.eye(n // tall), np.ones((tall, wide)))
    return _Groups(axis, tall, wide, float(scale)) if np.allclose(pattern, wanted) else None
