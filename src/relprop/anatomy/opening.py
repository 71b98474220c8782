"""Softmaxes over features that open and close for the features of the same value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from relprop._core.graph import Value
from relprop._core.plan import Step
from relprop.anatomy.maps import summed_axes
from relprop.anatomy.routing import has_features
from relprop.anatomy.wiring import LINEAR_LINKS, Wiring, passes

_BETWEEN = passes(*LINEAR_LINKS, "sum")


class Opening(NamedTuple):
    """A softmax as a gate.

    Attributes:
        softmax: over the features that a layer makes of a value.
        product: of its entries with those of that value.
    """

    softmax: Value
    product: Step


def openings(wiring: Wiring) -> Iterator[Opening]:
    """Each product, entry by entry, of a value and a softmax over what a layer makes of it.

    It weighs no tokens against each other, and nothing is summed: it is no attention, though some
    of its authors call it so.
    """
    for product in wiring.steps:
        operands = wiring.active(product)
        elementwise = product.operation.propagator.elementwise and len(operands) == 2
        if product.structure not in ("product", "gate") or not elementwise:
            continue
        for opening, signal in (operands, operands[::-1]):
            value = wiring.origin(opening, "scale")
            softmax = wiring.maker(value)
            if softmax is None or softmax.structure != "softmax" or opening.shape != signal.shape:
                continue
            layer = next(wiring.back(wiring.active(softmax)[0], _BETWEEN), None)
            last = len(value.shape) - 1
            if layer is None or layer.passed or summed_axes(softmax) != [last]:
                continue
            if has_features(wiring, layer.step):
                (source,) = wiring.active(layer.step)
                if wiring.origin(source, "structural") is wiring.origin(signal, "structural"):
                    yield Opening(value, product)
