"""Residual streams: what a layer computes from a value is added to that value."""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core.graph import Value
from relprop._core.plan import Plan
from relprop.anatomy.attention import attentions
from relprop.anatomy.blocks import Residual, place
from relprop.anatomy.wiring import Wiring, in_all_bodies

_LAYERS = ("dense", "convolution")


def residuals(wiring: Wiring) -> Iterator[Residual]:
    """Each sum of a value and something that layers have computed from it."""
    attention = [*attentions(wiring)]
    for step in wiring.steps:
        operands = wiring.active(step)
        if step.structure != "sum" or step.primitive != "add" or len(operands) != 2:
            continue
        for branch, stream in (operands, reversed(operands)):
            source = wiring.origin(stream, "structural")
            passed = _between(wiring, wiring.origin(branch, "structural"), source)
            if passed is not None:
                yield Residual(
                    kind="residual",
                    **place(step),  # type: ignore[arg-type]
                    stream=stream,
                    branch=branch,
                    attention=next((a for a in attention if a.mixed in passed), None),
                )
                break


def all_residuals(plan: Plan) -> Iterator[Residual]:
    """The residual sums of a plan and of all bodies in it, in order of evaluation."""
    return in_all_bodies(plan, residuals)


def _between(wiring: Wiring, value: Value, source: Value) -> set[Value] | None:
    """All values that a value is computed from, up to a source; None if no layers lead there."""
    queue, seen, found = [(value, False)], set(), False
    while queue:
        value, layers = queue.pop()
        if value is source:
            found = found or layers
            continue
        if (value, layers) in seen:
            continue
        seen.add((value, layers))
        step = wiring.maker(value)
        if step is not None:
            more = layers or step.structure in _LAYERS
            queue.extend((operand, more) for operand in wiring.active(step))
    return {value for value, _ in seen} if found else None
