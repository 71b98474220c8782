"""Differences of running sums are sums of windows.

``c[w:] - c[:-w]`` of ``c = cumsum(x)`` is the sum of each window of w entries, and x itself where
``w = 1``. ``cumsum(x) - x`` are the sums of what comes before. Zeros in front of running sums, as
``jnp.diff(c, prepend=0)`` puts them there, are the sums of nothing.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relprop._core.graph import Atom, Equation
from relprop.reading.draft import Draft
from relprop.reading.repeats import simplified


@dataclasses.dataclass(frozen=True)
class _View:
    """Some entries of running sums along their axis, all of them along the others.

    Attributes:
        sums: the equation of the running sums.
        first: the number of the first entry; before the entry 0 there are zeros.
    """

    sums: Equation
    first: int


def windowed(draft: Draft) -> None:
    """Writes differences of running sums as sums of windows."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        (out,) = equation.outputs if equation.name == "sub" else (None,)
        if out is None or not out.inexact or out not in draft.index.dependent:
            continue
        new = _exclusive(draft, equation) or _difference(draft, equation)
        if new:
            made[equation] = new
    if made:
        draft.put(made)
        simplified(draft)  # A difference may have been taken the other way round.


def _exclusive(draft: Draft, equation: Equation) -> list[Equation]:
    """Running sums less what was summed: those before each entry."""
    sums, x = draft.index.maker.get(equation.inputs[0]), equation.inputs[1]
    if sums is None or sums.name != "cumsum" or sums.inputs[0] is not x:
        return []
    axis, reverse = sums.params["axis"], sums.params["reverse"]
    shift = [(0, 0, 0)] * len(x.shape)
    shift[axis] = (-1, 1, 0) if reverse else (1, -1, 0)

    def before(c: Array) -> Array:
        return lax.pad(c, jnp.zeros((), c.dtype), shift)

    return draft.derived(before, [sums.outputs[0]], equation, equation.outputs[0])


def _difference(draft: Draft, equation: Equation) -> list[Equation]:
    """The sums of windows, as wide as two views of the same running sums are apart."""
    later, sooner = (_view(draft, atom) for atom in equation.inputs)
    if later is None or sooner is None or later.sums is not sooner.sums:
        return []
    (x,), axis = later.sums.inputs, later.sums.params["axis"]
    length, sign = equation.outputs[0].shape[axis], 1
    if later.sums.params["reverse"]:
        # Of sums from the end the first is the largest, and entry i is in them from i on.
        if min(later.first, sooner.first) < 0:
            return []
        begin, end = later.first, sooner.first
    else:
        begin, end = sooner.first + 1, later.first + 1
    if begin > end:
        begin, end, sign = end, begin, -1
    width = end - begin
    if width == 0 or begin < 0:
        return []

    def total(x: Array) -> Array:
        parts = lax.slice_in_dim(x, begin, end + length - 1, axis=axis)
        if width > 1:
            window = [width if a == axis else 1 for a in range(x.ndim)]
            parts = lax.reduce_window(parts, 0.0, lax.add, window, [1] * x.ndim, "valid")
        return parts if sign > 0 else -parts

    return draft.derived(total, [x], equation, equation.outputs[0])


def _view(draft: Draft, atom: Atom, steps: int = 6) -> _View | None:
    """What of running sums a value is, through slices and zeros in front."""
    maker = draft.index.maker.get(atom)
    if maker is None or steps == 0:
        return None
    if maker.name == "cumsum":
        return _View(maker, 0)
    if maker.name not in ("slice", "pad", "concatenate"):
        return None
    view = _view(draft, maker.inputs[-1 if maker.name == "concatenate" else 0], steps - 1)
    if view is None:
        return None
    first = _first(draft, maker, view.sums.params["axis"])
    # Zeros are sums of nothing only where the sums begin.
    begins = view.first == 0 and not view.sums.params["reverse"]
    if first is None or (first < 0 and not begins):
        return None
    return _View(view.sums, view.first + first)


def _first(draft: Draft, maker: Equation, axis: int) -> int | None:
    """The number of the entry that comes first; None where others than these are taken."""
    params = maker.params
    if maker.name == "slice":
        others = [a for a in range(len(maker.inputs[0].shape)) if a != axis]
        limits, starts = params["limit_indices"], params["start_indices"]
        whole = all((starts[a], limits[a]) == (0, maker.inputs[0].shape[a]) for a in others)
        steps = params["strides"] or ()
        return starts[axis] if whole and set(steps) <= {1} else None
    if maker.name == "concatenate":
        zeros, count = maker.inputs[0], len(maker.inputs)
        in_front = params["dimension"] == axis and count == 2
        return -zeros.shape[axis] if in_front and draft.index.literal(zeros) == 0 else None
    config = params["padding_config"]
    in_front = all(c == (0, 0, 0) for a, c in enumerate(config) if a != axis)
    in_front = in_front and config[axis][0] > 0 and config[axis][1:] == (0, 0)
    return -config[axis][0] if in_front and draft.index.literal(maker.inputs[1]) == 0 else None
