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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from relprop._core.graph import Atom, Constant, Equation, Value

# A term with more summands than that is taken as it is.
_MOST = 8
# The largest number that is taken for one that keeps a denominator from being zero.
_GUARD = 1e-3
# So many equations are looked behind.
_DEEPEST = 60


class Symbol(NamedTuple):
    """An index that runs over an axis; bound ones are those of sums."""

    name: int
    size: int
    bound: bool = False


Base = tuple[Any, ...]  # ("value", atom, index), ("exp", product), ("log", base), ("sum", ...), ...
Product = frozenset  # of pairs (base, power)
Term = dict  # product -> coefficient
Index = tuple[Any, ...]
Handler = Callable[["Algebra", Equation, Index], "Term | None"]

ONE: Product = frozenset()


class Algebra:
    """The terms of the values of one graph.

    Args:
        maker: the equation that makes a value, or None.
        number: the number that all entries of a constant are, or None.
        more: what other primitives are to be taken for.
    """

    def __init__(
        self,
        maker: Callable[[Atom], Equation | None],
        number: Callable[[Atom], float | None],
        more: Mapping[str, Handler] | None = None,
    ):
        self._maker = maker
        self._number = number
        self._handlers = {**_HANDLERS, **(more or {})}
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
            self._known[key] = _leaf(atom, index)
            self._known[key] = self._of(atom, index)
        return self._known[key]

    def _of(self, atom: Atom, index: Index) -> Term:
        known = self._number(atom)
        if known is not None:
            return {ONE: known} if known else {}
        equation = self._maker(atom)
        if equation is None or len(equation.outputs) != 1 or isinstance(atom, Constant):
            return _leaf(atom, index)
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
        if found is None or len(found) > _MOST:
            return _leaf(atom, index)
        return found

    def leaf(self, atom: Atom, index: Index) -> Term:
        """The term of a value that nothing is known of."""
        return _leaf(atom, index)

    def operand(self, equation: Equation, position: int, index: Index) -> Term:
        """The term of an operand of an element-wise equation; axes of length 1 are repeated."""
        atom = equation.inputs[position]
        if not atom.shape:
            return self.of(atom, ())
        return self.of(
            atom, tuple(0 if n == 1 else i for n, i in zip(atom.shape, index, strict=True))
        )


def _leaf(atom: Atom, index: Index) -> Term:
    what = atom if isinstance(atom, Value) else id(atom.array)
    return {frozenset({(("value", what, index), 1.0)}): 1.0}


# Arithmetic.


def _rounded(power: float) -> float:
    # Constants such as log2(e) come in single precision.
    return float(f"{power:.6g}")


def times(*terms: Term) -> Term:
    """The product of terms."""
    total: Term = {ONE: 1.0}
    for term in terms:
        if len(total) * len(term) > _MOST:
            total, term = as_one(total), as_one(term)
        product: Term = {}
        for (a, x), (b, y) in itertools.product(total.items(), term.items()):
            _add_to(product, _joined(a, b), x * y)
        total = product
    return total


def plus(*terms: Term) -> Term:
    """The sum of terms."""
    total: Term = {}
    for term in terms:
        for product, coefficient in term.items():
            _add_to(total, product, coefficient)
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
        raised = frozenset((base, _rounded(p * exponent)) for base, p in product)
        return {raised: coefficient**exponent}
    if exponent == 1:
        return term
    common, inner, coefficient = _factored(term)
    if coefficient < 0:  # The sum may be positive all the same.
        inner, coefficient = scaled(inner, -1.0), -coefficient
    outer = frozenset((base, _rounded(p * exponent)) for base, p in common)
    own = frozenset({(("add", frozenset(inner.items())), _rounded(exponent))})
    return {_joined(outer, own): coefficient**exponent}


def exponential(term: Term) -> Term:
    """The exponential of a term: a product of those of its summands."""
    total: Product = ONE
    for product, coefficient in term.items():
        ((base, p), *more) = product or [(None, 0.0)]
        if base is not None and not more and p == 1 and base[0] == "log":
            raised = (base[1], _rounded(coefficient))
        else:
            # That of a number is kept as it is, which may be as large as a mask.
            raised = (("exp", product), _rounded(coefficient))
        total = _joined(total, frozenset({raised}))
    return {total: 1.0}


def logarithm(term: Term) -> Term:
    """The logarithm of a term: a sum of those of its factors."""
    if not term:
        raise ValueError
    if len(term) > 1:
        common, inner, coefficient = _factored(term)
        term = {_joined(common, frozenset({(("add", frozenset(inner.items())), 1.0)})): coefficient}
    ((product, coefficient),) = term.items()
    if coefficient <= 0:
        raise ValueError
    total: Term = {ONE: math.log(coefficient)} if coefficient != 1 else {}
    for base, p in product:
        if base[0] == "exp":
            _add_to(total, base[1], p)
        else:
            _add_to(total, frozenset({(("log", base), 1.0)}), p)
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
            bound.sort(key=lambda s: s.size)
            # Other names than those of sums inside.
            first = 1 + max((s.name for s in _symbols(inside) if s.bound), default=-1)
            names = {s: Symbol(first + i, s.size, True) for i, s in enumerate(bound)}
            base = ("sum", tuple(names.values()), renamed(inside, names))
            outside = _joined(outside, frozenset({(base, 1.0)}))
        _add_to(total, outside, coefficient)
    return total


def _add_to(term: Term, product: Product, coefficient: float) -> None:
    value = term.get(product, 0.0) + coefficient
    if abs(value) <= 1e-9 * abs(coefficient):
        term.pop(product, None)
    else:
        term[product] = value


def _joined(a: Product, b: Product) -> Product:
    if not a or not b:
        return a or b
    powers = dict(a)
    for base, p in b:
        powers[base] = _rounded(powers.get(base, 0.0) + p)
    return frozenset((base, p) for base, p in powers.items() if p)


def _factored(term: Term) -> tuple[Product, Term, float]:
    """Common factors of all summands, what is left of those, and a common coefficient."""
    lowest: dict[Base, float] = {}
    bases = {base for product in term for base, _ in product}
    for base in bases:
        low = min(dict(product).get(base, 0.0) for product in term)
        if low:
            lowest[base] = low
    common = frozenset(lowest.items())
    inverse = frozenset((base, -p) for base, p in common)
    inner = {_joined(product, inverse): c for product, c in term.items()}
    leading = inner[min(inner, key=_order)]
    rounded = {product: _rounded(c / leading) for product, c in inner.items()}
    return common, rounded, leading


def as_one(term: Term) -> Term:
    """A term as one product, a sum of several being a base of its own."""
    return term if len(term) <= 1 else power(power(term, -1), -1)


def _order(thing: Any) -> str:
    """A name of a product or base, the same for equal ones."""
    if isinstance(thing, Value):
        return str(id(thing))
    if isinstance(thing, frozenset):
        return "{" + ",".join(sorted(map(_order, thing))) + "}"
    if isinstance(thing, tuple):
        return "(" + ",".join(map(_order, thing)) + ")"
    return repr(thing)


def mentions(thing: Any, symbols: Iterable[Symbol]) -> bool:
    """Whether an index appears in a product, base or index."""
    if isinstance(thing, Symbol):
        return thing in symbols
    if isinstance(thing, (tuple, frozenset)):
        return any(mentions(part, symbols) for part in thing)
    return False


def _symbols(thing: Any) -> set[Symbol]:
    if isinstance(thing, Symbol):
        return {thing}
    if isinstance(thing, (tuple, frozenset)):
        return set().union(*map(_symbols, thing))
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


# What the primitives are.


def _sum(algebra: Algebra, equation: Equation, index: Index) -> Term:
    sign = -1.0 if equation.name == "sub" else 1.0
    pair = _log_add_exp(algebra, equation)
    if pair is not None:
        maximum, _ = pair
        parts = (exponential(algebra.operand(maximum, i, index)) for i in (0, 1))
        return logarithm(plus(*parts))
    a, b = (algebra.operand(equation, i, index) for i in (0, 1))
    return plus(a, scaled(b, sign))


def _log_add_exp(algebra: Algebra, equation: Equation) -> tuple[Equation, Equation] | None:
    """``max(a, b) + log1p(exp(-|a - b|))``: how a sum of two exponentials is kept in range."""
    makers = [algebra._maker(atom) for atom in equation.inputs]
    names = ["" if maker is None else maker.name for maker in makers]
    if equation.name != "add" or sorted(names) != ["log1p", "max"]:
        return None
    maximum, step = makers[names.index("max")], makers[names.index("log1p")]
    assert maximum is not None and step is not None
    for name in ("exp", "neg", "abs", "sub"):
        inner = algebra._maker(step.inputs[0])
        if inner is None or inner.name != name:
            return None
        step = inner
    same = set(map(id, step.inputs)) == set(map(id, maximum.inputs))
    return (maximum, step) if same else None


def _product(algebra: Algebra, equation: Equation, index: Index) -> Term:
    a, b = (algebra.operand(equation, i, index) for i in (0, 1))
    product = times(a, power(b, -1) if equation.name == "div" else b)
    return {_unmasked(factors): c for factors, c in product.items()}


def _unmasked(product: Product) -> Product:
    """A product without the mask of where one of its factors is not zero."""
    powers = dict(product)
    idle = [b for b in powers if b[0] == "mask" and b[2] == "not zero" and powers.get(b[1], 0) > 0]
    return frozenset((b, p) for b, p in product if b not in idle) if idle else product


def _unary(function: Callable[[Term, Equation], Term]) -> Any:
    def handler(algebra: Algebra, equation: Equation, index: Index) -> Term:
        return function(algebra.operand(equation, 0, index), equation)

    return handler


def _log(algebra: Algebra, equation: Equation, index: Index) -> Term:
    """That of an absolute value is that of the value, where it has one."""
    inner = algebra._maker(equation.inputs[0])
    return logarithm(
        algebra.operand(inner if inner and inner.name == "abs" else equation, 0, index)
    )


def _pow(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    exponent = algebra._number(equation.inputs[1])
    return None if exponent is None else power(algebra.operand(equation, 0, index), exponent)


def _logistic(term: Term, equation: Equation) -> Term:
    raised = exponential(term)
    return times(raised, power(plus({ONE: 1.0}, raised), -1))


def _tanh(term: Term, equation: Equation) -> Term:
    return plus(scaled(_logistic(scaled(term, 2.0), equation), 2.0), {ONE: -1.0})


def _same(algebra: Algebra, equation: Equation, index: Index) -> Term:
    return algebra.of(equation.inputs[0], index)


def _transpose(algebra: Algebra, equation: Equation, index: Index) -> Term:
    permutation = equation.params["permutation"]
    inner = {axis: index[i] for i, axis in enumerate(permutation)}
    return algebra.of(equation.inputs[0], tuple(inner[i] for i in range(len(inner))))


def _broadcast(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    if len(equation.inputs) != 1:
        return None
    shape = equation.inputs[0].shape
    axes = equation.params["broadcast_dimensions"]
    inner = tuple(0 if n == 1 else index[to] for n, to in zip(shape, axes, strict=True))
    return algebra.of(equation.inputs[0], inner)


def _reshape(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Axes of length 1 come and go; others are split and joined in order."""
    before, after = equation.inputs[0].shape, equation.outputs[0].shape
    if not math.prod(before):
        return None
    inner: list[Any] = [0] * len(before)
    ins = [i for i, n in enumerate(before) if n != 1]
    outs = [i for i, n in enumerate(after) if n != 1]
    while ins or outs:
        group_in, group_out = [ins.pop(0)], [outs.pop(0)]
        size_in, size_out = before[group_in[0]], after[group_out[0]]
        while size_in != size_out:
            if size_in < size_out:
                group_in.append(ins.pop(0))
                size_in *= before[group_in[-1]]
            else:
                group_out.append(outs.pop(0))
                size_out *= after[group_out[-1]]
        flat = _flat([index[i] for i in group_out], [after[i] for i in group_out])
        parts = _parts(flat, [before[i] for i in group_in])
        for i, part in zip(group_in, parts, strict=True):
            inner[i] = part
    return algebra.of(equation.inputs[0], tuple(inner))


def _flat(entries: list[Any], sizes: list[int]) -> Any:
    if len(entries) == 1:
        return entries[0]
    first = entries[0]
    if isinstance(first, tuple) and first and first[0] == "part":
        whole, shape = first[1], first[3]
        if shape == tuple(sizes) and entries == [
            ("part", whole, i, shape) for i in range(len(sizes))
        ]:
            return whole
    return ("flat", tuple(entries), tuple(sizes))


def _parts(entry: Any, sizes: list[int]) -> list[Any]:
    if len(sizes) == 1:
        return [entry]
    if isinstance(entry, tuple) and entry and entry[0] == "flat" and entry[2] == tuple(sizes):
        return list(entry[1])
    return [("part", entry, i, tuple(sizes)) for i in range(len(sizes))]


def _slice(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    params = equation.params
    strides = params["strides"] or (1,) * len(index)
    shape = equation.inputs[0].shape
    inner = []
    for entry, start, stride, n, size in zip(
        index, params["start_indices"], strides, equation.outputs[0].shape, shape, strict=True
    ):
        if n == size:
            inner.append(entry)
        elif n == 1:
            inner.append(int(start))
        else:
            inner.append(("slice", entry, int(start), int(stride)))
    return algebra.of(equation.inputs[0], tuple(inner))


def _concatenate(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    axis = equation.params["dimension"]
    if isinstance(index[axis], Symbol) and all(a.shape[axis] == 1 for a in equation.inputs):
        inner = (*index[:axis], 0, *index[axis + 1 :])
        return _common([algebra.of(a, inner) for a in equation.inputs], index[axis])
    if not isinstance(index[axis], int):
        return None
    at = index[axis]
    for atom in equation.inputs:
        if at < atom.shape[axis]:
            inner = list(index)
            inner[axis] = at
            return algebra.of(atom, tuple(inner))
        at -= atom.shape[axis]
    return None


def _stack(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    axis = equation.params["axis"]
    inner = index[:axis] + index[axis + 1 :]
    if isinstance(index[axis], Symbol):
        return _common([algebra.of(a, inner) for a in equation.inputs], index[axis])
    if not isinstance(index[axis], int):
        return None
    return algebra.of(equation.inputs[index[axis]], inner)


def _common(terms: Sequence[Term], symbol: Symbol) -> Term | None:
    """The term of which others are the entries, in their order; None if there is none."""
    last = len(terms) - 1
    if not last:
        return None

    def entry(thing: Any) -> Any:
        """With an index in the place of the last number, but for sums that are written out."""
        if isinstance(thing, frozenset):
            return frozenset(map(entry, thing))
        if not isinstance(thing, tuple) or isinstance(thing, Symbol) or thing[:1] == ("add",):
            return thing
        if len(thing) == 3 and thing[0] == "value" and isinstance(thing[1], Value):
            pairs = zip(thing[2], thing[1].shape, strict=True)
            own = (symbol if i == last and n == symbol.size else i for i, n in pairs)
            return (*thing[:2], tuple(own))
        return tuple(map(entry, thing))

    found = {entry(product): c for product, c in terms[last].items()}
    each = (renamed_term(found, {symbol: i}) for i in range(len(terms)))
    return found if all(a == b for a, b in zip(each, terms, strict=True)) else None


def _reduce(algebra: Algebra, equation: Equation, index: Index) -> Term:
    (atom,) = equation.inputs
    axes, supply = equation.params["axes"], iter(index)
    bound = {
        a: s for a, s in zip(axes, algebra.indices([atom.shape[a] for a in axes]), strict=True)
    }
    inner = tuple(bound[i] if i in bound else next(supply) for i in range(len(atom.shape)))
    return summed(algebra.of(atom, inner), [s for s in bound.values() if isinstance(s, Symbol)])


def _cumulated(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """The last of the running sums is the sum."""
    (atom,) = equation.inputs
    axis, size = equation.params["axis"], atom.shape[equation.params["axis"]]
    if index[axis] != (0 if equation.params["reverse"] else size - 1) or size == 1:
        return None
    (bound,) = algebra.indices([size])
    inner = (*index[:axis], bound, *index[axis + 1 :])
    return summed(algebra.of(atom, inner), [bound])


def _contract(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """A product with ones is a sum."""
    (contracting, batch) = equation.params["dimension_numbers"]
    sides = _sides(equation.inputs[:2], contracting, batch, index, algebra)
    for number, other in ((0, 1), (1, 0)):
        maker = algebra._maker(equation.inputs[number])
        if algebra._number(equation.inputs[number]) is None and (
            maker is None or maker.name not in ("concatenate", "slice", "broadcast_in_dim", "pad")
        ):
            continue
        constant = algebra.of(equation.inputs[number], sides[number])
        if set(constant) == {ONE}:
            over = [sides[other][a] for a in contracting[other]]
            inner = times(constant, algebra.of(equation.inputs[other], sides[other]))
            return summed(inner, [s for s in over if isinstance(s, Symbol)])
    return None


def contraction(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """The sum of the products that any contraction is; for those who ask for it."""
    (contracting, batch) = equation.params["dimension_numbers"]
    sides = _sides(equation.inputs[:2], contracting, batch, index, algebra)
    a, b = (algebra.of(atom, own) for atom, own in zip(equation.inputs[:2], sides, strict=True))
    over = [sides[0][axis] for axis in contracting[0]]
    return summed(times(a, b), [s for s in over if isinstance(s, Symbol)])


def _sides(operands, contracting, batch, index, algebra) -> list[Index]:
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


def _select(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """`where(mask, x, 0)` is x times a mask, `where(mask, x, -inf)` x plus the logarithm of one."""
    predicate, *cases = equation.inputs
    test = algebra._maker(predicate)
    if test is not None and test.name == "ne" and test.inputs[0] is test.inputs[1]:
        return algebra.operand(equation, 1, index)  # What is not NaN.
    numbers = [algebra._number(case) for case in cases]
    if len(cases) != 2:
        return None
    for kept, number in ((1, numbers[0]), (0, numbers[1])):
        if number is not None and math.isnan(number):  # As a logarithm where there is none.
            return algebra.operand(equation, 1 + kept, index)
    for hidden in (-math.inf, 0):
        if numbers.count(hidden) == 1:
            kept = 1 - numbers.index(hidden)
            base = _mask(algebra, predicate, kept, index)
            own = algebra.operand(equation, 1 + kept, index)
            if hidden == 0:
                return times({frozenset({(base, 1.0)}): 1.0}, own)
            return plus({frozenset({(("log", base), 1.0)}): 1.0}, own)
    return None


def _mask(algebra: Algebra, predicate: Atom, kept: int, index: Index) -> Base:
    """What is one where a predicate chooses a case, and zero elsewhere."""
    where = index if predicate.shape else ()
    test = algebra._maker(predicate)
    if test is not None and test.name in ("ne", "eq") and algebra._number(test.inputs[1]) == 0:
        term = algebra.operand(test, 0, where)
        product = next(iter(term), ONE)
        if len(term) == 1 and len(product) == 1 and kept == (test.name == "ne"):
            ((base, _),) = product
            return ("mask", base, "not zero")
    return ("mask", predicate, kept, where)


def _maximum(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """A small number that keeps what is never negative from being zero changes nothing else."""
    for number, other in ((0, 1), (1, 0)):
        guard = algebra._number(equation.inputs[number])
        if guard is not None and 0 <= guard <= _GUARD:
            term = algebra.operand(equation, other, index)
            return term if _positive(term) else None
    return None


def _gather(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Rows of an array, by their numbers."""
    ids = rows(algebra._maker, equation)
    if ids is None or not index:
        return None
    return algebra.of(equation.inputs[0], (("at", ids, index[0]), *index[1:]))


def _scatter(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """Sums of the rows of an array that have the same number."""
    target, _, updates = equation.inputs
    ids = rows(algebra._maker, equation)
    if ids is None or algebra._number(target) != 0 or not index:
        return None
    (row,) = algebra.indices(updates.shape[:1])
    if not isinstance(row, Symbol):
        return None
    # Of the rows of one number, what depends on the number only is the same.
    body = renamed_term(algebra.of(updates, (row, *index[1:])), {("at", ids, row): index[0]})
    total: Term = {}
    for product, coefficient in body.items():
        inside = frozenset(pair for pair in product if mentions(pair, [row]))
        first = 1 + max((s.name for s in _symbols(inside) if s.bound), default=-1)
        bound = Symbol(first, row.size, True)
        base = ("rows", (bound,), renamed(inside, {row: bound}), ids, index[0])
        _add_to(total, _joined(product - inside, frozenset({(base, 1.0)})), coefficient)
    return total


def renamed_term(term: Term, names: Mapping[Any, Any]) -> Term:
    """The same with other indices."""
    return {renamed(product, names): c for product, c in term.items()}


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
        return _base(maker, indices) if whole and first and numbers.offset_dims == rest else None
    first = numbers.scatter_dims_to_operand_dims == (0,) and numbers.inserted_window_dims == (0,)
    rest = tuple(range(1, len(operand.shape)))
    return _base(maker, indices) if first and numbers.update_window_dims == rest else None


def _base(maker: Callable[[Atom], Equation | None], atom: Atom) -> Value | None:
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


_HANDLERS: dict[str, Handler] = {
    "add": _sum,
    "add_any": _sum,
    "sub": _sum,
    "mul": _product,
    "div": _product,
    "neg": _unary(lambda t, e: scaled(t, -1.0)),
    "integer_pow": _unary(lambda t, e: power(t, e.params["y"])),
    "square": _unary(lambda t, e: power(t, 2)),
    "sqrt": _unary(lambda t, e: power(t, 0.5)),
    "rsqrt": _unary(lambda t, e: power(t, -0.5)),
    "pow": _pow,
    "exp": _unary(lambda t, e: exponential(t)),
    "exp2": _unary(lambda t, e: exponential(scaled(t, math.log(2)))),
    "expm1": _unary(lambda t, e: plus(exponential(t), {ONE: -1.0})),
    "log": _log,
    "log1p": _unary(lambda t, e: logarithm(plus({ONE: 1.0}, t))),
    "logistic": _unary(_logistic),
    "tanh": _unary(_tanh),
    "abs": _unary(lambda t, e: t if _positive(t) else None),  # type: ignore[return-value]
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "slice": _slice,
    "concatenate": _concatenate,
    "stack": _stack,
    "reduce_sum": _reduce,
    "dot_general": _contract,
    "cumsum": _cumulated,
    "max": _maximum,
    "select_n": _select,
    "gather": _gather,
    "scatter-add": _scatter,
    **dict.fromkeys(
        (
            "stop_gradient",
            "convert_element_type",
            "copy",
            "copy_p",
            "name",
            "checkpoint_name",
            "reduce_precision",
            "optimization_barrier",
            "psum",
            "psum_invariant",
            "pvary",
            "sharding_constraint",
        ),
        _same,
    ),
}


def _positive(term: Term) -> bool:
    """Whether a term is a sum of exponentials, and so never negative."""

    def base(b: Base) -> bool:
        if b[0] in ("exp", "mask"):
            return True
        if b[0] in ("sum", "rows"):
            return all(base(inner) for inner, _ in b[2])
        return False

    return all(c > 0 and all(base(b) for b, _ in product) for product, c in term.items())
