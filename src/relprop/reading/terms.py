r"""What a value is, as a sum of products of powers: an algebra in which spellings coincide.

``e / e.sum()``, ``e * (1 / e.sum())``, ``exp(z - logsumexp(z))`` and ``1 / sum_j exp(z_j - z_i)``
are one function of z. Here each is the term :math:`\exp(z_i)\,(\sum_k \exp(z_k))^{-1}`, since

- an array is a function of its indices, so that moves only rename those;
- a term is a polynomial of *bases* with real powers: values that nothing is known of, exponentials
  of terms, sums over an index, sums of several terms;
- factors that do not depend on the index of a sum are taken out of it. That is why a maximum, or
  anything else that is subtracted before an exponential, cancels: nobody needs to know what it is.

A term says what is computed, whatever is differentiated: `stop_gradient` is not seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from relprop._core.graph import Atom, Value

# A product with more summands than that is taken as it is, as is a longer sum.
MOST = 8
LONGEST = 40


class Symbol(NamedTuple):
    """An index that runs over an axis; bound ones are those of sums."""

    name: int
    size: int
    bound: bool = False


Base = tuple[Any, ...]  # ("value", atom, index), ("exp", product), ("log", base), ("sum", ...), ...
Product = frozenset  # of pairs (base, power)
Term = dict  # product -> coefficient
Index = tuple[Any, ...]

ONE: Product = frozenset()
#: The name of an index that counts from the end of an axis.
REVERSED = "reversed"


def leaf(atom: Atom, index: Index) -> Term:
    """The term of an entry of a value that nothing is known of."""
    what = atom if isinstance(atom, Value) else id(atom.array)
    return {frozenset({(("value", what, index), 1.0)}): 1.0}


def rounded(power: float) -> float:
    """A power; constants such as log2(e) come in single precision."""
    return float(f"{power:.6g}")


def times(*terms: Term) -> Term:
    """The product of terms."""
    total: Term = {ONE: 1.0}
    for term in terms:
        if len(total) * len(term) > MOST:
            total, term = as_one(total), as_one(term)
        elif _is_divided_by(total, term):  # A sum goes as a whole, as it came.
            term = as_one(term)
        elif _is_divided_by(term, total):
            total = as_one(total)
        product: Term = {}
        for (a, x), (b, y) in itertools.product(total.items(), term.items()):
            add_to(product, joined(a, b), x * y)
        total = product
    return total


def _is_divided_by(term: Term, other: Term) -> bool:
    """Whether a sum stands, as one factor, below the other term."""
    if len(other) < 2 or not any(b[0] == "add" for product in term for b, _ in product):
        return False
    (whole,) = as_one(other)
    sums = {base for base, _ in whole if base[0] == "add"}
    return any(base in sums and p < 0 for product in term for base, p in product)


def plus(*terms: Term) -> Term:
    """The sum of terms."""
    total: Term = {}
    for term in terms:
        for product, coefficient in term.items():
            add_to(total, product, coefficient)
    return total


def scaled(term: Term, factor: float) -> Term:
    """A term times a number."""
    return {product: factor * c for product, c in term.items()} if factor else {}


def power(term: Term, exponent: float) -> Term:
    """A term to a power; that of a sum is a base of its own, common factors taken out."""
    if not term:
        if exponent > 0:
            return {}
        raise ZeroDivisionError
    if len(term) == 1:
        ((product, coefficient),) = term.items()
        if coefficient < 0 and exponent != int(exponent):
            raise ValueError
        raised = frozenset((base, rounded(p * exponent)) for base, p in product)
        return {raised: coefficient**exponent}
    if exponent == 1:
        return term
    common, inner, coefficient = factored(term)
    if coefficient < 0:  # The sum may be positive all the same.
        inner, coefficient = scaled(inner, -1.0), -coefficient
    outer = frozenset((base, rounded(p * exponent)) for base, p in common)
    own = frozenset({(("add", frozenset(inner.items())), rounded(exponent))})
    return {joined(outer, own): coefficient**exponent}


def exponential(term: Term) -> Term:
    """The exponential of a term: a product of those of its summands."""
    if term.get(ONE) == -math.inf:
        return {}
    total: Product = ONE
    for product, coefficient in term.items():
        ((base, p), *more) = product or [(None, 0.0)]
        if base is not None and not more and p == 1 and base[0] == "log":
            raised = (base[1], rounded(coefficient))
        else:
            # That of a number is kept as it is, which may be as large as a mask.
            raised = (("exp", product), rounded(coefficient))
        total = joined(total, frozenset({raised}))
    if len(total) == 1:
        ((base, p),) = total
        if base[0] == "add" and p == 1:  # The exponential of the logarithm of a sum.
            return dict(base[1])
    return {total: 1.0}


def logarithm(term: Term) -> Term:
    """The logarithm of a term: a sum of those of its factors."""
    if not term:
        raise ValueError
    if len(term) > 1:
        common, inner, coefficient = factored(term)
        if coefficient < 0:  # The sum is positive all the same: it has a logarithm.
            inner, coefficient = scaled(inner, -1.0), -coefficient
        term = {joined(common, frozenset({(("add", frozenset(inner.items())), 1.0)})): coefficient}
    ((product, coefficient),) = term.items()
    if coefficient <= 0:
        raise ValueError
    total: Term = {ONE: math.log(coefficient)} if coefficient != 1 else {}
    for base, p in product:
        if base[0] == "exp":
            add_to(total, base[1], p)
        else:
            add_to(total, frozenset({(("log", base), 1.0)}), p)
    return total


def summed(term: Term, over: Sequence[Symbol]) -> Term:
    """The sum of a term over indices; what does not depend on them is taken out."""
    total: Term = {}
    for product, coefficient in term.items():
        inside = frozenset(pair for pair in product if mentions(pair, over))
        outside = product - inside
        free = [s for s in over if not mentions(inside, [s])]
        coefficient *= math.prod(s.size for s in free)
        bound = [s for s in over if s not in free]
        if bound:
            if len(inside) == 1:
                ((base, p),) = inside
                if base[0] == "sum" and p == 1:  # A sum of sums is one.
                    inside, bound = base[2], [*base[1], *bound]
            inside = _in_order(inside, bound)
            inside, bound = _unfolded(inside, bound)
            bound.sort(key=lambda s: s.size)
            # Other names than those of sums inside.
            first = 1 + max((s.name for s in symbols(inside) if s.bound), default=-1)
            names = {s: Symbol(first + i, s.size, True) for i, s in enumerate(bound)}
            base = ("sum", tuple(names.values()), renamed(inside, names))
            outside = joined(outside, frozenset({(base, 1.0)}))
        add_to(total, outside, coefficient)
    return total


def _in_order(inside: Product, bound: Iterable[Symbol]) -> Product:
    """What is summed, from the first entry on where it is from the last one."""
    for symbol in bound:
        backwards = (REVERSED, symbol, symbol.size)
        if _holds(inside, backwards):
            swapped = renamed(inside, {backwards: symbol, symbol: backwards})
            inside = inside if _holds(swapped, backwards) else swapped
    return inside


def _unfolded(inside: Product, bound: list[Symbol]) -> tuple[Product, list[Symbol]]:
    """A sum over all of what an axis was folded into is one over the axis."""
    for folded in indices_of(inside, "flat"):
        if all(isinstance(s, Symbol) and s in bound for s in folded[1]):
            size = math.prod(folded[2])
            whole = Symbol(-1 - len(bound), size, True)
            unfolded = renamed(inside, {folded: whole})
            if not mentions(unfolded, folded[1]):
                return _unfolded(unfolded, [*(s for s in bound if s not in folded[1]), whole])
    return inside, bound


def indices_of(thing: Any, kind: str) -> Iterator[Any]:
    """The indices of one kind in a product or base: slices, or those that several make up."""
    if isinstance(thing, Symbol) or not isinstance(thing, (tuple, frozenset)):
        return
    if isinstance(thing, tuple) and thing[:1] == (kind,):
        yield thing
    for inner in thing:
        yield from indices_of(inner, kind)


def _holds(thing: Any, part: Any) -> bool:
    """Whether something is a part of a product, base or index."""
    if thing == part:
        return True
    return isinstance(thing, (tuple, frozenset)) and any(_holds(inner, part) for inner in thing)


def add_to(term: Term, product: Product, coefficient: float) -> None:
    """Adds a product to a term, in place."""
    value = term.get(product, 0.0) + coefficient
    if abs(value) <= 1e-5 * abs(coefficient):  # Powers are rounded, to six digits.
        term.pop(product, None)
    else:
        term[product] = value


def joined(a: Product, b: Product) -> Product:
    """The product of two products."""
    if not a or not b:
        return a or b
    powers = dict(a)
    for base, p in b:
        powers[base] = rounded(powers.get(base, 0.0) + p)
    return frozenset((base, p) for base, p in powers.items() if p)


def factored(term: Term) -> tuple[Product, Term, float]:
    """Common factors of all summands, what is left of those, and a common coefficient."""
    lowest: dict[Base, float] = {}
    bases = {base for product in term for base, _ in product}
    for base in bases:
        low = min(dict(product).get(base, 0.0) for product in term)
        if low:
            lowest[base] = low
    common = frozenset(lowest.items())
    inverse = frozenset((base, -p) for base, p in common)
    inner = {joined(product, inverse): c for product, c in term.items()}
    leading = inner[min(inner, key=hash)]  # Any, but the same one for equal terms.
    return common, {product: rounded(c / leading) for product, c in inner.items()}, leading


def as_one(term: Term) -> Term:
    """A term as one product, a sum of several being a base of its own."""
    return term if len(term) <= 1 else power(power(term, -1), -1)


def size_of(term: Term, known: dict[Product, int]) -> int:
    """How many values and numbers a term mentions when it is written out.

    Args:
        term: the term.
        known: the sizes of products so far.
    """

    def size(thing: Any) -> int:
        if isinstance(thing, frozenset):
            if thing not in known:
                known[thing] = 1 + sum(map(size, thing))
            return known[thing]
        if isinstance(thing, tuple) and not isinstance(thing, Symbol):
            return sum(map(size, thing))
        return 1

    return sum(map(size, term))


def mentions(thing: Any, wanted: Iterable[Symbol]) -> bool:
    """Whether an index appears in a product, base or index."""
    if isinstance(thing, Symbol):
        return thing in wanted
    if isinstance(thing, (tuple, frozenset)):
        return any(mentions(part, wanted) for part in thing)
    return False


def symbols(thing: Any) -> set[Symbol]:
    """The indices that appear in a product, base or index."""
    if isinstance(thing, Symbol):
        return {thing}
    if isinstance(thing, (tuple, frozenset)):
        return set().union(*map(symbols, thing))
    return set()


def renamed(thing: Any, names: Mapping[Any, Any]) -> Any:
    """The same with other indices."""
    if isinstance(thing, Symbol):
        return names.get(thing, thing)
    if isinstance(thing, frozenset):
        return frozenset(renamed(part, names) for part in thing)
    if isinstance(thing, tuple):
        if thing in names:
            return names[thing]
        return tuple(renamed(part, names) for part in thing)
    return thing


def values(thing: Any) -> set[Value]:
    """The values that a term, product or base mentions."""
    if isinstance(thing, Value):
        return {thing}
    if isinstance(thing, (tuple, frozenset, list)) and not isinstance(thing, Symbol):
        return set().union(*map(values, thing))
    if isinstance(thing, dict):
        return set().union(*map(values, thing))
    return set()


def renamed_term(term: Term, names: Mapping[Any, Any]) -> Term:
    """The same with other indices."""
    return {renamed(product, names): c for product, c in term.items()}


def never_negative(term: Term) -> bool:
    """Whether a term is a sum of exponentials, and so never negative."""

    def base(b: Base) -> bool:
        if b[0] in ("exp", "mask"):
            return True
        if b[0] in ("sum", "rows"):
            return all(base(inner) for inner, _ in b[2])
        return False

    return all(c > 0 and all(base(b) for b, _ in product) for product, c in term.items())
