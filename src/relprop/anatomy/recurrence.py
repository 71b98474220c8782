"""Recurrences: LSTM and GRU cells, state spaces, and loops over layers."""

from __future__ import annotations

from collections.abc import Iterator

from relprop import _compat
from relprop._core.graph import Value
from relprop._core.plan import Plan, Step
from relprop.anatomy.blocks import Block, Recurrence, Stack, place
from relprop.anatomy.wiring import LINEAR_LINKS, Wiring, passes

_STACK = "stacked layers"
_EXPONENT = passes(*LINEAR_LINKS, "sum", "activation", "product", "gate", "softmax")


def recurrences(wiring: Wiring) -> Iterator[Block]:
    """Each scan with a state, and each state that decays step by step without a scan."""
    for step in wiring.steps:
        if step.primitive == "scan" and step.bodies:
            kind = _kind(step)
            block = Stack if kind == _STACK else Recurrence
            if kind:
                length = int(step.operation.last.params["length"])
                yield block(kind=kind, **place(step), steps=length)  # type: ignore[arg-type]
    yield from _state_spaces(wiring)


def _kind(step: Step) -> str:
    body = step.bodies[0]
    consts, carried = _compat.scan_sizes(step.operation.last.params)
    states = sum(step.active[consts : consts + carried])
    states = max(states, sum(body.is_active(body.graph.outputs)[:carried]))
    reads = sum(step.active[consts + carried :]) + sum(step.active[:consts])
    if not states:
        return ""
    if not sum(step.active[consts + carried :]) and not sum(step.active[:consts]):
        return _STACK
    names = [e.name for inner in body.walk() for e in inner.operation.equations]
    gates = sum(inner.structure == "gate" for inner in body.walk())
    layers = sum(inner.structure == "dense" for inner in body.walk())
    if gates >= 3 and names.count("tanh") >= 2 and states >= 2:
        return "LSTM"
    if gates >= 2 and layers:
        return "GRU"
    if _accumulates(body):
        return "state space"
    return "RNN" if reads else ""


def _accumulates(body: Plan) -> bool:
    """Whether the state is only scaled and added to, and no function is applied to it."""
    return all(step.structure != "activation" for step in body.steps) or any(
        step.structure in ("product", "gate", "scale") for step in body.steps
    )


def _state_spaces(wiring: Wiring) -> Iterator[Recurrence]:
    """Products with a decay, exp of something, one block per layer that the exponent is from."""
    found: dict[Value, list[Step]] = {}
    for step in wiring.steps:
        if step.structure not in ("product", "gate") or step.primitive == "dot_general":
            continue
        for operand in wiring.active(step):
            decay = wiring.maker(wiring.origin(operand, "structural"))
            if decay is None or decay.structure != "activation" or decay.primitive != "exp":
                continue
            links = wiring.back(wiring.active(decay)[0], _EXPONENT)
            layer = next((link.step for link in links if link.step.structure == "dense"), None)
            if layer is not None:
                found.setdefault(layer.operation.outputs[0], []).append(step)
    for steps in found.values():
        yield Recurrence(kind="state space", **place(steps[-1]))  # type: ignore[arg-type]
