"""Biases of what is put side by side, and of the parts that a result is read in.

``concatenate([x @ w, x @ u]) + b`` is two layers with a part of b each; the parts of
``split(x @ w)`` with a bias each are parts of one layer with one bias.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.linear import Addition, Contraction
from relprop.reading.draft import Draft
from relprop.reading.sums import is_free_layer

#: What puts arrays side by side, with the parameter that says along which axis.
_JOINING = {"concatenate": "dimension", "stack": "axis"}
_FOLDING = ("reshape", "squeeze", "broadcast_in_dim")


def joined(draft: Draft) -> None:
    """Adds a constant to the layers whose results were put side by side, and not to all of them."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        kind = registry.lookup(equation.primitive)
        operands = draft.index.operands(equation)
        if not isinstance(kind, Addition) or len(operands) != 1:
            continue
        (value,), (out,) = operands, equation.outputs
        constant = equation.inputs[1 - equation.inputs.index(value)]
        side_by_side = draft.index.maker.get(value)
        if side_by_side is None or side_by_side.name not in _JOINING:
            continue
        alone = draft.index.only_reader(value) is equation and value.shape == out.shape
        if not alone or draft.index.varies(constant):
            continue
        if not all(_is_free(draft, part) for part in side_by_side.inputs):
            continue
        first, stacked = equation.inputs[0] is value, side_by_side.name == "stack"
        axis = side_by_side.params[_JOINING[side_by_side.name]]

        def added(
            constant: Array,
            *parts: Array,
            sign=kind.sign,
            first=first,
            axis=axis,
            out=out,
            stacked=stacked,
        ) -> Array:
            whole = jnp.broadcast_to(constant, out.shape)
            ends = np.cumsum([1 if stacked else part.shape[axis] for part in parts])[:-1].tolist()
            pieces = [p.squeeze(axis) if stacked else p for p in jnp.split(whole, ends, axis)]
            pairs = [(a, b) if first else (b, a) for a, b in zip(parts, pieces, strict=True)]
            summed = [a + b if sign > 0 else a - b for a, b in pairs]
            return jnp.stack(summed, axis) if stacked else jnp.concatenate(summed, axis)

        made[equation] = draft.derived(added, [constant, *side_by_side.inputs], equation, out)
    if made:
        draft.put(made)


def split(draft: Draft) -> None:
    """Puts together the biases that are added to parts of the result of one layer."""
    made: dict[Equation, list[Equation]] = {}
    gone: set[Equation] = set()
    for layer in draft.equations:
        pieces = _parts_of(draft, layer)
        additions = [_addition_after(draft, value) for value, _ in pieces]
        if not any(additions):
            continue
        whole, end = _with_bias(draft, layer)
        biases = [
            (next(a for a in found[-1].inputs if a not in draft.index.dependent), found, start)
            for (_, start), found in zip(pieces, additions, strict=True)
            if found
        ]

        def added(y: Array, *constants: Array, biases: Any = biases) -> Array:
            for constant, (_, found, start) in zip(constants, biases, strict=True):
                shape = found[0].inputs[0].shape if len(found) > 1 else found[0].outputs[0].shape
                piece = jnp.broadcast_to(jnp.asarray(constant, y.dtype), found[-1].outputs[0].shape)
                piece = piece.reshape(shape)
                ends = zip(y.shape, start, shape, strict=True)
                y = y + jnp.pad(piece, [(s, n - s - m) for n, s, m in ends])
            return y

        new = draft.derived(added, [whole, *(b for b, _, _ in biases)], end)
        with_bias = new[-1].outputs[0]
        for (value, start), found in zip(pieces, additions, strict=True):
            out = found[-1].outputs[0] if found else value
            new += draft.derived(
                functools.partial(_piece, start, value.shape, out.shape), [with_bias], end, out
            )
        made[end] = [end, *new]
        gone.update(draft.index.readers[whole])
        gone.update(itertools.chain.from_iterable(additions))
    if made:
        new_ones = (made.get(e, (e,)) for e in draft.equations if e not in gone)
        draft.replace(draft.sorted(itertools.chain.from_iterable(new_ones)), {})


def _is_free(draft: Draft, atom: Atom) -> bool:
    """Whether a value is a layer without a bias that nothing else reads, or one of its parts."""
    if not isinstance(atom, Value) or draft.index.only_reader(atom) is None:
        return False
    maker = draft.index.maker.get(atom)
    if maker is None:  # An argument, such as the embedding of a class token.
        return False
    if [*_pieces(maker)]:
        (whole,) = maker.inputs
        layer = draft.index.maker.get(whole)
        return layer is not None and bool(_parts_of(draft, layer))
    return is_free_layer(draft, atom)


def _with_bias(draft: Draft, layer: Equation) -> tuple[Value, Equation]:
    """The result of a layer with the constants that are added to all of it, and what makes it."""
    while True:
        (whole,) = layer.outputs
        following = _bias_of(draft, whole) or _folding(draft, whole)
        if following is None or whole in draft.visible:
            return whole, layer
        layer = following


def _folding(draft: Draft, value: Value) -> Equation | None:
    """What alone reads a value and gives it another shape, with all numbers in their order."""
    reader = draft.index.only_reader(value)
    if reader is None or reader.name not in _FOLDING or len(reader.inputs) != 1:
        return None
    (out,) = reader.outputs
    # Repeated entries are more.
    return reader if math.prod(out.shape) == math.prod(value.shape) else None


def _addition_after(draft: Draft, value: Value) -> list[Equation]:
    """The addition of a constant that alone reads a part, after what gives it another shape."""
    found: list[Equation] = []
    while value not in draft.visible:
        addition = _bias_of(draft, value)
        if addition is not None:
            return [*found, addition]
        folding = _folding(draft, value)
        if folding is None:
            break
        found.append(folding)
        (value,) = folding.outputs
    return []


def _piece(start: Any, sizes: Any, shape: Any, whole: Array) -> Array:
    """A part of an array, in its shape."""
    stop = [a + b for a, b in zip(start, sizes, strict=True)]
    return lax.slice(whole, start, stop).reshape(shape)


def _parts_of(draft: Draft, layer: Equation) -> list[tuple[Value, tuple[int, ...]]]:
    """The parts that the result of a layer is read in, and where they begin; none if it isn't."""
    kind = registry.lookup(layer.primitive)
    if not isinstance(kind, Contraction) or len(draft.index.operands(layer)) != 1:
        return []
    whole, _ = _with_bias(draft, layer)
    readers = draft.index.readers.get(whole, [])
    pieces = [piece for reader in readers for piece in _pieces(reader)]
    if whole in draft.visible or whole in draft.asked or _overlap(pieces):
        return []
    return pieces if all([*_pieces(reader)] for reader in readers) else []


def _pieces(equation: Equation) -> Iterator[tuple[Value, tuple[int, ...]]]:
    """The parts that an equation takes out of an array, and where they begin."""
    if equation.name == "slice" and set(equation.params["strides"] or ()) <= {1}:
        yield equation.outputs[0], tuple(equation.params["start_indices"])
    elif equation.name == "split":
        axis, at = equation.params["axis"], 0
        for out in equation.outputs:
            yield out, tuple(at if i == axis else 0 for i in range(len(out.shape)))
            at += out.shape[axis]


def _overlap(pieces: list[tuple[Value, tuple[int, ...]]]) -> bool:
    """Whether two parts have entries in common."""
    return any(
        all(
            s < t + m and t < s + n
            for s, t, n, m in zip(start, other, value.shape, more.shape, strict=True)
        )
        for (value, start), (more, other) in itertools.combinations(pieces, 2)
    )


def _bias_of(draft: Draft, value: Value) -> Equation | None:
    """The addition of a constant that alone reads a value."""
    reader = draft.index.only_reader(value)
    if reader is None or not isinstance(kind := registry.lookup(reader.primitive), Addition):
        return None
    others = [a for a in reader.inputs if a is not value]
    own = len(others) == 1 and not draft.index.varies(others[0])
    return reader if own and kind.sign > 0 and reader.outputs[0].shape == value.shape else None
