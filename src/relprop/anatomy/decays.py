"""Decays: what a state, or what takes its place, is multiplied with."""

from __future__ import annotations

from relprop._core.graph import Value
from relprop._core.plan import Step
from relprop.anatomy.wiring import LINEAR_LINKS, Wiring, passes

EXPONENT = passes(*LINEAR_LINKS, "sum", "activation", "product", "gate", "softmax")


def decayed(wiring: Wiring) -> set[Value]:
    """All results of products with a decay."""
    return {
        out for steps in decays_of(wiring).values() for s in steps for out in s.operation.outputs
    }


def decays_of(wiring: Wiring) -> dict[Value, list[Step]]:
    """Products with a decay, exp of something, by the layer that the exponent is from."""
    found: dict[Value, list[Step]] = {}
    for step in wiring.steps:
        if step.structure not in ("product", "gate") or step.primitive == "dot_general":
            continue
        for operand in wiring.active(step):
            decay = wiring.maker(wiring.origin(operand, "structural"))
            if decay is None or decay.structure != "activation" or decay.primitive != "exp":
                continue
            links = wiring.back(wiring.active(decay)[0], EXPONENT)
            layer = next((link.step for link in links if link.step.structure == "dense"), None)
            if layer is not None:
                found.setdefault(layer.operation.outputs[0], []).append(step)
    return found
