"""Regions: parts of a function that its author marks as one thing, where nobody could tell."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.tree_util as jtu
import numpy as np

from relprop import _compat

F = TypeVar("F", bound=Callable[..., Any])
_PREFIX = "relprop_region "


def region(name: str) -> Callable[[F], F]:
    r"""Marks a function as one operation with a name, to be given a rule by that name.

    Without a rule of its own, relevance passes by the rules of what is inside. With one, the
    region is one operation, and it does not count as linear whatever is inside. The function
    computes what it computed before, with and without relprop, under any transformation of JAX: it
    takes and returns arrays and anything else, and reads whatever it closes over anew each time.
    Nothing is kept between calls. As in any function that is traced, arrays that it makes leave it
    as results only, not through state that it changes.

    Args:
        name: what `relprop.Where` finds it by, as ``Composite().at(region=name)``.

    Returns:
        A decorator.

    Raises:
        ValueError: the name is empty.

    >>> import jax.numpy as jnp, relprop
    >>> @region("soft sign")
    ... def soft_sign(x):
    ...     return x / (1 + jnp.abs(x).sum())
    >>> rules = relprop.Composite().at(region="soft sign").use(relprop.rules.Pass())
    >>> relprop.relevance(lambda x: soft_sign(x)[0], rules)(jnp.array([1.0, 2.0])).tolist()
    [0.25, 0.0]
    """
    if not name:
        raise ValueError("A region needs a name, by which rules find it.")

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def marked(*args: Any, **kwargs: Any) -> Any:
            # A mark is for who traces the function. Executed as it comes, it is the function.
            if not _compat.is_staged():
                return function(*args, **kwargs)
            return _marked_call(function, name, args, kwargs)

        return marked  # type: ignore[return-value]

    return decorate


def _marked_call(
    function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Calls a function so that a call of that name is seen in the jaxpr.

    The jitted function is made for this one call. Whatever it closes over is as it is now, and
    nothing of it is kept.
    """
    leaves, tree = jtu.tree_flatten((args, kwargs))
    dynamic = [isinstance(leaf, jax.Array) for leaf in leaves]
    rest = [None if on else leaf for leaf, on in zip(leaves, dynamic, strict=True)]
    made: list[Any] = []  # the structure of the results, and those that are no arrays

    def call(arrays: Sequence[Any]) -> list[Any]:
        supply = iter(arrays)
        filled = [next(supply) if on else x for x, on in zip(rest, dynamic, strict=True)]
        args, kwargs = jtu.tree_unflatten(tree, filled)
        results, structure = jtu.tree_flatten(function(*args, **kwargs))
        made[:] = structure, [None if _is_array(x) else x for x in results]
        return [x for x in results if _is_array(x)]

    call.__name__ = call.__qualname__ = _PREFIX + name
    arrays = jax.jit(call)([leaf for leaf, on in zip(leaves, dynamic, strict=True) if on])
    supply, (structure, results) = iter(arrays), made
    return jtu.tree_unflatten(structure, [next(supply) if x is None else x for x in results])


def _is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray, np.generic))


def region_of(eqn: Any) -> str:
    """The name of the region that a call is, or an empty string."""
    name = str(eqn.params.get("name", ""))
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""
