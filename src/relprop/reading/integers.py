"""Integers with scales stand for numbers, and layers of them for layers of those.

``round(x / s) @ Q * s`` is ``x @ Q``: what is computed with integers, until they are multiplied
with their scales again, is read in the numbers that they stand for. Of each integer it is known
what it is, as ``(real + offset) * unit``: the unit is one over the scale, the offset a zero point
or a bias of integers. Products, sums, moves and limits of integers are those of the real numbers,
in which relevance passes; units and offsets are constants.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.general import is_move
from relprop.propagators.linear import (
    Addition,
    Contraction,
    Division,
    Multiplication,
    Negation,
)
from relprop.reading.draft import Draft, rewired
from relprop.reading.integer_steps import SHIFTS, Steps
from relprop.reading.rounding import LIMITS, ideal, is_rounding, rounds
from relprop.reading.scales import is_float, is_kept, is_rounded_soon, is_switch, is_zero
from relprop.reading.standing import Standing, number_of

#: What is done with integers as with the numbers that they stand for.
_ALIKE = (
    "max min clamp concatenate pad select_n reduce_max reduce_min reduce_sum reduce_window_max "
    "reduce_window_sum cumsum dynamic_slice abs sort"
).split()


def of_integers(draft: Draft) -> set[Value]:
    """Reads what is computed with integers in the numbers that they stand for.

    Returns:
        the values that are rounded in place of integers.
    """
    before = draft.equations
    for numbers in (False, True):
        region = _Region(draft, numbers)
        region.follow()
        if not region.ends():
            return set()
        draft.put(region.steps.made)
        if numbers or not region.keeps_zero_points():
            break
        draft.replace(before, {})
    region.leave()
    return {out for made in region.steps.made.values() for new in made[1:] for out in new.outputs}


class _Origin(NamedTuple):
    """What a value was computed from: integers of one scale, so many, or several or other ones."""

    scale: Atom | None
    size: int


_MIXED = _Origin(None, 0)


class _Region:
    """The part of a graph in which numbers are integers.

    Attributes:
        draft: the reading.
        known: what the values in the region stand for.
        steps: what computes that.
    """

    def __init__(self, draft: Draft, numbers: bool = False):
        self.draft = draft
        self.known: dict[Any, Standing] = {}
        self.origins: dict[Any, _Origin] = {}
        self.steps = Steps(draft, ideal(draft), numbers)

    def follow(self) -> None:
        """Goes through the graph once, from what is rounded on."""
        for equation in self.draft.equations:
            origins = {o for a in equation.inputs if (o := self._origin(a)) is not None}
            found = None
            if len(equation.outputs) == 1 and equation.outputs[0] in self.draft.index.touched:
                if any(atom in self.known for atom in equation.inputs):
                    found = self._after(equation)
                elif self._is_first(equation, origins) and rounds(self.draft, equation):
                    found = self.steps.rounded(equation)
            if found is not None:
                self.known[equation.outputs[0]] = found
            elif origins:
                origin = origins.pop() if len(origins) == 1 else _MIXED
                self.origins.update(dict.fromkeys(equation.outputs, origin))

    def _is_first(self, equation: Equation, origins: set[_Origin]) -> bool:
        """Whether nothing was rounded before, but a scale perhaps."""
        size = math.prod(equation.outputs[0].shape)
        return all(origin.scale is not None and origin.size < size for origin in origins)

    def _origin(self, atom: Atom) -> _Origin | None:
        """Which integers a value was computed from, if from any."""
        standing = self.known.get(atom)
        if standing is None:
            return self.origins.get(atom)
        if standing.computed and standing.is_number:
            return None  # It has its scales again: the next layer begins anew.
        if standing.computed or standing.scale is None:
            return _MIXED
        return _Origin(standing.scale, math.prod(standing.real.shape))

    def _is_constant(self, atom: Atom, beside: Standing) -> bool:
        """Whether a value is a constant to an integer: no input, and at most its zero point."""
        origin = self._origin(atom)
        if origin is None:
            return atom not in self.draft.index.dependent
        small = origin.size < math.prod(beside.real.shape)
        return small and origin.scale is not None and origin.scale is beside.scale

    def ends(self) -> list[Value]:
        """Values that have their scales again, where others read them."""
        index = self.draft.index
        leaving = {*self.draft.asked, *self.draft.visible}
        return [
            value
            for value, standing in self.known.items()
            if standing.is_number
            and standing.computed
            and is_float(value)
            and (
                value in leaving
                or any(
                    out not in self.known for e in index.readers.get(value, []) for out in e.outputs
                )
            )
        ]

    def keeps_zero_points(self) -> bool:
        """Whether one went through a layer and was not taken away again: then it was none."""
        found = [self.known[value] for value in self.ends()]
        offsets = (s.offset for s in found if s.through and s.offset is not None)
        return any(is_kept(self.draft, offset) for offset in offsets)

    def leave(self) -> None:
        """Computes what has its scales again from what it stands for."""
        draft, algebra = self.draft, ideal(self.draft)
        own = {equation for made in self.steps.made.values() for equation in made[1:]}
        made: dict[Equation, list[Equation]] = {}
        traced: dict[Value, Atom] = {}
        same: dict[Value, Atom] = {}
        for value in self.ends():
            standing, maker = self.known[value], draft.index.maker[value]
            offset = standing.offset
            offsets = [] if offset is None or is_zero(draft, offset) else [offset]
            number, inputs = number_of(draft, algebra, standing, value, offsets)
            if number is None:
                if value not in draft.visible:
                    same[value] = standing.real
                continue
            copied = draft.again(maker, maker.inputs, None)
            traced[value] = copied.outputs[0]
            made[maker] = [copied, *draft.derived(number, inputs, maker, value)]
        equations = [
            rewired(new, traced) if equation in own else new
            for equation in draft.equations
            for new in made.get(equation, (equation,))
        ]
        draft.replace(draft.sorted(equations), same)

    def _after(self, equation: Equation) -> Standing | None:
        """What a value stands for that is computed from such."""
        kind = registry.lookup(equation.primitive)
        standings = [self.known.get(atom) for atom in equation.inputs]
        found = [standing for standing in standings if standing is not None]
        others = [a for a, s in zip(equation.inputs, standings, strict=True) if s is None]
        scaled = isinstance(kind, Multiplication | Division)
        shape = equation.outputs[0].shape
        done = all(standing.is_number for standing in found)
        if done and not scaled and not is_rounded_soon(self.draft, equation.outputs[0]):
            return None  # What comes now is done with numbers.
        largest = max(found, key=lambda standing: math.prod(standing.real.shape))
        if equation.name == "select_n":  # What only chooses may be computed from integers.
            others = [atom for atom in others if atom is not equation.inputs[0]]
        if not scaled and not all(self._is_constant(atom, largest) for atom in others):
            return None
        if isinstance(kind, Contraction):
            return self.steps.product(equation, standings)
        if equation.name in LIMITS and len(found) == 1:
            return self.steps.limited(equation, standings)
        if is_rounding(equation) or equation.name in SHIFTS:
            first = standings[0]
            return None if first is None else self.steps.rounded_again(equation, first)
        if isinstance(kind, Addition):
            own = [s if s is None or s.real.shape == shape else None for s in standings]
            zeros = [a for a, s in zip(equation.inputs, own, strict=True) if s is None]
            if not all(self._is_constant(atom, largest) for atom in zeros):
                return None
            return self.steps.summed(equation, own, kind.sign)
        if scaled and len(found) == 1 and isinstance(kind, Multiplication):
            (other,) = others
            if is_switch(self.draft, other) and other.shape == shape == found[0].real.shape:
                return self.steps.switched(equation, found[0], other)
        if scaled and len(found) == 1:
            return self.steps.scaled(equation, standings)
        if equation.name == "convert_element_type":
            return found[0]
        moves = len(equation.inputs) == 1 and is_move(equation) and equation.name != "sort"
        if isinstance(kind, Negation) or moves:
            return self.steps.moved(equation, found[0], isinstance(kind, Negation))
        if equation.name in _ALIKE:
            return self.steps.alike(equation, standings)
        return None
