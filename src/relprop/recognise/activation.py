"""ActivationFunction functions: GELU, SiLU, mish, hard-swish, or one that somebody just made up.

They arrive as several element-wise equations. Where two values that are joined element by
element both come, through element-wise equations only, from one value of the same shape, all in
between is a function of each entry of that value. Where they come from two different values the
join is a true product or sum: a gate, a residual.

Every value has at most one immediate dominator here: the nearest earlier value that all paths
from it pass. Slices and splits have none, since the halves of a projection are two things.

Functions of functions are one, with the numbers that the result is scaled or shifted by: softplus
as `log(1 + exp(x))`, squared ReLU, `1 - sigmoid(x)`. A number that is added *before* is the bias of
the function and stays an offset, unless what follows is limited on both sides: `relu6(x + 3) / 6`
is a hard sigmoid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop._core.operation import Operation
from relprop._core.plan import Step
from relprop._core.registry import operation_of
from relprop.propagators.general import inner, is_maximum_with_zero
from relprop.propagators.linear import Addition, Division, Multiplication, Negation
from relprop.propagators.recognised import ActivationFunction
from relprop.recognise.average import averages
from relprop.recognise.bias import biased_layers
from relprop.recognise.dataflow import Dataflow, compares, is_elementwise, is_move
from relprop.recognise.logsumexp import logsumexps
from relprop.recognise.loops import loops_over_entries
from relprop.recognise.normaliser import normalisers
from relprop.recognise.softmax import softmaxes

_LIMITS = {"max": {"max"}, "min": {"min"}, "clamp": {"max", "min"}}


class _Chain(NamedTuple):
    """A value as a function of an earlier one.

    Attributes:
        start: the earlier value.
        sides: where the function is limited, if it does nothing but limiting.
        shifted: what a number was added to to get the start, if so.
    """

    start: Value
    sides: frozenset[str] | None
    shifted: Value | None


def activations(flow: Dataflow) -> Iterator[Operation]:
    """Each equation that completes an element-wise function of one value."""
    # A root that divides, the factor of a mean, the bias of a layer, the shift of a logsumexp and
    # the exponential that completes a softmax belong to those.
    others = (normalisers, averages, biased_layers, logsumexps, softmaxes)
    taken = {operation.last for find in others for operation in flow.found(find)}
    roots = {operation.last for operation in flow.found(normalisers)}
    joined = {
        operation.last: operation
        for operation in flow.found(joins)
        if not any(equation in roots for equation in operation.equations)
    }
    chains: dict[Atom, _Chain] = {}
    shifted: dict[Atom, Value] = {}
    # Comparisons with a value that is then chosen or not, as in `where(x > 0, x, 0)`.
    inside = {
        (operation.inputs[0], equation)
        for operation in joined.values()
        if operation.last not in taken
        for equation in operation.equations
        if compares(equation)
    }

    def goes_on(value: Value, use: Equation) -> bool:
        known = use in joined or (value, use) in inside or _is_unary(flow, use)
        return value not in flow.visible and use not in taken and known

    for equation in flow.equations:
        if equation in taken or not (equation in joined or _is_unary(flow, equation)):
            continue
        (out,) = equation.outputs
        operation = joined.get(equation)
        value = operation.inputs[0] if operation else flow.operands(equation)[0]
        assert isinstance(value, Value)
        before = chains.get(value) if value not in flow.visible else None
        if equation in joined or _is_nonlinear(flow, equation):
            chains[out] = _extended(before, equation, value, shifted.get(value))
        elif before is not None:
            chains[out] = before._replace(sides=None)
        elif isinstance(registry.lookup(equation.primitive), Addition):
            shifted[out] = value
            if value not in flow.visible and _is_activated(flow, value):
                chains[out] = _Chain(value, None, None)
        chain = chains.get(out)
        alone = chain is not None and chain.start is value and out not in shifted
        if chain is None or (alone and equation not in joined):
            continue
        uses = flow.consumers(out)
        if out in flow.graph.explained_outputs or not all(goes_on(out, use) for use in uses):
            yield flow.region(chain.start, equation, ActivationFunction())


def _extended(
    before: _Chain | None, equation: Equation, value: Value, shifted: Value | None
) -> _Chain:
    """The chain with one more function."""
    sides = _sides(equation)
    if before is None:
        chain = _Chain(value, sides, shifted)
    else:
        both = None if sides is None or before.sides is None else before.sides | sides
        chain = before._replace(sides=both)
    if chain.shifted is not None and chain.sides == {"max", "min"}:
        return chain._replace(start=chain.shifted, shifted=None)
    return chain


def _sides(equation: Equation) -> frozenset[str] | None:
    """Where a function is limited, if it does nothing but limiting."""
    equations = inner(equation)
    if not all(e.name in _LIMITS for e in equations):
        return None
    return frozenset().union(*(_LIMITS[e.name] for e in equations))


def _is_unary(flow: Dataflow, equation: Equation) -> bool:
    """Whether an equation is a function of the entries of one value and of numbers."""
    operands = flow.operands(equation)
    others = [a for a in equation.inputs if a not in flow.dependent]
    return (
        len(operands) == 1
        and len(equation.outputs) == 1
        and operands[0].shape == equation.outputs[0].shape
        and is_elementwise(equation)
        and all(map(flow.is_number, others))
    )


def _is_activated(flow: Dataflow, value: Atom) -> bool:
    """Whether a value is a function of entries that was moved, or computed around of this body.

    A number that is added to it is one more step of that function: `1 - z[i]` of sigmoids z.
    """
    known: dict[Atom, bool] = flow.memory.setdefault("activated", {})
    passed: list[Atom] = []
    while value not in known:
        passed.append(value)
        if value in flow.beyond:
            around, value = flow.beyond[value]
            known[passed[-1]] = around.depends(value) and _is_activated(around, value)
            break
        equation = flow.producer(value)
        operands = [] if equation is None else flow.operands(equation)
        if equation is None or len(operands) != 1 or len(equation.outputs) != 1:
            known[value] = False
        elif _is_unary(flow, equation) and _is_nonlinear(flow, equation):
            known[value] = True
        elif is_move(equation) or _only_scales(flow, equation):
            value = operands[0]
        else:
            known[value] = False
    found = known[passed[-1] if passed and passed[-1] in known else value]
    known.update(dict.fromkeys(passed, found))
    return found


def _only_scales(flow: Dataflow, equation: Equation) -> bool:
    kind = registry.lookup(equation.primitive)
    return isinstance(kind, Multiplication | Division | Negation) and _is_unary(flow, equation)


def _is_nonlinear(flow: Dataflow, equation: Equation) -> bool:
    operation = operation_of(equation)
    active = [atom in flow.dependent for atom in equation.inputs]
    return bool(equation.bodies) or operation.propagator.structure(operation, active) == (
        "activation"
    )


def joins(flow: Dataflow) -> Iterator[Operation]:
    """Each equation that joins what was computed from one value, entry by entry."""
    dominator: dict[Value, Value] = {}
    depth: dict[Value, int] = {}

    def nearest_common(a: Value, b: Value) -> Value | None:
        while a is not b:
            if depth.get(a, 0) < depth.get(b, 0):
                a, b = b, a
            if a not in dominator:
                return None
            a = dominator[a]
        return a

    # A choice by comparison, `where(x > 0, x, 0)`, is a function of x like any other: what is
    # compared is followed as well, although no relevance passes there.
    tracked: set[Atom] = set(flow.dependent)
    for equation in flow.equations:
        operands = [a for a in equation.inputs if isinstance(a, Value) and a in tracked]
        if not operands or len(equation.outputs) != 1:
            continue
        if not _is_of_entries(flow, equation):
            continue
        (out,) = equation.outputs
        tracked.add(out)
        if any(a.shape != out.shape for a in operands):
            continue
        common: Value | None = operands[0]
        for operand in operands[1:]:
            common = common and nearest_common(common, operand)
        if common is None:
            continue
        dominator[out], depth[out] = common, depth.get(common, 0) + 1
        if out in flow.dependent and (len(operands) > 1 or equation.bodies):
            yield flow.region(common, equation, ActivationFunction())


def _is_of_entries(flow: Dataflow, equation: Equation) -> bool:
    return is_elementwise(equation) or compares(equation) or loops_over_entries(flow, equation)


def is_relu(equation: Equation) -> bool:
    """Whether there is a maximum with zero in an equation, alone or among other functions."""
    return any(map(is_maximum_with_zero, inner(equation)))


def rectifies(step: Step) -> bool:
    """Whether an operation is `max(x, 0)` and nothing more, for `relprop.Where`."""
    return step.operation.propagator.rectifies(step.operation)
