"""Routers of mixtures of experts: scores of a token choose among its experts, or weigh them."""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core.graph import Atom, Equation, Value
from relprop._core.plan import Step
from relprop.anatomy.blocks import Router, place
from relprop.anatomy.maps import summed_axes
from relprop.anatomy.wiring import LINEAR_LINKS, Link, Wiring, passes

CHOICES = ("top_k", "approx_top_k", "sort", "argmax")
_PICKS = ("gather", "dynamic_slice", "sort")
_WEIGHS = (
    "mul",
    "dot_general",
    "select_n",
    "scatter",
    "scatter-add",
    "ragged_dot_general",
    "gather",
)
_LAYERS = ("dot_general", "conv_general_dilated")
#: Between the weights and their use: those of experts that were not chosen are zero.
_SCALED = passes("scale", "offset", "structural", "gate")
#: Between the results of experts and their sum.
_AFTER_EXPERTS = passes(*LINEAR_LINKS, "sum", "activation", "gate")
_SCORES = passes(*LINEAR_LINKS, "sum", "softmax", "activation", "maximum", "quotient")


def routers(wiring: Wiring) -> Iterator[Router]:
    """Each layer of scores of which the largest are looked for."""
    seen: set[Value] = set()
    for equation in wiring.plan.graph.equations:
        if equation.name not in CHOICES or not isinstance(equation.inputs[0], Value):
            continue
        scores = wiring.nearest(equation.inputs[0])
        for link in wiring.back(scores, _SCORES):
            layer = link.step.operation.outputs[0]
            chosen = link.step.structure == "dense" and (
                _among_features(equation, layer) or _shares_out(link)
            )
            if chosen and layer not in seen and _weighs_others(wiring, equation, layer):
                seen.add(layer)
                yield Router(
                    kind="router",
                    **place(link.step),  # type: ignore[arg-type]
                    experts=layer.shape[-1],
                )
            break
    for product in wiring.steps:
        for weights in wiring.active(product) if product.primitive == "dot_general" else ():
            gate = gate_of(wiring, product, weights)
            layer = None if gate is None else gate.operation.outputs[0]
            if gate is not None and layer is not None and layer not in seen:
                seen.add(layer)
                yield Router(
                    kind="router",
                    **place(gate),  # type: ignore[arg-type]
                    experts=layer.shape[-1],
                )


def weighing(wiring: Wiring) -> set[Value]:
    """The softmaxes that make the weights of experts."""
    found: set[Value] = set()
    for product in wiring.steps:
        for weights in wiring.active(product) if product.primitive == "dot_general" else ():
            if gate_of(wiring, product, weights) is not None:
                softmax = next(wiring.back(weights, _SCALED))
                found.update(softmax.step.operation.outputs)
    layers = {router.value for router in routers(wiring)}
    for step in wiring.steps if layers else ():
        links = wiring.back(wiring.active(step)[0], _SCORES) if step.structure == "softmax" else ()
        for link in links:
            names = {e.name for s in (step, *link.passed) for e in s.operation.equations}
            chosen = not names.isdisjoint(CHOICES)
            if chosen and not layers.isdisjoint(link.step.operation.outputs):
                found.update(step.operation.outputs)
    return found


def _weighs_others(wiring: Wiring, choice: Equation, layer: Value) -> bool:
    """Whether what was chosen weighs or picks what others make, and not the scores themselves.

    The largest features (a maxout, a median, a sparse code) are chosen for their own sake.
    """
    own: set[Atom] = {layer}
    chosen: set[Atom] = set()
    begun = False
    for equation in wiring.plan.graph.equations:
        inputs = equation.inputs
        if not own.isdisjoint(inputs):
            own.update(equation.outputs)
        if equation is choice:
            begun = True
            chosen.update(equation.outputs)
            continue
        if not begun or chosen.isdisjoint(inputs):
            continue
        others = [a for a in inputs if isinstance(a, Value) and a not in own and a.inexact]
        if equation.name in _PICKS and inputs[0] in others:
            return True
        varying = [a for a in others if a in wiring.touched]
        if varying and (equation.name in _WEIGHS or equation.bodies):
            return True
        if equation.name not in _LAYERS:
            chosen.update(equation.outputs)
    return False


def gate_of(wiring: Wiring, product: Step, weights: Value) -> Step | None:
    """The layer that a token's weights for its experts are from, if it is these that weigh.

    Weights of experts are the softmax of a layer's results for one token, and the product sums
    over what as many layers have made of it; that of attention sums over other tokens.
    """
    equation = product.operation.equations[0]
    others = [a for a in wiring.active(product) if a is not weights]
    side = equation.inputs.index(weights) if weights in equation.inputs else None
    if side is None or len(others) != 1:
        return None
    contracting, batch = equation.params["dimension_numbers"]
    if len(contracting[side]) != 1 or len(batch[side]) != len(weights.shape) - 1:
        return None
    count = weights.shape[contracting[side][0]]
    for softmax in wiring.back(weights, _SCALED):
        if softmax.step.structure != "softmax":
            return None
        for link in wiring.back(wiring.active(softmax.step)[0], passes("scale", "offset")):
            layer = link.step.operation.outputs[0]
            among = summed_axes(softmax.step) == [len(layer.shape) - 1]
            gate = among and has_features(wiring, link.step)
            return link.step if gate and _are_experts(wiring, others[0], count) else None
    return None


def _are_experts(wiring: Wiring, value: Value, count: int) -> bool:
    """Whether a value has the results of so many layers: of one weight for all, or side by side.

    Where that can't be seen it is none: what is summed over may be tokens.
    """
    links = [*wiring.back(value, _AFTER_EXPERTS)]
    if not links or any(link.step.structure != "dense" for link in links):
        return False
    if len(links) == 1:
        kept = _kept_by_weight(wiring, links[0].step)
        return len(kept) > 1 and count in kept
    joined = any(step.primitive == "concatenate" for link in links for step in link.passed)
    return joined and len(links) == count


def _kept_by_weight(wiring: Wiring, layer: Step) -> list[int]:
    """The lengths of the axes of a layer's weight that its result has as well."""
    equation = layer.operation.equations[0]
    if equation.name != "dot_general":
        return []
    active = {*wiring.active(layer)}
    contracting, _ = equation.params["dimension_numbers"]
    return [
        n
        for side, atom in enumerate(equation.inputs[:2])
        for axis, n in enumerate(atom.shape)
        if atom not in active and axis not in contracting[side]
    ]


def has_features(wiring: Wiring, layer: Step) -> bool:
    """Whether the last axis of a layer's result is one of its weight."""
    equation = layer.operation.equations[0]
    if layer.structure != "dense" or equation.name != "dot_general":
        return False
    contracting, batch = equation.params["dimension_numbers"]
    active = {*wiring.active(layer)}
    for side in (1, 0):  # The last free axis is that of the second factor, if that has one.
        atom = equation.inputs[side]
        if len(atom.shape) > len(contracting[side]) + len(batch[side]):
            return atom not in active
    return False


def _shares_out(link: Link) -> bool:
    """Whether scores were normalised over the features of a token, for features to choose tokens.

    Experts that choose their tokens do so by what share they have in each.
    """
    last = len(link.step.operation.outputs[0].shape) - 1
    softmaxes = (step for step in link.passed if step.structure == "softmax")
    return last > 0 and any(summed_axes(step) == [last] for step in softmaxes)


def _among_features(choice: Equation, layer: Value) -> bool:
    """Whether the choice is among the results of a layer for one token, and not among tokens.

    The largest of each channel over positions is a pooling, however it is looked for.
    """
    shape = choice.inputs[0].shape
    params = choice.params
    axis = params.get("dimension", params.get("reduction_dimension", len(shape) - 1))
    (axis,) = params.get("axes", (axis,))
    if shape == layer.shape:
        return axis == len(shape) - 1
    features = layer.shape[-1]
    if sorted(shape) == sorted(layer.shape):
        return shape[axis] == features
    return features % shape[axis] == 0  # All of them, or those of one group.
