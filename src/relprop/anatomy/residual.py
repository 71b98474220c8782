"""Residual streams: what a layer computes from a value is added to that value."""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core.graph import Value
from relprop.anatomy.blocks import Block, place
from relprop.anatomy.wiring import Wiring

_LAYERS = ("dense", "convolution")


def residuals(wiring: Wiring) -> Iterator[Block]:
    """Each sum of a value and something that layers have computed from it."""
    for step in wiring.steps:
        operands = wiring.active(step)
        if step.structure != "sum" or step.primitive != "add" or len(operands) != 2:
            continue
        a, b = (wiring.origin(operand, "structural") for operand in operands)
        if _computed_from(wiring, a, b) or _computed_from(wiring, b, a):
            yield Block(kind="residual", **place(step))  # type: ignore[arg-type]


def _computed_from(wiring: Wiring, value: Value, source: Value) -> bool:
    """Whether layers lead from one value to another."""
    queue, seen = [(value, False)], set()
    while queue:
        value, layers = queue.pop()
        if value is source:
            if layers:
                return True
            continue
        if (value, layers) in seen:
            continue
        seen.add((value, layers))
        step = wiring.maker(value)
        if step is not None:
            more = layers or step.structure in _LAYERS
            queue.extend((operand, more) for operand in wiring.active(step))
    return False
