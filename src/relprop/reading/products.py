"""Products entry by entry, by factors of one origin.

An `einsum` or `vdot` without weights is a product of entries and a sum; a product along the axis of
a stack is that of its parts. What is multiplied by one over something is divided by that, and the
other way round. In ``a * (sigmoid(a) * b)`` the factors that are functions of one
value come first: ``silu(a) * b``. What is divided by the denominator of a sigmoid is multiplied by
the sigmoid.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Set

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.general import is_elementwise
from relprop.propagators.linear import Dense, Division, Multiplication
from relprop.propagators.product import Product, RunningProduct
from relprop.propagators.sums import ScatteredSum
from relprop.reading.draft import Draft
from relprop.reading.primitives import algebra_of
from relprop.reading.repeats import simplified
from relprop.reading.turns import before_moves, moved


def spelled_out(draft: Draft) -> None:
    """Writes products of entries as such."""
    made: list[Equation] = []
    changed = False
    _, sums = draft.index.exponentials
    for equation in draft.equations:
        new = [*_spelled(draft, equation, sums)]
        changed |= bool(new)
        made.extend(new or [equation])
    if changed:
        draft.replace(made, {})
        simplified(draft)  # Both factors of a square may have been moved in the same way.


def _spelled(draft: Draft, equation: Equation, sums: Set[Atom]) -> Iterator[Equation]:
    kind = registry.lookup(equation.primitive)
    if not equation.outputs or equation.outputs[0] not in draft.index.dependent:
        return
    if isinstance(kind, Dense) and len(draft.index.operands(equation)) == 2:
        (contracting, batch) = equation.params["dimension_numbers"]
        shared = [{*contracting[side], *batch[side]} for side in (0, 1)]
        # Without a sum over what both have, an axis of one entry is none of its own.
        bare = [
            all(n == 1 and not contracting[0] for i, n in enumerate(a.shape) if i not in of_both)
            for a, of_both in zip(equation.inputs, shared, strict=True)
        ]
        # Attention stays a product with a map, of which something is summed.
        summed = contracting[0] and any(bare) and equation.inputs[bare.index(True)] in sums
        if all(bare) or (any(bare) and not summed):
            yield from draft.derived(
                functools.partial(
                    products_of_entries, contracting, batch, equation.outputs[0].shape
                ),
                equation.inputs,
                equation,
                equation.outputs[0],
            )
    elif isinstance(kind, Product) and not isinstance(kind, RunningProduct):
        parts = _parts(draft, equation.inputs[0], tuple(equation.params.get("axes", ())))
        if 1 < len(parts) <= 4:
            shape = equation.outputs[0].shape
            yield from draft.derived(
                lambda *arrays: functools.reduce(
                    operator.mul, (jnp.reshape(array, shape) for array in arrays)
                ),
                parts,
                equation,
                equation.outputs[0],
            )
    elif isinstance(kind, ScatteredSum) and _is_everywhere(equation):
        target, _, updates = equation.inputs
        yield from draft.derived(
            lambda a, b: a - b if kind.sign < 0 else a + b,
            [target, updates],
            equation,
            equation.outputs[0],
        )
    elif equation.name == "scatter" and (padding := _set_into_zeros(draft, equation)):
        yield from draft.derived(
            lambda x: lax.pad(x, jnp.zeros((), x.dtype), padding),
            [equation.inputs[2]],
            equation,
            equation.outputs[0],
        )
    elif isinstance(kind, Multiplication | Division):
        yield from _quotient(draft, equation)


def _quotient(draft: Draft, equation: Equation) -> Iterator[Equation]:
    """A product with one over something as a quotient, and the other way round."""
    divided = isinstance(registry.lookup(equation.primitive), Division)
    found = _upside_down(draft, equation)
    if found is not None:
        kept, inverse, divides = found
        yield from draft.derived(
            (lambda a, b: a / b) if divides else (lambda a, b: a * b),
            [kept, inverse],
            equation,
            equation.outputs[0],
        )
    elif divided and equation.inputs[1] in draft.index.dependent:
        signal, denominator = equation.inputs
        constant = draft.index.number(signal) is not None
        if not constant and signal.shape and _of_sigmoid(draft, denominator):
            before, moves = before_moves(draft.index, denominator)

            def times_sigmoid(x: Array, y: Array) -> Array:
                return x * moved(jnp.ones((), y.dtype) / y, moves)

            yield from draft.derived(times_sigmoid, [signal, before], equation, equation.outputs[0])


def _upside_down(draft: Draft, equation: Equation) -> tuple[Atom, Atom, bool] | None:
    """Of `a * (1 / b)` and `a / (1 / b)` the a, the b, and whether it is a quotient then."""
    divided = isinstance(registry.lookup(equation.primitive), Division)
    if len(draft.index.operands(equation)) != 2:
        return None
    pairs = [equation.inputs] if divided else [equation.inputs, equation.inputs[::-1]]
    for kept, other in pairs:
        below = _reciprocal(draft, other)
        if below is None or below.shape != other.shape or below.dtype != other.dtype:
            continue
        if not divided and _of_sigmoid(draft, below):
            continue  # One over 1 + exp(-a) is a gate, and not what something is divided by.
        return kept, below, not divided
    return None


def _reciprocal(draft: Draft, atom: Atom) -> Atom | None:
    """What a value is one over, if that is how it was made."""
    index = draft.index
    maker = index.maker.get(atom)
    if maker is None or atom not in index.dependent:
        return None
    below: Atom | None = None
    if maker.name == "div" and index.number(maker.inputs[0]) == 1:
        below = maker.inputs[1]
    elif maker.name == "integer_pow" and maker.params["y"] == -1:
        below = maker.inputs[0]
    elif maker.name == "pow" and index.number(maker.inputs[1]) == -1:
        below = maker.inputs[0]
    elif maker.name == "exp":  # exp(-log(b))
        minus = index.maker.get(maker.inputs[0])
        logarithm = None if minus is None else index.maker.get(minus.inputs[0])
        if minus is not None and minus.name == "neg" and logarithm is not None:
            below = logarithm.inputs[0] if logarithm.name == "log" else None
    return below if below in index.dependent else None


def _parts(draft: Draft, atom: Atom, axes: tuple[int, ...]) -> list[Atom]:
    """What was stacked along an axis."""
    stack = draft.index.maker.get(atom)
    if stack is None or len(axes) != 1:
        return []
    if stack.name == "stack" and stack.params["axis"] == axes[0]:
        return list(stack.inputs)
    along = stack.name == "concatenate" and stack.params["dimension"] == axes[0]
    return list(stack.inputs) if along and all(a.shape[axes[0]] == 1 for a in stack.inputs) else []


def products_of_entries(contracting, batch, shape, a: Array, b: Array) -> Array:
    """The product of two arrays of which one has no axes of its own, summed over some."""
    count, summed = len(batch[0]), len(contracting[0])
    arrays = []
    for side, array in enumerate((a, b)):
        shared = [*batch[side], *contracting[side]]
        free = [axis for axis in range(array.ndim) if axis not in shared]
        array = jnp.transpose(array, (*shared, *free))
        whole = all(n == 1 for n in array.shape[len(shared) :])
        arrays.append(array.reshape(array.shape[: len(shared)]) if whole else array)
    rank = max(array.ndim for array in arrays)
    a, b = (array.reshape((*array.shape, *(1,) * (rank - array.ndim))) for array in arrays)
    product = a * b
    product = product.sum(tuple(range(count, count + summed))) if summed else product
    return product.reshape(shape) if product.shape != shape else product


def _is_everywhere(equation: Equation) -> bool:
    """Whether something is added to all entries of an array, each in its place."""
    target, indices, updates = equation.inputs
    numbers = equation.params["dimension_numbers"]
    return (
        updates.shape == target.shape
        and not indices.shape[-1]
        and numbers.update_window_dims == tuple(range(len(target.shape)))
    )


def _set_into_zeros(draft: Draft, equation: Equation) -> list[tuple[int, int, int]] | None:
    """The zeros around a value that is put into an array of them, in one piece."""
    target, indices, updates = equation.inputs
    numbers = equation.params["dimension_numbers"]
    start = draft.known(indices)
    whole = numbers.update_window_dims == tuple(range(len(target.shape)))
    if start is None or start.ndim != 1 or not whole or draft.index.number(target) != 0:
        return None
    low = dict(zip(numbers.scatter_dims_to_operand_dims, start.tolist(), strict=True))
    sizes = enumerate(zip(target.shape, updates.shape, strict=True))
    around = [(int(low.get(i, 0)), n - m - int(low.get(i, 0)), 0) for i, (n, m) in sizes]
    return around if all(a >= 0 and b >= 0 for a, b, _ in around) else None


def _of_sigmoid(draft: Draft, atom: Atom) -> bool:
    """Whether a value is 1 + exp(a), or one over a sigmoid, perhaps for several entries."""
    atom, _ = before_moves(draft.index, atom)
    equation = draft.index.maker.get(atom)
    if equation is None or equation.name not in ("add", "div", "mul", "exp"):
        return False
    algebra = algebra_of(draft.index.maker.get, draft.index.number)
    index = algebra.indices(atom.shape)
    term = algebra.of(atom, index)
    # 1 + c exp(a), after common factors were taken out.
    if len(term) == 1:
        (product,) = term
        sums = [base for base, power in product if base[0] == "add" and power == 1]
        return len(sums) == 1 and _is_one_plus(dict(sums[0][1]))
    return _is_one_plus(term)


def _is_one_plus(term: dict) -> bool:
    others = [product for product in term if product]
    return len(term) == 2 and len(others) == 1 and all(base[0] == "exp" for base, _ in others[0])


def regrouped(draft: Draft) -> None:
    """Multiplies factors of one origin first."""
    inside: set[Value] = set()
    known: dict[Atom, Atom] = {}
    made: dict[Equation, list[Equation]] = {}
    for equation in reversed(draft.equations):
        if len(equation.outputs) != 1 or equation.outputs[0] in inside:
            continue
        if not _is_product(draft, equation):
            continue
        factors = _factors(draft, equation, inside)
        if len(factors) < 3:
            continue
        origins = [_origin(draft, factor, known) for factor in factors]
        groups: dict[Atom, list[Value]] = {}
        for factor, origin in zip(factors, origins, strict=True):
            groups.setdefault(origin, []).append(factor)
        if 1 < len(groups) < len(factors):
            made[equation] = [
                *draft.derived(
                    functools.partial(_grouped, [len(g) for g in groups.values()]),
                    [factor for group in groups.values() for factor in group],
                    equation,
                    equation.outputs[0],
                )
            ]
    if made:
        draft.put(made)


def _grouped(sizes: list[int], *factors: Array) -> Array:
    supply = iter(factors)
    groups = [functools.reduce(operator.mul, [next(supply) for _ in range(n)]) for n in sizes]
    return functools.reduce(operator.mul, groups)


def _is_product(draft: Draft, equation: Equation) -> bool:
    kind = registry.lookup(equation.primitive)
    operands = draft.index.operands(equation)
    return (
        isinstance(kind, Multiplication)
        and len(operands) == 2
        and operands[0].shape == operands[1].shape == equation.outputs[0].shape
    )


def _factors(draft: Draft, product: Equation, inside: set[Value]) -> list[Value]:
    """The factors of a product, as far as nobody else reads what is multiplied."""
    found: list[Value] = []
    queue = draft.index.operands(product)[::-1]
    inside.update(product.outputs)
    while queue:
        value = queue.pop()
        equation, reader = draft.index.maker.get(value), draft.index.only_reader(value)
        # A square is taken as it is: one of a square of a square has ever more factors.
        alone = reader is not None and reader.inputs.count(value) == 1
        if equation is not None and alone and _is_product(draft, equation):
            inside.add(value)
            queue.extend(draft.index.operands(equation)[::-1])
        else:
            found.append(value)
    return found


def _origin(draft: Draft, value: Value, known: dict[Atom, Atom]) -> Atom:
    """The value that a factor is a function of, entry by entry; `known` has those found so far."""
    atom: Atom = value
    passed: list[Atom] = []
    while atom not in known:
        passed.append(atom)
        equation = draft.index.maker.get(atom)
        operands = [] if equation is None else draft.index.operands(equation)
        if equation is None or len(operands) != 1 or operands[0].shape != value.shape:
            break
        constant = [a for a in equation.inputs if a not in operands]
        if not is_elementwise(equation) or any(draft.index.number(a) is None for a in constant):
            break
        atom = operands[0]
    known.update(dict.fromkeys(passed, known.get(atom, atom)))
    return known[value]
