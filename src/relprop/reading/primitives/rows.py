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
    operand, indices = equation.inputs[:2]
    if not operand.shape:
        return None
    if len(indices.shape) == 2 and indices.shape[1] == 1:
        return base_of(maker, indices) if _takes_rows(equation) else None
    # Entry by entry, as PyTorch's `scatter` does with indices that were repeated.
    columns = columns_of(maker, equation)
    if columns is None or len(columns) != len(operand.shape):
        return None
    (ids, axes), *others = (columns[axis] for axis in range(len(columns)))
    whole = all(counted(maker, column) == axis for axis, column in enumerate(others, 1))
    varying = [axis for axis, n in zip(axes, ids.shape, strict=True) if n != 1]
    return ids if whole and varying == [0] and isinstance(ids, Value) else None


def _takes_rows(equation: Equation) -> bool:
    numbers: Any = equation.params.get("dimension_numbers")
    shape = equation.inputs[0].shape
    rest = tuple(range(1, len(shape)))
    if equation.name == "gather":
        whole = equation.params["slice_sizes"] == (1, *shape[1:])
        first = numbers.start_index_map == (0,) and numbers.collapsed_slice_dims == (0,)
        return whole and first and numbers.offset_dims == rest
    first = numbers.scatter_dims_to_operand_dims == (0,) and numbers.inserted_window_dims == (0,)
    return first and numbers.update_window_dims == rest


#: Indices along one axis: the integers before they were repeated, and which axes theirs are.
Column = tuple[Atom, list[int]]


def columns_of(
    maker: Callable[[Atom], Equation | None], equation: Equation
) -> dict[int, Column] | None:
    """The places along each axis of what is gathered from or added to, entry by entry."""
    numbers: Any = equation.params["dimension_numbers"]
    operand, indices = equation.inputs[:2]
    if equation.name == "gather":
        entries = not numbers.offset_dims and all(n == 1 for n in equation.params["slice_sizes"])
        axes = numbers.start_index_map
    else:
        entries = not numbers.update_window_dims
        axes = numbers.scatter_dims_to_operand_dims
    if not entries or numbers.operand_batching_dims or len(axes) != len(operand.shape):
        return None
    side = maker(indices) if len(axes) > 1 else None
    parts = [indices] if side is None else [*side.inputs]
    joined_last = side is None or (
        side.name == "concatenate" and side.params["dimension"] == len(indices.shape) - 1
    )
    if not joined_last or len(parts) != len(axes):
        return None
    return dict(zip(axes, (unrepeated(maker, part) for part in parts), strict=True))


def unrepeated(maker: Callable[[Atom], Equation | None], atom: Atom) -> Column:
    """Integers before they were repeated or counted from the end, and which axes theirs are."""
    axes = list(range(len(atom.shape)))
    while (equation := maker(atom)) is not None:
        if equation.name == "broadcast_in_dim" and len(equation.inputs) == 1:
            axes = [axes[to] for to in equation.params["broadcast_dimensions"]]
        elif equation.name in ("reshape", "squeeze", "expand_dims"):
            before, after = equation.inputs[0].shape, atom.shape
            if [n for n in before if n != 1] != [n for n in after if n != 1]:
                break
            kept = iter([axis for axis, n in zip(axes, after, strict=True) if n != 1])
            axes = [-1 if n == 1 else next(kept) for n in before]
        elif equation.name != "convert_element_type" and not _wraps(maker, equation):
            break
        atom = equation.inputs[1 if equation.name == "select_n" else 0]
    return atom, axes


def _wraps(maker: Callable[[Atom], Equation | None], equation: Equation) -> bool:
    """Whether integers below zero are counted from the end, and nothing else is chosen."""
    if equation.name != "select_n" or len(equation.inputs) != 3:
        return False
    condition, atom, other = equation.inputs
    below, added = maker(condition), maker(other)
    return (
        below is not None
        and added is not None
        and (below.name, added.name) == ("lt", "add")
        and below.inputs[0] is atom
        and atom in added.inputs
    )


def counted(maker: Callable[[Atom], Equation | None], column: Column) -> int | None:
    """The axis along which places are 0, 1, 2 and so on; None where they are not."""
    atom, axes = column
    equation = maker(atom)
    if equation is None or equation.name != "iota":
        return None
    return axes[equation.params["dimension"]]


def base_of(maker: Callable[[Atom], Equation | None], atom: Atom) -> Value | None:
    """Integers before they were moved about, or counted from the end where negative."""
    while True:
        equation = maker(atom)
        if equation is None:
            return atom if isinstance(atom, Value) else None
        if equation.name in ("broadcast_in_dim", "reshape", "convert_element_type", "squeeze"):
            atom = equation.inputs[0]
        elif _wraps(maker, equation):
            atom = equation.inputs[1]
        else:
            return atom if isinstance(atom, Value) else None
