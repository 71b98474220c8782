"""Decays: what a state, or what takes its place, is multiplied with, and what belongs to that."""

from __future__ import annotations

import dataclasses

from relprop._core.graph import Atom, Value
from relprop._core.plan import Step
from relprop.anatomy.wiring import LINEAR_LINKS, Link, Wiring, passes

EXPONENT = passes(*LINEAR_LINKS, "sum", "activation", "product", "gate", "softmax", "maximum")
_SCALED = ("structural", "scale")
#: A layer by its weight and what it reads: the reading may have one copy of it for each step.
Layer = tuple[Atom, ...]


@dataclasses.dataclass
class Decays:
    """Decays of one state.

    Attributes:
        layers: those that their exponents are from.
        products: what decays there.
    """

    layers: set[Layer]
    products: list[Step]


def decayed(wiring: Wiring) -> set[Value]:
    """All results of products with a decay."""
    return {out for one in decays_of(wiring) for s in one.products for out in s.operation.outputs}


def decays_of(wiring: Wiring) -> list[Decays]:
    """Products with a decay, exp of something, by the layers that the exponents are from."""
    found: list[Decays] = []
    for step in wiring.steps:
        if step.structure not in ("product", "gate") or step.primitive == "dot_general":
            continue
        for operand in wiring.active(step):
            layers = _layers(wiring, wiring.maker(wiring.origin(operand, *_SCALED)))
            if not layers:
                continue
            found = _joined(found, Decays(layers, [step]))
    return found


def _joined(found: list[Decays], new: Decays) -> list[Decays]:
    """An exponent of several layers, such as an input's gate and the decay, joins them."""
    same = [one for one in found if one.layers & new.layers]
    for one in same:
        new = Decays(one.layers | new.layers, [*one.products, *new.products])
    return [*(one for one in found if one not in same), new]


def _all_decays(wiring: Wiring) -> list[Decays]:
    """Those by products, and those that a loop multiplies its state with."""
    found = decays_of(wiring)
    for step in wiring.steps:
        if step.primitive != "scan" or not step.bodies:
            continue
        (body,) = step.bodies
        products = (s for s in body.steps if s.structure in ("product", "gate"))
        read = {atom for product in products for atom in product.operation.inputs}
        for outer, inner in zip(step.operation.inputs, body.graph.inputs, strict=True):
            if inner in read and isinstance(outer, Value):
                layers = _layers(wiring, wiring.maker(wiring.origin(outer, *_SCALED)))
                found = _joined(found, Decays(layers, [step])) if layers else found
    return found


def repeated_decays(wiring: Wiring) -> set[Value]:
    """The exponentials of an exponent that others, before them, are of as well.

    A state space in chunks has four: within chunks, to their ends, from their starts, and across.
    """
    decays = _all_decays(wiring)
    seen: set[int] = set()
    found: set[Value] = set()
    for step in wiring.steps if decays else ():
        layers = _layers(wiring, step)
        number = next((i for i, one in enumerate(decays) if one.layers & layers), None)
        if number in seen:
            found.update(step.operation.outputs)
        elif number is not None:
            seen.add(number)
    return found


def of_states(wiring: Wiring) -> set[Value]:
    """Products that are part of a state space, and no gates: what decays, and what is discretised.

    The exponent of a decay is a time step times a number, and the time step scales as well what
    enters the state.
    """
    found: set[Value] = set()
    times: set[Value] = set()
    for product in (step for one in _all_decays(wiring) for step in one.products):
        found.update(product.operation.outputs)
        for operand in wiring.active(product):
            decay = wiring.maker(wiring.origin(operand, *_SCALED))
            passed = (step for link in exponent_of(wiring, decay) for step in link.passed)
            steps = (step for step in passed if step.structure == "activation")
            # With what it is a function of: `-dt` is one with dt in it.
            parts = (e for step in steps for e in step.operation.equations)
            times.update(out for e in parts for out in e.outputs)
    for step in wiring.steps if found else ():
        if step.structure in ("product", "gate") and step.operation.propagator.elementwise:
            origins = {wiring.origin(a, *_SCALED, "offset") for a in wiring.active(step)}
            if not origins.isdisjoint(times):
                found.update(step.operation.outputs)
                times.update(step.operation.outputs)
    return found


def layer_of(wiring: Wiring, step: Step) -> Layer:
    """What says which layer a step is."""
    weights = (a for a in step.operation.equations[0].inputs if a not in wiring.active(step))
    return (*weights, *(wiring.origin(a, "structural") for a in wiring.active(step)))


def _layers(wiring: Wiring, decay: Step | None) -> set[Layer]:
    return {layer_of(wiring, link.step) for link in exponent_of(wiring, decay)}


def exponent_of(wiring: Wiring, decay: Step | None) -> list[Link]:
    """Of an exponential, the layers that its exponent is from."""
    if decay is None or decay.structure != "activation" or decay.primitive != "exp":
        return []
    links = wiring.back(wiring.active(decay)[0], EXPONENT)
    return [link for link in links if link.step.structure == "dense"]
