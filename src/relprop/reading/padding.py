"""Zeros put around the argument of a convolution are padding, wherever they are written.

A convolution pads its argument itself, or is given one that has been padded before. In the first
case the zeros are no inputs, and no rule gives them anything; in the second they would be inputs
like any other for rules that do not look at values (flat, w-square, z-box). So the second is read
as the first. Reflected, repeated and wrapped borders are copies of inputs and stay what they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from relprop import _compat
from relprop._core import registry
from relprop._core.graph import Atom, Equation, Literal
from relprop.propagators.general import is_move
from relprop.propagators.linear import Convolution
from relprop.reading.draft import Draft

#: Per axis: zeros before, zeros after, zeros between two entries.
Zeros = list[tuple[int, int, int]]


def padded(draft: Draft) -> None:
    """Reads what was there before zeros were put around the arguments of convolutions."""
    while outside := _outside_of_moves(draft):
        draft.put(outside)
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if not isinstance(registry.lookup(equation.primitive), Convolution):
            continue
        folded = equation
        while (argument := folded.inputs[0]) in draft.index.dependent:
            maker = draft.index.maker.get(argument)
            more = None if maker is None else _folded(draft, maker, folded)
            if argument in draft.visible or more is None:
                break
            folded = more
        if folded is not equation:
            made[equation] = [folded]
    if made:
        draft.put(made)


def _outside_of_moves(draft: Draft) -> dict[Equation, list[Equation]]:
    """Zeros that are put around what was moved, in place of moves of what has zeros around it."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if not isinstance(registry.lookup(equation.primitive), Convolution):
            continue
        argument = equation.inputs[0]
        move, maker, axes = draft.index.maker.get(argument), None, None
        while move is not None and argument in draft.index.dependent:
            if argument in draft.visible or (axes := _moved_axes(move)) is None:
                break
            maker = draft.index.maker.get(move.inputs[0])
            if maker is None or _moved_axes(maker) is None:
                break
            argument, move = move.inputs[0], maker  # type: ignore[assignment]
        position = None if maker is None else _padded(draft, maker)
        if axes is None or move is None or maker is None or position is None or move in made:
            continue
        source, zeros = maker.inputs[position], _zeros(maker, position)
        if 0 in source.shape or any(low < 0 or high < 0 for low, high, _ in zeros):
            continue
        shape = [source.shape[axis] if axis >= 0 else 1 for axis in axes]
        config = [zeros[axis] if axis >= 0 else (0, 0, 0) for axis in axes]
        order = [axis for axis in axes if axis >= 0]

        def moved(x: Array, shape=shape, order=order) -> Array:
            rest = tuple(axis for axis in range(x.ndim) if axis not in order)
            return jnp.transpose(
                jnp.squeeze(x, rest), np.argsort(np.argsort(order)).tolist()
            ).reshape(shape)

        first = draft.derived(moved, [source], move)
        before = first[-1].outputs[0] if first else source

        def around(x: Array, config=config) -> Array:
            return lax.pad(x, jnp.zeros((), x.dtype), config)

        made[move] = [*first, *draft.derived(around, [before], maker, argument)]  # type: ignore[arg-type]
    return made


def _moved_axes(move: Equation) -> list[int] | None:
    """Per axis of a moved value where it was before, -1 for a new one; None for what else moves."""
    if len(move.inputs) != 1 or len(move.outputs) != 1:
        return None
    if move.inputs[0].dtype != move.outputs[0].dtype:
        return None
    before, after = move.inputs[0].shape, move.outputs[0].shape
    if move.name == "transpose":
        return [int(axis) for axis in move.params["permutation"]]
    if np.prod(before) != np.prod(after):
        return None
    if move.name == "broadcast_in_dim":
        places = list(move.params["broadcast_dimensions"])
        return [places.index(axis) if axis in places else -1 for axis in range(len(after))]
    if move.name not in ("reshape", "squeeze", "expand_dims"):
        return None
    long = iter([axis for axis, n in enumerate(before) if n != 1])
    if [n for n in before if n != 1] != [n for n in after if n != 1]:
        return None
    return [-1 if n == 1 else next(long) for n in after]


def _folded(draft: Draft, maker: Equation, convolution: Equation) -> Equation | None:
    """A convolution that pads with the zeros that its argument was made with; None if it can't."""
    position = _padded(draft, maker)
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


def _padded(draft: Draft, equation: Equation) -> int | None:
    """Which operand zeros are put around; None if that isn't what the equation does."""
    if equation.name == "pad":
        return 0 if _is_zero(draft, equation.inputs[1]) else None
    if equation.name != "concatenate":
        return None
    others = [i for i, a in enumerate(equation.inputs) if not _is_zero(draft, a)]
    return others[0] if len(others) == 1 else None


def _zeros(equation: Equation, position: int) -> Zeros:
    if equation.name == "pad":
        return [(int(a), int(b), int(c)) for a, b, c in equation.params["padding_config"]]
    along = equation.params["dimension"]
    sizes = [atom.shape[along] for atom in equation.inputs]
    zeros = [(0, 0, 0)] * len(equation.inputs[position].shape)
    zeros[along] = (sum(sizes[:position]), sum(sizes[position + 1 :]), 0)
    return zeros


def _is_zero(draft: Draft, atom: Atom) -> bool:
    """Whether all entries are known to be zero."""
    if isinstance(atom, Literal) or atom in draft.constants:
        array = atom.array if isinstance(atom, Literal) else draft.constants[atom]
        return not _compat.is_traced(array) and not np.any(np.asarray(array))
    maker = draft.index.maker.get(atom)
    operands: Sequence[Atom] = maker.inputs if maker is not None and is_move(maker) else ()
    return bool(operands) and all(_is_zero(draft, a) for a in operands)
