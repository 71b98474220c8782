"""Edits of values for `relprop.intervene`: functions of the value at a place.

>>> import jax.numpy as jnp, numpy as np, relprop
>>> f = lambda x: jnp.sum(relprop.named(2 * x, "doubled"))
>>> x = jnp.array([1.0, 3.0])
>>> relprop.intervene(f, {"doubled": at(np.s_[1], zero)})(x)
Array(2., dtype=float32)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Inexact, Key

from relprop._errors import InputError

__all__ = ["at", "mean", "patch", "resample", "scale", "zero"]

Edit = Callable[[Array], Any]


def zero(value: Inexact[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """Zero ablation: nothing is there.

    Args:
        value: the value at the place.

    Returns:
        Zeros of the same shape and dtype.

    >>> zero(jnp.array([1.0, 2.0])).tolist()
    [0.0, 0.0]
    """
    return jnp.zeros_like(value)


def mean(axis: int | Sequence[int] | None = 0) -> Edit:
    r"""Mean ablation: the mean over some axes, such as samples or positions.

    .. math:: v \leftarrow \frac{1}{n} \sum_{i} v_i

    Args:
        axis: the axis or axes that the mean is taken over; None: all of them.

    Returns:
        An edit.

    >>> mean()(jnp.array([[1.0, 2.0], [3.0, 6.0]])).tolist()
    [[2.0, 4.0]]

    Source: Wang et al. 2023, section 2 (mean ablation).
    """
    along = tuple(axis) if isinstance(axis, Sequence) else axis
    return lambda value: jnp.mean(value, axis=along, keepdims=True)


def scale(factor: ArrayLike) -> Edit:
    r"""The value times a number, or times an array that broadcasts to it.

    .. math:: v \leftarrow c \, v

    Args:
        factor: a number, or an array that broadcasts to the value.

    Returns:
        An edit.

    >>> scale(0.5)(jnp.array([1.0, 2.0])).tolist()
    [0.5, 1.0]
    """
    return lambda value: value * jnp.asarray(factor).astype(value.dtype)


def resample(key: Key[Array, ""], axis: int = 0) -> Edit:
    """Resample ablation: entries along an axis, such as samples of a batch, change their places.

    Args:
        key: of the random permutation.
        axis: the axis along which entries are exchanged.

    Returns:
        An edit.

    >>> sorted(resample(jax.random.key(0))(jnp.arange(4.0)).tolist())
    [0.0, 1.0, 2.0, 3.0]

    Source: Chan et al. 2022 (causal scrubbing: resampling ablation).
    """
    return lambda value: jax.random.permutation(key, value, axis=axis)


def patch(array: ArrayLike) -> Edit:
    """Another value, such as that of another run: see `relprop.values_at`.

    The array itself is an edit as well; as a function it can be put into a part, by `at`.

    Args:
        array: a number, or an array that broadcasts to the value.

    Returns:
        An edit.

    >>> patch(1.0)(jnp.zeros(2)).tolist()
    [1.0, 1.0]
    """
    return lambda value: jnp.broadcast_to(jnp.asarray(array), value.shape)


def at(index: Any, edit: Any) -> Edit:
    """An edit of a part of a value: a position, a head, a neuron.

    Args:
        index: what ``value[index]`` takes, such as ``np.s_[..., 3, :]``; it may be traced.
        edit: a function of the whole value, of whose result the part is taken; or an array that
            broadcasts to the part.

    Returns:
        An edit.

    Raises:
        InputError: a number in the index is out of range, or an array does not fit the part.

    >>> at((0, 1), zero)(jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 0.0], [3.0, 4.0]]
    """

    def edited(value: Array) -> Array:
        part = _part(value, index)
        if callable(edit):
            new = jnp.broadcast_to(jnp.asarray(edit(value)), value.shape)[index]
        else:
            new = jnp.asarray(edit)
            try:
                new = jnp.broadcast_to(new, part.shape)
            except ValueError:
                raise InputError(
                    f"An array of shape {new.shape} does not fit the part {index!r} of a value of "
                    f"shape {value.shape}, which has shape {part.shape}."
                ) from None
        return value.at[index].set(new.astype(value.dtype))

    return edited


def _part(value: Array, index: Any) -> Array:
    """A part of a value; JAX takes the last entry where a number is out of range."""
    entries = index if isinstance(index, tuple) else (index,)
    given = sum(entry is not None and entry is not Ellipsis for entry in entries)
    if given > value.ndim:
        raise InputError(f"The index {index!r} has too many entries for the shape {value.shape}.")
    axis = 0
    for entry in entries:
        if entry is Ellipsis:
            axis += value.ndim - given
        elif entry is not None:
            size = value.shape[axis]
            if isinstance(entry, int) and not -size <= entry < size:
                raise InputError(f"There is no entry {entry} along axis {axis} of {value.shape}.")
            axis += 1
    return value[index]
