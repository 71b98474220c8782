"""Regions: parts of a function that its author marks as one thing, where nobody could tell."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.tree_util as jtu

F = TypeVar("F", bound=Callable[..., Any])
_PREFIX = "relprop_region "


def region(name: str) -> Callable[[F], F]:
    r"""Marks a function as one operation with a name, to be given a rule by that name.

    Without a rule of its own, relevance passes by the rules of what is inside. With one, the
    region is one operation, and it does not count as linear whatever is inside. The function
    computes what it computed before, with and without relprop, as long as `jax.jit` could be
    applied to it: it takes arrays and anything else, and returns arrays.

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
        compiled: dict[Any, Callable[..., Any]] = {}

        @functools.wraps(function)
        def marked(*args: Any, **kwargs: Any) -> Any:
            leaves, tree = jtu.tree_flatten((args, kwargs))
            arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
            static = tuple(
                None if isinstance(leaf, jax.Array) else _Static(leaf) for leaf in leaves
            )
            if not all(s is None or isinstance(s.leaf, _PLAIN) for s in static):
                return _call(function, name, tree, static)(*arrays)
            # Outside of a trace, the same call is not to be compiled twice.
            key = (tree, static)
            if key not in compiled:
                compiled[key] = _call(function, name, tree, static)
            return compiled[key](*arrays)

        return marked  # type: ignore[return-value]

    return decorate


_PLAIN = (bool, int, float, str, bytes, type(None))


@dataclasses.dataclass(frozen=True)
class _Static:
    """An argument that is no array; `1` and `True` are not the same."""

    leaf: Any

    def __hash__(self) -> int:
        return hash((type(self.leaf), self.leaf))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Static) or type(self.leaf) is not type(other.leaf):
            return False
        return self.leaf == other.leaf


def _call(function: Callable[..., Any], name: str, tree: Any, static: Sequence[Any]) -> Any:
    """A jitted function of the arrays among some arguments, called as the region is."""

    def call(*arrays: Any) -> Any:
        supply = iter(arrays)
        leaves = [next(supply) if s is None else s.leaf for s in static]
        args, kwargs = jtu.tree_unflatten(tree, leaves)
        return function(*args, **kwargs)

    call.__name__ = call.__qualname__ = _PREFIX + name
    return jax.jit(call)


def region_of(eqn: Any) -> str:
    """The name of the region that a call is, or an empty string."""
    name = str(eqn.params.get("name", ""))
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""
