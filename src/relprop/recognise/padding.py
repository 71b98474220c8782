"""Zeros put around the argument of a convolution are padding, wherever they are written.

A convolution pads its argument itself, or is given one that has been padded before. In the first
case the zeros are no inputs, and no rule gives them anything; in the second they would be inputs
like any other for rules that do not look at values (flat, w-square, z-box). So the second is read
as the first. Reflected, repeated and wrapped borders are copies of inputs and stay what they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from relprop import _compat
from relprop._core import registry
from relprop._core.graph import Atom, Constant, Equation, Graph, Value
from relprop.propagators.general import is_move
from relprop.propagators.linear import Convolution

#: Per axis: zeros before, zeros after, zeros between two entries.
Zeros = list[tuple[int, int, int]]


def padded_convolutions(
    graph: Graph, dependent: Collection[Value], visible: Collection[Value] = ()
) -> Graph:
    """The same graph, in which convolutions read what was there before zeros were put around it.

    This is about how the graph is read; all values stay what they are.

    Args:
        graph: the graph.
        dependent: the values that depend on the explained inputs.
        visible: values that somebody looks at, which are not gone around.
    """
    makers = {out: equation for equation in graph.equations for out in equation.outputs}

    def read(equation: Equation) -> Equation:
        if not isinstance(registry.lookup(equation.primitive), Convolution):
            return equation
        while (argument := equation.inputs[0]) in dependent and argument not in visible:
            maker = makers.get(argument)  # type: ignore[arg-type]
            folded = maker and _folded(maker, equation, graph.constants, makers)
            if not folded:
                break
            equation = folded
        return equation

    return dataclasses.replace(graph, equations=tuple(map(read, graph.equations)))


def _folded(
    maker: Equation,
    convolution: Equation,
    constants: Mapping[Value, object],
    makers: Mapping[Value, Equation],
) -> Equation | None:
    """A convolution that pads with the zeros that its argument was made with; None if it can't."""
    position = _padded(maker, constants, makers)
    if position is None:
        return None
    source = maker.inputs[position]
    zeros, params = _zeros(maker, position), convolution.params
    batch, channels, *pixels = params["dimension_numbers"].lhs_spec
    if zeros[batch] != (0, 0, 0) or zeros[channels] != (0, 0, 0) or 0 in source.shape:
        return None
    padding, dilation = [], []
    for axis, (low, high), step in zip(
        pixels, params["padding"], params["lhs_dilation"], strict=True
    ):
        before, after, between = zeros[axis]
        if before < 0 or after < 0:
            return None  # These cut entries off.
        padding.append((low + before * step, high + after * step))
        dilation.append(step * (between + 1))
    traced = _compat.replaced(
        convolution.traced,
        [maker.traced.invars[position], convolution.traced.invars[1]],
        padding=tuple(padding),
        lhs_dilation=tuple(dilation),
    )
    inputs = (source, *convolution.inputs[1:])
    return dataclasses.replace(convolution, traced=traced, inputs=inputs)


def _padded(
    equation: Equation, constants: Mapping[Value, object], makers: Mapping[Value, Equation]
) -> int | None:
    """Which operand zeros are put around; None if that isn't what the equation does."""
    if equation.name == "pad":
        return 0 if _is_zero(equation.inputs[1], constants, makers) else None
    if equation.name != "concatenate":
        return None
    others = [i for i, a in enumerate(equation.inputs) if not _is_zero(a, constants, makers)]
    return others[0] if len(others) == 1 else None


def _zeros(equation: Equation, position: int) -> Zeros:
    if equation.name == "pad":
        return [(int(a), int(b), int(c)) for a, b, c in equation.params["padding_config"]]
    along = equation.params["dimension"]
    sizes = [atom.shape[along] for atom in equation.inputs]
    zeros = [(0, 0, 0)] * len(equation.inputs[position].shape)
    zeros[along] = (sum(sizes[:position]), sum(sizes[position + 1 :]), 0)
    return zeros


def _is_zero(
    atom: Atom, constants: Mapping[Value, object], makers: Mapping[Value, Equation]
) -> bool:
    """Whether all entries are known to be zero."""
    if isinstance(atom, Constant) or atom in constants:
        array = atom.array if isinstance(atom, Constant) else constants[atom]
        return not _compat.is_traced(array) and not np.any(np.asarray(array))
    maker = makers.get(atom)
    operands: Sequence[Atom] = maker.inputs if maker is not None and is_move(maker) else ()
    return bool(operands) and all(_is_zero(a, constants, makers) for a in operands)
