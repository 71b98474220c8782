"""Maps on the way to their use: subtracted from each other, mixed across heads, before or after."""

from __future__ import annotations

from typing import NamedTuple

from relprop._core import registry
from relprop._core.graph import Value
from relprop._core.plan import Step
from relprop.anatomy.tracking import Tracked
from relprop.anatomy.wiring import LINEAR_LINKS, Link, Wiring, passes

# Heads are mixed by a product with weights, maps subtracted by a sum.
_AFTER = passes("structural", "scale", "offset", "sum", "dense", "linear")
_BEFORE = passes(*LINEAR_LINKS, "sum", "activation")
_MIXING = passes(*LINEAR_LINKS, "sum", "activation", "dense")


class Use(NamedTuple):
    """Where a map is applied.

    Attributes:
        product: with the values.
        operand: the map, as that takes it.
    """

    product: Step
    operand: Value


def use_of(wiring: Wiring, softmax: Step) -> Use | None:
    """The product that sums over the keys of a map, whatever it is added to and mixed with."""
    (out,) = softmax.operation.outputs
    summed = summed_axes(softmax)
    if len(summed) != 1 or summed[0] >= len(out.shape):
        return None
    tracked = Tracked(wiring, out, _AFTER, summed[0])
    for arrival in tracked.arrivals():
        if not multiplies(wiring, arrival.step):
            continue
        equation = arrival.step.operation.equations[0]
        contracting, _ = equation.params["dimension_numbers"]
        for side, atom in enumerate(equation.inputs[:2]):
            laid = arrival.known.get(atom)  # type: ignore[arg-type]
            dims = [laid.shape[i] for i in contracting[side]] if laid is not None else []
            if any(tracked.are_of(dim, tracked.start[summed[0]]) for dim in dims):
                return Use(arrival.step, atom)  # type: ignore[arg-type]
    return None


def mixed_scores(wiring: Wiring, softmax: Step) -> Link | None:
    """The product of queries and keys behind a softmax, where its heads were mixed after it."""
    (operand, *_) = wiring.active(softmax)
    for mixer in wiring.back(operand, _BEFORE):
        if mixer.step.structure != "dense":
            continue
        for link in wiring.back(wiring.active(mixer.step)[0], _BEFORE):
            if multiplies(wiring, link.step) and _compares(wiring, link.step, softmax):
                passed = (*mixer.passed, mixer.step, *link.passed)
                return Link(link.step, link.copies * mixer.copies, passed)
    return None


def _compares(wiring: Wiring, product: Step, softmax: Step) -> bool:
    """Whether a softmax is over one factor's axis of a product, for each entry of the other's."""
    (out,) = product.operation.outputs
    contracting, batch = product.operation.equations[0].params["dimension_numbers"]
    begin = len(batch[0])
    middle = begin + len(product.operation.equations[0].inputs[0].shape)
    middle -= len(contracting[0]) + len(batch[0])
    tracked = Tracked(wiring, out, _MIXING)
    sides = [tracked.start[begin:middle], tracked.start[middle:]]
    for arrival in tracked.arrivals():
        laid = arrival.known.get(wiring.active(softmax)[0])
        if arrival.step is softmax and laid is not None:
            found = [
                {i for i, dim in enumerate(laid.shape) for own in side if tracked.are_of(dim, own)}
                for side in sides
            ]
            over = {*summed_axes(softmax)}
            return any(over <= a and b - over for a, b in (found, found[::-1]))
    return False


def summed_axes(softmax: Step) -> list[int]:
    """The axes that a softmax sums over."""
    sums = (e for e in softmax.operation.equations if registry.lookup(e.primitive).reduces)
    return sorted({axis for e in sums for axis in e.params.get("axes", ())})


def multiplies(wiring: Wiring, step: Step) -> bool:
    """Whether a step is a product of two matrices that both depend on the input."""
    return step.primitive == "dot_general" and len(wiring.active(step)) == 2


def sums_over_tokens(wiring: Wiring, layer: Step, product: Step) -> bool:
    """Whether a product sums over what a layer was applied to, and not over what it has made."""
    (out,) = layer.operation.outputs
    made = _made_axes(wiring, layer)
    if made is None:
        return False
    tracked = Tracked(wiring, out, _BEFORE)
    contracting, _ = product.operation.equations[0].params["dimension_numbers"]
    for arrival in tracked.arrivals():
        if arrival.step is not product:
            continue
        for side, atom in enumerate(product.operation.equations[0].inputs[:2]):
            laid = arrival.known.get(atom)  # type: ignore[arg-type]
            if laid is not None:
                summed = [laid.shape[i] for i in contracting[side] if laid.shape[i]]
                of = [any(tracked.are_of(d, tracked.start[i]) for i in made) for d in summed]
                return bool(summed) and not any(of)
    return False


def _made_axes(wiring: Wiring, layer: Step) -> range | None:
    """The axes of a layer's result that are of its weight."""
    equation = layer.operation.equations[0]
    if equation.name != "dot_general" or len(layer.operation.outputs[0].shape) != len(
        equation.outputs[0].shape
    ):
        return None
    contracting, batch = equation.params["dimension_numbers"]
    active = {*wiring.active(layer)}
    shared = len(batch[0])
    first = len(equation.inputs[0].shape) - len(contracting[0])
    rank = len(equation.outputs[0].shape)
    return range(first, rank) if equation.inputs[0] in active else range(shared, first)
