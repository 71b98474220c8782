"""Rows of an array by their numbers, as those of the nodes of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relprop._core.graph import Atom, Equation, Value
from relprop.reading.algebra import Algebra
from relprop.reading.terms import (
    Index,
    Symbol,
    Term,
    add_to,
    joined,
    mentions,
    renamed,
    renamed_term,
    symbols,
)


def gather(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Rows of an array, by their numbers."""
    ids = rows(algebra.maker, equation)
    if ids is None or not index:
        return None
    return algebra.of(equation.inputs[0], (("at", ids, index[0]), *index[1:]))


def scatter(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Sums of the rows of an array that have the same number."""
    target, _, updates = equation.inputs
    ids = rows(algebra.maker, equation)
    if ids is None or algebra.number(target) != 0 or not index:
        return None
    (row,) = algebra.indices(updates.shape[:1])
    if not isinstance(row, Symbol):
        return None
    # Of the rows of one number, what depends on the number only is the same.
    body = renamed_term(algebra.of(updates, (row, *index[1:])), {("at", ids, row): index[0]})
    total: Term = {}
    for product, coefficient in body.items():
        inside = frozenset(pair for pair in product if mentions(pair, [row]))
        first = 1 + max((s.name for s in symbols(inside) if s.bound), default=-1)
        bound = Symbol(first, row.size, True)
        base = ("rows", (bound,), renamed(inside, {row: bound}), ids, index[0])
        add_to(total, joined(product - inside, frozenset({(base, 1.0)})), coefficient)
    return total


def rows(maker: Callable[[Atom], Equation | None], equation: Equation) -> Value | None:
    """The numbers of the rows that are gathered or added to, if whole rows are."""
    numbers: Any = equation.params.get("dimension_numbers")
    operand, indices = equation.inputs[0], equation.inputs[1]
    if len(indices.shape) != 2 or indices.shape[1] != 1 or not operand.shape:
        return None
    if equation.name == "gather":
        whole = equation.params["slice_sizes"] == (1, *operand.shape[1:])
        first = numbers.start_index_map == (0,) and numbers.collapsed_slice_dims == (0,)
        rest = tuple(range(1, len(operand.shape)))
        return base_of(maker, indices) if whole and first and numbers.offset_dims == rest else None
    first = numbers.scatter_dims_to_operand_dims == (0,) and numbers.inserted_window_dims == (0,)
    rest = tuple(range(1, len(operand.shape)))
    return base_of(maker, indices) if first and numbers.update_window_dims == rest else None


def base_of(maker: Callable[[Atom], Equation | None], atom: Atom) -> Value | None:
    """Integers before they were moved about, or counted from the end where negative."""
    while True:
        equation = maker(atom)
        if equation is None:
            return atom if isinstance(atom, Value) else None
        if equation.name in ("broadcast_in_dim", "reshape", "convert_element_type", "squeeze"):
            atom = equation.inputs[0]
        elif equation.name == "select_n" and len(equation.inputs) == 3:
            atom = equation.inputs[1]
        else:
            return atom if isinstance(atom, Value) else None
