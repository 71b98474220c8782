"""Decays: what a state, or what takes its place, is multiplied with, and what belongs to that."""

from __future__ import annotations

from relprop._core.graph import Atom, Value
from relprop._core.plan import Step
from relprop.anatomy.wiring import LINEAR_LINKS, Link, Wiring, passes

EXPONENT = passes(
    *LINEAR_LINKS, "sum", "activation", "product", "gate", "softmax", "maximum", "difference"
)
_SCALED = ("structural", "scale")


#: A layer by its weight and what it reads: the reading may have one copy of it for each step.
Layer = tuple[Atom, ...]


def decayed(wiring: Wiring) -> set[Value]:
    """All results of products with a decay."""
    return {
        out for steps in decays_of(wiring).values() for s in steps for out in s.operation.outputs
    }


def decays_of(wiring: Wiring) -> dict[Layer, list[Step]]:
    """Products with a decay, exp of something, by the layer that the exponent is from."""
    found: dict[Layer, list[Step]] = {}
    for step in wiring.steps:
        if step.structure not in ("product", "gate") or step.primitive == "dot_general":
            continue
        for operand in wiring.active(step):
            link = _layer(wiring, wiring.maker(wiring.origin(operand, *_SCALED)))
            if link is not None:
                found.setdefault(layer_of(wiring, link.step), []).append(step)
    return found


def layer_of(wiring: Wiring, step: Step) -> Layer:
    """What says which layer a step is."""
    weights = (a for a in step.operation.equations[0].inputs if a not in wiring.active(step))
    return (*weights, *(wiring.origin(a, "structural") for a in wiring.active(step)))


def repeated_decays(wiring: Wiring) -> set[Value]:
    """The exponentials of an exponent that others, before them, are of as well.

    A state space in chunks has four: within chunks, to their ends, from their starts, and across.
    """
    layers = decays_of(wiring).keys()
    seen: set[Layer] = set()
    found: set[Value] = set()
    for step in wiring.steps:
        link = _layer(wiring, step)
        layer = None if link is None else layer_of(wiring, link.step)
        if layer is None or layer not in layers:
            continue
        if layer in seen:
            found.update(step.operation.outputs)
        seen.add(layer)
    return found


def of_states(wiring: Wiring) -> set[Value]:
    """Products that are part of a state space, and no gates: what decays, and what is discretised.

    The exponent of a decay is a time step times a number, and the time step scales as well what
    enters the state.
    """
    found: set[Value] = set()
    times: set[Value] = set()
    for steps in decays_of(wiring).values():
        for product in steps:
            found.update(product.operation.outputs)
            for operand in wiring.active(product):
                link = _layer(wiring, wiring.maker(wiring.origin(operand, *_SCALED)))
                passed = () if link is None else link.passed
                times.update(
                    out
                    for step in passed
                    if step.structure == "activation"
                    for out in step.operation.outputs
                )
    for step in wiring.steps:
        if step.structure in ("product", "gate") and step.operation.propagator.elementwise:
            origins = {wiring.origin(a, *_SCALED, "offset") for a in wiring.active(step)}
            if not origins.isdisjoint(times):
                found.update(step.operation.outputs)
                times.update(step.operation.outputs)
    return found


def _layer(wiring: Wiring, decay: Step | None) -> Link | None:
    """Of an exponential, the layer that its exponent is from."""
    if decay is None or decay.structure != "activation" or decay.primitive != "exp":
        return None
    links = wiring.back(wiring.active(decay)[0], EXPONENT)
    return next((link for link in links if link.step.structure == "dense"), None)
