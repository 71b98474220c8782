"""Arithmetic as terms, entry by entry, and choices by a mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from relprop._core.graph import Atom, Equation, Value
from relprop.reading.algebra import Algebra
from relprop.reading.pieces import raised, together
from relprop.reading.terms import (
    ONE,
    Base,
    Index,
    Product,
    Term,
    exponential,
    logarithm,
    never_negative,
    plus,
    power,
    scaled,
    times,
)

# The largest number that is taken for one that keeps a denominator from being zero.
_GUARD = 1e-3


def addition(algebra: Algebra, equation: Equation, index: Index) -> Term:
    """A sum or a difference."""
    sign = -1.0 if equation.name == "sub" else 1.0
    maximum = log_add_exp(algebra.maker, equation)
    if maximum is not None:
        parts = (exponential(algebra.operand(maximum, i, index)) for i in (0, 1))
        return logarithm(together(plus(*parts)))
    a, b = (algebra.operand(equation, i, index) for i in (0, 1))
    return together(plus(a, scaled(b, sign)))


def log_add_exp(maker: Callable[[Atom], Equation | None], equation: Equation) -> Equation | None:
    """Of ``max(a, b) + log1p(exp(-|a - b|))`` the maximum: a sum of exponentials, kept in range."""
    makers = [maker(atom) for atom in equation.inputs]
    names = ["" if maker is None else maker.name for maker in makers]
    if equation.name != "add" or sorted(names) != ["log1p", "max"]:
        return None
    maximum, step = makers[names.index("max")], makers[names.index("log1p")]
    assert maximum is not None and step is not None
    for name in ("exp", "neg", "abs", "sub"):
        inner = maker(step.inputs[0])
        if inner is None or inner.name != name:
            return None
        step = inner
    same = set(map(id, step.inputs)) == set(map(id, maximum.inputs))
    return maximum if same else None


def product(algebra: Algebra, equation: Equation, index: Index) -> Term:
    """A product or a quotient."""
    a, b = (algebra.operand(equation, i, index) for i in (0, 1))
    product = times(a, raised(b, -1) if equation.name == "div" else b)
    return {_unmasked(factors): c for factors, c in product.items()}


def _unmasked(product: Product) -> Product:
    """A product without the mask of where one of its factors, or what divides it, is not zero."""
    powers = dict(product)
    idle = [b for b in powers if b[0] == "mask" and b[2] == "not zero" and powers.get(b[1], 0) != 0]
    return frozenset((b, p) for b, p in product if b not in idle) if idle else product


def unary(function: Callable[[Term, Equation], Term]) -> Any:
    """What a function of the term of the only operand says."""

    def handler(algebra: Algebra, equation: Equation, index: Index) -> Term:
        return function(algebra.operand(equation, 0, index), equation)

    return handler


def log(algebra: Algebra, equation: Equation, index: Index) -> Term:
    """That of an absolute value is that of the value, where it has one."""
    inner = algebra.maker(equation.inputs[0])
    return logarithm(
        algebra.operand(inner if inner and inner.name == "abs" else equation, 0, index)
    )


def pow_(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """A power with a known exponent."""
    exponent = algebra.number(equation.inputs[1])
    return None if exponent is None else power(algebra.operand(equation, 0, index), exponent)


def logistic(term: Term, equation: Equation) -> Term:
    """The sigmoid: an exponential over one and that."""
    above = exponential(term)
    return times(above, raised(plus({ONE: 1.0}, above), -1))


def tanh(term: Term, equation: Equation) -> Term:
    """Two sigmoids of twice the argument, less one."""
    return plus(scaled(logistic(scaled(term, 2.0), equation), 2.0), {ONE: -1.0})


def select(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """`where(mask, x, 0)` is x times a mask, `where(mask, x, -inf)` x plus the logarithm of one."""
    _, *cases = equation.inputs
    predicate, where = _before_moves(algebra, equation.inputs[0], index)
    test = algebra.maker(predicate)
    if test is not None and test.name == "ne" and test.inputs[0] is test.inputs[1]:
        return algebra.operand(equation, 1, index)  # What is not NaN.
    numbers = [algebra.number(case) for case in cases]
    if len(cases) != 2:
        return None
    if test is not None and test.name == "ge" and algebra.number(test.inputs[1]) == 0:
        # As in derivatives of an absolute value.
        if never_negative(algebra.operand(test, 0, where)):
            return algebra.operand(equation, 2, index)
    for kept, number in ((1, numbers[0]), (0, numbers[1])):
        if number is not None and math.isnan(number):  # As a logarithm where there is none.
            return algebra.operand(equation, 1 + kept, index)
    for kept, number in ((1, numbers[0]), (0, numbers[1])):
        # A number in the place of zero, by which something is going to be divided.
        if number is not None and number > 0:
            own = algebra.operand(equation, 1 + kept, index)
            if _is_guard(algebra, test, where, own, kept):
                return own
    for hidden in (-math.inf, 0):
        if numbers.count(hidden) == 1:
            kept = 1 - numbers.index(hidden)
            base = _mask(algebra, predicate, kept, where)
            own = algebra.operand(equation, 1 + kept, index)
            if hidden == 0:
                masked = times({frozenset({(base, 1.0)}): 1.0}, own)
                return {_unmasked(factors): c for factors, c in masked.items()}
            return plus({frozenset({(("log", base), 1.0)}): 1.0}, own)
    return None


def _is_guard(algebra: Algebra, test: Equation | None, where: Index, own: Term, kept: int) -> bool:
    """Whether a value that is never negative is kept where it is not zero."""
    if test is None or test.name not in ("gt", "ne", "eq") or kept != (test.name != "eq"):
        return False
    if algebra.number(test.inputs[1]) != 0:
        return False
    return algebra.operand(test, 0, where) == own and never_negative(own)


def _before_moves(algebra: Algebra, predicate: Atom, index: Index) -> tuple[Atom, Index]:
    """A predicate as it was before it was moved about, as `vmap` does, and the index there."""
    where = index if predicate.shape else ()
    term = algebra.of(predicate, where)
    if list(term.values()) == [1.0]:
        (product,) = term
        for base, power in product if len(product) == 1 else ():
            if base[0] == "value" and isinstance(base[1], Value) and power == 1:
                return base[1], base[2]
    return predicate, where


def _mask(algebra: Algebra, predicate: Atom, kept: int, where: Index) -> Base:
    """What is one where a predicate chooses a case, and zero elsewhere."""
    test = algebra.maker(predicate)
    names = ("ne", "eq", "gt")
    if test is not None and test.name in names and algebra.number(test.inputs[1]) == 0:
        term = algebra.operand(test, 0, where)
        product = next(iter(term), ONE)
        signed = test.name != "gt" or never_negative(term)
        if len(term) == 1 and len(product) == 1 and signed and kept == (test.name != "eq"):
            ((base, _),) = product
            return ("mask", base, "not zero")
    return ("mask", predicate, kept, where)


def maximum(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """A small number that keeps what is never negative from being zero changes nothing else."""
    for number, other in ((0, 1), (1, 0)):
        guard = algebra.number(equation.inputs[number])
        if guard is not None and 0 <= guard <= _GUARD:
            term = algebra.operand(equation, other, index)
            return term if never_negative(term) else None
    return None
