"""An average that is divided by the sum of its weights last is one by weights that sum to one.

``(e * v).sum() / e.sum()`` is the sum of ``(e / e.sum()) * v``, and ``(a * x + b * y) / (a + b)``
that of ``a / (a + b) * x`` and ``b / (a + b) * y``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation
from relprop.propagators.linear import Addition, Division
from relprop.reading.algebra import Algebra
from relprop.reading.draft import Draft
from relprop.reading.pieces import written_out
from relprop.reading.terms import LONGEST, Index, Symbol, plus, power, summed


def averaged(
    draft: Draft, algebra: Algebra, equation: Equation, position: int
) -> list[Equation] | None:
    """An average as one by weights that sum to one, if it is divided by the sum of its weights."""
    return _over_an_axis(draft, algebra, equation, position) or _of_some(
        draft, algebra, equation, position
    )


def _of_some(
    draft: Draft, algebra: Algebra, equation: Equation, position: int
) -> list[Equation] | None:
    """``(a * x + b * y) / (a + b)`` as ``a / (a + b) * x + b / (a + b) * y``."""
    atom, other = equation.inputs[position], equation.inputs[1 - position]
    summands = [*_summands(draft, atom)]
    if not 1 < len(summands) <= LONGEST or not _fits(other, atom):
        return None
    pairs = [pair for a in summands if (pair := _weighed(draft, a)) is not None]
    if len(pairs) < len(summands):
        return None
    divides = isinstance(registry.lookup(equation.primitive), Division)
    index = algebra.indices(atom.shape)
    weights = written_out(plus(*(algebra.of(w, _within(w, index)) for w, _ in pairs)))
    total = algebra.of(other, _within(other, index))
    if written_out(total if divides else power(total, -1)) != weights:
        return None
    out, new, parts = equation.outputs[0], [], []
    for weight, value in pairs:

        def share(w: Array, v: Array, s: Array) -> Array:
            return jnp.broadcast_to((w / s if divides else w * s) * v, out.shape)

        new += draft.derived(share, [weight, value, other], equation)
        parts += new[-1].outputs
    new += draft.derived(lambda *a: functools.reduce(jnp.add, a), parts, equation, out)
    return new


def _summands(draft: Draft, atom: Atom) -> Iterator[Atom]:
    """What a value is the sum of, as far as nobody else reads that."""
    queue = [atom]
    while queue:
        atom = queue.pop(0)
        maker = draft.index.maker.get(atom)
        kind = None if maker is None else registry.lookup(maker.primitive)
        adds = isinstance(kind, Addition) and kind.sign > 0 and draft.index.only_reader(atom)
        if maker is not None and adds and len(draft.index.operands(maker)) == 2:
            queue[:0] = maker.inputs
        else:
            yield atom


def _weighed(draft: Draft, atom: Atom) -> tuple[Atom, Atom] | None:
    """The exponential and the value that a summand is the product of."""
    maker = draft.index.maker.get(atom)
    if maker is None or maker.name != "mul":
        return None
    for weight, value in (maker.inputs, maker.inputs[::-1]):
        own = weight in draft.index.exponentials[0]
        if own and _fits(weight, atom) and value not in draft.index.exponentials[0]:
            return weight, value
    return None


def _fits(part: Atom, whole: Atom) -> bool:
    """Whether a value is the same along those axes that it lacks or has one entry of."""
    if not part.shape:
        return True
    pairs = zip(part.shape, whole.shape, strict=False)
    return len(part.shape) == len(whole.shape) and all(n in (1, m) for n, m in pairs)


def _within(atom: Atom, index: Index) -> Index:
    return tuple(0 if n == 1 else i for n, i in zip(atom.shape, index, strict=False))


def _over_an_axis(
    draft: Draft, algebra: Algebra, equation: Equation, position: int
) -> list[Equation] | None:
    """``(e * v).sum() / e.sum()`` as the sum of ``(e / e.sum()) * v``."""
    atom, other = equation.inputs[position], equation.inputs[1 - position]
    total = draft.index.maker.get(atom)
    product = None if total is None else draft.index.maker.get(total.inputs[0])
    if total is None or total.name != "reduce_sum" or not draft.index.only_reader(atom):
        return None
    if product is None or product.name != "mul" or other.shape != atom.shape:
        return None
    axes = total.params["axes"]
    divides = isinstance(registry.lookup(equation.primitive), Division)
    for factor, value in (product.inputs, product.inputs[::-1]):
        if factor not in draft.index.exponentials[0] or factor.shape != product.outputs[0].shape:
            continue
        index = algebra.indices(factor.shape)
        bound = [s for a, s in enumerate(index) if a in axes and isinstance(s, Symbol)]
        own = summed(algebra.of(factor, index), bound)
        free = tuple(s for a, s in enumerate(index) if a not in axes)
        if algebra.of(other, free) == (own if divides else power(own, -1)):

            def normalised(e: Array, v: Array, s: Array) -> Array:
                s = jnp.expand_dims(s, axes)
                return jnp.sum((e / s if divides else e * s) * v, axes)

            return draft.derived(normalised, [factor, value, other], equation, equation.outputs[0])
    return None
