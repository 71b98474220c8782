"""Moves one after another: what was there before them, and where its axes went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxtyping import Array

from relprop._core.graph import Atom, Equation
from relprop.propagators.general import is_move
from relprop.reading.index import Index


class Turned(NamedTuple):
    """A value as it was before it was transposed.

    Attributes:
        atom: the value before.
        order: which of its axes each axis of the later value was.
        turns: the transpositions in between, in order of evaluation.
    """

    atom: Atom
    order: list[int]
    turns: tuple[Equation, ...]


def before_each_turn(index: Index, atom: Atom) -> Iterator[Turned]:
    """A value as it is, and before each of the transpositions that led to it."""
    found = Turned(atom, list(range(len(atom.shape))), ())
    yield found
    while (turn := index.maker.get(found.atom)) is not None and turn.name == "transpose":
        order = [turn.params["permutation"][axis] for axis in found.order]
        found = Turned(turn.inputs[0], order, (turn, *found.turns))
        yield found


def before_turns(index: Index, atom: Atom) -> Turned:
    """A value before all transpositions that led to it."""
    *_, first = before_each_turn(index, atom)
    return first


def before_moves(index: Index, atom: Atom) -> tuple[Atom, list[Equation]]:
    """A value before all that moved its entries, and the moves, in order of evaluation."""
    moves: list[Equation] = []
    while (maker := index.maker.get(atom)) is not None and is_move(maker):
        if len(maker.inputs) != 1 or len(maker.outputs) != 1:
            break
        moves.insert(0, maker)
        (atom,) = maker.inputs
    return atom, moves


def moved(array: Array, moves: Iterable[Equation]) -> Array:
    """An array after some moves."""
    for move in moves:
        (array,) = move.evaluate([array])
    return array
