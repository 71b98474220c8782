"""Every reduction is one reduction: a window over a whole axis, the last of the running sums.

``lax.reduce_window(x, 0, add, (1, n), ...)`` over an axis of n entries and ``cumsum(x)[..., -1:]``
are ``x.sum(-1, keepdims=True)``; a window of a maximum is the maximum. A power of a number is an
exponential, ``2 ** x = exp(x * log 2)``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation
from relprop.propagators.linear import Contraction
from relprop.reading.draft import Draft
from relprop.reading.numbers import is_literal

_WINDOWS = {
    "reduce_window_sum": jnp.sum,
    "reduce_window_max": jnp.max,
    "reduce_window_min": jnp.min,
}
_RUNNING = {
    "cumsum": jnp.sum,
    "cummax": jnp.max,
    "cummin": jnp.min,
    "cumlogsumexp": jax.nn.logsumexp,
}


def reduced(draft: Draft) -> None:
    """Writes reductions of whole axes and powers of numbers as such."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if len(equation.outputs) != 1 or equation.outputs[0] not in draft.index.dependent:
            continue
        new: list[Equation] = []
        if equation.name in _WINDOWS:
            new = _whole_window(draft, equation)
        elif equation.name == "slice":
            new = _last_of_running_sums(draft, equation)
        elif equation.name == "conv_general_dilated":
            new = _whole_convolution(draft, equation)
        elif equation.name == "reduce_sum":
            new = _sum_of_one(draft, equation)
        elif equation.name == "pow":
            new = _exponential(draft, equation)
        if new:
            made[equation] = new
    if made:
        draft.put(made)


def _whole_window(draft: Draft, equation: Equation) -> list[Equation]:
    """The reduction over those axes that a window covers, if it covers or leaves out each."""
    (atom,), params = equation.inputs, equation.params
    window = tuple(params["window_dimensions"])
    sizes = zip(window, atom.shape, strict=True)
    plain = all(low == high == 0 for low, high in params["padding"]) and all(
        set(params[name]) <= {1} for name in ("base_dilation", "window_dilation")
    )
    # A stride does not matter along an axis that is covered, nor is there one along the others.
    steps = zip(window, params["window_strides"], strict=True)
    plain = plain and all(stride == 1 for length, stride in steps if length == 1)
    if not plain or not all(length in (1, n) for length, n in sizes) or set(window) == {1}:
        return []
    axes = tuple(axis for axis, length in enumerate(window) if length > 1)
    reduce = functools.partial(_WINDOWS[equation.name], axis=axes, keepdims=True)
    return draft.derived(reduce, [atom], equation, equation.outputs[0])


def _sum_of_one(draft: Draft, equation: Equation) -> list[Equation]:
    """The result of a layer without axes of one entry, over which it is summed by transposing.

    Of anything else the sum stays: it may be that of a softmax or a norm with one entry.
    """
    (atom,), (out,) = equation.inputs, equation.outputs
    maker = draft.index.maker.get(atom)
    layer = maker is not None and isinstance(registry.lookup(maker.primitive), Contraction)
    if not layer or any(atom.shape[axis] != 1 for axis in equation.params["axes"]):
        return []
    return draft.derived(lambda x: x.reshape(out.shape), [atom], equation, out)


def _whole_convolution(draft: Draft, equation: Equation) -> list[Equation]:
    """The sum that a convolution is whose kernel is one number, and as large as its argument."""
    atom, kernel = equation.inputs
    number, params = draft.index.number(kernel), equation.params
    numbers = params["dimension_numbers"]
    pixels, out = [atom.shape[a] for a in numbers.lhs_spec[2:]], equation.outputs[0]
    plain = not any(map(any, params["padding"])) and params["batch_group_count"] == 1
    plain = plain and {*params["lhs_dilation"], *params["rhs_dilation"]} <= {1}
    covered = pixels == [kernel.shape[a] for a in numbers.rhs_spec[2:]]
    one = kernel.shape[numbers.rhs_spec[0]] == 1 and params["feature_group_count"] == 1
    if number is None or not (plain and covered and one and is_literal(draft.index.maker, kernel)):
        return []

    def total(x: Array) -> Array:
        summed = jnp.sum(x, tuple(numbers.lhs_spec[1:])) * jnp.asarray(number, x.dtype)
        places = [1] * x.ndim
        places[numbers.out_spec[0]] = -1
        return summed.reshape(places).astype(out.dtype)

    return draft.derived(total, [atom], equation, out)


def _last_of_running_sums(draft: Draft, equation: Equation) -> list[Equation]:
    """The reduction of an axis, if a slice takes nothing but the last of the running ones."""
    running = draft.index.maker.get(equation.inputs[0])
    if running is None or running.name not in _RUNNING:
        return []
    axis, (atom,) = running.params["axis"], running.inputs
    size = atom.shape[axis]
    last = 0 if running.params["reverse"] else size - 1
    starts: Sequence[int] = equation.params["start_indices"]
    limits: Sequence[int] = equation.params["limit_indices"]
    whole = all(
        start == 0 and limit == n
        for i, (start, limit, n) in enumerate(zip(starts, limits, atom.shape, strict=True))
        if i != axis
    )
    strides = equation.params["strides"] or ()
    if (
        not whole
        or any(n != 1 for n in strides)
        or (starts[axis], limits[axis]) != (last, last + 1)
    ):
        return []
    total = functools.partial(_RUNNING[running.name], axis=axis, keepdims=True)
    return draft.derived(total, [atom], equation, equation.outputs[0])


def _exponential(draft: Draft, equation: Equation) -> list[Equation]:
    """The exponential that a power of a positive number is."""
    base, exponent = equation.inputs
    number = draft.index.number(base)
    if exponent not in draft.index.dependent or number is None or not 0 < number < math.inf:
        return []
    if number == 1 or not _alike(exponent, equation.outputs[0]):
        return []

    def raised(x: Array) -> Array:
        return jnp.exp(x * jnp.asarray(math.log(number), x.dtype))

    return draft.derived(raised, [exponent], equation, equation.outputs[0])


def _alike(a: Atom, b: Atom) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype
