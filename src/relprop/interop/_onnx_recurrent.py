"""Recurrent layers of ONNX as loops of JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from relprop._errors import InputError
from relprop.interop._onnx_operators import lowers

_FUNCTIONS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}

#: A cell: the states and the input of a step, to the states after it.
Cell = Callable[[Sequence[Any], Any], Sequence[Any]]


def _functions(given: Any, defaults: Sequence[str], direction: int) -> list[Callable[..., Any]]:
    names = [n.lower() for n in given or ()][direction * len(defaults) :][: len(defaults)]
    unknown = sorted(set(names) - set(_FUNCTIONS))
    if unknown:
        raise InputError(f"A recurrent layer has activations that have no form here: {unknown}.")
    return [_FUNCTIONS[name] for name in names or defaults]


def _layer(
    cell: Callable[[int], Cell],
    x: Any,
    states: Sequence[Any],
    lengths: Any,
    direction: str,
    layout: int,
    given: Any,
) -> tuple[Any, ...]:
    """The states of all steps, [steps, directions, batch, hidden], and the last ones."""
    refused = {"clip", "peepholes", "seq_lens"} & {k for k, v in given.items() if v is not None}
    if lengths is not None or refused:
        raise InputError(
            "A recurrent layer with lengths of sequences, peepholes or clipping has no form in "
            "JAX here. Export the model without them, or give `from_onnx` a function of your own "
            'for it, operators={"LSTM": function}.'
        )
    if layout:
        x, states = jnp.swapaxes(x, 0, 1), [jnp.swapaxes(s, 0, 1) for s in states]
    outputs, finals = [], []
    turns = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    for number, reverse in enumerate(turns):
        step = cell(number)

        def body(carry: Any, entry: Any, step: Cell = step) -> Any:
            after = tuple(step(carry, entry))
            return after, after[0]

        final, each = lax.scan(body, tuple(s[number] for s in states), x, reverse=reverse)
        outputs.append(each)
        finals.append(final)
    out = jnp.stack(outputs, 1)
    last = [jnp.stack(parts) for parts in zip(*finals, strict=True)]
    if layout:
        out, last = jnp.moveaxis(out, 2, 0), [jnp.swapaxes(s, 0, 1) for s in last]
    return (out, *last)


def _starts(x: Any, given: Sequence[Any], directions: int, hidden: int, layout: int) -> list[Any]:
    batch = x.shape[0 if layout else 1]
    shape = (batch, directions, hidden) if layout else (directions, batch, hidden)
    return [jnp.zeros(shape, x.dtype) if s is None else jnp.asarray(s) for s in given]


def _sums(x: Any, h: Any, weight: Any, recurrent: Any, bias: Any) -> Any:
    """What the gates are functions of; the bias is that of the input and that of the state."""
    total = x @ weight.T + h @ recurrent.T
    return total if bias is None else total + sum(jnp.split(bias, 2))


@lowers("LSTM")
def lstm(
    x: Any,
    weight: Any,
    recurrent: Any,
    bias: Any = None,
    lengths: Any = None,
    h: Any = None,
    c: Any = None,
    peepholes: Any = None,
    *,
    hidden_size: int,
    activations: Any = None,
    direction: str = "forward",
    input_forget: int = 0,
    layout: int = 0,
    clip: Any = None,
):
    def cell(number: int) -> Cell:
        gate, new, squash = _functions(activations, ("sigmoid", "tanh", "tanh"), number)
        of = None if bias is None else bias[number]

        def step(states: Sequence[Any], x: Any) -> Sequence[Any]:
            h, c = states
            sums = _sums(x, h, weight[number], recurrent[number], of)
            i, o, f, z = jnp.split(sums, 4, -1)
            keep = 1 - gate(i) if input_forget else gate(f)
            c = keep * c + gate(i) * new(z)
            return gate(o) * squash(c), c

        return step

    states = _starts(x, (h, c), len(weight), hidden_size, layout)
    other = {"clip": clip, "peepholes": peepholes}
    return _layer(cell, x, states, lengths, direction, layout, other)


@lowers("GRU")
def gru(
    x: Any,
    weight: Any,
    recurrent: Any,
    bias: Any = None,
    lengths: Any = None,
    h: Any = None,
    *,
    hidden_size: int,
    activations: Any = None,
    direction: str = "forward",
    linear_before_reset: int = 0,
    layout: int = 0,
    clip: Any = None,
):
    def cell(number: int) -> Cell:
        gate, new = _functions(activations, ("sigmoid", "tanh"), number)
        kernels = jnp.split(weight[number], 3), jnp.split(recurrent[number], 3)
        (wz, wr, wn), (rz, rr, rn) = kernels
        zeros = jnp.zeros(6 * hidden_size, x.dtype)
        bz, br, bn, cz, cr, cn = jnp.split(zeros if bias is None else bias[number], 6)

        def step(states: Sequence[Any], x: Any) -> Sequence[Any]:
            (h,) = states
            z = gate(x @ wz.T + h @ rz.T + (bz + cz))
            r = gate(x @ wr.T + h @ rr.T + (br + cr))
            inner = r * (h @ rn.T + cn) if linear_before_reset else (r * h) @ rn.T + cn
            return ((1 - z) * new(x @ wn.T + bn + inner) + z * h,)

        return step

    states = _starts(x, (h,), len(weight), hidden_size, layout)
    return _layer(cell, x, states, lengths, direction, layout, {"clip": clip})


@lowers("RNN")
def rnn(
    x: Any,
    weight: Any,
    recurrent: Any,
    bias: Any = None,
    lengths: Any = None,
    h: Any = None,
    *,
    hidden_size: int,
    activations: Any = None,
    direction: str = "forward",
    layout: int = 0,
    clip: Any = None,
):
    def cell(number: int) -> Cell:
        (new,) = _functions(activations, ("tanh",), number)
        of = None if bias is None else bias[number]
        return lambda states, x: (new(_sums(x, states[0], weight[number], recurrent[number], of)),)

    states = _starts(x, (h,), len(weight), hidden_size, layout)
    return _layer(cell, x, states, lengths, direction, layout, {"clip": clip})
