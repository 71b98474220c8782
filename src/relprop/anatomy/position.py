"""Rotary position embeddings: pairs of entries turned by an angle that depends on the position."""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core.graph import Value
from relprop._core.plan import Step
from relprop.anatomy.blocks import Block, place
from relprop.anatomy.wiring import Wiring


def rotations(wiring: Wiring) -> Iterator[Block]:
    """Each tensor that is rotated: sums of its parts times cosines and sines."""
    seen: set[Value] = set()
    for step in wiring.steps:
        turned = _turned(wiring, step)
        if turned is not None and turned not in seen:
            seen.add(turned)
            yield Block(kind="rotary embedding", **place(step))  # type: ignore[arg-type]


def _turned(wiring: Wiring, step: Step) -> Value | None:
    """What a step rotates, if it does."""
    operands = wiring.active(step)
    if step.structure == "sum" and len(operands) == 2 and step.primitive in ("add", "sub"):
        scales = [wiring.maker(operand) for operand in operands]
        if any(scale is None or scale.structure != "scale" for scale in scales):
            return None
        found = [_phases(wiring, scale) for scale in scales if scale]
        if {"cos"} in found and {"sin"} in found:
            return _origin(wiring, operands[0])
    if step.structure == "scale" and len(operands) == 1:
        # As a complex number, with the angle as its phase.
        complex_valued = step.operation.outputs[0].dtype.kind == "c"
        if complex_valued and _phases(wiring, step) == {"cos", "sin"}:
            return _origin(wiring, operands[0])
    return None


def _phases(wiring: Wiring, scale: Step) -> set[str]:
    names = set()
    for constant in wiring.constants(scale):
        names |= {e.name for e in wiring.behind(constant)}
    return names & {"cos", "sin"}


def _origin(wiring: Wiring, value: Value) -> Value:
    return wiring.origin(value, "structural", "scale")
