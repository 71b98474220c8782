"""Two runs of one function, of the clean and of the corrupted arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float

from relprop._arguments import argument_numbers
from relprop._core.relevance import precise
from relprop._errors import InputError
from relprop._transform import relevance
from relprop.places import Inside


def check_pair(clean: Any, corrupted: Any) -> None:
    """Refuses arguments that are no tuples, or that differ in more than their numbers."""
    for name, given in (("clean", clean), ("corrupted", corrupted)):
        if not isinstance(given, (tuple, list)):
            raise InputError(
                f"`{name}` must be the tuple of the arguments of f, as in {name}=(x, params), got "
                f"{type(given).__name__}."
            )
    ours, tree = jtu.tree_flatten_with_path(tuple(clean))
    theirs, other = jtu.tree_flatten_with_path(tuple(corrupted))
    if tree != other:
        raise InputError(
            f"Clean and corrupted arguments must have one structure, but one is {tree}, the other "
            f"{other}."
        )
    pairs = zip(ours, theirs, strict=True)
    wrong = [
        f"  {jtu.keystr(path)}: {_type(a)} and {_type(b)}"
        for (path, a), (_, b) in pairs
        if _type(a) != _type(b)
    ]
    if wrong:
        raise InputError(
            f"Clean and corrupted arguments differ in {len(wrong)} shape(s) or type(s):\n"
            + "\n".join(wrong)
            + "\nA value can be patched only into a run where it has the same shape. Use texts of "
            "the same number of tokens."
        )


def _type(leaf: Any) -> Any:
    if not isinstance(leaf, (int, float, complex)) and not hasattr(leaf, "shape"):
        return type(leaf).__name__
    return f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"


def inside_of(
    f: Callable[..., Any], rules: Any, argnums: int | Sequence[int], places: Any, **policies: Any
) -> Callable[..., dict[str, Inside]]:
    """The values at places with their coefficients."""
    explain = relevance(f, rules, argnums, places=places, growth_limit=float("inf"), **policies)
    return lambda *args: explain(*args)[1]


def coefficients(inside: dict[str, Inside]) -> dict[str, Array]:
    """Those of all places.

    Raises:
        InputError: some have none.
    """
    missing = [name for name, place in inside.items() if place.coefficient is None]
    if missing:
        raise InputError(
            f"{len(missing)} place(s) have no coefficient, since what reads them hands on shares "
            "of relevance, in no proportion to their values:\n"
            + "\n".join(f"  {name}" for name in missing)
            + "\nThat is so before activations, whose rule by default is `Pass`. Name the value "
            "after or before them, or use other rules."
        )
    return {name: jnp.asarray(place.coefficient) for name, place in inside.items()}


def between(
    clean: Sequence[Any], corrupted: Sequence[Any], argnums: int | Sequence[int], part: Any
) -> tuple[Any, ...]:
    """Arguments on the line from the corrupted (0) to the clean (1) ones; the rest as clean."""
    numbers = argument_numbers(argnums, len(clean))

    def mixed(a: Any, b: Any) -> Any:
        a, b = jnp.asarray(a), jnp.asarray(b)
        return b + (a - b) * jnp.asarray(part).astype(a.dtype)

    return tuple(
        jax.tree.map(mixed, ours, theirs) if number in numbers else ours
        for number, (ours, theirs) in enumerate(zip(clean, corrupted, strict=True))
    )


def difference(clean: Array, corrupted: Array) -> Array:
    """The corrupted less the clean value, in the precision of relevance."""
    return precise(corrupted) - precise(clean)


def axes_of(axes: int | Sequence[int] | None, name: str, ndim: int) -> tuple[int, ...]:
    """The axes that tell nodes apart, from the front; all of them by default."""
    if axes is None:
        return tuple(range(ndim))
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    if any(not -ndim <= axis < ndim for axis in given):
        raise InputError(f"{name!r} has {ndim} axes, but `axes` names {given}.")
    return tuple(sorted({axis % ndim for axis in given}))


def summed(
    scores: Float[Array, "..."], axes: int | Sequence[int] | None, name: str
) -> Float[Array, "..."]:
    """The sums over all axes that do not tell nodes apart."""
    kept = axes_of(axes, name, scores.ndim)
    return jnp.sum(scores, axis=tuple(i for i in range(scores.ndim) if i not in kept))
