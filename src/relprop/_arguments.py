"""What the transforms ask of their arguments, said once."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

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
