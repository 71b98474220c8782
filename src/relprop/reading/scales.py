"""Scales that numbers are divided by before they are rounded, and multiplied with again later."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.general import is_move
from relprop.propagators.linear import Addition, Division, Multiplication
from relprop.reading.algebra import Algebra
from relprop.reading.draft import Draft
from relprop.reading.primitives.reductions import contraction
from relprop.reading.rounding import BETWEEN, LIMITS, REACH, ROUNDINGS, ideal, is_rounding
from relprop.reading.terms import Index, Term


class Quotient(NamedTuple):
    """What is rounded: ``source / scale + offset``, or the product with the scale."""

    source: Value
    scale: Atom
    divides: bool
    offsets: list[tuple[Atom, int]]


def quotient(draft: Draft, rounding: Equation) -> Quotient | None:
    """What was divided by a scale, or multiplied with one, before it is rounded."""
    index, offsets, atom = draft.index, [], rounding.inputs[0]
    for _ in range(REACH):
        maker = index.maker.get(atom)
        if maker is None or len(maker.outputs) != 1:
            return None
        kind = registry.lookup(maker.primitive)
        full = [a for a in maker.inputs if a in index.dependent and a.shape == atom.shape]
        others = [a for a in maker.inputs if not full or a is not full[0]]
        if not full or not isinstance(full[0], Value):
            return None
        if isinstance(kind, Multiplication | Division):
            divides = isinstance(kind, Division)
            if len(others) != 1 or (divides and maker.inputs[0] is not full[0]):
                return None
            return Quotient(full[0], others[0], divides, offsets)
        if isinstance(kind, Addition):
            if len(others) != 1 or others[0] in index.dependent:
                return None
            if kind.sign < 0 and maker.inputs[0] is not full[0]:
                return None
            # Random numbers before a floor are a part of it.
            if not is_half(draft, others[0]) and not _is_random(draft, others[0]):
                offsets.append((others[0], kind.sign))
        elif maker.name not in (*LIMITS, *ROUNDINGS, "stop_gradient", "copy"):
            return None
        atom = full[0]
    return None


def quotient_below(draft: Draft, choice: Equation) -> int | None:
    """Which case is a quotient that the other one is one less than: `//` of integers."""
    cases = choice.inputs[1:]
    for number, whole in enumerate(cases if len(cases) == 2 else ()):
        made, maker = draft.index.maker.get(whole), draft.index.maker.get(cases[1 - number])
        if made is not None and maker is not None and (made.name, maker.name) == ("div", "sub"):
            if maker.inputs[0] is whole and draft.index.number(maker.inputs[1]) == 1:
                return number
    return None


def _is_random(draft: Draft, atom: Atom) -> bool:
    """Whether a constant is drawn at random where the function runs."""
    if atom in draft.index.touched:
        return False
    names = (maker.name for maker in draft.index.makers_behind(atom))
    return any(name.startswith(("random_", "threefry", "rng_")) for name in names)


def is_whole(draft: Draft, atom: Atom) -> bool:
    """Whether a constant may be a zero point: whole numbers, or such of which nothing is known."""
    known = draft.known(atom)
    if known is not None:
        return bool(np.all(known == np.round(known)))
    return True


def is_half(draft: Draft, atom: Atom) -> bool:
    """Whether a constant is a half, of either sign, with which a floor rounds to the nearest."""
    number = draft.index.number(atom)
    if number is not None:
        return abs(number) == 0.5
    maker = draft.index.maker.get(atom)
    if maker is None or maker.name not in ("select_n", "broadcast_in_dim", "mul", "copysign"):
        return False
    if maker.name == "mul":
        sides = [a for a in maker.inputs if (n := draft.index.number(a)) is None or abs(n) != 0.5]
        return len(sides) == 1 and getattr(draft.index.maker.get(sides[0]), "name", "") == "sign"
    return all(is_half(draft, a) for a in maker.inputs[maker.name == "select_n" :])


def known_by(draft: Draft, scale: Atom) -> set[Atom]:
    """A scale, and what says as much: of another type or shape, times a constant, its inverse."""
    found, index = {scale}, draft.index
    for _ in range(REACH):
        maker = index.maker.get(scale)
        inputs = () if maker is None or len(maker.outputs) != 1 else maker.inputs
        touched = [atom for atom in inputs if atom in index.touched]
        if maker is None or len(touched) != 1 or not touched[0].inexact:
            break
        if not is_move(maker) and maker.name not in ("mul", "div", "stop_gradient", "copy"):
            break
        (scale,) = touched
        found.add(scale)
    return found


def scales_in(draft: Draft, atom: Atom, scales: Set[Atom]) -> set[Atom] | None:
    """The scales that a factor is computed from; None if it is computed from something else."""
    queue, seen, found = [atom], set(), set()
    while queue:
        atom = queue.pop()
        if atom in scales:
            found.add(atom)
        if atom in scales or atom in seen or atom not in draft.index.touched:
            continue
        seen.add(atom)
        maker = draft.index.maker.get(atom)
        if maker is None or not (maker.name in BETWEEN or is_move(maker)):
            # A scale may be the inverse of what was multiplied with.
            inverse = [s for s in scales if maker is not None and draft.index.maker.get(s) is maker]
            if not inverse:
                return None
            found.update(inverse)
        else:
            queue.extend(maker.inputs)
    return found


def is_switch(draft: Draft, atom: Atom) -> bool:
    """Whether a value is 0 or 1, as a comparison says, and depends on the inputs through that."""
    maker = draft.index.maker.get(atom)
    if maker is None or maker.name != "convert_element_type" or atom not in draft.index.touched:
        return False
    return maker.inputs[0].dtype == np.bool_


def is_rounded_soon(draft: Draft, value: Value) -> bool:
    """Whether a value is limited and scaled at most before it is an integer again."""
    for _ in range(REACH):
        reader = draft.index.only_reader(value)
        if reader is None or len(reader.outputs) != 1:
            return False
        if is_rounding(reader):
            return True
        kind = registry.lookup(reader.primitive)
        if not isinstance(kind, Addition | Multiplication | Division) and reader.name not in LIMITS:
            return False
        (value,) = reader.outputs
    return False


def _of_nothing(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """What is convolved is zero, or it is not known."""
    atom = equation.inputs[0]
    return None if algebra.of(atom, algebra.indices(atom.shape)) else {}


def is_zero(draft: Draft, offset: Value) -> bool:
    """Whether all zero points are gone, as far as that can be known."""
    algebra = ideal(draft, {"dot_general": contraction, "conv_general_dilated": _of_nothing})
    if not algebra.of(offset, algebra.indices(offset.shape)):
        return True
    known = draft.known(offset, depth=40)
    if known is None:
        return False
    return bool(np.abs(known).max(initial=0) < 1e-5)


def is_kept(draft: Draft, offset: Value) -> bool:
    """Whether zero points are known not to be gone."""
    known = draft.known(offset, depth=60)
    return known is not None and bool(np.abs(known).max(initial=0) >= 1e-5)


def is_float(atom: Atom) -> bool:
    """Whether numbers have more than eight bits, and are not integers."""
    return jnp.issubdtype(atom.dtype, jnp.inexact) and np.dtype(atom.dtype).itemsize > 1


def over(array: Array, unit: Array, positive: bool) -> Array:
    """Divided by a unit; where that is zero, nothing is left of what the integer stands for."""
    if positive:
        return array / unit
    there = unit != 0
    return jnp.where(there, array / jnp.where(there, unit, 1), 0)


def floored(array: Array) -> Array:
    """Rounded down; what is whole may come out a little below as a real number."""
    return jnp.floor(array + 16 * jnp.finfo(array.dtype).eps * jnp.abs(array))
