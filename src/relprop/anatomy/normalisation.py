"""Normalisations, of which the data flow shows one value: the statistic that divides."""

from __future__ import annotations

import math
from collections.abc import Iterator

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop._core.plan import Step
from relprop.anatomy.blocks import Norm, place
from relprop.anatomy.wiring import LINEAR_LINKS, Wiring

_ROOTS = ("rsqrt", "sqrt")


def norms(wiring: Wiring) -> Iterator[Norm]:
    """Each statistic of the input, and each scale that was a statistic of the training data."""
    for step in wiring.steps:
        if step.structure == "normaliser":
            scale = _scale(wiring, step)
            yield Norm(
                kind=_kind(wiring, step, scale),
                **place(step),  # type: ignore[arg-type]
                path=scale.path if scale else "",
            )
        elif step.structure in ("dense", "convolution") and _is_weight_norm(wiring, step):
            yield Norm(kind="weight norm", **place(step), path=step.path)  # type: ignore[arg-type]
        elif step.structure == "scale" and _is_batch_norm(wiring, step):
            yield Norm(kind="batch norm", **place(step), path=step.path)  # type: ignore[arg-type]


def _kind(wiring: Wiring, step: Step, scale: Step | None) -> str:
    nearest, passed = _reductions(wiring, step.operation.inputs[0])
    # Entries that are picked out and added one by one are summed by no reduction.
    if not nearest or (len(nearest) == 1 and not _is_centred(wiring, nearest[0].inputs[0])):
        averages = any(e.name in ("div", "mul") for e in passed)
        return "RMS norm" if averages else "L2 norm"
    reduced = nearest[-1]
    axes, shape = reduced.params["axes"], reduced.inputs[0].shape
    if 0 in axes and len(shape) > 1 and shape[0] > 1:
        return "batch norm"
    weights = _weights(wiring, scale) if scale else []
    if scale is not None and wiring.active(scale)[0].shape != shape and _is_joined(wiring, scale):
        # Its groups were joined before the weights of channels: one statistic per sample or more.
        samples = math.prod(shape[:1])
        groups = math.prod(n for axis, n in enumerate(shape) if axis not in axes) // samples
        channels = max(math.prod(a.shape) for a in weights)
        return {1: "layer norm", channels: "instance norm"}.get(groups, "group norm")
    if len(axes) == 1:
        # Weights of a layer norm differ along the axis that it normalises.
        along = {
            i for a in weights if len(a.shape) == len(shape) for i, n in enumerate(a.shape) if n > 1
        }
        return "instance norm" if along and not along & set(axes) else "layer norm"
    kept = math.prod(n for axis, n in enumerate(shape) if axis not in axes)
    samples = math.prod(shape[:1]) if 0 not in axes else 1
    if kept == samples:
        return "layer norm"
    # One statistic per channel, or per group of channels: as many as there are weights, or fewer.
    channels = max((math.prod(a.shape) for a in weights), default=0)
    if channels:
        return "instance norm" if (kept // samples) % channels == 0 else "group norm"
    return "group norm" if _is_split(wiring, reduced) else "instance norm"


def _is_split(wiring: Wiring, reduced: Equation) -> bool:
    """Whether an axis was split up before a value was summed."""
    for equation in wiring.behind(reduced.inputs[0]):
        if equation.name == "reshape":
            return len(equation.outputs[0].shape) > len(equation.inputs[0].shape)
        if equation.name in ("dot_general", "conv_general_dilated"):
            break
    return False


def _is_joined(wiring: Wiring, scale: Step) -> bool:
    """Whether axes of a value were joined or split on its way from a normalisation."""
    value = wiring.active(scale)[0]
    while (step := wiring.maker(value)) is not None and len(wiring.active(step)) == 1:
        if step.primitive == "reshape":
            before, after = wiring.active(step)[0].shape, value.shape
            return [n for n in before if n > 1] != [n for n in after if n > 1]
        if step.structure not in LINEAR_LINKS:
            break
        (value,) = wiring.active(step)
    return False


def _reductions(wiring: Wiring, atom: Atom) -> tuple[list[Equation], list[Equation]]:
    """The sums that a value was computed from directly, and the equations on the way to them."""
    found: list[Equation] = []
    passed: list[Equation] = []
    queue = [atom]
    while queue:
        equation = wiring.equation(queue.pop())
        if equation is None or equation in found or equation in passed:
            continue
        inner = [e for body in equation.bodies for e in body.equations]
        sums = [e for e in inner or [equation] if registry.lookup(e.primitive).reduces]
        if sums:
            # Those of a body, such as the variance in a loop of one step, are all of them near.
            found.extend(reversed(sums))
            passed.extend(e for e in inner if e not in sums)
            continue
        passed.append(equation)
        queue.extend(a for a in equation.inputs if a in wiring.touched)
    return found, passed


def _is_centred(wiring: Wiring, atom: Atom) -> bool:
    """Whether the mean was subtracted from what is squared and summed."""
    while (equation := wiring.equation(atom)) is not None:
        operands = [a for a in equation.inputs if a in wiring.touched]
        if equation.name == "sub" and len(operands) == 2:
            sums, _ = _reductions(wiring, operands[1])
            return any(wiring.is_behind(operands[0], e.inputs[0]) for e in sums)
        if not operands or any(a is not operands[0] for a in operands):
            return False
        atom = operands[0]
    return False


def _scale(wiring: Wiring, step: Step) -> Step | None:
    """The multiplication by weights that follows a normalisation."""
    for reader in _readers_of_constant(wiring, step.operation.outputs[0]):
        for _ in range(4):  # Between the two there is little: moves and the subtracted mean.
            if reader.structure == "scale" and _weights(wiring, reader):
                return reader
            after = wiring.readers(reader.operation.outputs[0])
            if len(after) != 1 or after[0].structure not in (*LINEAR_LINKS, "sum"):
                break
            (reader,) = after
    return None


def _readers_of_constant(wiring: Wiring, value: Value) -> Iterator[Step]:
    """The steps that read a value which counts as a constant, or what is computed from it."""
    constants: set[Atom] = {value}
    found: set[Equation] = set()
    queue: list[Atom] = [value]
    while queue:
        for equation in wiring.equations_reading(queue.pop()):
            found.add(equation)
            if wiring.maker(equation.outputs[0]) is None:
                fresh = [out for out in equation.outputs if out not in constants]
                constants.update(fresh)
                queue.extend(fresh)
    makers = [wiring.maker(equation.outputs[0]) for equation in wiring.in_order(found)]
    yield from (maker for maker in makers if maker is not None)


def _weights(wiring: Wiring, scale: Step) -> list[Atom]:
    """The factors that are not computed from the input alone."""
    return [
        a
        for a in wiring.constants(scale)
        if math.prod(a.shape) > 1 and (a not in wiring.touched or a.path)
    ]


def _is_batch_norm(wiring: Wiring, step: Step) -> bool:
    """Whether a scale is one over the root of something that is not a number."""
    roots = (root for constant in wiring.constants(step) for root in _roots(wiring, constant))
    root = next(roots, None)
    return root is not None and not _reduces(wiring, root) and not _counts(wiring, root)


def _is_weight_norm(wiring: Wiring, step: Step) -> bool:
    """Whether the weights of a layer were divided by their norm."""
    constants = [a for a in wiring.constants(step) if a not in wiring.touched]
    roots = [root for constant in constants for root in _roots(wiring, constant)]
    return any(_reduces(wiring, root) for root in roots)


def _roots(wiring: Wiring, constant: Atom) -> Iterator[Value]:
    """What roots were taken of on the way to a constant, unless it is a mere number."""
    for equation in wiring.behind(constant):
        power = equation.name == "pow" and abs(_exponent(equation)) == 0.5
        if equation.name in _ROOTS or power:
            operand = equation.inputs[0]
            if isinstance(operand, Value) and (operand.shape or _reduces(wiring, operand)):
                yield operand


def _reduces(wiring: Wiring, value: Value) -> bool:
    """Whether a value is a sum over something, however it was computed on from there."""
    return any(registry.lookup(e.primitive).reduces for e in wiring.behind(value))


def _counts(wiring: Wiring, value: Value) -> bool:
    """Whether a value was summed up from parts, as the degrees of a graph are."""
    return any(e.name in ("scatter-add", "dot_general", "cumsum") for e in wiring.behind(value))


def _exponent(equation: Equation) -> float:
    array = getattr(equation.inputs[1], "array", None)
    return float(array) if array is not None and getattr(array, "ndim", 0) == 0 else 0.0
