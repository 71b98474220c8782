"""Whole normalisations: from a value to what has been made of it by its own statistic.

Without being asked, relprop only takes the statistic as a constant, and leaves the rest of a norm
to the rules of sums, scales and offsets. Some rule sets treat a norm as one thing; where a
composite names the structure ``norm``, that is what this finds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop._core.operation import Operation
from relprop.propagators.linear import Addition, Division, Multiplication
from relprop.propagators.recognised import Norm
from relprop.recognise.dataflow import Dataflow, is_device_sum, is_elementwise, is_move
from relprop.recognise.statistic import statistics

# What is done to a value before it is summed into a statistic.
_POWERS = ("square", "integer_pow", "pow", "abs", "mul")
# How many equations after its statistic a norm is complete, weights and bias left aside.
_REACH = 16


def norms(flow: Dataflow) -> Iterator[Operation]:
    """Each normalisation of a value by its own statistic, with its weights and bias."""
    for statistic in flow.found(statistics):
        starts = list(_starts(flow, statistic.last.inputs[0]))
        nearest = next((s for s in starts if _end(flow, s, statistic.last) is not None), None)
        # The mean may have been subtracted before, and the result been used for both.
        candidates = [s for s in starts[-1:] if _is_centred(flow, nearest, s)] or [nearest]
        for start in candidates:
            end = None if start is None else _end(flow, start, statistic.last)
            if start is not None and end is not None:
                # Groups are made before and undone after; weights may come in between or later.
                shapes = {value.shape: value for value in _before_moves(flow, start)}
                end = _with_weights(flow, end, shapes.keys())
                yield flow.region(shapes[end.outputs[0].shape], end, Norm())


def _starts(flow: Dataflow, atom: Atom) -> Iterator[Value]:
    """The values that a statistic may be one of, the nearest first."""
    value = _summed(flow, atom)
    while isinstance(value, Value):
        yield value
        equation = flow.producer(value)
        operands = [] if equation is None else flow.operands(equation)
        if equation is None or not operands:
            return
        centred = equation.name == "sub" and len(operands) == 2
        power = equation.name in _POWERS and all(a is operands[0] for a in operands)
        if not (centred or power or is_move(equation)):
            return
        # In `x - mean` the mean was computed from x; nothing before that is part of the norm.
        (value, *_) = operands
        if centred:
            yield value
            return


def _is_centred(flow: Dataflow, value: Value | None, start: Value) -> bool:
    """Whether a value is another one without its mean, and that one starts a norm as well."""
    equation = None if value is None else flow.producer(value)
    return (
        equation is not None
        and equation.name == "sub"
        and len(flow.operands(equation)) == 2
        and equation.inputs[0] is start
    )


def _summed(flow: Dataflow, atom: Atom) -> Atom | None:
    """What the last sum on the way to a statistic was taken of."""
    while True:
        equation = flow.producer(atom)
        if equation is None or not flow.operands(equation):
            return None
        bodies = [e for body in equation.bodies for e in body.equations]
        if any(registry.lookup(e.primitive).reduces for e in (equation, *bodies)):
            value = flow.operands(equation)[0]
            # Each device has summed up its part before.
            return (_summed(flow, value) if is_device_sum(equation) else None) or value
        if not (is_move(equation) or is_elementwise(equation)):
            return None
        atom = flow.operands(equation)[0]


def _end(flow: Dataflow, start: Value, statistic: Equation) -> Equation | None:
    """The equation that completes the normalisation of a value, weights and bias left aside."""
    following = flow.after(statistic, _REACH)
    for equation in following:
        if len(equation.outputs) != 1 or equation.outputs[0].shape != start.shape:
            continue
        region = flow.region(start, equation, Norm())
        inside = set(region.equations)
        # The statistic has met what it is one of.
        divided = any(len(flow.operands(e)) == 2 for e in region.equations if e in following)
        alone = not any(atom in flow.dependent for atom in region.inputs[1:])
        closed = all(
            use in inside
            for e in region.equations[:-1]
            for out in e.outputs
            for use in flow.consumers(out)
        )
        if statistic in inside and divided and alone and closed:
            return equation
    return None


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
        if found is None and not is_move(end):
            return complete
        if found is not None:
            expected = expected[expected.index(found) + 1 :]
        if end.outputs[0].shape in shapes:
            complete = end
