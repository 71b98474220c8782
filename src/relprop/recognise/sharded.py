"""Layers of which each device computes a part: a product or a sum, and the sum over devices.

So it is where the dimension that a product sums over is split between devices, as in the second
layer of a tensor parallel MLP. The rules of layers look at what a layer computes (its stabiliser,
the sign of its output), and that is the sum over the devices.
"""

from __future__ import annotations

from collections.abc import Iterator

from relprop._core import registry
from relprop._core.operation import Operation
from relprop.propagators.linear import Contraction
from relprop.propagators.recognised import ShardedLayer
from relprop.propagators.sums import Sum
from relprop.recognise.dataflow import Dataflow, is_device_sum


def sharded_layers(flow: Dataflow) -> Iterator[Operation]:
    """Each sum over devices of the product of a layer, or of a sum, perhaps moved about."""
    for equation in flow.equations:
        if not is_device_sum(equation) or not flow.operands(equation):
            continue
        origin, moves = flow.origin(equation.inputs[0], is_device_sum)
        part = flow.producer(origin)
        if part is None or len(flow.operands(part)) != 1:
            continue
        if isinstance(registry.lookup(part.primitive), Contraction | Sum):
            yield Operation(ShardedLayer(), (part, *moves, equation), part.inputs, equation.outputs)
