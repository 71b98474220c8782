"""The terms of the values of a graph: what each of them is as a function of its indices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from relprop._core.graph import Atom, Equation, Literal
from relprop.reading.terms import LONGEST, MOST, ONE, Index, Product, Symbol, Term, leaf, values

# So many equations are looked behind.
_DEEPEST = 60


class Algebra:
    """The terms of the values of one graph.

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
        self._known: dict[tuple[Atom, Index], Term] = {}
        self._fresh = itertools.count()
        self._depth = 0

    def indices(self, shape: Sequence[int]) -> Index:
        """New indices for the axes of an array; axes of length 1 need none."""
        return tuple(0 if n == 1 else Symbol(next(self._fresh), n) for n in shape)

    def of(self, atom: Atom, index: Index) -> Term:
        """The term of an entry of a value."""
        key = (atom, index)
        if key not in self._known:
            # A value that is asked for while it is being looked at is taken as it is.
            self._known[key] = leaf(atom, index)
            self._known[key] = self._of(atom, index)
        return self._known[key]

    def _of(self, atom: Atom, index: Index) -> Term:
        known = self.number(atom)
        if known is not None:
            return {ONE: known} if known else {}
        equation = self.maker(atom)
        if equation is None or isinstance(atom, Literal):
            return leaf(atom, index)
        if equation.name == "split" and self._depth < _DEEPEST:
            return _part(self, equation, index, equation.outputs.index(atom))
        if len(equation.outputs) != 1:
            return leaf(atom, index)
        handler = self._handlers.get(equation.name)
        found = None
        if handler is not None and self._depth < _DEEPEST:
            self._depth += 1
            try:
                found = handler(self, equation, index)
            except (ArithmeticError, ValueError):
                found = None
            finally:
                self._depth -= 1
        return leaf(atom, index) if found is None or _is_too_long(found) else found

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
