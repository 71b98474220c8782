"""Recurrences: LSTM and GRU cells, state spaces, and loops over layers."""

from __future__ import annotations

from collections.abc import Iterator

from relprop import _compat
from relprop._core.graph import Value
from relprop._core.plan import Plan, Step
from relprop.anatomy.attention import attentions
from relprop.anatomy.blocks import Block, Recurrence, Stack, place
from relprop.anatomy.decays import EXPONENT, Layer, decays_of, exponent_of, layer_of
from relprop.anatomy.unrolled import unrolled
from relprop.anatomy.wiring import Wiring

_STACK = "stacked layers"
_SUMS = ("cumsum", "reduce_sum", "scan")


def recurrences(wiring: Wiring) -> Iterator[Block]:
    """Each scan with a state, each unrolled cell, and each state that decays without a scan."""
    decays = decays_of(wiring)
    for step in wiring.steps:
        if step.primitive == "scan" and step.bodies:
            kind = _kind(step)
            if kind == "state space":  # What decays within its chunks belongs to it.
                behind = _layers_behind(wiring, step)
                decays = [one for one in decays if not one.layers & behind]
            block = Stack if kind == _STACK else Recurrence
            if kind:
                length = int(step.operation.last.params["length"])
                yield block(kind=kind, **place(step), steps=length)  # type: ignore[arg-type]
    for total, decay, length in _by_halves(wiring):
        others = [one for one in decays if decay not in one.products]
        kind = "state space" if len(others) < len(decays) else "linear recurrence"
        decays = others
        yield Recurrence(kind=kind, **place(total), steps=length)  # type: ignore[arg-type]
    for step in wiring.steps:
        if step.primitive == "cumlogsumexp" and not step.off_path:
            length = step.operation.outputs[0].shape[step.operation.last.params["axis"]]
            yield Recurrence(kind="linear recurrence", **place(step), steps=length)  # type: ignore[arg-type]
    yield from unrolled(wiring)
    for one in decays:
        if len(one.products) > 1 or _adds_up(wiring, one.products[0]):
            yield Recurrence(kind="state space", **place(one.products[-1]))  # type: ignore[arg-type]


def _adds_up(wiring: Wiring, product: Step) -> bool:
    """Whether exponents of a decay are sums along time; otherwise nothing decays by steps."""
    decays = (wiring.maker(wiring.origin(a, "structural", "scale")) for a in wiring.active(product))
    links = (link for decay in decays for link in exponent_of(wiring, decay))
    return any(
        step.structure == "linear" or any(e.name in _SUMS for e in step.operation.equations)
        for link in links
        for step in link.passed
    )


def _layers_behind(wiring: Wiring, step: Step) -> set[Layer]:
    links = (link for a in wiring.active(step) for link in wiring.back(a, EXPONENT))
    return {layer_of(wiring, link.step) for link in links}


def _by_halves(wiring: Wiring) -> Iterator[tuple[Step, Step, int]]:
    """Each `associative_scan` of :math:`a x + b`: its first sum of pairs, the product, its length.

    Every second entry is added to a multiple of the one before; of the sums, every second one
    again, and so on, until one is left.
    """
    made: set[Value] = set()
    for step in wiring.steps:
        operands = wiring.active(step)
        if step.structure != "sum" or step.primitive != "add" or len(operands) != 2:
            continue
        for later, scaled in (operands, operands[::-1]):
            product = wiring.maker(scaled)
            half = _half(wiring, later)
            if half is None or product is None or product.primitive != "mul":
                continue
            whole, axis, start = half
            others = [_half(wiring, a) for a in wiring.active(product)]
            if any(o is not None and o[:2] == half[:2] and o[2] == start - 1 for o in others):
                if whole not in made:
                    yield step, product, whole.shape[axis]
                made.update(step.operation.outputs)
                break


def _half(wiring: Wiring, value: Value) -> tuple[Value, int, int] | None:
    """Of every second entry of a value: the value, along which axis, and which is the first."""
    step = wiring.maker(value)
    if step is None or step.primitive != "slice":
        return None
    params = step.operation.last.params
    axes = [axis for axis, stride in enumerate(params["strides"] or ()) if stride == 2]
    (whole,) = wiring.active(step)
    return (whole, axes[0], params["start_indices"][axes[0]]) if len(axes) == 1 else None


def _kind(step: Step) -> str:
    body = step.bodies[0]
    consts, carried = _compat.scan_sizes(step.operation.last.params)
    states = sum(step.active[consts : consts + carried])
    states = max(states, sum(body.is_active(body.graph.outputs)[:carried]))
    reads = sum(step.active[consts + carried :]) + sum(step.active[:consts])
    if not states:
        return ""
    if not sum(step.active[consts + carried :]) and not _reads_in_turn(body, consts):
        return _STACK
    names = [e.name for inner in body.walk() for e in inner.operation.equations]
    gates = sum(inner.structure == "gate" for inner in body.walk())
    layers = sum(inner.structure == "dense" for inner in body.walk())
    if gates >= 3 and names.count("tanh") >= 2 and states >= 2:
        return "LSTM"
    if gates >= 2 and layers:
        return "GRU"
    if any(block.normaliser == "linear" for block in attentions(Wiring(body))):
        return ""  # Linear attention, chunk by chunk: the state is what earlier chunks hand on.
    if _accumulates(body):
        return "state space"
    return "RNN" if reads else ""


def _reads_in_turn(body: Plan, consts: int) -> bool:
    """Whether a body takes another part of what is there for all of its steps in each of them.

    What it reads whole, as the stages of a solver read where the step begins, is no sequence.
    """
    active = {v for v in body.graph.inputs[:consts] if v in body.active}
    taken = [e.inputs[0] for e in body.graph.equations if e.name in ("dynamic_slice", "gather")]
    return not active.isdisjoint(taken)


def _accumulates(body: Plan) -> bool:
    """Whether the state is only scaled and added to, and no function is applied to it."""
    return all(step.structure != "activation" for step in body.steps) or any(
        step.structure in ("product", "gate", "scale") for step in body.steps
    )
