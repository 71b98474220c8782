"""Attention among the neighbours of a node: a softmax over its edges weighs what they bring."""

from __future__ import annotations

import math
from collections.abc import Iterator

from relprop._core.graph import Value
from relprop._core.plan import Step
from relprop.anatomy.blocks import Attention, place
from relprop.anatomy.wiring import Wiring
from relprop.reading.primitives.rows import rows

_ADDS = "scatter-add"
_BETWEEN = ("structural", "scale", "offset", "average")


def among_neighbours(wiring: Wiring) -> Iterator[Attention]:
    """Each softmax over rows of one number by which rows are multiplied before they are summed.

    There is one entry for each edge and head, and no map of nodes by nodes; the sum must be by the
    same numbers as that of the softmax.
    """
    for step in wiring.steps:
        if step.structure != "softmax" or step.off_path:
            continue
        sums = [e for e in step.operation.equations if e.name == _ADDS]
        if not sums:
            continue
        (out,) = step.operation.outputs
        ids = {rows(wiring.equation, equation) for equation in sums} - {None}
        for weights, product in _reached(wiring, out, ("product", "gate")):
            others = [a for a in wiring.active(product) if a is not weights]
            (total,) = product.operation.outputs
            for _, reader in _reached(wiring, total, ("sum",)) if len(others) == 1 else ():
                equation = reader.operation.equations[0]
                if equation.name == _ADDS and rows(wiring.equation, equation) in ids:
                    yield Attention(
                        kind="attention among neighbours",
                        **place(step),  # type: ignore[arg-type]
                        shape=out.shape,
                        heads=math.prod(out.shape[1:]),
                        key_heads=math.prod(out.shape[1:]),
                        carried=others[0],
                        applied=weights,
                        mixed=reader.operation.outputs[0],
                    )


def _reached(
    wiring: Wiring, value: Value, structures: tuple[str, ...]
) -> Iterator[tuple[Value, Step]]:
    """The steps of some structures that a value comes to, moved or scaled, and as what it comes."""
    queue, seen = [value], {value}
    while queue:
        value = queue.pop(0)
        for reader in wiring.readers(value):
            if reader.structure in structures:
                yield value, reader
            elif reader.structure in _BETWEEN and len(wiring.active(reader)) == 1:
                fresh = [out for out in reader.operation.outputs if out not in seen]
                seen.update(fresh)
                queue.extend(fresh)
