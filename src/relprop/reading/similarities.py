"""A product that is divided by the norms of its factors is the product of normalised factors.

``(a @ b) / (norm(a) * norm(b))`` and ``(a @ b) * rsqrt((a @ a) * (b @ b))`` are the cosine
similarity ``(a / norm(a)) @ (b / norm(b))``, and so is a matrix of such.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation
from relprop.propagators.linear import Dense, Division, Multiplication
from relprop.reading.algebra import Algebra
from relprop.reading.draft import Draft
from relprop.reading.primitives import algebra_of
from relprop.reading.primitives.reductions import contract, contraction, sides
from relprop.reading.terms import Index, Product, Symbol, Term, as_one, joined, power, summed, times


def divided_first(draft: Draft) -> None:
    """Divides factors of a product by their own norms, where the code divides their product."""
    if not {"sqrt", "rsqrt", "pow"}.intersection(equation.name for equation in draft.equations):
        return
    while _one_divided(draft):
        pass


def _one_divided(draft: Draft) -> bool:
    algebra = algebra_of(draft.index.maker.get, draft.index.number, {"dot_general": _squared})
    for equation in draft.equations:
        kind = registry.lookup(equation.primitive)
        if not isinstance(kind, Multiplication | Division) or len(equation.inputs) != 2:
            continue
        for position in (0,) if isinstance(kind, Division) else (0, 1):
            product = draft.index.maker.get(equation.inputs[position])
            if product is None or not _is_similarity(draft, product):
                continue
            other = equation.inputs[1 - position]
            if other not in draft.index.touched or product.outputs[0].shape != (
                equation.outputs[0].shape
            ):
                continue
            new = _divided(draft, algebra, equation, product, other)
            if new:
                draft.put({equation: new})
                return True
    return False


def _is_similarity(draft: Draft, product: Equation) -> bool:
    """Whether a product of two values that depend on the inputs is there for one reader only."""
    return (
        isinstance(registry.lookup(product.primitive), Dense)
        and product.name == "dot_general"
        and len(draft.index.operands(product)) == 2
        and draft.index.only_reader(product.outputs[0]) is not None
    )


def _divided(
    draft: Draft, algebra: Algebra, equation: Equation, product: Equation, other: Atom
) -> list[Equation]:
    """The product of normalised factors, if it is divided by the norms of one or of both."""
    index = algebra.indices(product.outputs[0].shape)
    entry = tuple(0 if n == 1 else i for n, i in zip(other.shape, index, strict=bool(other.shape)))
    try:
        whole = _single(algebra.of(other, entry if other.shape else ()))
        if isinstance(registry.lookup(equation.primitive), Division):
            whole = _single(power({whole: 1.0}, -1)) if whole is not None else None
        found = [_norms(algebra, product, side, index) for side in (0, 1)]
    except (ArithmeticError, ValueError):
        return []
    contracting, _ = product.params["dimension_numbers"]
    for chosen in ((0, 1), (0,), (1,)):
        ways = itertools.product(*(found[side] for side in chosen))
        if whole is None or all(functools.reduce(joined, way) != whole for way in ways):
            continue
        inputs, new = list(product.inputs), []
        for side in chosen:
            unit = functools.partial(_unit, tuple(contracting[side]))
            new += draft.derived(unit, [product.inputs[side]], equation)
            inputs[side] = new[-1].outputs[0]
        return [*new, draft.again(product, inputs, equation.outputs[0])]
    return []


def _unit(axes: Sequence[int], x: Array) -> Array:
    """A value by its norm along axes."""
    return x / jnp.sqrt((x * x).sum(axes, keepdims=True))


def _squared(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    """A value times itself is a sum of squares; other products are left as they are."""
    a, b = equation.inputs[:2]
    return (contraction if a is b else contract)(algebra, equation, index)


def _norms(algebra: Algebra, product: Equation, side: int, index: Index) -> list[Product]:
    """One over the norm of a factor, along what is contracted: squares are written in two ways."""
    contracting, batch = product.params["dimension_numbers"]
    own = sides(product.inputs[:2], contracting, batch, index, algebra)[side]
    over = [own[axis] for axis in contracting[side] if isinstance(own[axis], Symbol)]
    term = algebra.of(product.inputs[side], own)
    squares = (power(as_one(term), 2), times(term, term)) if over else ()
    found = (_single(power(summed(square, over), -0.5)) for square in squares)
    return [norm for norm in found if norm is not None]


def _single(term: Term) -> Product | None:
    """The only product of a term with the coefficient 1."""
    if len(term) != 1:
        return None
    ((product, coefficient),) = term.items()
    return product if abs(coefficient - 1.0) < 1e-6 else None
