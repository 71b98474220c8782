"""A normalisation comes before what is linear in its result.

Attention may divide by the sum of its exponentials after these have been multiplied with the
values, ``(e @ v) / e.sum()``, as flash attention does; the sum may be the product with a column of
ones in v; two blocks of keys may be merged by how much each of them weighs. In the normal form the
attention map is there, ``(e / e.sum()) @ v``, and each block has its part of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence, Set

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation
from relprop.propagators.linear import Addition, Dense, Division, Multiplication
from relprop.reading.algebra import Algebra
from relprop.reading.averages import averaged
from relprop.reading.draft import Draft
from relprop.reading.exponentials import EXPONENTIALS
from relprop.reading.pieces import widened
from relprop.reading.primitives import algebra_of
from relprop.reading.terms import (
    ONE,
    Symbol,
    Term,
    as_one,
    mentions,
    power,
    summed,
)
from relprop.reading.turns import before_turns


def normalised_first(draft: Draft) -> None:
    """Divides exponentials by their sum before they are multiplied with something else."""
    names = {equation.name for equation in draft.equations}
    if not names.intersection(EXPONENTIALS):
        return
    _merged_blocks(draft)
    _interpolations(draft)
    while _one_normalised(draft):
        pass


def _one_normalised(draft: Draft) -> bool:
    algebra = algebra_of(draft.index.maker.get, draft.index.number)
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
            if _rescaled_later(draft, equation, position):
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
                    draft.put({equation: new})
                    return True
            new = averaged(draft, algebra, equation, position)
            if new is not None:
                draft.put({equation: new})
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


def _merged_blocks(draft: Draft) -> None:
    """Writes the sum of what has been stacked, each part with its weight, as the sum it is."""
    exponentials, sums = draft.index.exponentials
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if not any(out in draft.index.dependent for out in equation.outputs):
            continue
        if equation.name == "reduce_sum" and len(equation.params["axes"]) == 1:
            product, (axis,) = draft.index.maker.get(equation.inputs[0]), equation.params["axes"]
            if product is None or product.name != "mul":
                continue
            own, batch = (axis, axis), ()
        elif isinstance(registry.lookup(equation.primitive), Dense):
            contracting, batch = equation.params["dimension_numbers"]
            if len(contracting[0]) != 1:
                continue
            product, own = equation, (*contracting[0], *contracting[1])
        else:
            continue
        for side in (0, 1):
            weight, stack = product.inputs[side], draft.index.maker.get(product.inputs[1 - side])
            if stack is None or stack.name != "stack" or weight not in sums:
                continue
            if stack.params["axis"] != own[1 - side] or not weight.shape:
                continue
            if not all(_is_of_products(draft, part) for part in stack.inputs):
                continue
            entry = _weighed(equation, side, own[side], batch)
            if entry is not None:
                made[equation] = draft.derived(
                    entry, (weight, *stack.inputs), equation, equation.outputs[0]
                )
                break
    if made:
        draft.put(made)


def _weighed(
    equation: Equation, side: int, axis: int, batch: Sequence[Sequence[int]]
) -> Callable[..., Array] | None:
    """The sum of parts, each with its own entry of weights, as a sum or a contraction has it."""
    shape = equation.outputs[0].shape
    if not batch:

        def summed_entries(weights: Array, *parts: Array) -> Array:
            each = (lax.index_in_dim(weights, i, axis, keepdims=False) for i in range(len(parts)))
            return functools.reduce(jnp.add, (p * w for p, w in zip(parts, each, strict=True)))

        return summed_entries
    own, other = batch[side], batch[1 - side]
    if len(own) != len(equation.inputs[side].shape) - 1:
        return None
    (summed_axis,) = equation.params["dimension_numbers"][0][1 - side]
    rank = len(equation.inputs[1 - side].shape)
    free = [a for a in range(rank) if a not in other and a != summed_axis]
    order = [a - (a > summed_axis) for a in (*other, *free)]
    turned = [a - (a > axis) for a in own]

    def contracted(weights: Array, *parts: Array) -> Array:
        total = None
        for i, part in enumerate(parts):
            w = jnp.transpose(lax.index_in_dim(weights, i, axis, keepdims=False), turned)
            w = w.reshape((*w.shape, *[1] * len(free)))
            weighed = jnp.transpose(part, order) * w
            total = weighed if total is None else total + weighed
        assert total is not None and total.shape == shape
        return total

    return contracted


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
    if not all(_is_of_products(draft, part) for part in maker.inputs):
        return None
    return maker


def _is_of_products(draft: Draft, atom: Atom) -> bool:
    """Whether a value is a product, a sum of such, or one of these times exponentials."""
    maker = draft.index.maker.get(atom)
    while maker is not None and maker.name in _UNDONE:
        maker = draft.index.maker.get(maker.inputs[0])
    kind = None if maker is None else registry.lookup(maker.primitive)
    if isinstance(kind, Multiplication) and not isinstance(kind, Division):
        assert maker is not None
        return _scale_of_products(draft, maker) is not None
    return isinstance(kind, Dense | Addition)


def _scale_of_products(draft: Draft, equation: Equation) -> tuple[Atom, Atom] | None:
    """Of a sum of products that is multiplied with exponentials the sum, and what scales it."""
    exponentials, sums = draft.index.exponentials
    for value, scale in (equation.inputs, equation.inputs[::-1]):
        # Exponentials scale whole rows; those that are multiplied with values make products.
        if scale in exponentials | sums and _is_of_products(draft, value):
            return None if _is_of_products(draft, scale) else (value, scale)
    return None


def _rescaled_later(draft: Draft, equation: Equation, position: int) -> bool:
    """Reads ``(o * c) / s`` as ``o * (c / s)``: what flash attention has summed, and its scale."""
    value = equation.inputs[position]
    scaled = draft.index.maker.get(value)
    kind = None if scaled is None else registry.lookup(scaled.primitive)
    if not isinstance(kind, Multiplication) or isinstance(kind, Division):
        return False
    found = _scale_of_products(draft, scaled) if draft.index.only_reader(value) else None  # type: ignore[arg-type]
    if found is None:
        return False
    inner, scale = found
    divides = isinstance(registry.lookup(equation.primitive), Division)
    new = draft.derived(
        lambda c, s: c / s if divides else c * s, [scale, equation.inputs[1 - position]], equation
    )
    out = equation.outputs[0]
    new += draft.derived(lambda o, c: o * c, [inner, new[-1].outputs[0]], equation, out)
    draft.put({equation: new})
    return True


def _distributed(draft: Draft, equation: Equation, position: int, total: Equation) -> None:
    """Divides the summands instead of their sum."""
    other = equation.inputs[1 - position]
    new: list[Equation] = []
    for part in total.inputs:
        inputs = [part, other] if position == 0 else [other, part]
        new.append(draft.again(equation, inputs, None))
    parts = [divided.outputs[0] for divided in new]
    new.append(draft.again(total, parts, equation.outputs[0]))
    draft.put({equation: new})


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
    # It may be one of several blocks; axes that were folded apart are summed as one.
    sums = {(len(bound), _shape(part)) for part in (inside, widened(inside))}
    (total,) = summed({inside: 1.0}, bound)
    sums |= {(len(base[1]), _shape(base[2])) for base, _ in total if base[0] == "sum"}
    for base, exponent in factors:
        inner = [frozenset({(base, 1.0)})] if base[0] != "add" else [p for p, _ in base[1]]
        for part in inner:
            for own, p in part:
                if own[0] == "sum" and p == 1:
                    if base[0] == "sum" and exponent * sign != -1:
                        continue
                    if (len(own[1]), _shape(own[2])) in sums:
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
    factor, order, turns = before_turns(draft.index, product.inputs[found.position])
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


def _by_own_sum(
    draft: Draft, algebra: Algebra, equation: Equation, position: int, found: _Found
) -> list[Equation] | None:
    """The same where the sum is a column of the product: written as the sum that it is."""
    other, product = equation.inputs[1 - position], found.product
    if not _is_made_of(draft, other, product.outputs[0]):
        return None
    factor, order, turns = before_turns(draft.index, product.inputs[found.position])
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
    draft: Draft, equation: Equation, found: _Found, turns: Sequence[Equation], new: list[Equation]
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
