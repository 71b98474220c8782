r"""Sums that a loop keeps in range are sums: softmax over keys in chunks, as in flash attention.

A loop over chunks of keys doesn't know the largest score before it has seen all. It carries the
largest so far, and scales what it has summed whenever that grows:

.. math:: a' = a\, e^{m - m'} + \sum_k e^{s_k - m'} u_k .

So :math:`a' e^{m'} = a e^{m} + \sum_k e^{s_k} u_k`, whatever m is, and in the end a is the sum over
all chunks, shifted by the last m. That is how it is read. The algebra proves it, not the names.

A loop that only adds up products of what it goes over, without any shift, is the sum of those; one
that carries ``c = logaddexp(c, z)`` is the logsumexp of all z.

Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2022.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relprop import _compat
from relprop._core import registry
from relprop._core.control import Scan
from relprop._core.graph import Atom, Environment, Equation, Graph, Literal, Value, computed_from
from relprop.propagators.linear import Addition
from relprop.reading.algebra import Algebra
from relprop.reading.bodies import opened
from relprop.reading.draft import Draft
from relprop.reading.numbers import number
from relprop.reading.primitives import algebra_of
from relprop.reading.primitives.reductions import contraction
from relprop.reading.terms import Index, Product, exponential, leaf, values


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
        largest: what that is the largest of.
    """

    carry: int
    added: Value
    shift: int
    largest: Value


class _Loop:
    """A loop, and what its body computes without what it carries."""

    def __init__(self, draft: Draft, equation: Equation):
        self.body = _opened(draft, equation.bodies[0])
        consts, carried = _compat.scan_sizes(equation.params)
        self.length, self.reverse = equation.params["length"], equation.params["reverse"]
        self.constants = self.body.inputs[:consts]
        self.starts = self.body.inputs[consts : consts + carried]
        self.entries = self.body.inputs[consts + carried :]
        self.given = equation.inputs[consts : consts + carried]
        self.makers: dict[Any, Equation] = {
            out: inner for inner in self.body.equations for out in inner.outputs
        }
        counted = zip(self.starts, self.body.outputs, self.given, strict=False)
        #: Numbers of turns, each with the first.
        self.counters = {
            start: int(first)
            for start, result, given in counted
            if (first := draft.index.number(given)) is not None and self._counts(start, result)
        }

    def _counts(self, start: Value, result: Atom) -> bool:
        maker = self.makers.get(result)
        if start.inexact or start.shape or maker is None or maker.name != "add":
            return False
        return start in maker.inputs and any(self.number(atom) == 1 for atom in maker.inputs)

    def number(self, atom: Atom) -> float | None:
        return number(self.makers, self.body.constants, atom)

    def is_free(self, value: Atom, given: Collection[Atom] = ()) -> bool:
        """Whether a turn computes a value without what is carried, others being given."""
        queue: list[Atom] = [value]
        seen: set[Atom] = set()
        while queue:
            atom = queue.pop()
            if atom in given or atom in seen:
                continue
            seen.add(atom)
            if atom in self.starts and atom not in self.counters:
                return False
            maker = self.makers.get(atom)
            queue.extend(() if maker is None else maker.inputs)
        return True

    def turns(self, value: Value, arrays: Sequence[Array], given: Mapping[Atom, Array]) -> Array:
        """A value of the body in each turn.

        Args:
            value: the value.
            arrays: what the loop closes over, and what it goes over.
            given: what is not computed but given.
        """
        needed: set[Atom] = {value}
        chosen: list[Equation] = []
        for inner in reversed(self.body.equations):
            if any(out in needed and out not in given for out in inner.outputs):
                needed.update(inner.inputs)
                chosen.insert(0, inner)
        count = len(self.constants)

        def turn(number: Array, *entries: Array) -> Array:
            known = Environment(self.body.constants)
            known.update(zip(self.constants, arrays[:count], strict=True))
            known.update(zip(self.entries, entries, strict=True))
            for start, first in self.counters.items():
                known[start] = (number + first).astype(start.dtype)
            known.update(given)
            for inner in chosen:
                results = inner.evaluate(known.read_all(inner.inputs))
                pairs = zip(inner.outputs, results, strict=True)
                known.update((out, array) for out, array in pairs if out not in given)
            return known[value]

        numbers = jnp.arange(self.length)  # Of the turns, in the order of what is gone over.
        if self.reverse:
            numbers = self.length - 1 - numbers
        return jax.vmap(turn)(numbers, *arrays[count:])


def _opened(draft: Draft, body: Graph) -> Graph:
    """A body with those inside of it as a part of it: `logaddexp` is one, and `jnp.add`."""
    if not any(inner.bodies for inner in body.equations):
        return body
    inside = Draft(body, {*body.inputs}, draft.closed, None, ())
    opened(inside)
    return dataclasses.replace(
        body,
        equations=tuple(inside.equations),
        outputs=tuple(inside.outputs),
        constants=inside.constants,
    )


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
    loop = _Loop(draft, equation)
    free = (*equation.inputs[:consts], *equation.inputs[consts + carried :])
    for carry, added in _plain_sums(loop):
        out = equation.outputs[carry]
        if out in draft.index.dependent and out not in draft.visible:
            operands = [*free, loop.given[carry]]
            yield out, draft.derived(functools.partial(_added_up, loop, added), operands, equation)
    # The exponential of a shift is what gives one away.
    if not _has_exponentials(loop.body):
        return
    for carry, added in _logarithms(loop):
        out = equation.outputs[carry]
        if out in draft.index.dependent and out not in draft.visible:
            operands = [*free, loop.given[carry]]
            none_before = draft.index.number(loop.given[carry]) == -math.inf
            merged = functools.partial(_logsumexp, loop, added, none_before)
            yield out, draft.derived(merged, operands, equation)
    shifts: set[Value] = set()
    for found in _carried_sums(draft, loop):
        out, shift = equation.outputs[found.carry], equation.outputs[found.shift]
        if out not in draft.index.dependent or {out, shift} & draft.visible:
            continue
        operands = [*free, loop.given[found.shift]]
        if shift not in shifts:  # It is one and the same for all that it is the shift of.
            shifts.add(shift)
            yield shift, draft.derived(functools.partial(_last, loop, found), operands, equation)
        yield out, draft.derived(functools.partial(_all_turns, loop, found), operands, equation)


#: What a turn may do to what it adds up without a shift: no more than a sum of products does.
_FACTORS = frozenset(
    "mul integer_pow square broadcast_in_dim reshape squeeze expand_dims transpose "
    "convert_element_type copy".split()
)


def _plain_sums(loop: _Loop) -> Iterator[tuple[int, list[Value]]]:
    """What is carried and only added to, with what each turn adds to it."""
    for carry, start in enumerate(loop.starts):
        added: list[Atom] = []
        queue: list[Atom] = [loop.body.outputs[carry]]
        while queue:
            atom = _as_it_was(loop, queue.pop())
            maker = loop.makers.get(atom)
            kind = None if maker is None else registry.lookup(maker.primitive)
            if maker is not None and isinstance(kind, Addition) and kind.sign > 0:
                queue.extend(maker.inputs)
            else:
                added.append(atom)
        others = [atom for atom in added if isinstance(atom, Value) and atom is not start]
        if others and len(others) == len(added) - 1 and all(_is_product(loop, a) for a in others):
            yield carry, others


def _as_it_was(loop: _Loop, atom: Atom) -> Atom:
    """A value before it was made one of the type that it has, as what begins as a number is."""
    while (maker := loop.makers.get(atom)) is not None and maker.name == "convert_element_type":
        if maker.inputs[0].dtype != atom.dtype:
            break
        (atom,) = maker.inputs
    return atom


def _is_product(loop: _Loop, value: Value) -> bool:
    """Whether a turn adds an entry of what the loop goes over, or a product of such entries."""
    queue: list[Atom] = [value]
    while queue:
        atom = queue.pop()
        if atom in loop.starts:
            return False
        maker = loop.makers.get(atom)
        if maker is None:
            continue
        if maker.name == "dynamic_slice":  # What it begins at may only depend on the turn.
            if not all(isinstance(a, Literal) or loop.is_free(a) for a in maker.inputs[1:]):
                return False
            queue.append(maker.inputs[0])
        elif maker.name in _FACTORS:
            queue.extend(maker.inputs)
        else:
            return False
    return True


def _added_up(loop: _Loop, added: Sequence[Value], *operands: Array) -> Array:
    """The sum over all turns of what each of them adds, and what there was before."""
    totals = [jnp.sum(loop.turns(value, operands[:-1], {}), 0) for value in added]
    return operands[-1] + functools.reduce(jnp.add, totals)


def _last(loop: _Loop, found: _Sum, *operands: Array) -> Array:
    """The shift of the last turn: the largest of all."""
    arrays, start = operands[:-1], operands[-1]
    return jnp.maximum(start, jnp.max(loop.turns(found.largest, arrays, {}), 0))


def _all_turns(loop: _Loop, found: _Sum, *operands: Array) -> Array:
    """The sum over all turns of what each of them adds, under the shift of the last one."""
    given = {loop.body.outputs[found.shift]: _last(loop, found, *operands)}
    return jnp.sum(loop.turns(found.added, operands[:-1], given), 0)


def _logarithms(loop: _Loop) -> Iterator[tuple[int, Value]]:
    """What is carried as the logarithm of a sum of exponentials, with what each turn adds to it."""
    algebra = _algebra(loop)
    for carry, start in enumerate(loop.starts):
        result = loop.body.outputs[carry]
        if not start.inexact or loop.makers.get(result) is None:
            continue
        index = algebra.indices(result.shape)
        fresh = dict(exponential(algebra.of(result, index)))
        ((own, one),) = exponential(leaf(start, index)).items()
        if abs(fresh.pop(own, 0.0) - one) > 1e-6 or not fresh:
            continue
        for value in _compared(loop, result):
            if exponential(algebra.of(value, index)) == fresh:
                yield carry, value
                break


def _compared(loop: _Loop, result: Atom) -> Iterator[Value]:
    """What a turn takes a maximum with, which is what it adds under a logarithm."""
    for inner in loop.body.equations:
        for atom in inner.inputs if inner.name == "max" else ():
            alike = atom.shape == result.shape and atom.dtype == result.dtype
            if alike and isinstance(atom, Value) and loop.is_free(atom):
                yield atom


def _logsumexp(loop: _Loop, added: Value, none_before: bool, *operands: Array) -> Array:
    """The logarithm of the sum of what there was before and of what each turn adds."""
    entries = loop.turns(added, operands[:-1], {})
    if not none_before:
        entries = jnp.concatenate([operands[-1][None], entries])
    return jax.nn.logsumexp(entries, axis=0)


def _carried_sums(draft: Draft, loop: _Loop) -> Iterator[_Sum]:
    body = loop.body
    algebra = _algebra(loop)
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
        largest = _largest(algebra, loop, shift)
        if isinstance(added[0], Value) and largest is not None:
            yield _Sum(carry, added[0], shift, largest)


def _algebra(loop: _Loop) -> Algebra:
    return algebra_of(loop.makers.get, loop.number, {"dot_general": contraction})


def _largest(algebra: Algebra, loop: _Loop, shift: int) -> Value | None:
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


def _shift(algebra: Algebra, loop: _Loop, carry: int, changing: Set[Atom]) -> int | None:
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
