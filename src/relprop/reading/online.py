r"""Sums that a loop keeps in range are sums: softmax over keys in chunks, as in flash attention.

A loop over chunks of keys doesn't know the largest score before it has seen all. It carries the
largest so far, and scales what it has summed whenever that grows:

.. math:: a' = a\, e^{m - m'} + \sum_k e^{s_k - m'} u_k .

So :math:`a' e^{m'} = a e^{m} + \sum_k e^{s_k} u_k`, whatever m is, and in the end a is the sum over
all chunks, shifted by the last m. That is how it is read. The algebra proves it, not the names.

Sums without a shift are those of `folds`.

Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2022.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Set
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from relprop import _compat
from relprop._core import registry
from relprop._core.control import Scan
from relprop._core.graph import Atom, Equation, Graph, Value, computed_from
from relprop.propagators.linear import Addition
from relprop.reading.algebra import Algebra
from relprop.reading.draft import Draft
from relprop.reading.folds import folds
from relprop.reading.loop import Loop, algebra_of_turn
from relprop.reading.terms import Index, Product, leaf, values
from relprop.reading.written import written


def summed_at_once(draft: Draft) -> None:
    """Reads what loops sum up under a shift that they carry as the sum of all turns."""
    made: list[Equation] = []
    same: dict[Value, Atom] = {}
    for equation in draft.equations:
        made.append(equation)
        for out, new in _sums(draft, equation):
            made.extend(new)
            same[out] = new[-1].outputs[0]
    if same:
        draft.replace(made, same)


class _Sum(NamedTuple):
    """What a loop sums up.

    Attributes:
        carry: which of the values that are carried it is.
        added: what each turn adds.
        shift: which of the values that are carried it is shifted by.
        largest: what that is the largest of, if it is.
    """

    carry: int
    added: Value
    shift: int
    largest: Value | None


def _has_exponentials(body: Graph) -> bool:
    return any(
        inner.name in ("exp", "exp2") or any(map(_has_exponentials, inner.bodies))
        for inner in body.equations
    )


def _sums(draft: Draft, equation: Equation) -> Iterator[tuple[Value, list[Equation]]]:
    """The sums that a loop returns, with equations that compute them from all turns at once."""
    if not isinstance(registry.lookup(equation.primitive), Scan) or equation.has_effects:
        return
    consts, carried = _compat.scan_sizes(equation.params)
    if not carried or registry.unrepeatable(equation) or draft.closed(equation):
        return
    loop = Loop(draft, equation)
    free = (*equation.inputs[:consts], *equation.inputs[consts + carried :])
    # The exponential of a shift is what gives one away.
    exponentials = _has_exponentials(loop.body)
    for carry, folded in (*folds(draft, loop, exponentials), *written(loop)):
        out = equation.outputs[carry]
        if out in draft.index.dependent and out not in draft.visible:
            yield out, draft.derived(folded, [*free, loop.given[carry]], equation)
    if not exponentials:
        return
    shifts: set[Value] = set()
    for found in _carried_sums(draft, loop):
        out, shift = equation.outputs[found.carry], equation.outputs[found.shift]
        if out not in draft.index.dependent or {out, shift} & draft.visible:
            continue
        if found.largest is None:  # Whatever it is, the loop says what it is in the end.
            yield (
                out,
                draft.derived(functools.partial(_under, loop, found), [*free, shift], equation),
            )
            continue
        operands = [*free, loop.given[found.shift]]
        if shift not in shifts:  # It is one and the same for all that it is the shift of.
            shifts.add(shift)
            yield (
                shift,
                draft.derived(functools.partial(_last, loop, found.largest), operands, equation),
            )
        yield (
            out,
            draft.derived(
                functools.partial(_all_turns, loop, found, found.largest), operands, equation
            ),
        )


def _last(loop: Loop, largest: Value, *operands: Array) -> Array:
    """The shift of the last turn: the largest of all."""
    arrays, start = operands[:-1], operands[-1]
    return jnp.maximum(start, jnp.max(loop.turns(largest, arrays, {}), 0))


def _all_turns(loop: Loop, found: _Sum, largest: Value, *operands: Array) -> Array:
    """The sum over all turns of what each of them adds, under the largest shift."""
    return _under(loop, found, *operands[:-1], _last(loop, largest, *operands))


def _under(loop: Loop, found: _Sum, *operands: Array) -> Array:
    """The sum over all turns of what each of them adds, under the shift of the last one."""
    given = {loop.body.outputs[found.shift]: operands[-1]}
    return jnp.sum(loop.turns(found.added, operands[:-1], given), 0)


def _carried_sums(draft: Draft, loop: Loop) -> Iterator[_Sum]:
    body = loop.body
    algebra = algebra_of_turn(loop)
    changing = computed_from(body.equations, [s for s in loop.starts if s not in loop.counters])
    for carry, start in enumerate(loop.starts):
        result = body.outputs[carry]
        maker = loop.makers.get(result)
        kind = None if maker is None else registry.lookup(maker.primitive)
        if maker is None or not isinstance(kind, Addition) or kind.sign < 0:
            continue
        own = computed_from(body.equations, [start])
        added = [atom for atom in maker.inputs if atom not in own]
        if len(added) != 1 or draft.index.number(loop.given[carry]) != 0:
            continue
        shift = _shift(algebra, loop, carry, changing)
        if shift is None or not loop.is_free(added[0], [body.outputs[shift]]):
            continue
        if isinstance(added[0], Value):
            yield _Sum(carry, added[0], shift, _largest(algebra, loop, shift))


def _largest(algebra: Algebra, loop: Loop, shift: int) -> Value | None:
    """What a carried value is the largest of, so far."""
    start = loop.starts[shift]
    maker = loop.makers.get(loop.body.outputs[shift])
    if maker is None or maker.name != "max":
        return None
    index = algebra.indices(start.shape)
    before = [a.shape == start.shape and _is(algebra, a, start, index) for a in maker.inputs]
    if sum(before) != 1:
        return None
    value = maker.inputs[before.index(False)]
    return value if isinstance(value, Value) and loop.is_free(value) else None


def _is(algebra: Algebra, atom: Atom, value: Value, index: Index) -> bool:
    """Whether an atom is a value, perhaps of another type."""
    return algebra.of(atom, index) == leaf(value, index)


def _shift(algebra: Algebra, loop: Loop, carry: int, changing: Set[Atom]) -> int | None:
    """Which of the carried values shifts a sum, if it is one: the proof."""
    start, result = loop.starts[carry], loop.body.outputs[carry]
    index = algebra.indices(result.shape)
    term = algebra.of(result, index)
    leaf = (("value", start, index), 1.0)
    kept = [product for product in term if leaf in product]
    if len(kept) != 1 or len(term) < 2 or abs(term[kept[0]] - 1.0) > 1e-6:
        return None
    for shift, before in enumerate(loop.starts):
        ratio = _ratio(kept[0] - {leaf}, before, loop.body.outputs[shift])
        if ratio is None:
            continue
        others = [product for product in term if product is not kept[0]]
        fresh = [product - {ratio} for product in others if ratio in product]
        if len(fresh) == len(others) and not any(values(p) & changing for p in fresh):
            return shift
    return None


def _ratio(scale: Product, before: Value, after: Atom) -> tuple[Any, float] | None:
    """Of ``exp(m - m')`` the inverse of ``exp(m')``."""
    powers: dict[Any, tuple[Any, float, tuple[Any, float]]] = {}
    for base, power in scale:
        if base[0] != "exp" or len(base[1]) != 1:
            return None
        ((inner, exponent),) = base[1]
        if inner[0] != "value" or exponent != 1:
            return None
        powers[inner[1]] = (inner[2], power, (base, power))
    if powers.keys() != {before, after}:
        return None
    (index, up, _), (same, down, ratio) = powers[before], powers[after]
    return ratio if index == same and up == -down > 0 else None
