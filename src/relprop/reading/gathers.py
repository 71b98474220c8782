"""Entries that are taken one after the other are a slice, and a loop that counts takes them so.

``x[jnp.arange(n)]``, ``jax.vmap(lambda i: x[:, i])(jnp.arange(n))`` and what a loop reads of an
array at the number of its turn are gathers whose places are known: each n-th entry along one axis,
in order or backwards. So is a dynamic slice that begins at numbers of the code.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from relprop._core.graph import Atom, Equation, Value
from relprop.reading.draft import Draft


def taken_in_order(draft: Draft) -> None:
    """Writes gathers along one axis, at places that are known and equally far apart, as slices.

    Dynamic slices that begin where the code says are slices, too.
    """
    made: dict[Equation, list[Equation]] = {}
    same: dict[Value, Atom] = {}
    for equation in draft.equations:
        if equation.name == "dynamic_slice" and equation.outputs[0] in draft.index.dependent:
            new = _slice(draft, equation)
            if new:
                made[equation] = new
            continue
        if equation.name != "gather" or equation.outputs[0] not in draft.index.dependent:
            continue
        places, (out,), operand = _places(draft, equation), equation.outputs, equation.inputs[0]
        if places is None:
            continue
        if not places.is_all_of(operand):
            taken = functools.partial(_taken, places)
            made[equation] = draft.derived(taken, [operand], equation, out)
        elif out not in draft.visible:
            made[equation], same[out] = [], operand
    if made:
        draft.replace([new for e in draft.equations for new in made.get(e, (e,))], same)


def _slice(draft: Draft, equation: Equation) -> list[Equation]:
    """The slice that a dynamic slice is whose start is known; it begins no later than it fits."""
    operand, *starts = equation.inputs
    known = [draft.known(start) for start in starts]
    sizes = equation.params["slice_sizes"]
    if any(start is None for start in known):
        return []
    rooms = [n - m for n, m in zip(operand.shape, sizes, strict=True)]
    first = [min(max(int(a), 0), room) for a, room in zip(known, rooms, strict=True)]  # type: ignore[arg-type]
    last = [a + n for a, n in zip(first, sizes, strict=True)]
    return draft.derived(
        lambda x: lax.slice(x, first, last), [operand], equation, equation.outputs[0]
    )


class _Places(NamedTuple):
    """Where entries are taken, and where they go.

    Attributes:
        axis: along which.
        first: the first place.
        step: how far the next one is.
        count: how many there are.
        kept: whether the axis stays, with one entry.
        to: the axis of the result that goes over the places.
    """

    axis: int
    first: int
    step: int
    count: int
    kept: bool
    to: int

    def is_all_of(self, operand: Atom) -> bool:
        """Whether nothing is left out, and all stays where it is."""
        whole = (self.first, self.step, self.count) == (0, 1, operand.shape[self.axis])
        return whole and not self.kept and self.to == self.axis


def _places(draft: Draft, equation: Equation) -> _Places | None:
    """Where a gather takes entries, if it does so along one axis and evenly."""
    operand, indices = equation.inputs
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    axes = [axis for axis, n in enumerate(operand.shape) if sizes[axis] != n]
    batched = numbers.operand_batching_dims or numbers.start_indices_batching_dims
    if len(axes) != 1 or batched or len(indices.shape) != 2 or axes[0] not in _mapped(equation):
        return None
    (axis,) = axes
    own = numbers.collapsed_slice_dims
    known = draft.known(indices)
    if known is None or len(known) < 2 or sizes[axis] != 1 or not {*own} <= {axis}:
        return None
    column = _mapped(equation).index(axis)
    along, others = known[:, column].astype(int), np.delete(known, column, axis=1)
    steps = np.diff(along)
    inside = 0 <= along.min() and along.max() < operand.shape[axis]
    if others.any() or not inside or steps[0] == 0 or np.any(steps != steps[0]):
        return None
    rank = len(equation.outputs[0].shape)
    (to,) = (i for i in range(rank) if i not in numbers.offset_dims)
    return _Places(axis, int(along[0]), int(steps[0]), len(along), axis not in own, to)


def _mapped(equation: Equation) -> list[int]:
    return list(equation.params["dimension_numbers"].start_index_map)


def _taken(places: _Places, x: Array) -> Array:
    axis, step = places.axis, abs(places.step)
    last = places.first + places.step * (places.count - 1)
    low, high = min(places.first, last), max(places.first, last)
    taken = x[(slice(None),) * axis + (slice(low, high + 1, step),)]
    if places.step < 0:
        taken = jnp.flip(taken, axis)
    taken = jnp.moveaxis(taken, axis, 0)
    if places.kept:
        taken = jnp.expand_dims(taken, axis + 1)
    return jnp.moveaxis(taken, 0, places.to)
