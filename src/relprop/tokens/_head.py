"""The head of a language model only at the positions that are asked for.

A head multiplies each token by the whole vocabulary, which in small models is most of the work.
What follows from tokens one by one needs only those that are wanted: the last product, and what
is done to its result, entry by entry.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from relprop._core.graph import Atom, Equation, Graph
from relprop.tokens._staged import Other, evaluated, needed, trace

#: Of entries alone, or of an entry of each operand.
_ELEMENTWISE = frozenset(
    "add add_any sub mul div neg tanh logistic exp exp2 log max min convert_element_type copy "
    "integer_pow pow select_n stop_gradient square clamp".split()
)


def logits_at(
    logits: Callable[..., Any], args: Sequence[Any], positions: Int[Array, " k"]
) -> Float[Array, "k v"]:
    """Rows of ``logits(*args)[0]``, where it returns ``[1, tokens, vocabulary]``.

    As indexing the result by the positions, whose relevance is the same; tokens that nobody asks
    for have no part in the last product.
    """
    traced = trace(logits, args, ())
    graph = traced.graph
    (out,) = graph.outputs
    taken = _taken(graph, 1)
    others: dict[Equation, Other] = {
        equation: functools.partial(_at_rows, equation, axes, positions)
        for equation, axes in taken.items()
    }
    order = needed(graph, [out])
    (found,) = evaluated(graph, traced.arrays, [out], others, order)
    if not any(out in equation.outputs for equation in taken):
        found = jnp.take(found, positions, axis=1, mode="clip")
    return found[0]


#: What has fewer axes than its operand, and the parameter that says which it has not.
_DROPPED = {"squeeze": "dimensions", "reduce_sum": "axes", "reduce_max": "axes"}

#: The axis of the result, that of each operand (None: it has none), and whether it has only the
#: rows already.
_Axes = tuple[int, tuple[int | None, ...], tuple[bool, ...]]


def _taken(graph: Graph, axis: int) -> dict[Equation, _Axes]:
    """The equations of which only some rows are needed, and along which axes of their operands.

    From the result on back, up to a product: it is in, what it is of is not.
    """
    (out,) = graph.outputs
    wanted: dict[Atom, int] = {out: axis}
    whole: set[Atom] = set()
    found: dict[Equation, _Axes] = {}
    for equation in reversed(graph.equations):
        result = equation.outputs[0] if len(equation.outputs) == 1 else None
        along = None if result is None or result in whole else wanted.get(result)
        axes = None if along is None else _operand_axes(equation, along)
        if along is None or axes is None:
            whole.update(equation.inputs)
            continue
        ends = equation.name == "dot_general"
        for atom, own in zip(equation.inputs, axes, strict=True):
            if own is None or ends or wanted.setdefault(atom, own) != own:
                whole.add(atom)
        found[equation] = (along, axes, ())
    made = {equation.outputs[0] for equation in found}
    return {
        equation: (along, axes, tuple(atom in made for atom in equation.inputs))
        for equation, (along, axes, _) in found.items()
    }


def _operand_axes(equation: Equation, axis: int) -> tuple[int | None, ...] | None:
    """Per operand, which axis becomes an axis of the result; None where rows are not apart."""
    name, params = equation.name, equation.params
    (result,) = equation.outputs
    if name in _ELEMENTWISE:
        shapes = [atom.shape for atom in equation.inputs]
        if any(shape and len(shape) != len(result.shape) for shape in shapes):
            return None
        return tuple(axis if s and s[axis] == result.shape[axis] else None for s in shapes)
    if name == "transpose":
        return (params["permutation"][axis],)
    if name == "broadcast_in_dim":
        (operand,) = equation.inputs
        dimensions = params["broadcast_dimensions"]
        if axis not in dimensions:
            return (None,)
        along = dimensions.index(axis)
        return (along if operand.shape[along] == result.shape[axis] else None,)
    if name == "reshape" and params["dimensions"] is None:
        return _reshaped_axis(equation.inputs[0].shape, result.shape, axis)
    if name in _DROPPED:
        dropped = params[_DROPPED[name]]
        return ([i for i in range(len(equation.inputs[0].shape)) if i not in dropped][axis],)
    if name == "dot_general":
        return _factor_axes(equation, axis)
    return None


def _reshaped_axis(
    before: tuple[int, ...], after: tuple[int, ...], axis: int
) -> tuple[int | None, ...] | None:
    """Which axis stays as it is, with as many entries before and after it."""
    for along, size in enumerate(before):
        sides = (before[:along], after[:axis]), (before[along + 1 :], after[axis + 1 :])
        if size == after[axis] and all(math.prod(a) == math.prod(b) for a, b in sides):
            return (along,)
    return None


def _factor_axes(equation: Equation, axis: int) -> tuple[int | None, ...] | None:
    """The factor of a product whose rows are those of the result."""
    (contracting, batch) = equation.params["dimension_numbers"]
    shared = len(batch[0])
    if axis < shared:
        return None
    free = [
        [i for i in range(len(atom.shape)) if i not in (*used, *split)]
        for atom, used, split in zip(equation.inputs, contracting, batch, strict=True)
    ]
    place = axis - shared
    if place < len(free[0]):
        return free[0][place], None
    return None, free[1][place - len(free[0])]


def _at_rows(
    equation: Equation, plan: _Axes, positions: Int[Array, " k"], values: Sequence[Any]
) -> list[Any]:
    """Evaluates an equation for some rows."""
    axis, axes, before = plan
    rows = [
        value if along is None or done else jnp.take(value, positions, axis=along, mode="clip")
        for value, along, done in zip(values, axes, before, strict=True)
    ]
    shape = list(equation.outputs[0].shape)
    shape[axis] = len(positions)
    if equation.name == "reshape":
        return equation.evaluate(rows, new_sizes=tuple(shape))
    if equation.name == "broadcast_in_dim":
        return equation.evaluate(rows, shape=tuple(shape))
    return equation.evaluate(rows)
