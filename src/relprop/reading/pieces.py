"""Sums over parts of an axis, which together are one over all of it.

``e[:, :5].sum(1) + e[:, 5:].sum(1)`` is ``e.sum(1)``, and so are sums over every second entry and
over the others, over a part and the columns that are left. The parts must make up the axis: none
may overlap, and none may be missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from relprop._core.graph import Value
from relprop.reading.algebra import Algebra
from relprop.reading.terms import (
    LONGEST,
    MOST,
    ONE,
    Product,
    Symbol,
    Term,
    exponential,
    factored,
    indices_of,
    mentions,
    plus,
    power,
    renamed,
    renamed_term,
    scaled,
    summed,
    times,
)


def together(term: Term) -> Term:
    """A sum in which those over parts of an axis, if they are over all of it, are one."""
    for product in term:
        for base, exponent in product:
            if base[0] != "sum" or exponent != 1:
                continue
            for bound in base[1]:
                found = _over_all(term, product, base, bound)
                if found is not None:
                    return together(found)
    return term


def written_out(term: Term) -> Term:
    """A term in which each sum over one short axis is that of its entries."""
    total: Term = {}
    for product, coefficient in term.items():
        sums = [base for base, exponent in product if base[0] == "sum" and exponent == 1]
        if len(sums) != 1 or len(sums[0][1]) != 1 or sums[0][1][0].size > LONGEST:
            total = plus(total, {product: coefficient})
            continue
        ((base,), ((bound,), inside)) = sums, sums[0][1:3]
        rest: Term = {product - {(base, 1.0)}: coefficient}
        entries = ({renamed(inside, {bound: i}): 1.0} for i in range(bound.size))
        total = plus(total, *(times(rest, entry) for entry in entries))
    return total


def raised(term: Term, exponent: float) -> Term:
    """A power of a term; what is left of a sum without common factors may be one over an axis."""
    if len(term) > 1 and exponent != 1:
        common, inner, coefficient = factored(term)
        whole = together(inner)
        if whole != inner:
            return times(power({common: coefficient}, exponent), power(whole, exponent))
    return power(term, exponent)


def _over_all(term: Term, product: Product, base: Any, bound: Symbol) -> Term | None:
    """A term in which a sum over a slice, with those over the rest of its axis, is one sum."""
    pieces: set[Any] = {piece for piece in indices_of(base[2], "slice") if piece[1] == bound}
    if len(pieces) != 1:
        return None
    (piece,) = pieces
    size = _length_of(base[2], piece)
    if size is None or sum(map(_entries, term)) < size:  # Those that are missing may be added yet.
        return None
    if mentions(renamed(base[2], {piece: 0}), [bound]):
        return None
    outside, others = product - {(base, 1.0)}, [s for s in base[1] if s != bound]

    def part(index: Any, over: Sequence[Symbol]) -> Term:
        inside = renamed_term({base[2]: 1.0}, {piece: index})
        return times({outside: term[product]}, summed(inside, [*over, *others]))

    rest = dict(term)
    covered: set[int] = set()
    for place in sorted(_places(term, size)):
        first = min(place)
        if covered.isdisjoint(place):
            symbol = Symbol(-1, len(place), True)
            stride = place[-1] - place[-2] if len(place) > 1 else 1
            sliced = ("slice", symbol, first, stride)
            own = part(first if len(place) == 1 else sliced, [symbol])
            if own.items() <= rest.items():
                covered.update(place)
                rest = {p: c for p, c in rest.items() if p not in own}
    if len(covered) < size:
        return None
    symbol = Symbol(-1, size, True)
    return plus(rest, part(symbol, [symbol]))


def taken_apart(algebra: Algebra, term: Term) -> Term:
    """A term in which sums over what is put side by side are sums over its parts.

    ``exp(roll(z)).sum()`` is one of ``exp(z)`` then. A term is not taken apart before it is needed,
    since the entries of what is put side by side have an index in common that its parts lack.
    """
    total: Term = {}
    for product, coefficient in term.items():
        own: Term = {ONE: coefficient}
        for base, exponent in product:
            own = times(own, power(_base_apart(algebra, base), exponent))
        total = plus(total, own)
    return total


def _base_apart(algebra: Algebra, base: Any) -> Term:
    whole: Term = {frozenset({(base, 1.0)}): 1.0}
    if base[0] == "add":
        return together(plus(*(scaled(taken_apart(algebra, {p: 1.0}), c) for p, c in base[1])))
    if base[0] != "sum" or len(base[1]) != 1:
        return whole
    (bound,) = base[1]
    terms = []
    for start, size in _joined(algebra, base[2], bound):
        (own,) = algebra.indices([size])
        entry = ("slice", own, start, 1) if isinstance(own, Symbol) else start
        inside = looked_up(algebra, renamed(base[2], {bound: entry}))
        terms.append(summed(inside, [own] if isinstance(own, Symbol) else []))
    return together(plus(*terms)) if terms else whole


def looked_up(algebra: Algebra, product: Product) -> Term:
    """A product of values and exponentials, of which more is known at other indices."""
    factors = []
    for base, exponent in product:
        found: Term = {frozenset({(base, 1.0)}): 1.0}
        if base[0] == "value" and isinstance(base[1], Value):
            found = algebra.of(base[1], base[2])
        elif base[0] == "exp":
            found = exponential(looked_up(algebra, base[1]))
        elif base[0] == "add":  # As in a sigmoid or a tanh, of which the exponential is taken.
            found = plus(*(scaled(looked_up(algebra, part), c) for part, c in base[1]))
        factors.append(power(found, exponent))
    return times(*factors)


def _joined(algebra: Algebra, thing: Any, symbol: Symbol) -> list[tuple[int, int]]:
    """Where the parts begin that are put side by side along an index, and how long they are."""
    if isinstance(thing, Symbol) or not isinstance(thing, (tuple, frozenset)):
        return []
    if isinstance(thing, tuple) and len(thing) == 3 and thing[0] == "value":
        maker = algebra.maker(thing[1]) if symbol in thing[2] else None
        if maker is not None and maker.name == "concatenate":
            axis = maker.params["dimension"]
            sizes = [atom.shape[axis] for atom in maker.inputs]
            if thing[2][axis] == symbol and len(sizes) <= MOST:
                return [(sum(sizes[:i]), size) for i, size in enumerate(sizes) if size]
        return []
    return next((found for inner in thing if (found := _joined(algebra, inner, symbol))), [])


def _entries(product: Product) -> int:
    """How many entries a summand stands for at most."""
    sums = [base for base, exponent in product if base[0] == "sum" and exponent == 1]
    return max((math.prod(s.size for s in base[1]) for base in sums), default=1)


def widened(product: Product) -> Product:
    """A product of entries of slices as one of entries of all that these are slices of."""
    for piece in set(indices_of(product, "slice")):
        size = _length_of(product, piece)
        if size is not None:
            product = renamed(product, {piece: Symbol(-1, size, True)})
    return product


def _length_of(thing: Any, piece: Any) -> int | None:
    """How many entries the axis has that a slice is a part of."""
    if isinstance(thing, Symbol) or not isinstance(thing, (tuple, frozenset)):
        return None
    if isinstance(thing, tuple) and len(thing) == 3 and thing[0] == "value":
        if isinstance(thing[1], Value) and piece in thing[2]:
            return thing[1].shape[thing[2].index(piece)]
    return next((n for inner in thing if (n := _length_of(inner, piece)) is not None), None)


def _places(term: Term, size: int) -> set[tuple[int, ...]]:
    """The places along an axis that a sum may be over, in one of its summands."""
    places: set[tuple[int, ...]] = set()
    if size <= LONGEST:
        places.update((k,) for k in range(size))
    for _, symbol, start, stride in indices_of(frozenset(term), "slice"):
        if isinstance(symbol, Symbol):
            found = tuple(range(start, start + stride * symbol.size, stride))
            if found and found[-1] < size:
                places.add(found)
    return places
