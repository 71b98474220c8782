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
    found = [*attentions(wiring)]
    attention = {block.mixed: number for number, block in enumerate(found)}
    for step in wiring.steps:
        operands = wiring.active(step)
        if step.structure != "sum" or step.primitive != "add" or len(operands) != 2:
            continue
        for branch, stream in (operands, reversed(operands)):
            source = wiring.origin(stream, "structural")
            passed = _between(wiring, wiring.origin(branch, "structural"), source)
            if passed is not None:
                first = min((attention[v] for v in passed if v in attention), default=None)
                yield Residual(
                    kind="residual",
                    **place(step),  # type: ignore[arg-type]
                    stream=stream,
                    branch=branch,
                    attention=None if first is None else found[first],
                )
                break


def all_residuals(plan: Plan) -> Iterator[Residual]:
    """The residual sums of a plan and of all bodies in it, in order of evaluation."""
    return in_all_bodies(plan, residuals)


def _between(wiring: Wiring, value: Value, source: Value) -> set[Value] | None:
    """All values from a source on to one computed from it; None if no layers lead there."""
    begin = _order(wiring, source)
    queue, seen, found = [(value, False)], set(), False
    while queue:
        value, layers = queue.pop()
        if value is source:
            found = found or layers
            continue
        # What was there before the source was not computed from it.
        if (value, layers) in seen or _order(wiring, value) < begin:
            continue
        seen.add((value, layers))
        step = wiring.maker(value)
        if step is not None:
            more = layers or step.structure in _LAYERS
            queue.extend((operand, more) for operand in wiring.active(step))
    return {value for value, _ in seen} if found else None


def _order(wiring: Wiring, value: Value) -> int:
    """The number of the step that makes a value; that of an input is -1."""
    step = wiring.maker(value)
    return -1 if step is None else wiring.order(step)
