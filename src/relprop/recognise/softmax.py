r"""Softmax: an exponential, divided by the sum of such exponentials, however that is written.

A value is a softmax if its term (`relprop.reading.terms`) is

.. math:: \frac{f(z_i)}{\sum_k f(z_k) + \dots}

with one and the same f, which holds an exponential, above and below. What is subtracted from z
before, whether it is divided or multiplied by a reciprocal, whether the sum is that of an axis, a
product with ones or one over the rows of a graph, is all the same. Further summands below are those
of other parts of a softmax that is computed in blocks, attention sinks, or a number that keeps the
denominator from being zero.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from relprop._core.graph import Atom, Value
from relprop._core.operation import Operation
from relprop.propagators.recognised import Softmax
from relprop.reading.exponentials import EXPONENTIALS, followed
from relprop.reading.pieces import looked_up, taken_apart
from relprop.reading.terms import LONGEST, ONE, Product, Symbol, Term, mentions, renamed, values
from relprop.recognise.dataflow import Dataflow
from relprop.recognise.odd import is_odd


def softmaxes(flow: Dataflow) -> Iterator[Operation]:
    """Each equation that completes a softmax."""
    ends = ("div", "mul", *EXPONENTIALS, "integer_pow", "pow", "concatenate", "stack", "select_n")
    for equation in flow.equations:
        if equation.name in ends and any(out in sums_used(flow) for out in equation.outputs):
            if flow.operands(equation) and is_softmax(flow, equation.outputs[0]):
                starts = arguments(flow, equation.outputs[0], axes_of(flow, equation.outputs[0]))
                if starts:
                    first, *more = starts
                    yield flow.region(first, equation, Softmax(), *more)


def sums_used(flow: Dataflow) -> set[Atom]:
    """Values that are computed, without weights, from sums of exponentials."""
    return _exponentials(flow)[1]


def _exponentials(flow: Dataflow) -> tuple[set[Atom], set[Atom]]:
    """Values that are computed, without weights, from exponentials, and from sums of those."""
    if "exponentials" not in flow.memory:
        flow.memory["exponentials"] = followed(
            flow.equations, flow.touched, flow.producer, flow.number
        )
    return flow.memory["exponentials"]


def is_softmax(flow: Dataflow, value: Value) -> bool:
    """Whether the term of a value is that of a softmax."""
    index = flow.algebra.indices(value.shape)
    term = flow.algebra.of(value, index)
    if set(term) == {ONE} and term[ONE] > 0:
        # Of one entry, as that of the first token with a cache, or of some that are equal.
        count = 1 / term[ONE]
        return 0.5 < count <= LONGEST and abs(count - round(count)) < 1e-5
    return bool(_divisors(flow, term, index))


def _divisors(flow: Dataflow, term: Term, index: Iterable[object]) -> list[Product]:
    """The blocks that a value is divided by, if need be of what was put side by side."""
    found = [*_blocks(flow, term, index)]
    return found or [*_blocks(flow, taken_apart(flow.algebra, term), index)]


def _blocks(flow: Dataflow, term: Term, index: Iterable[object]) -> Iterator[Product]:
    """The sums of exponentials, over all entries, that an entry of a softmax is divided by."""
    if len(term) != 1:
        return
    (product,) = term
    for base, power in product:
        if power != -1 or base[0] not in ("sum", "rows", "add"):
            continue
        above = product - {(base, power)}
        inner = [frozenset({(base, 1.0)})] if base[0] != "add" else [p for p, _ in base[1]]
        if base[0] == "add" and (_lists(flow, base[1], above, index) or _is_share(base[1], above)):
            yield frozenset({(base, 1.0)})
        for part in inner:
            if _matches(part, above, index):
                yield part


def _matches(denominator: Product, above: Product, index: Iterable[object]) -> bool:
    """Whether a summand below is the sum over what stands above."""
    sums = [(b, p) for b, p in denominator if b[0] in ("sum", "rows") and p == 1]
    if len(sums) != 1:
        return False
    (base, _) = sums[0]
    outside = denominator - {sums[0]}
    if not any(b[0] == "exp" and mentions(b, base[1]) for b, _ in base[2]):
        return False
    free = [s for s in index if isinstance(s, Symbol)]
    if base[0] == "rows":
        free = [s for s in free if base[4] == ("at", base[3], s)]
    for chosen in itertools.permutations([*free, *_picked(above)], len(base[1])):
        names = dict(zip(base[1], chosen, strict=True))
        if all(a.size == b.size for a, b in names.items() if isinstance(b, Symbol)):
            if _product(renamed(base[2], names), outside) == above:
                return True
    return False


def _picked(above: Product) -> list[Any]:
    """The places of single entries and of slices: a part of a softmax is as good as the whole."""
    found: dict[Any, None] = {}
    queue: list[Any] = [above]
    while queue:
        thing = queue.pop()
        if isinstance(thing, Symbol) or not isinstance(thing, tuple | frozenset):
            continue
        if isinstance(thing, tuple) and len(thing) == 3 and thing[0] in ("value", "picked"):
            places: Any = [place for place in thing[2] if not isinstance(place, Symbol)]
            found.update((place, None) for place in places)
            queue.extend(place for place in places if isinstance(place, tuple))
        else:
            queue.extend(thing)
    return list(found)


def _lists(
    flow: Dataflow,
    summands: Iterable[tuple[Product, float]],
    above: Product,
    index: Iterable[object],
) -> bool:
    """Whether a sum, written out, is that over all entries of what stands above, or more."""
    if not any(base[0] == "exp" for base, _ in above):
        return False
    below = dict(summands)
    for axis in (s for s in index if isinstance(s, Symbol) and 1 < s.size <= LONGEST):
        if not mentions(above, [axis]):
            continue
        entries = [renamed(above, {axis: i}) for i in range(axis.size)]
        # What is stacked has its parts as entries, which may be numbers, or powers of each other.
        known = [looked_up(flow.algebra, entry) for entry in entries]
        for terms in ([{entry: 1.0} for entry in entries], known):
            total: Counter[Product] = Counter()
            for term in terms:
                total.update(term)
            if all(0 < n <= below.get(p, 0.0) * (1 + 1e-6) for p, n in total.items()):
                return True
    return False


def _is_share(summands: Iterable[tuple[Product, float]], above: Product) -> bool:
    """Whether what stands above is one of several different exponentials that are added below.

    With one and the powers of one exponential it is a sigmoid, or another function of one value.
    """
    summands = [*summands]
    if any(factor < 0 for _, factor in summands):
        return False
    parts = {product for product, _ in summands if product}
    raised = [_exponentials_in(part) for part in parts]
    return above in parts and all(raised) and len(frozenset().union(*raised)) > 1


def _exponentials_in(product: Product) -> frozenset[Any]:
    """The exponentials that a product is made of, if it is made of those alone, and of masks."""
    found: set[Any] = set()
    for base, power in product:
        inner = base[2] if base[0] in ("sum", "rows") and power == 1 else None
        more = frozenset({base}) if base[0] == "exp" else _exponentials_in(inner or ONE)
        if not more and base[0] != "mask":
            return frozenset()
        found |= more
    return frozenset(found)


def _product(a: Product, b: Product) -> Product:
    powers = dict(a)
    for base, power in b:
        powers[base] = powers.get(base, 0.0) + power
    return frozenset((base, p) for base, p in powers.items() if p)


def arguments(flow: Dataflow, value: Atom, over: Collection[int] | None = None) -> list[Value]:
    """What a softmax is taken of: the arguments of its exponentials, without what cancels.

    Args:
        flow: the graph.
        value: the softmax.
        over: the axes that it is taken over, if they are known.
    """
    exponentials, sums = _exponentials(flow)
    found: dict[Value, dict[Atom, None]] = {}
    queue: list[Atom] = [value]
    seen: set[Atom] = set()
    while queue:
        atom = queue.pop(0)
        equation = flow.producer(atom)
        if atom in seen or equation is None or atom not in exponentials | sums:
            continue
        seen.add(atom)
        if equation.name not in EXPONENTIALS:
            queue.extend(equation.inputs)
            continue
        argument = equation.inputs[0]
        if argument in sums:
            queue.append(argument)  # As in `exp(z - logsumexp(z))`, and not the sigmoid of a gate.
            argument = _less_a_sum(flow, argument, sums)
        start = unshifted(flow, argument, over if argument.shape == value.shape else None)
        if isinstance(start, Value) and start in flow.dependent and start not in sums:
            moved = _moved(flow, equation.inputs[0], start)
            found.setdefault(start, {})[moved] = None
    found = _without_a_common_shift(flow, found)
    told = _leaves(flow, value) if len(found) > 1 else set()
    for start in [*found]:
        # What cancels is none, as differences of maxima, by which sums of blocks are scaled.
        cancelled = told and not told & _leaves(flow, start)
        if len(found) > 1 and (cancelled or _unmasked(flow, start) in found):
            del found[start]
    if len(found) == 1:
        (moved,) = found.values()
        # With the axes and the entries that the softmax has; of blocks, its own is the first.
        parts = [atom for atom in moved if isinstance(atom, Value)]
        if len(parts) == len(moved) and parts[0].shape == value.shape:
            return parts
    return [*found]


def _without_a_common_shift(
    flow: Dataflow, starts: dict[Value, dict[Atom, None]]
) -> dict[Value, dict[Atom, None]]:
    """The a and b of ``a - m`` and ``b - m``: what is taken from all that is summed cancels."""
    makers = [flow.producer(start) for start in starts]
    shifts = {m.inputs[1] if m is not None and m.name == "sub" else None for m in makers}
    if len(starts) < 2 or len(shifts) != 1 or None in shifts:
        return starts
    values = [flow.origin(m.inputs[0])[0] for m in makers if m is not None]
    known = [v for v in values if isinstance(v, Value) and v in flow.dependent]
    return {v: {v: None} for v in known} if len(known) == len(makers) else starts


def _less_a_sum(flow: Dataflow, atom: Atom, sums: Collection[Atom]) -> Atom:
    """The z of ``z - log(sum)``, whatever has been summed; of anything else, itself."""
    difference = flow.producer(flow.origin(atom)[0])
    if difference is not None and difference.name == "sub":
        value, total = difference.inputs
        if total in sums and value not in sums and value in flow.dependent:
            return value
    return atom


def _leaves(flow: Dataflow, atom: Atom) -> set[Value]:
    """The values that the term of a value is made of."""
    return values(flow.algebra.of(atom, flow.algebra.indices(atom.shape)))


def _unmasked(flow: Dataflow, value: Value) -> Atom | None:
    """What a value is where a mask does not make it minus infinity."""
    equation = flow.producer(value)
    if equation is None or equation.name != "select_n" or len(flow.operands(equation)) != 1:
        return None
    if not any(flow.number(a) == -math.inf for a in equation.inputs[1:]):
        return None
    return flow.origin(flow.operands(equation)[0])[0]


def _moved(flow: Dataflow, atom: Atom, start: Atom) -> Atom:
    """The last value on the way from a start to a value that is the start, moved about."""
    while flow.origin(atom)[0] is not start:
        atom = flow.origin(atom)[0]
        equation = flow.producer(atom)
        inner = (
            None
            if equation is None
            else next((a for a in equation.inputs if _leads(flow, start, a)), None)
        )
        if inner is None:
            return start
        atom = inner
    return atom


def _leads(flow: Dataflow, start: Atom, atom: Atom) -> bool:
    return atom is start or flow.leads(start, atom)


def axes_of(flow: Dataflow, value: Value) -> list[int]:
    """The axes that a softmax is taken over: those along which what it is divided by is one."""
    index = flow.algebra.indices(value.shape)
    parts = _divisors(flow, flow.algebra.of(value, index), index)
    return [
        axis
        for axis, symbol in enumerate(index)
        if isinstance(symbol, Symbol) and not any(mentions(part, [symbol]) for part in parts)
    ]


def unshifted(flow: Dataflow, atom: Atom, over: Collection[int] | None = None) -> Atom:
    """The z of `z - c` where c is the same for all that is summed: whatever c is, it cancels."""
    while True:
        atom = flow.origin(atom, lambda e: e.name == "stop_gradient")[0]
        equation = flow.producer(atom)
        if equation is None or atom not in flow.dependent:
            return atom
        if equation.name in ("mul", "div", "neg") and len(flow.operands(equation)) == 1:
            # A scale inside the exponential; what it scales may be a difference.
            below = flow.operands(equation)[0]
            number = equation.name == "neg" or any(
                flow.is_number(a) for a in equation.inputs if a is not below
            )
            inner = unshifted(flow, below, over) if number else below
            return inner if inner is not below and number else atom
        if equation.name not in ("add", "sub"):
            return atom
        a, b = equation.inputs
        if any(flow.number(x) is not None for x in (a, b)) and is_odd(flow, atom):
            return atom  # A part of the function, as the limit of a soft cap is.
        same = flow.origin(a)[0] is flow.origin(b)[0]
        if same:
            return flow.origin(a)[0]
        if not any(n > 1 for n in atom.shape):  # Of one entry, as that of the first token.
            alone = [x for x, y in ((a, b), (b, a)) if x in flow.dependent and _leads(flow, x, y)]
            if len(alone) != 1:
                return atom
            (atom,) = alone
            continue
        shifts = [is_shift(flow, a, atom.shape, over), is_shift(flow, b, atom.shape, over)]
        if shifts[0] is shifts[1] is True or not any(shifts):
            return atom
        kept = b if shifts[0] else a
        if kept not in flow.dependent:
            return atom
        atom = kept


def is_shift(
    flow: Dataflow, atom: Atom, shape: tuple[int, ...], over: Collection[int] | None = None
) -> bool:
    """Whether a value is constant along some axis: a number, or what has been reduced.

    Args:
        flow: the graph.
        atom: the value.
        shape: that of what it is added to.
        over: of which axes it is to be one; by default any.
    """
    wanted = range(len(shape)) if over is None or len(atom.shape) != len(shape) else over
    if atom.shape != shape and (
        len(atom.shape) != len(shape) or any(atom.shape[a] != shape[a] for a in wanted)
    ):
        return True
    if not any(n > 1 for n in shape):
        return False
    index = flow.algebra.indices(atom.shape)
    term = flow.algebra.of(atom, index)
    free = [s for a, s in enumerate(index) if isinstance(s, Symbol) and a in wanted]
    if any(not any(mentions(product, [s]) for product in term) for s in free):
        return True
    first = index[0]
    # The same for all rows of one number.
    return isinstance(first, Symbol) and all(
        _only_by_rows(product, first) for product in term if mentions(product, [first])
    )


def _only_by_rows(thing: object, symbol: Symbol) -> bool:
    if isinstance(thing, Symbol):
        return thing != symbol
    if isinstance(thing, tuple) and len(thing) == 3 and thing[0] == "at":
        return True
    if isinstance(thing, (tuple, frozenset)):
        return all(_only_by_rows(part, symbol) for part in thing)
    return True
