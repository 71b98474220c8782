"""What the transforms ask of their arguments, said once."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from relprop._errors import InputError


def argument_numbers(argnums: int | Sequence[int], count: int) -> tuple[int, ...]:
    """The positions that `argnums` means, none of them negative.

    Raises:
        InputError: there is no such argument, or it is named twice.
    """
    try:
        single = not isinstance(argnums, Sequence)
        numbers = tuple(map(operator.index, (argnums,) if single else argnums))
    except TypeError:
        raise InputError(
            f"`argnums` must be an integer or a sequence of integers, got {argnums!r}."
        ) from None
    if not numbers:
        raise InputError("`argnums` is empty: name at least one argument to be explained.")
    for number in numbers:
        if not -count <= number < count:
            raise InputError(
                f"`argnums` names argument {number}, but the function was called with {count} "
                "positional argument(s). Keyword arguments cannot be explained; close over them."
            )
    numbers = tuple(number % count for number in numbers)
    if len(set(numbers)) != len(numbers):
        raise InputError(f"`argnums` names an argument twice: {numbers}.")
    return numbers


def explained_outputs(tree: Any, has_aux: bool) -> int:
    """How many leaves of what a function returned are to be explained.

    Args:
        tree: the structure of what it returned.
        has_aux: whether that is a pair, of which the second is not explained.

    Raises:
        InputError: it should be a pair and is not.
    """
    if not has_aux:
        return tree.num_leaves
    children, node = tree.children(), tree.node_data()
    if node is None or node[0] not in (tuple, list) or len(children) != 2:
        raise InputError(
            "With has_aux=True the function must return a pair (explained, aux); it returned "
            f"{tree}."
        )
    return children[0].num_leaves


def check_score(shapes: Sequence[Any], beside: str = "") -> None:
    """Refuses what is no score to be explained.

    Args:
        shapes: the leaves of what the function returned, as `jax.ShapeDtypeStruct`.
        beside: what it returned beside them, for the message.

    Raises:
        InputError: it is not one real scalar.
    """
    real = [jnp.issubdtype(s.dtype, jnp.floating) for s in shapes]
    if len(shapes) == 1 and shapes[0].shape == () and real[0]:
        return
    found = ", ".join(f"{s.dtype}{list(s.shape)}" for s in shapes) or "nothing"
    raise InputError(
        f"The explained score must be one real scalar, but the function returned {found}{beside}. "
        "Select an entry (`f(x)[0, target]`), sum over a batch, or use `relprop.vrp` for outputs "
        "of any structure."
    )


@dataclasses.dataclass(frozen=True)
class Rest:
    """Arguments without their arrays, to be looked up by.

    Attributes:
        tree: the structure of positional arguments and keywords together.
        leaves: what is no array; None in the place of one.
    """

    tree: Any
    leaves: tuple[_Leaf | None, ...]

    def with_arrays(self, arrays: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments again."""
        supply = iter(arrays)
        leaves = [next(supply) if leaf is None else leaf.value for leaf in self.leaves]
        return jtu.tree_unflatten(self.tree, leaves)


class _Leaf:
    """A leaf that is no array: equal to its like, or to itself where that cannot be told."""

    def __init__(self, value: Any):
        self.value = value
        self.key: Any = (type(value), value)
        if isinstance(value, np.ndarray):
            self.key = (value.dtype.str, value.shape, value.tobytes())
        try:
            hash(self.key)
        except TypeError:
            self.key = (type(value), id(value))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Leaf) and self.key == other.key


def without_arrays(
    args: Sequence[Any], kwargs: dict[str, Any], explained: Sequence[int]
) -> tuple[list[Any], Rest]:
    """The arrays among some arguments, and the rest, for a function compiled for given shapes.

    As with `jax.grad`, Python numbers are arrays in the explained arguments only, and a NumPy
    array of integers or truth values elsewhere is what a function may choose shapes by.
    """
    arrays, leaves = [], []
    flat, tree = jtu.tree_flatten_with_path((tuple(args), kwargs))
    for path, leaf in flat:
        in_args = path[0].idx == 0
        if in_args and path[1].idx in explained:
            dynamic = isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int, complex))
        else:
            numpy = isinstance(leaf, (np.ndarray, np.generic))
            inexact = numpy and jnp.issubdtype(leaf.dtype, jnp.inexact)
            dynamic = isinstance(leaf, jax.Array) or inexact
        if dynamic:
            arrays.append(leaf)
        leaves.append(None if dynamic else _Leaf(leaf))
    return arrays, Rest(tree, tuple(leaves))
