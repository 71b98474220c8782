"""Who makes and who reads which value of a graph, and what depends on what: one index for all.

The normal form asks it of a draft, recognisers of what they look at (`recognise.dataflow`), and who
looks for blocks of a plan (`anatomy.wiring`).
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value, computed_from, depends_on
from relprop.propagators.general import is_move
from relprop.reading.exponentials import followed
from relprop.reading.numbers import Numbers, is_literal


class Index:
    """The equations of one graph by the values between them.

    Attributes:
        equations: in order of evaluation.
        constants: arrays that the graph closes over.
        maker: what makes a value.
        memory: what has been found out about its values, by who asks for it.
    """

    def __init__(
        self,
        equations: Sequence[Equation],
        constants: Mapping[Any, Any],
        explained: Collection[Value],
        leaving: Iterable[Atom],
    ):
        """What `leaving` names is looked at by others than the equations."""
        self.equations = equations
        self.constants = constants
        self.maker: dict[Atom, Equation] = {out: e for e in equations for out in e.outputs}
        self._explained = explained
        self._leaving = set(leaving)
        self.memory: dict[str, Any] = {}
        self._numbers = Numbers(self.maker, constants, lambda atom: atom in self.touched)

    @functools.cached_property
    def position(self) -> dict[Equation, int]:
        """Of each equation, in order of evaluation."""
        return {equation: i for i, equation in enumerate(self.equations)}

    @functools.cached_property
    def dependent(self) -> set[Any]:
        """Values that depend on the explained inputs."""
        return depends_on(
            self.equations, set(self._explained), lambda e: registry.lookup(e.primitive).cuts
        )

    @functools.cached_property
    def touched(self) -> set[Atom]:
        """Values computed from the explained inputs at all, also where no relevance passes."""
        return computed_from(self.equations, self._explained)

    def varies(self, atom: Atom) -> bool:
        """Whether the numbers in a value depend on the explained inputs.

        Those that were looked up in a table of constants don't, whoever chose the place: the biases
        of the experts that a router chose are biases.
        """
        while atom in self.touched:
            equation = self.maker.get(atom)
            looked_up = equation is not None and equation.name in ("gather", "dynamic_slice")
            moved = equation is not None and is_move(equation) and len(equation.inputs) == 1
            if equation is None or not (looked_up or moved):
                return True
            atom = equation.inputs[0]
        return False

    @functools.cached_property
    def readers(self) -> dict[Atom, list[Equation]]:
        """The equations that read a value, the last one first.

        What nobody reads in the end is no use: updated running means, for example.
        """
        needed, found = set(self._leaving), {}
        for equation in reversed(self.equations):
            if any(out in needed for out in equation.outputs):
                needed.update(equation.inputs)
                for atom in dict.fromkeys(equation.inputs):
                    found.setdefault(atom, []).append(equation)
        return found

    @functools.cached_property
    def exponentials(self) -> tuple[set[Atom], set[Atom]]:
        """What is computed from exponentials, and from sums of them: see `followed`."""
        return followed(self.position, self.touched, self.maker.get, self.number)

    def producer(self, atom: Atom) -> Equation | None:
        """The equation that makes a value."""
        return self.maker.get(atom)

    def only_reader(self, value: Atom) -> Equation | None:
        """The equation that alone reads a value, if nobody else looks at it."""
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self._leaving else None

    def operands(self, equation: Equation) -> list[Value]:
        """The operands that depend on the explained inputs."""
        return [a for a in equation.inputs if a in self.dependent]  # type: ignore[misc]

    def number(self, atom: Atom) -> float | None:
        """The number that all entries of a constant are, if that can be seen in the code."""
        return self._numbers(atom)

    def is_literal(self, atom: Atom) -> bool:
        """Whether a constant is made of numbers in the code and of positions alone."""
        return is_literal(self.maker, atom)

    def literal(self, atom: Atom) -> float | None:
        """The number that the code itself has put everywhere; parameters may become others."""
        return self.number(atom) if self.is_literal(atom) else None

    def makers_behind(self, atom: Atom) -> Iterator[Equation]:
        """All equations that a value is computed by, each once, the nearest first."""
        queue, seen = collections.deque([atom]), set()
        while queue:
            equation = self.maker.get(queue.popleft())
            if equation is not None and equation not in seen:
                seen.add(equation)
                yield equation
                queue.extend(equation.inputs)

    def behind(self, value: Atom) -> set[Atom]:
        """All that a value is computed from."""
        return {atom for maker in self.makers_behind(value) for atom in maker.inputs}

    def leads(self, value: Atom | Set[Atom], atom: Atom) -> bool:
        """Whether something is computed from a value, or from one of several.

        Only what comes after the first of them is looked at.
        """
        values = value if isinstance(value, Set) else {value}
        makers = [self.maker.get(value) for value in values]
        begin = min((-1 if maker is None else self.position[maker] for maker in makers), default=-1)
        queue, seen = [atom], set()
        while queue:
            equation = self.maker.get(queue.pop())
            if equation is None or equation in seen or self.position[equation] <= begin:
                continue
            if not values.isdisjoint(equation.inputs):
                return True
            seen.add(equation)
            queue.extend(equation.inputs)
        return False
