"""The terms of the values of a graph: what each of them is as a function of its indices."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence, Set

from relprop._core.graph import Atom, Equation, Literal
from relprop.reading.terms import (
    LONGEST,
    MOST,
    ONE,
    Index,
    Product,
    Symbol,
    Term,
    leaf,
    size_of,
    values,
)

# So many of the nearest equations are looked behind, if a term is not too large then; and so far.
_NEAREST = (150, 50, 16, 6, 2)
_FARTHEST = 60
# So many entries of values are looked at for one term, and so large may it be.
_VISITS = 150
_LARGEST = 500


class _TooMuch(Exception):
    """A term that is not to be looked behind so far."""


class Algebra:
    """The terms of the values of one graph.

    How much work a term is does not depend on how large the graph is. Terms are trees, and would
    double with each ``x = x + x * y``: what is far behind is taken as it is, wherever it appears,
    and the nearest equations are always seen.

    Args:
        maker: the equation that makes a value, or None.
        number: the number that all entries of a constant are, or None.
        handlers: what primitives are, as terms of their operands (`reading.primitives`).
    """

    def __init__(
        self,
        maker: Callable[[Atom], Equation | None],
        number: Callable[[Atom], float | None],
        handlers: Mapping[str, Handler],
    ):
        self.maker = maker
        self.number = number
        self._handlers = handlers
        self.visits = 0  #: Entries that have been looked at, for all terms so far.
        self._fresh = itertools.count()
        # Of the term that is being looked for.
        self._known: dict[tuple[Atom, Index], Term] = {}
        self._sizes: dict[Product, int] = {}
        self._opened: Set[Equation] | None = None
        self._last_visit = 0

    def indices(self, shape: Sequence[int]) -> Index:
        """New indices for the axes of an array; axes of length 1 need none."""
        return tuple(0 if n == 1 else Symbol(next(self._fresh), n) for n in shape)

    def of(self, atom: Atom, index: Index) -> Term:
        """The term of an entry of a value."""
        if self._opened is not None:
            return self._inner(atom, index)
        nearest = self._nearest(atom)
        for count in _NEAREST:
            self._opened, self._last_visit = {*nearest[:count]}, self.visits + _VISITS
            try:
                return self._inner(atom, index)
            except _TooMuch:
                pass
            finally:
                self._opened, self._known, self._sizes = None, {}, {}
        return leaf(atom, index)

    def _nearest(self, atom: Atom) -> list[Equation]:
        """The equations that a value is computed by, the nearest first."""
        found: dict[Equation, int] = {}
        queue = collections.deque([(atom, 0)])
        while queue and len(found) < _NEAREST[0]:
            atom, distance = queue.popleft()
            equation = self.maker(atom)
            if equation is not None and equation not in found and distance < _FARTHEST:
                found[equation] = distance
                queue.extend((operand, distance + 1) for operand in equation.inputs)
        return [*found]

    def _inner(self, atom: Atom, index: Index) -> Term:
        """As `of`, of what another term is made of."""
        key = (atom, index)
        if key not in self._known:
            # A value that is asked for while it is being looked at is taken as it is.
            self._known[key] = leaf(atom, index)
            self._known[key] = self._made(atom, index)
        return self._known[key]

    def _made(self, atom: Atom, index: Index) -> Term:
        known = self.number(atom)
        if known is not None:
            return {ONE: known} if known else {}
        equation = self.maker(atom)
        if equation is None or isinstance(atom, Literal):
            return leaf(atom, index)
        handler = self._handlers.get(equation.name)
        if equation.name == "split":
            handler = functools.partial(_part, number=equation.outputs.index(atom))
        elif atom is not equation.outputs[0] or not (len(equation.outputs) == 1 or handler):
            return leaf(atom, index)
        self.visits += 1
        if self.visits > self._last_visit:
            raise _TooMuch
        found = None
        assert self._opened is not None
        if handler is not None and equation in self._opened:
            try:
                found = handler(self, equation, index)
            except (ArithmeticError, ValueError):
                found = None
        if found is None or _is_too_long(found):
            return leaf(atom, index)
        if size_of(found, self._sizes) > _LARGEST:
            raise _TooMuch
        return found

    def operand(self, equation: Equation, position: int, index: Index) -> Term:
        """The term of an operand of an element-wise equation; axes of length 1 are repeated."""
        atom = equation.inputs[position]
        if not atom.shape:
            return self.of(atom, ())
        return self.of(
            atom, tuple(0 if n == 1 else i for n, i in zip(atom.shape, index, strict=True))
        )


def _is_too_long(term: Term) -> bool:
    """Whether a sum has too many summands; those may be more that are entries of one value."""
    if len(term) <= MOST:
        return False
    return len(term) > LONGEST or not all(map(_is_plain, term)) or len(values(term)) > 1


def _is_plain(product: Product, depth: int = 3) -> bool:
    """Whether a product is one of entries, exponentials of such and sums of those: no tree."""
    return all(
        base[0] == "value"
        or (base[0] == "exp" and depth > 0 and _is_plain(base[1], depth - 1))
        or (base[0] == "sum" and depth > 0 and _is_plain(base[2], depth - 1))
        for base, _ in product
    )


def _part(algebra: Algebra, equation: Equation, index: Index, number: int) -> Term:
    """The entries of the whole that one of its parts has."""
    axis, sizes = equation.params["axis"], equation.params["sizes"]
    start = int(sum(sizes[:number]))
    own = start if sizes[number] == 1 else ("slice", index[axis], start, 1)
    return algebra.of(equation.inputs[0], (*index[:axis], own, *index[axis + 1 :]))


# The term of an entry of a result; None where it is none.
Handler = Callable[[Algebra, Equation, Index], Term | None]
