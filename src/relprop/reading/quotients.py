"""A normalisation comes before what is linear in its result.

Attention may divide by the sum of its exponentials after these have been multiplied with the
values, ``(e @ v) / e.sum()``, as flash attention does; the sum may be the product with a column of
ones in v; two blocks of keys may be merged by how much each of them weighs. In the normal form the
attention map is there, ``(e / e.sum()) @ v``, and each block has its part of it.

The logarithm of a sum of exponentials is read with the shift of their arguments, so that
``(z - m) - log(sum(exp(z - m)))`` is ``z - logsumexp(z)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Set

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation
from relprop.propagators.general import is_move
from relprop.propagators.linear import Addition, Dense, Division, Multiplication
from relprop.reading.draft import Draft
from relprop.reading.exponentials import EXPONENTIALS
from relprop.reading.terms import (
    ONE,
    Algebra,
    Index,
    Symbol,
    Term,
    as_one,
    mentions,
    plus,
    power,
    summed,
)


def normalised_first(draft: Draft) -> None:
    """Divides exponentials by their sum before they are multiplied with something else."""
    names = {equation.name for equation in draft.equations}
    if not names.intersection(EXPONENTIALS):
        return
    _interpolations(draft)
    while _one_normalised(draft):
        pass


def _one_normalised(draft: Draft) -> bool:
    algebra = Algebra(draft.index.maker.get, draft.index.number)
    _, sums = draft.index.exponentials
    for equation in draft.equations:
        kind = registry.lookup(equation.primitive)
        if not isinstance(kind, Multiplication | Division) or len(equation.inputs) != 2:
            continue
        if len(draft.index.operands(equation)) != 2:
            continue
        for position in (0, 1):
            if isinstance(kind, Division) and position == 1:
                continue
            other = equation.inputs[1 - position]
            if other not in sums:
                continue
            if _is_one(algebra, other) and _dropped(draft, equation, position):
                return True
            parts = _sum_of_products(draft, equation.inputs[position])
            if parts is not None:
                _distributed(draft, equation, position, parts)
                return True
            found = _product(draft, algebra, equation, position)
            if found is not None:
                new = _by_own_sum(draft, algebra, equation, position, found)
                new = new or _moved(draft, equation, position, found)
                if new is not None:
                    at = draft.equations.index(equation)
                    rest = draft.equations[at + 1 :]
                    draft.replace([*draft.equations[:at], *new, *rest], {})
                    return True
    return False


def _is_one(algebra: Algebra, atom: Atom) -> bool:
    """Whether a value is 1 in any case, as the sum of a softmax is."""
    term = algebra.of(atom, algebra.indices(atom.shape))
    return set(term) == {ONE} and abs(term[ONE] - 1.0) < 1e-6


def _dropped(draft: Draft, equation: Equation, position: int) -> bool:
    """Reads a value that is divided by 1 as that value, where that can be done."""
    value, (out,) = equation.inputs[position], equation.outputs
    if out in draft.visible or value.shape != out.shape or value.dtype != out.dtype:
        return False
    draft.replace([e for e in draft.equations if e is not equation], {out: value})
    return True


def _interpolations(draft: Draft) -> None:
    """Writes ``a - w * (a - b)`` as ``(1 - w) * a + w * b`` where w says what blocks weigh."""
    index = draft.index
    _, sums = draft.index.exponentials
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        kind = registry.lookup(equation.primitive)
        if not isinstance(kind, Addition) or len(index.operands(equation)) != 2:
            continue
        for start, product in (equation.inputs, equation.inputs[::-1]):
            found = _weighed_difference(draft, product, start, sums)
            if found is None or (kind.sign < 0 and product is equation.inputs[0]):
                continue
            weight, other, forward = found
            if forward is (kind.sign > 0):
                made[equation] = draft.derived(
                    lambda a, b, x: a * lax.logistic(-x) + b * lax.logistic(x),
                    [start, other, weight],
                    equation,
                    equation.outputs[0],
                )
    if made:
        draft.put(made)


def _weighed_difference(
    draft: Draft, atom: Atom, start: Atom, sums: Set[Atom]
) -> tuple[Atom, Atom, bool] | None:
    """Of ``sigmoid(x) * (b - a)`` the x and the b, and whether it is that or ``a - b``."""
    product = draft.index.maker.get(atom)
    if product is None or product.name != "mul" or not draft.index.only_reader(atom):
        return None
    for weight, difference in (product.inputs, product.inputs[::-1]):
        sigmoid = draft.index.maker.get(weight)
        minus = draft.index.maker.get(difference)
        if weight not in sums or sigmoid is None or sigmoid.name != "logistic":
            continue
        if minus is not None and minus.name == "sub" and start in minus.inputs:
            forward = minus.inputs[1] is start
            return sigmoid.inputs[0], minus.inputs[0 if forward else 1], forward
    return None


def _sum_of_products(draft: Draft, atom: Atom) -> Equation | None:
    """The sum that a value is, if both of its summands are products."""
    maker = draft.index.maker.get(atom)
    if maker is None or not isinstance(registry.lookup(maker.primitive), Addition):
        return None
    if not draft.index.only_reader(atom) or len(draft.index.operands(maker)) != 2:
        return None
    for part in maker.inputs:
        inner = draft.index.maker.get(part)
        while inner is not None and inner.name in _UNDONE:
            inner = draft.index.maker.get(inner.inputs[0])
        kind = None if inner is None else registry.lookup(inner.primitive)
        if not isinstance(kind, Dense | Addition):
            return None
    return maker


def _distributed(draft: Draft, equation: Equation, position: int, total: Equation) -> None:
    """Divides the summands instead of their sum."""
    other = equation.inputs[1 - position]
    new: list[Equation] = []
    for part in total.inputs:
        inputs = [part, other] if position == 0 else [other, part]
        new.append(draft.again(equation, inputs, None))
    parts = [divided.outputs[0] for divided in new]
    new.append(draft.again(total, parts, equation.outputs[0]))
    at = draft.equations.index(equation)
    draft.replace([*draft.equations[:at], *new, *draft.equations[at + 1 :]], {})


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
    """A product with exponentials, and what was done to its result before it was divided.

    Attributes:
        product: the product.
        position: which of its factors are the exponentials.
        moves: what was done to the result, in order.
    """

    product: Equation
    position: int
    moves: tuple[Equation, ...]


def _product(draft: Draft, algebra: Algebra, equation: Equation, position: int) -> _Found | None:
    """The product that an operand of a quotient is, if what it is divided by is its own sum."""
    moves: list[Equation] = []
    atom = equation.inputs[position]
    while (maker := draft.index.maker.get(atom)) is not None and len(maker.outputs) == 1:
        if isinstance(registry.lookup(maker.primitive), Dense):
            return _check(draft, algebra, equation, position, maker, moves)
        if maker.name not in _UNDONE or not draft.index.only_reader(atom):
            return None
        moves.insert(0, maker)
        (atom,) = maker.inputs
    return None


_UNDONE = (
    "transpose",
    "reshape",
    "squeeze",
    "expand_dims",
    "slice",
    "convert_element_type",
    "copy",
)


def _check(
    draft: Draft,
    algebra: Algebra,
    equation: Equation,
    position: int,
    product: Equation,
    moves: list[Equation],
) -> _Found | None:
    """The product with its factor of exponentials, if what it is divided by is their sum."""
    kind = registry.lookup(equation.primitive)
    other = equation.inputs[1 - position]
    # A sum of blocks as one factor.
    weight = as_one(algebra.of(other, algebra.indices(other.shape)))
    if len(weight) != 1:
        return None
    (factors,) = weight
    sign = -1 if isinstance(kind, Division) else 1
    contracting, _ = product.params["dimension_numbers"]
    for side in (0, 1):
        if product.inputs[side] not in draft.index.dependent:
            continue
        index = algebra.indices(product.inputs[side].shape)
        term = algebra.of(product.inputs[side], index)
        bound = [index[a] for a in contracting[side] if isinstance(index[a], Symbol)]
        if len(term) == 1 and bound and _is_normaliser(term, factors, bound, sign):
            return _Found(product, side, tuple(moves))
    return None


def _is_normaliser(term: Term, factors: frozenset, bound: list[Symbol], sign: int) -> bool:
    """Whether what a product is divided by is, or holds, the sum of one of its factors."""
    (above,) = term
    inside = frozenset(pair for pair in above if mentions(pair, bound))
    if not any(base[0] == "exp" for base, _ in inside):
        return False
    for base, exponent in factors:
        inner = [frozenset({(base, 1.0)})] if base[0] != "add" else [p for p, _ in base[1]]
        for part in inner:
            for own, p in part:
                if own[0] == "sum" and p == 1 and len(own[1]) == len(bound):
                    if base[0] == "sum" and exponent * sign != -1:
                        continue
                    if _shape(own[2]) == _shape(inside):
                        return True
    return False


def _shape(thing: object) -> object:
    """A product without the names of its indices: what it is made of."""
    if isinstance(thing, Symbol):
        return thing.size
    if isinstance(thing, frozenset):
        return frozenset(_shape(part) for part in thing)
    if isinstance(thing, tuple):
        return tuple(_shape(part) for part in thing)
    return thing


def _moved(draft: Draft, equation: Equation, position: int, found: _Found) -> list[Equation] | None:
    """The equations that divide first and multiply then."""
    product, kind = found.product, registry.lookup(equation.primitive)
    dense = registry.lookup(product.primitive)
    assert isinstance(dense, Dense)
    carried = dense.carried(product, found.position)
    factor, turns, order = _before_turns(draft, product.inputs[found.position])
    back = np.argsort(order).tolist()
    sizes = product.inputs[found.position].shape
    weight = equation.inputs[1 - position]
    shape = np.broadcast_shapes(weight.shape, equation.outputs[0].shape)
    (result,) = product.outputs
    moves = found.moves

    def divided(e: Array, w: Array) -> Array:
        w = jnp.broadcast_to(w, shape)
        for move in reversed(moves):
            w = _undone(move, w)
        # It is the same for all that the other factor brings: the first entry stands for it.
        kept = [axis for axis in carried if axis is not None]
        w = w[tuple(slice(None) if a in kept else 0 for a in range(len(result.shape)))]
        w = jnp.transpose(w, [sorted(kept).index(axis) for axis in kept])
        w = w.reshape([1 if axis is None else n for n, axis in zip(sizes, carried, strict=True)])
        w = jnp.transpose(jnp.broadcast_to(w, sizes), back)
        return e / w if isinstance(kind, Division) else e * w

    new = draft.derived(divided, [factor, weight], equation)
    return _multiplied(draft, equation, found, turns, new)


def _before_turns(draft: Draft, atom: Atom) -> tuple[Atom, list[Equation], list[int]]:
    """A value before it was transposed, how it was, and which of its axes each axis was then."""
    turns: list[Equation] = []
    order = list(range(len(atom.shape)))
    while (maker := draft.index.maker.get(atom)) is not None and maker.name == "transpose":
        order = [maker.params["permutation"][axis] for axis in order]
        turns.insert(0, maker)
        (atom,) = maker.inputs
    return atom, turns, order


def _by_own_sum(
    draft: Draft, algebra: Algebra, equation: Equation, position: int, found: _Found
) -> list[Equation] | None:
    """The same where the sum is a column of the product: written as the sum that it is."""
    other, product = equation.inputs[1 - position], found.product
    if not _is_made_of(draft, other, product.outputs[0]):
        return None
    factor, turns, order = _before_turns(draft, product.inputs[found.position])
    axes = tuple(order[axis] for axis in product.params["dimension_numbers"][0][found.position])
    index = algebra.indices(factor.shape)
    bound = [index[axis] for axis in axes if isinstance(index[axis], Symbol)]
    divided = isinstance(registry.lookup(equation.primitive), Division)
    total = power(summed(algebra.of(factor, index), bound), 1 if divided else -1)
    weight = algebra.of(other, algebra.indices(other.shape))
    if _shape(frozenset(weight.items())) != _shape(frozenset(total.items())):
        return None
    new = draft.derived(lambda e: e / e.sum(axes, keepdims=True), [factor], equation)
    return _multiplied(draft, equation, found, turns, new)


def _is_made_of(draft: Draft, atom: Atom, source: Atom) -> bool:
    """Whether a value has been taken out of another one."""
    while atom is not source:
        maker = draft.index.maker.get(atom)
        operands = [] if maker is None else draft.index.operands(maker)
        if len(operands) != 1:
            return False
        (atom,) = operands
    return True


def _multiplied(
    draft: Draft, equation: Equation, found: _Found, turns: list[Equation], new: list[Equation]
) -> list[Equation]:
    """The equations that divide, and then those that multiply what they made."""
    product = found.product
    for turn in turns:
        new.append(draft.again(turn, [new[-1].outputs[0]], None))
    inputs = list(product.inputs)
    inputs[found.position] = new[-1].outputs[0]
    chain = [product, *found.moves]
    for number, step in enumerate(chain):
        last = number == len(chain) - 1
        operands = inputs if number == 0 else [new[-1].outputs[0]]
        new.append(draft.again(step, operands, equation.outputs[0] if last else None))
    return new


def _undone(move: Equation, array: Array) -> Array:
    """An array before a move; what a slice has dropped is like what it kept."""
    shape = move.inputs[0].shape
    if move.name == "transpose":
        return jnp.transpose(array, np.argsort(move.params["permutation"]).tolist())
    if move.name == "slice":
        picked = [
            slice(None) if n == m else slice(0, 1) for n, m in zip(array.shape, shape, strict=True)
        ]
        return jnp.broadcast_to(array[tuple(picked)], shape)
    return lax.reshape(array, shape).astype(move.inputs[0].dtype)


def shifted_back(draft: Draft) -> None:
    """Reads the logarithm of a sum of exponentials with the shift of their arguments."""
    if not any(equation.name == "log" for equation in draft.equations):
        return
    algebra = Algebra(draft.index.maker.get, draft.index.number)
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        kind = registry.lookup(equation.primitive)
        if not (isinstance(kind, Addition) and kind.sign < 0) or len(equation.inputs) != 2:
            continue
        shifted, logarithm = equation.inputs
        before = draft.index.maker.get(shifted)
        if before is None or before.name != "sub" or not _is_log(draft, logarithm):
            continue
        argument, shift = before.inputs
        if argument not in draft.index.dependent or argument.shape != equation.outputs[0].shape:
            continue
        index = algebra.indices(equation.outputs[0].shape)
        own = algebra.of(logarithm, _within(logarithm, index))
        more = algebra.of(shift, _within(shift, index))
        if more and len(plus(own, more)) == len(own) - len(more):
            made[equation] = draft.derived(
                lambda z, y, m: z - (y + m),
                [argument, logarithm, shift],
                equation,
                equation.outputs[0],
            )
    if made:
        draft.put(made)


def _is_log(draft: Draft, atom: Atom) -> bool:
    """Whether a value that depends on the inputs is a logarithm, perhaps moved about."""
    while atom in draft.index.dependent:
        maker = draft.index.maker.get(atom)
        if maker is None or maker.name == "log":
            return maker is not None
        if not is_move(maker) or len(maker.inputs) != 1:
            return False
        (atom,) = maker.inputs
    return False


def _within(atom: Atom, index: Index) -> Index:
    return (
        tuple(0 if n == 1 else i for n, i in zip(atom.shape, index, strict=True))
        if atom.shape
        else ()
    )
