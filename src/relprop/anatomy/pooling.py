"""Sums over tokens by weights that the tokens have themselves, and softmaxes over learned slots."""

from __future__ import annotations

from collections.abc import Iterator, Set

from relprop._core.graph import Value
from relprop._core.plan import Step
from relprop.anatomy.blocks import Attention, Memory, Suspicion, place
from relprop.anatomy.maps import multiplies, summed_axes
from relprop.anatomy.routing import CHOICES
from relprop.anatomy.tracking import Tracked
from relprop.anatomy.wiring import LINEAR_LINKS, Wiring, passes

_AFTER = passes("structural", "scale", "offset")
_BETWEEN = passes(*LINEAR_LINKS, "sum", "activation")
_TO_USE = passes("structural", "scale", "offset", "sum", "linear", "dense")


def pooled(wiring: Wiring) -> Iterator[Attention]:
    """Each sum over tokens of a product with one weight per token: additive attention.

    The weights are normalised over the tokens, or limited by a sigmoid; those of a softmax are a
    map like any other. Weights that were chosen are those of experts.
    """
    for step in wiring.steps:
        product = wiring.maker(wiring.active(step)[0]) if step.primitive == "reduce_sum" else None
        if product is None or product.primitive != "mul" or len(wiring.active(product)) != 2:
            continue
        axes = set(step.operation.main.params["axes"])
        for weights, values in (wiring.active(product), wiring.active(product)[::-1]):
            shape, size = weights.shape, values.shape
            if len(shape) != len(size) or any(shape[i] == 1 for i in axes):
                continue
            alone = [i for i, (n, m) in enumerate(zip(shape, size, strict=True)) if n == 1 != m]
            name = _normaliser(wiring, weights) if alone else ""
            if name:
                yield Attention(
                    kind="additive attention",
                    **{**place(step), "value": weights},  # type: ignore[arg-type]
                    shape=shape,
                    normaliser=name,
                    carried=values,
                    applied=weights,
                    mixed=step.operation.outputs[0],
                )
                break


def _normaliser(wiring: Wiring, weights: Value) -> str:
    """What makes weights of a layer's results; empty where nothing does."""
    link = next(wiring.back(weights, _AFTER), None)
    if link is None or _is_chosen(wiring, weights):
        return ""
    if link.step.structure == "activation" and link.step.primitive == "logistic":
        return "sigmoid"
    scales = (s for s in link.passed if s.structure == "scale")
    normed = any(a in wiring.touched for s in scales for a in wiring.constants(s))
    return "norm" if normed and link.step.structure == "dense" else ""


def _is_chosen(wiring: Wiring, weights: Value) -> bool:
    """Whether the largest of a layer's results were looked for on the way to some weights."""
    links = wiring.back(weights, passes("structural", "scale", "offset", "activation"))
    passed = (step for link in links for step in link.passed)
    return any(e.name in CHOICES for step in passed for e in step.operation.equations)


def memories(wiring: Wiring) -> Iterator[Memory]:
    """Each softmax of a layer's results that weighs the rows of a learned matrix."""
    for step in _softmaxes(wiring):
        (out,) = step.operation.outputs
        axes = summed_axes(step)
        scores = next(wiring.back(wiring.active(step)[0], _BETWEEN), None)
        if len(axes) != 1 or scores is None or scores.step.structure != "dense":
            continue
        tracked = Tracked(wiring, out, _AFTER, axes[0])
        for arrival in tracked.arrivals():
            equation = arrival.step.operation.equations[0]
            if arrival.step.structure != "dense" or equation.name != "dot_general":
                continue
            (operand,) = wiring.active(arrival.step)
            side = [*equation.inputs].index(operand)
            contracted = equation.params["dimension_numbers"][0][side]
            dims = [arrival.known[operand].shape[i] for i in contracted]
            if any(tracked.are_of(dim, tracked.start[axes[0]]) for dim in dims):
                yield Memory("attention to a memory", **place(step), slots=out.shape[axes[0]])  # type: ignore[arg-type]
                break


def unexplained(wiring: Wiring, explained: Set[Value]) -> Iterator[Suspicion]:
    """Each softmax that weighs something that depends on the inputs, and is in no other block."""
    for step in _softmaxes(wiring):
        (out,) = step.operation.outputs
        if out in explained:
            continue
        for arrival in Tracked(wiring, out, _TO_USE, *summed_axes(step)[:1]).arrivals():
            chosen = any(e.name in CHOICES for s in arrival.passed for e in s.operation.equations)
            weighs = arrival.step.structure in ("product", "gate") or multiplies(
                wiring, arrival.step
            )
            if weighs and not chosen and len(wiring.active(arrival.step)) == 2:
                reason = "a softmax by which values are multiplied, in no sum over its entries"
                yield Suspicion("attention?", **place(step), reason=reason)  # type: ignore[arg-type]
                break


def _softmaxes(wiring: Wiring) -> Iterator[Step]:
    for step in wiring.steps:
        if step.structure == "softmax" and not step.off_path:
            (out,) = step.operation.outputs
            if all(axis < len(out.shape) for axis in summed_axes(step)):  # No single entry.
                yield step
