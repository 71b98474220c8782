"""What a loop writes block by block is what its turns compute, put side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from relprop._core.graph import Equation, Literal, Value
from relprop.reading.loop import Loop


class _Blocks(NamedTuple):
    """What a loop writes: a block in each turn, along an axis that is full in the end."""

    carry: int
    block: Value
    axis: int


def written(loop: Loop) -> Iterator[tuple[int, Callable[..., Array]]]:
    """What is carried and only written to, each entry once.

    Yields:
        Which of the carried values it is, and the function that computes it from what the loop
        closes over and goes over, and from what the value was before.
    """
    for carry, start in enumerate(loop.starts):
        maker = loop.makers.get(loop.body.outputs[carry])
        if maker is None or maker.name != "dynamic_update_slice" or maker.inputs[0] is not start:
            continue
        block = maker.inputs[1]
        readers = [e for e in loop.body.equations if start in e.inputs and e is not maker]
        if readers or not isinstance(block, Value) or not loop.is_free(block):
            continue
        axis = _filled(loop, maker)
        if axis is not None:
            yield carry, functools.partial(_side_by_side, loop, _Blocks(carry, block, axis))


def _filled(loop: Loop, update: Equation) -> int | None:
    """The axis along which the blocks of all turns lie, one after the other and without a gap."""
    whole, block = update.inputs[0].shape, update.inputs[1].shape
    axes = [axis for axis, (n, m) in enumerate(zip(whole, block, strict=True)) if n != m]
    if len(axes) != 1 or loop.length * block[axes[0]] != whole[axes[0]]:
        return None
    (axis,) = axes
    starts = [_places(loop, atom) for atom in update.inputs[2:]]
    if any(places is None for places in starts):
        return None
    step = np.arange(loop.length) * block[axis]
    wanted = (step if a == axis else np.zeros_like(step) for a in range(len(whole)))
    fits = all(np.array_equal(a, b) for a, b in zip(starts, wanted, strict=True))  # type: ignore[arg-type]
    return axis if fits else None


def _places(loop: Loop, atom: object) -> np.ndarray | None:
    """A number that only depends on the turn, in each of them."""
    if isinstance(atom, Literal):
        return np.full(loop.length, int(np.asarray(atom.array)))
    assert isinstance(atom, Value)
    queue: list[object] = [atom]
    while queue:
        one = queue.pop()
        maker = loop.makers.get(one)  # type: ignore[arg-type]
        if maker is not None:
            queue.extend(maker.inputs)
        elif not isinstance(one, Literal) and one not in loop.counters:
            return None
    nothing = [np.zeros(v.shape, v.dtype) for v in loop.constants]
    nothing += [np.zeros((loop.length, *v.shape), v.dtype) for v in loop.entries]
    with jax.ensure_compile_time_eval():
        return np.asarray(loop.turns(atom, nothing, {}))  # type: ignore[arg-type]


def _side_by_side(loop: Loop, blocks: _Blocks, *operands: Array) -> Array:
    """The blocks of all turns as one array."""
    entries = loop.turns(blocks.block, operands[:-1], {})
    shape = list(entries.shape[1:])
    shape[blocks.axis] *= loop.length
    return jnp.moveaxis(entries, 0, blocks.axis).reshape(shape)
