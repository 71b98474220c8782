"""Whole normalisations: from a value to what has been made of it by its own normaliser.

Without being asked, relprop only takes the normaliser as a constant, and leaves the rest of a norm
to the rules of sums, scales and offsets. Some rule sets treat a norm as one thing; where a
composite names the structure ``norm``, that is what this finds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from relprop._core import registry
from relprop._core.graph import Equation, Value
from relprop._core.operation import Operation
from relprop.propagators.linear import Addition, Division, Multiplication, Negation
from relprop.propagators.recognised import WholeNorm
from relprop.recognise.dataflow import Dataflow, is_move
from relprop.recognise.normaliser import bases_of, normalisers

# How many equations after its normaliser a norm is complete, weights and bias left aside.
_REACH = 16


def norms(flow: Dataflow) -> Iterator[Operation]:
    """Each normalisation of a value by its own normaliser, with its weights and bias."""
    flow = flow.uncut  # Its author may have stopped the derivative of the normaliser.
    found: dict[Equation, Value] = {}
    for normaliser in flow.found(normalisers):
        pair = _norm(flow, normaliser.last)
        if pair is not None:
            found[pair[1]] = pair[0]
    for equation in flow.equations:
        if equation.name in ("concatenate", "stack"):
            yield from _side_by_side(flow, equation, found)
    for end, start in found.items():
        # Groups are made before and undone after; weights may come in between or later.
        shapes = {value.shape: value for value in _before_moves(flow, start)}
        end = _with_weights(flow, end, shapes.keys())
        yield flow.region(shapes[end.outputs[0].shape], end, WholeNorm())


def _norm(flow: Dataflow, normaliser: Equation) -> tuple[Value, Equation] | None:
    """The value that a normaliser normalises, and the equation that completes that."""
    bases = {
        value: None for base in bases_of(flow, normaliser) for value in _before_moves(flow, base)
    }
    ends = {start: end for start in bases if (end := _end(flow, start, normaliser)) is not None}
    if not ends:
        return None
    start = max(ends, key=flow.order)
    centring = flow.producer(start)
    if centring is not None and centring.name == "sub" and len(flow.operands(centring)) == 2:
        # The mean may have been subtracted before, and the result been used for both.
        whole = _before_moves(flow, flow.operands(centring)[0])
        start = next((value for value in whole if value in ends), start)
    return start, ends[start]


def _side_by_side(
    flow: Dataflow, joining: Equation, found: dict[Equation, Value]
) -> Iterator[Operation]:
    """The one norm that those of all parts of a value are, if that is put together again."""
    parts = [flow.producer(flow.origin(atom)[0]) for atom in joining.inputs]
    starts = [found[part] for part in parts if part in found]
    if len(starts) < len(parts):
        return
    for source in _before_moves(flow, starts[0]):
        end = _with_weights(flow, joining, [source.shape])
        region = flow.region(source, end, WholeNorm())
        if source.shape == end.outputs[0].shape and _is_closed(flow, region):
            for part in parts:
                found.pop(part, None)  # type: ignore[arg-type]
            yield region
            return


def _end(flow: Dataflow, start: Value, normaliser: Equation) -> Equation | None:
    """The equation that completes the normalisation of a value, weights and bias left aside."""
    following = flow.after(normaliser, _REACH)
    for equation in following:
        if len(equation.outputs) != 1 or equation.outputs[0].shape != start.shape:
            continue
        region = flow.region(start, equation, WholeNorm())
        # The normaliser has met what it is one of.
        divided = any(len(flow.operands(e)) == 2 for e in region.equations if e in following)
        if normaliser in region.equations and divided and _is_closed(flow, region):
            return equation
    return None


def _is_closed(flow: Dataflow, region: Operation) -> bool:
    """Whether nothing but the first operand comes in, and nothing but the result goes out."""
    inside = set(region.equations)
    return not any(atom in flow.dependent for atom in region.inputs[1:]) and all(
        use in inside
        for equation in region.equations[:-1]
        for out in equation.outputs
        for use in flow.consumers(out)
    )


def _before_moves(flow: Dataflow, value: Value) -> Iterator[Value]:
    """A value, as it was before each of the moves that led to it."""
    while True:
        yield value
        equation = flow.producer(value)
        if equation is None or not is_move(equation) or len(flow.operands(equation)) != 1:
            return
        (value,) = flow.operands(equation)


def _with_weights(flow: Dataflow, end: Equation, shapes: Collection[tuple[int, ...]]) -> Equation:
    """The last equation of a norm with weights and bias, whose result has one of the shapes."""
    expected = [Multiplication | Division, Addition]
    complete = end
    while True:
        uses = flow.consumers(end.outputs[0])
        if len(uses) != 1 or len(flow.operands(uses[0])) != 1:
            return complete
        (end,) = uses
        kind = registry.lookup(end.primitive)
        found = next((k for k in expected if isinstance(kind, k)), None)
        if found is None and not (is_move(end) or isinstance(kind, Negation)):
            return complete
        if found is not None:
            expected = expected[expected.index(found) :]  # Weights may come in several factors.
        if end.outputs[0].shape in shapes:
            complete = end
