"""Layers with what is their own: the bias, a change of sign, a scale by one number.

``(x @ W) * s + b`` is the layer of the weight ``s W``. Where the code adds a bias later, to a sum
that the layer is a summand of, the normal form has it here (`relprop.reading.sums`).
"""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop._core.operation import Operation
from relprop.propagators.affine import Scaled
from relprop.propagators.linear import Addition, Contraction, Division, Multiplication, Negation
from relprop.propagators.recognised import Biased
from relprop.propagators.sums import Sum
from relprop.reading.terms import Symbol, mentions
from relprop.recognise.dataflow import Dataflow, is_device_sum, is_elementwise, is_move
from relprop.recognise.fixed import is_fixed


def biased_layers(flow: Dataflow) -> Iterator[Operation]:
    """Each constant that is added to the result of a layer, or number that it is scaled by."""
    for equation in flow.equations:
        if not _is_affine(flow, equation):
            continue
        chain = _back_to_layer(flow, equation)
        if chain is None:
            continue
        layer, *after = chain
        if _centres(flow, after):
            continue
        if _is_bias(flow, equation) and all(map(_moves, after[:-1])):
            kind = registry.lookup(equation.primitive)
            assert isinstance(kind, Addition)
            (operand,) = flow.operands(equation)
            bias = equation.inputs[equation.inputs.index(operand) - 1]
            yield Operation(
                Biased(kind.sign), tuple(chain), (*layer.inputs, bias), equation.outputs
            )
        elif not any(map(is_device_sum, after)) and _belongs(flow, after):
            others = dict.fromkeys(
                a for e in after for a in e.inputs if isinstance(a, Value) and not flow.depends(a)
            )
            yield Operation(
                Scaled(main=0), tuple(chain), (*layer.inputs, *others), equation.outputs
            )


def is_layer(flow: Dataflow, equation: Equation) -> bool:
    """Whether it is a dense layer or convolution, of one operand that is explained."""
    kind = registry.lookup(equation.primitive)
    one = isinstance(kind, Contraction) and len(flow.operands(equation)) == 1
    return one and not is_fixed(flow, equation)


def _is_affine(flow: Dataflow, equation: Equation) -> bool:
    """Whether a constant is added, or a number multiplied with, or the sign changed."""
    operands = flow.operands(equation)
    if len(operands) != 1 or len(equation.outputs) != 1:
        return False
    if operands[0].shape != equation.outputs[0].shape:
        return False
    kind = registry.lookup(equation.primitive)
    if isinstance(kind, Negation):
        return True
    if not isinstance(kind, Addition | Multiplication | Division):
        return False
    position = equation.inputs.index(operands[0])
    other = equation.inputs[1 - position]
    if isinstance(kind, Addition):
        return not flow.varies(other)  # Such as the maximum of the product itself, stopped.
    return flow.is_number(other) and not (isinstance(kind, Division) and position == 1)


def _is_bias(flow: Dataflow, equation: Equation) -> bool:
    """Whether a constant is added to what comes first, with its own sign or the other."""
    kind = registry.lookup(equation.primitive)
    if not isinstance(kind, Addition):
        return False
    return kind.sign > 0 or equation.inputs[0] in flow.operands(equation)


def _centres(flow: Dataflow, after: list[Equation]) -> bool:
    """Whether a constant beside the bias is what a batch norm subtracts: it scales the result."""
    if sum(isinstance(registry.lookup(e.primitive), Addition) for e in after) < 2:
        return False
    uses = [*_uses(flow, after[-1].outputs[0])]
    return bool(uses) and all(_scales_channels(flow, use) for use in uses)


def _scales_channels(flow: Dataflow, equation: Equation) -> bool:
    """Whether something is multiplied with a constant that is more than one number."""
    kind = registry.lookup(equation.primitive)
    if not isinstance(kind, Multiplication | Division) or len(flow.operands(equation)) != 1:
        return False
    (other,) = (a for a in equation.inputs if a not in flow.dependent)
    if other in flow.touched or flow.is_number(other):
        return False
    uses = flow.consumers(equation.outputs[0])
    return not uses or not all(_sums_up(flow, use, other) for use in uses)


def _sums_up(flow: Dataflow, equation: Equation, weight: Atom) -> bool:
    """Whether the channels that were multiplied with weights are added up: a head, and no scale."""
    if not isinstance(registry.lookup(equation.primitive), Sum):
        return False
    index = flow.algebra.indices(weight.shape)
    term = flow.algebra.of(weight, index)
    kept = [s for axis, s in enumerate(index) if axis not in equation.params.get("axes", ())]
    symbols = [s for s in kept if isinstance(s, Symbol)]
    return not any(mentions(product, symbols) for product in term)


def _belongs(flow: Dataflow, after: list[Equation]) -> bool:
    """Whether numbers, signs and constants after a layer are the layer's own.

    A scale without a bias after it is left alone: it may be part of a function, as in
    ``tanh(a / 2)``. So is a change of sign before a function, as in ``sigmoid(-a)``, but not the
    one that comes with the bias, as in ``b - x @ w``.
    """
    kinds = [registry.lookup(equation.primitive) for equation in after]
    flips = [_flips(flow, equation) for equation in after]
    biased = [isinstance(kind, Addition) for kind in kinds]
    if sum(flips) % 2 and not (biased[-1] and sum(biased) == 1 and _is_array(flow, after[-1])):
        return not any(_is_function(flow, use) for use in _uses(flow, after[-1].outputs[0]))
    return biased[-1] or (flips[-1] and any(biased))


def _is_array(flow: Dataflow, addition: Equation) -> bool:
    """Whether what is added is an array, as a bias is, and no number, as in ``1 - h``."""
    return any(not flow.is_number(a) for a in addition.inputs if a not in flow.dependent)


def _flips(flow: Dataflow, equation: Equation) -> bool:
    """Whether an equation changes the sign of what depends on the inputs."""
    kind = registry.lookup(equation.primitive)
    if isinstance(kind, Negation):
        return True
    if isinstance(kind, Addition):
        return kind.sign < 0 and equation.inputs[0] not in flow.dependent
    if isinstance(kind, Multiplication | Division):
        (other,) = [a for a in equation.inputs if a not in flow.dependent]
        return (flow.number(other) or 0) < 0
    return False


def _uses(flow: Dataflow, value: Value) -> Iterator[Equation]:
    for use in flow.consumers(value):
        if is_move(use) and len(use.inputs) == 1:
            for out in use.outputs:
                yield from _uses(flow, out)
        else:
            yield use


def _is_function(flow: Dataflow, equation: Equation) -> bool:
    """Whether it is a function of one value, entry by entry, and no sum or scale."""
    kind = registry.lookup(equation.primitive)
    linear = isinstance(kind, Addition | Multiplication | Negation)
    return is_elementwise(equation) and not linear and len(flow.operands(equation)) == 1


def _moves(equation: Equation) -> bool:
    return is_move(equation) or is_device_sum(equation)


def _back_to_layer(flow: Dataflow, end: Equation) -> list[Equation] | None:
    """The equations from a layer to one that belongs to it, both among them."""
    if not _comes_from_layer(flow, end):
        return None
    chain, shared = [end], False
    while True:
        (value,) = flow.operands(chain[-1])
        equation = flow.producer(value)
        shared = shared or not flow.is_only_for(value, chain[-1])
        assert equation is not None
        if is_layer(flow, equation):
            only = _is_bias(flow, end) and all(map(_moves, chain[1:]))
            # The scaled result is the layer only where nobody takes it unscaled.
            return [equation, *reversed(chain)] if only or not shared else None
        if shared and _is_affine(flow, equation):
            return None
        chain.append(equation)


def _comes_from_layer(flow: Dataflow, equation: Equation) -> bool:
    """Whether moves, scales and constants alone are between an equation and a layer before it."""
    known = flow.memory.setdefault("from layers", {})
    passed: list[Equation] = []
    while equation not in known:
        passed.append(equation)
        (value,) = flow.operands(equation)
        before = flow.producer(value)
        known[equation] = before is not None and is_layer(flow, before)
        if before is None or known[equation] or not _goes_on(flow, before):
            break
        del known[equation]
        equation = before
    known.update(dict.fromkeys(passed, known[equation]))
    return known[equation]


def _goes_on(flow: Dataflow, equation: Equation) -> bool:
    """Whether it moves, scales or adds a constant, so that a layer before it is looked for."""
    if len(equation.outputs) != 1:
        return False
    moves = _moves(equation) and len(equation.inputs) == 1 and bool(flow.operands(equation))
    return moves or _is_affine(flow, equation)
