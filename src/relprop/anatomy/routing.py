"""Routers of mixtures of experts: the best of a token's scores are chosen."""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core.graph import Value
from relprop.anatomy.blocks import Router, place
from relprop.anatomy.wiring import LINEAR_LINKS, Wiring, passes

_CHOICES = ("top_k", "approx_top_k", "sort", "argmax")
_SCORES = passes(*LINEAR_LINKS, "sum", "softmax", "activation", "maximum", "quotient")


def routers(wiring: Wiring) -> Iterator[Router]:
    """Each layer of scores of which the largest are looked for."""
    seen: set[Value] = set()
    for equation in wiring.plan.graph.equations:
        if equation.name not in _CHOICES or not isinstance(equation.inputs[0], Value):
            continue
        scores = wiring.nearest(equation.inputs[0])
        for link in wiring.back(scores, _SCORES):
            layer = link.step.operation.outputs[0]
            if link.step.structure == "dense" and layer not in seen:
                seen.add(layer)
                yield Router(
                    kind="router",
                    **place(link.step),  # type: ignore[arg-type]
                    experts=layer.shape[-1],
                )
            break
