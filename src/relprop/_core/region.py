"""Regions: parts of a function that its author marks as one thing, where nobody could tell."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.tree_util as jtu

F = TypeVar("F", bound=Callable[..., Any])
_PREFIX = "relprop_region "


def region(name: str) -> Callable[[F], F]:
    r"""Marks a function as one operation with a name, to be given a rule by that name.

    Without a rule of its own, relevance passes by the rules of what is inside. The function
    computes what it computed before, with and without relprop.

    Args:
        name: what `relprop.Where` finds it by, as ``Composite().at(region=name)``.

    Returns:
        A decorator.

    >>> import jax.numpy as jnp, relprop
    >>> @region("soft sign")
    ... def soft_sign(x):
    ...     return x / (1 + jnp.abs(x).sum())
    >>> rules = relprop.Composite().at(region="soft sign").use(relprop.rules.Pass())
    >>> relprop.relevance(lambda x: soft_sign(x)[0], rules)(jnp.array([1.0, 2.0])).tolist()
    [0.25, 0.0]
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def marked(*args: Any, **kwargs: Any) -> Any:
            leaves, tree = jtu.tree_flatten((args, kwargs))
            dynamic = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

            def call(*arrays: Any) -> Any:
                given = list(leaves)
                for i, array in zip(dynamic, arrays, strict=True):
                    given[i] = array
                args, kwargs = jtu.tree_unflatten(tree, given)
                return function(*args, **kwargs)

            call.__name__ = call.__qualname__ = _PREFIX + name
            return jax.jit(call)(*(leaves[i] for i in dynamic))

        return marked  # type: ignore[return-value]

    return decorate


def region_of(eqn: Any) -> str:
    """The name of the region that a call is, or an empty string."""
    name = str(eqn.params.get("name", ""))
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""
