"""Sums over indices: reductions, contractions, the last of the running sums."""

from __future__ import annotations

from typing import Any

from relprop._core.graph import Equation
from relprop.reading.algebra import Algebra
from relprop.reading.terms import MOST, ONE, Index, Symbol, Term, plus, summed, times


def reduce(algebra: Algebra, equation: Equation, index: Index) -> Term:
    """A sum over axes."""
    (atom,) = equation.inputs
    axes, supply = equation.params["axes"], iter(index)
    bound = {
        a: s for a, s in zip(axes, algebra.indices([atom.shape[a] for a in axes]), strict=True)
    }
    inner = tuple(bound[i] if i in bound else next(supply) for i in range(len(atom.shape)))
    over = [s for s in bound.values() if isinstance(s, Symbol)]
    term = algebra.of(atom, inner)
    if len(over) == 1 and over[0].size <= MOST and _is_of_parts(algebra, term, over[0]):
        entries = (tuple(n if i == over[0] else i for i in inner) for n in range(over[0].size))
        return plus(*(algebra.of(atom, entry) for entry in entries))
    return summed(term, over)


def _is_of_parts(algebra: Algebra, term: Term, symbol: Symbol) -> bool:
    """Whether the entries along an index are those of a stack, which have nothing in common."""

    def look(thing: Any) -> bool:
        if isinstance(thing, Symbol):
            return False
        if isinstance(thing, tuple) and len(thing) == 3 and thing[0] == "value":
            maker = algebra.maker(thing[1]) if symbol in thing[2] else None
            if maker is None or len(maker.inputs) != symbol.size:
                return False
            axis = maker.params.get("axis", maker.params.get("dimension"))
            return maker.name in ("stack", "concatenate") and thing[2][axis] == symbol
        return isinstance(thing, (tuple, frozenset)) and any(map(look, thing))

    return any(map(look, term))


def cumulated(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """The last of the running sums is the sum."""
    (atom,) = equation.inputs
    axis, size = equation.params["axis"], atom.shape[equation.params["axis"]]
    if index[axis] != (0 if equation.params["reverse"] else size - 1) or size == 1:
        return None
    (bound,) = algebra.indices([size])
    inner = (*index[:axis], bound, *index[axis + 1 :])
    return summed(algebra.of(atom, inner), [bound])


def contract(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """A product with ones is a sum."""
    (contracting, batch) = equation.params["dimension_numbers"]
    own = sides(equation.inputs[:2], contracting, batch, index, algebra)
    for number, other in ((0, 1), (1, 0)):
        maker = algebra.maker(equation.inputs[number])
        if algebra.number(equation.inputs[number]) is None and (
            maker is None or maker.name not in ("concatenate", "slice", "broadcast_in_dim", "pad")
        ):
            continue
        constant = algebra.of(equation.inputs[number], own[number])
        if set(constant) == {ONE}:
            over = [own[other][a] for a in contracting[other]]
            inner = times(constant, algebra.of(equation.inputs[other], own[other]))
            return summed(inner, [s for s in over if isinstance(s, Symbol)])
    return None


def contraction(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """The sum of the products that any contraction is; for those who ask for it."""
    (contracting, batch) = equation.params["dimension_numbers"]
    own = sides(equation.inputs[:2], contracting, batch, index, algebra)
    a, b = (algebra.of(atom, entry) for atom, entry in zip(equation.inputs[:2], own, strict=True))
    over = [own[0][axis] for axis in contracting[0]]
    return summed(times(a, b), [s for s in over if isinstance(s, Symbol)])


def sides(operands, contracting, batch, index, algebra) -> list[Index]:
    """The indices of both factors of a contraction."""
    bound = algebra.indices([operands[0].shape[a] for a in contracting[0]])
    found, position = [], len(batch[0])
    for side in (0, 1):
        inner: list[Any] = [None] * len(operands[side].shape)
        for i, a in enumerate(batch[side]):
            inner[a] = index[i]
        for i, a in enumerate(contracting[side]):
            inner[a] = bound[i]
        for a in range(len(inner)):
            if inner[a] is None:
                inner[a], position = index[position], position + 1
        found.append(tuple(inner))
    return found
