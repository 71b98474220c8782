"""What is put side by side: columns of ones beside what a layer reads, and parts that are added.

``concatenate([x, ones]) @ w`` is ``x @ w[:-1] + w[-1]``, a layer with a bias, and
``pad(a, (0, n)) + pad(b, (m, 0))`` is a with b behind it.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation
from relprop.propagators.linear import Addition
from relprop.reading.draft import Draft
from relprop.reading.turns import before_turns


def apart(draft: Draft) -> None:
    """Takes numbers out of what a layer reads, and writes padded parts side by side."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        new: list[Equation] = []
        if len(equation.outputs) != 1 or equation.outputs[0] not in draft.index.dependent:
            continue
        if equation.name == "dot_general":
            new = _without_numbers(draft, equation)
        elif isinstance(registry.lookup(equation.primitive), Addition):
            new = _joined(draft, equation)
        if new:
            made[equation] = new
    if made:
        draft.put(made)


# A bias as another row of the weight.


@dataclasses.dataclass(frozen=True)
class _Part:
    """What stands along an axis: an array, or one number."""

    size: int
    array: Atom | None
    number: float = 0.0


def _without_numbers(draft: Draft, product: Equation) -> list[Equation]:
    """The layer of what is none of its numbers, and what these contribute as its bias."""
    axes: tuple[tuple[int, ...], tuple[int, ...]] = product.params["dimension_numbers"][0]
    active = [atom in draft.index.dependent for atom in product.inputs]
    if active.count(True) != 1 or len(axes[0]) != 1:
        return []
    side = active.index(True)
    (axis,), (along,) = axes[side], axes[1 - side]
    whole, order, _ = before_turns(draft.index, product.inputs[side])
    parts = _parts(draft, whole, order[axis])
    kept = [part.array for part in parts if part.array is not None]
    if not kept or len(kept) == len(parts):
        return []

    def layer(weight: Array, *arrays: Array) -> Array:
        ends = [0, *itertools.accumulate(part.size for part in parts)]
        rows = [lax.slice_in_dim(weight, a, b, axis=along) for a, b in itertools.pairwise(ends)]
        own = [row for row, part in zip(rows, parts, strict=True) if part.array is not None]
        x, w = jnp.concatenate(arrays, order[axis]), jnp.concatenate(own, along)
        x = x if order == sorted(order) else x.transpose(order)
        out = product.evaluate([x, w] if side == 0 else [w, x])[0]
        for row, part in zip(rows, parts, strict=True):
            if part.array is None and part.number:
                shape = list(x.shape)
                shape[axis] = part.size
                numbers = jnp.full(shape, part.number, x.dtype)
                out = out + product.evaluate([numbers, row] if side == 0 else [row, numbers])[0]
        return out

    return draft.derived(layer, [product.inputs[1 - side], *kept], product, product.outputs[0])


def _parts(draft: Draft, atom: Atom, axis: int) -> list[_Part]:
    """The parts along an axis of what was put side by side, or had something put around it."""
    maker = draft.index.maker.get(atom)
    if maker is not None and maker.name == "concatenate" and maker.params["dimension"] == axis:
        numbers = [draft.index.literal(part) for part in maker.inputs]
        return [
            _Part(part.shape[axis], part if number is None else None, number or 0.0)
            for part, number in zip(maker.inputs, numbers, strict=True)
        ]
    if maker is not None and maker.name == "pad":
        (inner, filling), config = maker.inputs, maker.params["padding_config"]
        number, (low, high, _) = draft.index.literal(filling), config[axis]
        alone = all(c == (0, 0, 0) for i, c in enumerate(config) if i != axis)
        if number is not None and alone and min(config[axis]) >= 0 and config[axis][2] == 0:
            parts = _Part(low, None, number), _Part(inner.shape[axis], inner)
            return [part for part in (*parts, _Part(high, None, number)) if part.size]
    return []


# Sums of padded parts.


def _joined(draft: Draft, addition: Equation) -> list[Equation]:
    """The parts side by side, where each summand is nothing where another one is something."""
    axis = _padded_axis(draft, addition)
    found = None if axis is None else _placed(draft, addition.outputs[0], axis, addition)
    if axis is None or found is None or len(found) < 2:
        return []
    found.sort(key=lambda pair: pair[0])
    size, starts = addition.outputs[0].shape[axis], [start for start, _ in found]
    ends = [start + atom.shape[axis] for start, atom in found]
    if any(end > start for end, start in zip(ends, [*starts[1:], size], strict=True)):
        return []

    def joined(*arrays: Array) -> Array:
        pieces = []
        for end, start, array in zip([0, *ends], [*starts, size], [*arrays, None], strict=True):
            if start > end:
                shape = list(arrays[0].shape)
                shape[axis] = start - end
                pieces.append(jnp.zeros(shape, arrays[0].dtype))
            if array is not None:
                pieces.append(array)
        return jnp.concatenate(pieces, axis)

    return draft.derived(joined, [atom for _, atom in found], addition, addition.outputs[0])


def _padded_axis(draft: Draft, addition: Equation) -> int | None:
    """The only axis along which a summand is padded."""
    for atom in addition.inputs:
        maker = draft.index.maker.get(atom)
        if maker is not None and maker.name == "pad":
            axes = [i for i, c in enumerate(maker.params["padding_config"]) if any(c)]
            return axes[0] if len(axes) == 1 else None
    return None


def _placed(
    draft: Draft, atom: Atom, axis: int, reader: Equation, depth: int = 0
) -> list[tuple[int, Atom]] | None:
    """Where along an axis of zeros the parts of a sum stand; None where it is no such sum."""
    maker = draft.index.maker.get(atom)
    kind = None if maker is None else registry.lookup(maker.primitive)
    if maker is None or depth > 40:
        return None
    if maker is reader or (
        isinstance(kind, Addition) and draft.index.only_reader(atom) is reader  # type: ignore
    ):
        if kind.sign < 0 or any(term.shape != atom.shape for term in maker.inputs):  # type: ignore
            return None
        both = [_placed(draft, term, axis, maker, depth + 1) for term in maker.inputs]
        return None if None in both else [*both[0], *both[1]]  # type: ignore[misc]
    parts = _parts(draft, atom, axis) if maker.name == "pad" else []
    if any(part.array is None and part.number for part in parts):
        return None
    starts = [0, *itertools.accumulate(part.size for part in parts)]
    found = [(s, p.array) for s, p in zip(starts, parts, strict=False) if p.array is not None]
    return found or None
