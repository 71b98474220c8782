"""Products that are summed, as one contraction; contractions that only sum or scale, as that.

``(x[:, :, None] * w[None]).sum(1)`` is the dense layer ``x @ w``, and so is a product per head that
is then summed over the heads. ``x @ ones`` is a sum.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Iterator, Sequence, Set
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Literal, Value
from relprop.propagators.linear import Dense, Division, Multiplication
from relprop.propagators.sums import Sum
from relprop.reading.draft import Draft
from relprop.reading.numbers import is_literal
from relprop.reading.products import products_of_entries
from relprop.reading.repeats import simplified
from relprop.reading.turns import before_turns


def contracted(draft: Draft) -> None:
    """Writes each sum of products as what it is."""
    # Where groups are weighed by a contraction with scales, that is a sum of products first.
    for _ in range(2):
        if not _contracted(draft):
            return
        simplified(draft)  # A scale may have been transposed there and back.


def _contracted(draft: Draft) -> bool:
    """Whether anything was written otherwise."""
    made: dict[Equation, list[Equation]] = {}
    exponentials, _ = draft.index.exponentials
    for equation in draft.equations:
        kind = registry.lookup(equation.primitive)
        if len(equation.outputs) != 1 or equation.outputs[0] not in draft.index.dependent:
            continue
        if type(kind) is Sum:  # A sum over devices is none of axes.
            new = [*_one_contraction(draft, equation, exponentials)] or [
                *_one_layer(draft, equation)
            ]
        elif isinstance(kind, Dense) and len(draft.index.operands(equation)) == 1:
            new = [*_simpler(draft, equation)]
        else:
            continue
        if new:
            made[equation] = new
    if made:
        draft.put(made)
    return bool(made)


def _one_contraction(
    draft: Draft, equation: Equation, exponentials: Set[Atom]
) -> Iterator[Equation]:
    """The contraction that a sum of products is."""
    (value,), (out,) = equation.inputs, equation.outputs
    product, axes, order = _summed_value(draft, equation, value)
    if product is None:
        return
    kind = registry.lookup(product.primitive)
    dense = isinstance(kind, Dense)
    if dense and (
        len(draft.index.operands(product)) == 1
        or any(atom in exponentials for atom in product.inputs[:2])
    ):
        contracting, batch = product.params["dimension_numbers"]
        if contracting[0] and all(axis < len(batch[0]) for axis in axes):
            yield from draft.derived(
                functools.partial(_with_batch_summed, product, axes, order),
                product.inputs[:2],
                equation,
                out,
            )
    elif isinstance(kind, Multiplication) and not isinstance(kind, Division):
        shape = product.outputs[0].shape
        factors = [_bare(draft, atom, shape) for atom in product.inputs]
        if any(factor is None for factor in factors):
            return
        # What is summed over is in both: otherwise the weight is a mere scale of a sum.
        if not all(axis in own for _, own in factors for axis in axes):  # type: ignore[misc]
            return
        if _contracts(draft, product, factors, axes, exponentials):
            atoms, kept = zip(*factors, strict=True)  # type: ignore[arg-type]
            yield from draft.derived(
                functools.partial(_summed_product, kept, axes, order), atoms, equation, out
            )


def _one_layer(draft: Draft, equation: Equation) -> Iterator[Equation]:
    """The layer that a sum of layers is of which each was scaled: the scale is the weight's.

    ``(einsum("tgi,gio->tgo", x, w) * s[g, o]).sum(1)``, as where weights have a scale per group.
    """
    index, (value,) = draft.index, equation.inputs
    order = list(range(len(value.shape)))
    scales: list[tuple[Atom, bool, list[int]]] = []
    while True:
        maker = index.maker.get(value)
        if maker is None or index.only_reader(value) is None:
            return
        kind = registry.lookup(maker.primitive)
        operands = index.operands(maker)
        if len(operands) != 1 or len(maker.outputs) != 1:
            return
        if isinstance(kind, Dense):
            break
        if maker.name == "transpose":
            turn = maker.params["permutation"]
            order = [turn[axis] for axis in order]
            scales = [(scale, divides, [turn[a] for a in at]) for scale, divides, at in scales]
        elif isinstance(kind, Multiplication | Division) and operands[0].shape == value.shape:
            position = maker.inputs.index(operands[0])
            other, divides = maker.inputs[1 - position], isinstance(kind, Division)
            if other in index.touched or (divides and position == 1):
                return
            scales.append((other, divides, list(range(len(value.shape)))))
        else:
            return
        value = operands[0]
    side = maker.inputs.index(operands[0])
    contracting, batch = maker.params["dimension_numbers"]
    own = kind.carried(maker, 1 - side)
    summed = [order[axis] for axis in equation.params["axes"]]
    if not scales or not contracting[0] or any(axis >= len(batch[0]) for axis in summed):
        return
    shared = len(contracting[0]) + len(batch[0])
    if len(maker.inputs[1 - side].shape) == shared:
        return  # It brings nothing of its own: entries are weighed one by one.
    for scale, _, at in scales:
        places = at[len(at) - len(scale.shape) :]
        if any(n > 1 and axis not in own for n, axis in zip(scale.shape, places, strict=True)):
            return

    def layer(a: Array, b: Array, *factors: Array) -> Array:
        dtype = maker.outputs[0].dtype  # Weights may be integers.
        total = jnp.ones(maker.outputs[0].shape, dtype)
        for factor, (_, divides, at) in zip(factors, scales, strict=True):
            full = jnp.broadcast_to(jnp.asarray(factor, dtype), [total.shape[n] for n in at])
            full = full.transpose(np.argsort(at).tolist())
            total = total / full if divides else total * full
        operands = [a.astype(dtype), b.astype(dtype)]
        operands[1 - side] = kind.with_scaled_result(maker, 1 - side, operands[1 - side], total)
        kept = [axis for n, axis in enumerate(order) if n not in equation.params["axes"]]
        return _with_batch_summed(maker, summed, kept, *operands)

    atoms = [*maker.inputs[:2], *(scale for scale, _, _ in scales)]
    yield from draft.derived(layer, atoms, equation, equation.outputs[0])


def _summed_value(
    draft: Draft, equation: Equation, value: Atom
) -> tuple[Equation | None, list[int], list[int]]:
    """What alone a sum is taken of, before its axes were reordered.

    Returns:
        the equation, the axes that are summed, and the others in the order of the result.
    """
    atom, order, turns = before_turns(draft.index, value)
    maker = draft.index.maker.get(atom)
    alone = all(draft.index.only_reader(v) for v in (value, *(turn.inputs[0] for turn in turns)))
    if maker is None or not alone:
        return None, [], []
    axes = equation.params["axes"]
    return maker, [order[a] for a in axes], [n for a, n in enumerate(order) if a not in axes]


def _contracts(
    draft: Draft,
    product: Equation,
    factors: Sequence[Any],
    axes: Sequence[int],
    exponentials: Set[Atom],
) -> bool:
    """Whether a product that is then summed brings its factors together as a contraction does."""
    dependent = draft.index.operands(product)
    if len(dependent) == 1:
        position = product.inputs.index(dependent[0])
        weight = product.inputs[1 - position]
        # What was cut off from the inputs is no weight, nor is what nobody has learnt.
        if weight in draft.index.touched or is_literal(draft.index.maker, weight):
            return False
        # And it brings something of its own: `(h * mask).sum()` weighs entries one by one.
        return bool({*factors[1 - position][1]} - {*factors[position][1]})
    (a, first), (b, second) = factors
    own = {*first} - {*second}, {*second} - {*first}
    if len(dependent) != 2 or a is b or not any(own):
        return False
    # Attention to one query has a map without an axis of its own.
    return all(own) or any(
        not alone and atom in exponentials for alone, atom in zip(own, product.inputs, strict=True)
    )


def _with_batch_summed(
    product: Equation, axes: Sequence[int], order: Sequence[int], a: Array, b: Array
) -> Array:
    contracting, batch = product.params["dimension_numbers"]
    kept = [i for i in range(len(batch[0])) if i not in axes]
    numbers = (
        tuple((*contracting[side], *(batch[side][i] for i in axes)) for side in (0, 1)),
        tuple(tuple(batch[side][i] for i in kept) for side in (0, 1)),
    )
    total = lax.dot_general(
        a,
        b,
        numbers,  # type: ignore[arg-type]
        precision=product.params["precision"],
        preferred_element_type=product.params["preferred_element_type"],
    )
    return jnp.transpose(total, [sorted(order).index(axis) for axis in order])


def _bare(draft: Draft, atom: Atom, shape: tuple[int, ...]) -> tuple[Atom, tuple[int, ...]] | None:
    """A factor before it was repeated along axes, and the axes of the product that it has."""
    if isinstance(atom, Literal) or len(atom.shape) != len(shape):
        return None
    maker = draft.index.maker.get(atom)
    if maker is not None and maker.name == "broadcast_in_dim" and len(maker.inputs) == 1:
        inner, axes = maker.inputs[0], tuple(maker.params["broadcast_dimensions"])
        if isinstance(inner, Literal):
            return None
        if all(inner.shape[i] == shape[axis] for i, axis in enumerate(axes)):
            return inner, axes
    # An axis of length 1 is repeated by the product itself.
    return atom, tuple(i for i, n in enumerate(shape) if atom.shape[i] == n)


def _summed_product(
    axes_of: Sequence[tuple[int, ...]],
    summed: Sequence[int],
    order: Sequence[int],
    a: Array,
    b: Array,
) -> Array:
    names = string.ascii_letters
    # Those that are of length 1 here and longer in the product.
    arrays = (
        x.reshape([x.shape[i] for i in axes]) if x.ndim != len(axes) else x
        for x, axes in zip((a, b), axes_of, strict=True)
    )
    left, right = ("".join(names[axis] for axis in axes) for axes in axes_of)
    out = "".join(names[axis] for axis in order)
    return jnp.einsum(f"{left},{right}->{out}", *arrays)


def _simpler(draft: Draft, equation: Equation) -> Iterator[Equation]:
    """A sum or a scale that was written as a contraction."""
    contracting, batch = equation.params["dimension_numbers"]
    (value,) = draft.index.operands(equation)
    side = equation.inputs.index(value)
    other = equation.inputs[1 - side]
    if other in draft.index.touched:
        return
    own = (*contracting[1 - side], *batch[1 - side])
    bare, repeated = _once(draft, other)
    if repeated and repeated <= {*batch[1 - side]}:
        yield from draft.derived(
            functools.partial(_with_one_weight, equation, side, repeated),
            [value, bare],
            equation,
            equation.outputs[0],
        )
        return
    number = draft.index.literal(other)
    if number is not None and not batch[0]:
        yield from draft.derived(
            functools.partial(
                _repeated_sum, number, contracting[side], equation.outputs[0].shape, side == 0
            ),
            [value],
            equation,
            equation.outputs[0],
        )
    elif contracting[0] and batch[0] and len(own) == len(other.shape):
        # It brings nothing of its own: entries are weighed one by one, as by `(h * mask).sum()`.
        order = (value, other) if side == 0 else (other, value)
        yield from draft.derived(
            functools.partial(products_of_entries, contracting, batch, equation.outputs[0].shape),
            order,
            equation,
            equation.outputs[0],
        )


def _once(draft: Draft, weight: Atom) -> tuple[Atom, set[int]]:
    """A weight before it was repeated, and the axes along which it was."""
    maker = draft.index.maker.get(weight)
    if maker is None or maker.name != "broadcast_in_dim" or len(maker.inputs) != 1:
        return weight, set()
    (inner,) = maker.inputs
    to = tuple(maker.params["broadcast_dimensions"])
    alike = all(inner.shape[i] == weight.shape[o] for i, o in enumerate(to))
    if not alike or not isinstance(inner, Value):
        return weight, set()
    return inner, {*range(len(weight.shape))} - {*to}


def _with_one_weight(
    equation: Equation, side: int, repeated: Set[int], x: Array, weight: Array
) -> Array:
    """A contraction with a weight that is there once and not for each entry of a batch."""
    contracting, batch = equation.params["dimension_numbers"]
    names = iter(string.ascii_letters)
    texts, free = [], []
    shared = [next(names) for _ in (*batch[0], *contracting[0])]
    for number, atom in enumerate(equation.inputs[:2]):
        known = dict(zip((*batch[number], *contracting[number]), shared, strict=True))
        own = {axis: next(names) for axis in range(len(atom.shape)) if axis not in known}
        gone = repeated if number != side else ()
        axes = {**known, **own}
        texts.append("".join(axes[axis] for axis in sorted(axes) if axis not in gone))
        free += own.values()
    out = "".join((*shared[: len(batch[0])], *free))
    return jnp.einsum(
        f"{','.join(texts)}->{out}",
        *((x, weight) if side == 0 else (weight, x)),
        precision=equation.params["precision"],
        preferred_element_type=equation.params["preferred_element_type"],
    )


def _repeated_sum(
    number: float, axes: Sequence[int], shape: tuple[int, ...], first: bool, x: Array
) -> Array:
    """The sum over some axes times a number, for each entry that the other factor had."""
    total = x.sum(tuple(axes))
    if number != 1:
        total = total * jnp.asarray(number, x.dtype)
    rest = (1,) * (len(shape) - total.ndim)
    total = total.reshape((*total.shape, *rest) if first else (*rest, *total.shape))
    return jnp.broadcast_to(total, shape).astype(x.dtype)
