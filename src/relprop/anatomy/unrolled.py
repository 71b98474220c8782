"""Recurrences without a loop: one layer, applied again and again to what it has made."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from relprop._core.graph import Atom, Value
from relprop._core.plan import Step
from relprop.anatomy.blocks import Recurrence, place
from relprop.anatomy.wiring import LINEAR_LINKS, Wiring

_PICKS = ("slice", "dynamic_slice", "gather", "split", "unstack")
_MOVES = ("transpose", "reshape", "slice", "squeeze", "broadcast_in_dim", "convert_element_type")
#: What may have been done to a part of a sequence before the turn in which it is read.
_BEFORE = (*LINEAR_LINKS, "dense")
#: So often at least: what is done twice may be a coincidence.
_TURNS = 3
_Chain = list[Step]


def unrolled(wiring: Wiring) -> Iterator[Recurrence]:
    """Each chain of the same weights in which every turn reads another part of one sequence.

    Layers that share their weights read no sequence in turn. Weights of which each is applied to
    what the other has made in the turn before belong to one cell; those of stacked cells don't.
    """
    cells: list[_Chain] = []
    for chain in _chains(wiring):
        if _reads_in_turn(wiring, chain) and not any(_are_one(wiring, c, chain) for c in cells):
            cells.append(chain)
            yield Recurrence(_kind(wiring, chain), **place(chain[-1]), steps=len(chain))  # type: ignore[arg-type]


def _chains(wiring: Wiring) -> Iterator[_Chain]:
    """Layers of the same weight, of which each reads what comes of the one before."""
    of_weight: dict[Hashable, _Chain] = {}
    for step in wiring.steps:
        active = wiring.active(step)
        if step.structure == "dense" and len(active) == 1:
            weights = [a for a in step.operation.equations[0].inputs if a not in active]
            for weight in weights[:1]:
                of_weight.setdefault(_weight(wiring, weight), []).append(step)
    for steps in of_weight.values():
        chain: _Chain = []
        for step in steps if len(steps) >= _TURNS else ():
            if chain and not _leads(wiring, chain[-1], step):
                break
            chain.append(step)
        if len(chain) >= _TURNS:
            yield chain


def _weight(wiring: Wiring, atom: Atom) -> Hashable:
    """A weight as it is before it is moved about, and how: each turn may do that anew."""
    moves: list[str] = []
    while (equation := wiring.equation(atom)) is not None and equation.name in _MOVES:
        moves.append(f"{equation.name} {equation.params}")
        atom = equation.inputs[0]
    return atom, *moves


def _leads(wiring: Wiring, before: Step, after: Step) -> bool:
    (result,) = before.operation.outputs
    return wiring.is_behind(result, wiring.active(after)[0])


def _reads_in_turn(wiring: Wiring, chain: _Chain) -> bool:
    """Whether parts of one value come in, in each turn others."""
    first = wiring.order(chain[0])
    turns = [_picked(wiring, first, *pair) for pair in zip(chain, chain[1:], strict=False)]
    sources = set.intersection(*({source for source, _ in turn} for turn in turns))
    return any(
        len({frozenset(part for own, part in turn if own is source) for turn in turns})
        == len(turns)
        for source in sources
    )


def _picked(wiring: Wiring, first: int, before: Step, after: Step) -> set[tuple[Value, Value]]:
    """What was taken for a turn of what was there before the first one: from where, and what.

    What a turn reads may have been computed before the layer was applied, but not long before.
    """
    begin = 2 * wiring.order(before) - wiring.order(after)
    queue = list(wiring.active(after))
    seen: set[Value] = {*before.operation.outputs}
    found: set[tuple[Value, Value]] = set()
    while queue:
        value = queue.pop()
        step = wiring.maker(value)
        if value in seen or step is None:
            continue
        seen.add(value)
        if step.structure == "structural" and step.primitive in _PICKS:
            source = wiring.active(step)[0]
            maker = wiring.maker(source)
            if maker is None or wiring.order(maker) < first:
                found.add((source, value))
        if wiring.order(step) > begin or step.structure in _BEFORE:
            queue.extend(wiring.active(step))
    return found


def _are_one(wiring: Wiring, a: _Chain, b: _Chain) -> bool:
    return _leads(wiring, a[0], b[1]) and _leads(wiring, b[0], a[1])


def _kind(wiring: Wiring, chain: _Chain) -> str:
    """The name of a cell by what its last turn but one consists of."""
    begin, end = (wiring.order(step) for step in chain[-2:])
    turn = wiring.steps[begin:end]
    gates = sum(step.structure == "gate" for step in turn)
    functions = [step.primitive for step in turn if step.structure == "activation"]
    if gates >= 3 and functions.count("tanh") >= 2:
        return "LSTM"
    return "GRU" if gates >= 2 else "RNN"
