"""All entries of an axis, added up by whatever additions, are a sum over the axis.

``q[0] + q[1] + q[2]``, the halves of q and then what is left, a tree of additions or the last of an
associative scan are ``q.sum()``, and ``exp(z[0]) + exp(z[1])`` is the sum of ``exp(z)``: functions
entry by entry come before entries are taken.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.general import is_elementwise, is_move
from relprop.propagators.linear import Addition
from relprop.reading.draft import Draft
from relprop.reading.primitives import algebra_of
from relprop.reading.terms import LONGEST, Product, Symbol, Term, leaf, summed

_JOINS = ("concatenate", "pad")
_ENTRY = "entry"  # What a part is that is nothing but an entry.
# Functions of more equations, one inside another, are not looked at.
_DEEPEST = 12


def added_at_once(draft: Draft) -> None:
    """Writes sums of all entries of an axis as such."""
    while _some_added_at_once(draft):
        pass


def _some_added_at_once(draft: Draft) -> bool:
    sources = _sources(draft)
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if len(equation.outputs) != 1:
            continue
        (out,) = equation.outputs
        source = sources.get(out)
        if source is None or not source.adds or math.prod(out.shape) >= math.prod(source.of.shape):
            continue
        readers = draft.index.readers.get(out, [])
        inner = [r for r in readers if _passes(draft, r) and sources.get(r.outputs[0]) == source]
        if inner and len(inner) == len(readers):
            continue  # What is added to it next may be the rest.
        new = _sum(draft, out, source.of)
        if made.keys().isdisjoint(new):
            made.update(new)
    if made:
        draft.put(made)
    return bool(made)


class _Source(NamedTuple):
    """What a value is computed from the entries of, and whether any of these were added."""

    of: Value
    adds: bool


def _sources(draft: Draft) -> dict[Any, _Source]:
    """Values that are computed from the entries of one other value that were taken out of it."""
    found: dict[Any, _Source] = {}
    dependent = draft.index.dependent
    for equation in draft.equations:
        operands = [*dict.fromkeys(a for a in equation.inputs if a in dependent)]
        if not operands or len(equation.outputs) != 1 or not equation.outputs[0].inexact:
            continue
        (out,) = equation.outputs
        before = [found.get(a) for a in operands]
        if equation.name == "slice" and before == [None] and isinstance(operands[0], Value):
            found[out] = _Source(operands[0], False)
        elif _passes(draft, equation) or is_elementwise(equation):
            known = {source.of for source in before if source is not None}
            if len(known) == 1 and None not in before:
                adds = _adds(draft, equation) or any(s is not None and s.adds for s in before)
                found[out] = _Source(known.pop(), adds)
    return found


def _adds(draft: Draft, equation: Equation) -> bool:
    """Whether an equation adds two values that depend on the inputs."""
    kind = registry.lookup(equation.primitive)
    both = isinstance(kind, Addition) and kind.sign > 0
    return both and all(a in draft.index.dependent for a in equation.inputs)


def _passes(draft: Draft, equation: Equation) -> bool:
    """Whether an equation adds two values, or takes entries or puts them side by side."""
    move = is_move(equation) and len(equation.inputs) == 1
    return move or equation.name in _JOINS or _adds(draft, equation)


def _sum(draft: Draft, out: Value, source: Value) -> dict[Equation, list[Equation]]:
    """A value as the sum over axes that it is, and its parts as entries of what is summed."""
    values = _parts(draft, out, source)
    if not values:
        return {}
    cones = [_before(draft, part, source) for part in values]
    shared = set(cones[0]).intersection(*cones[1:]) - {source} if len(cones) > 1 else set()
    parts = {
        part: next((a for a in cone if a not in shared and _is_taken(draft, a, source)), None)
        for part, cone in zip(values, cones, strict=True)
    }
    entry = _common_function(draft, parts, shared)
    if entry is None:
        return {}
    algebra = algebra_of(_maker(draft, parts, source), draft.index.number)
    index = algebra.indices(out.shape)
    found = _over(algebra.of(out, index), source)
    if found is None:
        return {}
    axes, rest = found
    order = [rest.index(s) for s in index if isinstance(s, Symbol) and s in rest]
    ranks = (len(source.shape) - len(axes), len(source.shape))
    alike = all(len(other.shape) in ranks for other in entry.others)
    if not alike or len(order) != len(rest) or {*rest} != {s for s in index if s != 0}:
        return {}
    made: dict[Equation, list[Equation]] = {}
    whole, like = source, draft.index.maker[out]
    if entry.key != _ENTRY:
        first = min(
            (draft.index.maker[part] for part in parts), key=draft.index.position.__getitem__
        )

        def function(x: Array, *others: Array) -> Array:
            # What is the same for all entries lacks their axes, or has them with one entry.
            sides = [y if y.ndim == x.ndim else jnp.expand_dims(y, axes) for y in others]
            return entry.function(x, sides)

        made[first] = draft.derived(function, [source, *entry.others], first)
        (whole,) = made[first][-1].outputs
        for part, own in parts.items():
            assert own is not None
            taken = functools.partial(_moved, _moves(draft, own, source))
            maker = draft.index.maker[part]
            made.setdefault(maker, []).extend(draft.derived(taken, [whole], maker, part))

    def total(x: Array) -> Array:
        value = jnp.sum(x, axes)
        value = value.reshape([n for n in value.shape if n != 1])
        return jnp.transpose(value, order).reshape(out.shape).astype(out.dtype)

    made[like] = draft.derived(total, [whole], like, out)
    return made


def _moves(draft: Draft, atom: Atom, source: Value) -> list[Equation]:
    """The moves by which a value was taken out of a source, in order."""
    found: list[Equation] = []
    while atom is not source:
        found.insert(0, draft.index.maker[atom])
        (atom,) = found[0].inputs
    return found


def _moved(moves: Sequence[Equation], x: Array) -> Array:
    for move in moves:
        (x,) = move.evaluate([x])
    return x


def _parts(draft: Draft, out: Value, source: Value) -> list[Value]:
    """What is added up: entries of the source, or functions of these."""
    queue: list[Atom] = [out]
    seen: set[Atom] = set()
    found: list[Value] = []
    while queue:
        atom = queue.pop()
        if atom in seen or atom not in draft.index.dependent:
            continue
        seen.add(atom)
        maker = draft.index.maker.get(atom)
        if atom is source or (maker is not None and _is_taken(draft, atom, source)):
            found.append(atom)  # type: ignore[arg-type]
        elif maker is not None and _passes(draft, maker):
            queue.extend(maker.inputs)
        else:
            found.append(atom)  # type: ignore[arg-type]
    return found if len(found) <= LONGEST else []


def _is_taken(draft: Draft, atom: Atom, source: Value) -> bool:
    """Whether a value is a source, or was taken out of it by moves alone."""
    while atom is not source:
        maker = draft.index.maker.get(atom)
        if maker is None or not is_move(maker) or len(maker.inputs) != 1:
            return False
        (atom,) = maker.inputs
    return True


class _Entry(NamedTuple):
    """What each part is of its entries: a function of these, and of what all of them share."""

    key: Hashable
    function: Callable[[Array, Sequence[Array]], Array]
    others: tuple[Atom, ...] = ()


def _common_function(
    draft: Draft, parts: Mapping[Value, Atom | None], shared: Set[Atom]
) -> _Entry | None:
    """The function that all parts are of the entries that are theirs, and of what they share."""
    first: _Entry | None = None
    for part, own in parts.items():
        entry = None if own is None else _entry(draft, part, own, shared)
        if entry is None or (first is not None and entry.key != first.key):
            return None
        first = first or entry
    return first


def _entry(
    draft: Draft, atom: Atom, own: Atom, shared: Set[Atom], depth: int = _DEEPEST
) -> _Entry | None:
    """What a part is of its own entries."""
    if atom is own:
        return _Entry(_ENTRY, lambda x, others: x)
    number = draft.index.number(atom)
    if number is not None:
        return _Entry(number, lambda x, others: jnp.asarray(number, x.dtype))
    if atom not in draft.index.dependent or atom in shared:
        return _Entry(atom, lambda x, others: others[0], (atom,))
    maker = draft.index.maker.get(atom)
    if maker is None or not is_elementwise(maker) or len(maker.outputs) != 1 or not depth:
        return None
    known: list[_Entry] = []
    for operand in maker.inputs:
        inner = _entry(draft, operand, own, shared, depth - 1)
        if inner is None:  # Looking at the others would take time that doubles with the depth.
            return None
        known.append(inner)
    ends = [0, *itertools.accumulate(len(entry.others) for entry in known)]

    def function(x: Array, others: Sequence[Array]) -> Array:
        pieces = (others[a:b] for a, b in itertools.pairwise(ends))
        arrays = [e.function(x, piece) for e, piece in zip(known, pieces, strict=True)]
        shape = jnp.broadcast_shapes(*(jnp.shape(a) for a in arrays))
        return maker.evaluate([jnp.broadcast_to(a, shape) for a in arrays])[0]

    params = tuple(sorted((k, str(v)) for k, v in maker.params.items()))
    key = (maker.name, params, tuple(entry.key for entry in known))
    return _Entry(key, function, tuple(a for entry in known for a in entry.others))


def _before(draft: Draft, part: Value, source: Value) -> dict[Atom, None]:
    """What a part is computed from, entry by entry, up to what was taken out of a source."""
    found: dict[Atom, None] = {}
    level: list[Atom] = [part]
    for _ in range(_DEEPEST + 1):
        before: list[Atom] = []
        for atom in level:
            if atom in found or atom not in draft.index.dependent:
                continue
            found[atom] = None
            maker = draft.index.maker.get(atom)
            if maker is not None and not _is_taken(draft, atom, source) and is_elementwise(maker):
                before.extend(maker.inputs)
        level = before
    return found


def _maker(
    draft: Draft, parts: Mapping[Value, Atom | None], source: Value
) -> Callable[[Atom], Equation | None]:
    """What makes values, where each part is but the entries that it is a function of."""
    taken: dict[Atom, Equation] = {}
    for part, entries in parts.items():
        maker = None if entries is None else draft.index.maker.get(entries)
        if part is not source and part is not entries and maker is not None:
            taken[part] = dataclasses.replace(maker, outputs=(part,))

    def maker_of(atom: Atom) -> Equation | None:
        return None if atom is source else taken.get(atom, draft.index.maker.get(atom))

    return maker_of


def _over(term: Term, source: Value) -> tuple[tuple[int, ...], list[Symbol]] | None:
    """The axes of a source that a term is the sum over, and the indices that are left."""
    places = [*_places(term, source)]
    if not places:
        return None
    axes = tuple(
        axis
        for axis, n in enumerate(source.shape)
        if n > 1
        and any(not isinstance(place[axis], Symbol) or place[axis].bound for place in places)
    )
    rest = [tuple(s for a, s in enumerate(place) if a not in axes) for place in places]
    kept = [s for s in rest[0] if s != 0]
    if not axes or set(rest) != {rest[0]} or not all(isinstance(s, Symbol) for s in kept):
        return None
    if len(places) == 1:
        bound = tuple(
            Symbol(-1 - a, source.shape[a], True) if a in axes else s
            for a, s in enumerate(places[0])
        )
        whole = summed(leaf(source, bound), [bound[a] for a in axes])
        return (axes, kept) if whole == term else None
    grid = {tuple(place[a] for a in axes) for place in places}
    every = len(places) == len(grid) == math.prod(source.shape[a] for a in axes)
    plain = all(isinstance(i, int) for place in grid for i in place)
    return (axes, kept) if every and plain else None


def _places(term: Term, source: Value) -> Iterator[tuple[Any, ...]]:
    """Where the entries are that a term adds up; nothing where it is something else."""
    found = []
    for product, coefficient in term.items():
        inner: Product = product
        if len(inner) == 1:
            ((base, power),) = inner
            if base[0] == "sum" and power == 1:
                inner = base[2]
        if len(inner) != 1 or coefficient != 1:
            return
        ((base, power),) = inner
        if base[:2] != ("value", source) or power != 1:
            return
        found.append(base[2])
    yield from found
