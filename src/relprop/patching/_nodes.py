"""What single nodes do to a score, by coefficients or by interventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop._batches import Batches
from relprop._errors import InputError
from relprop.patching._exact import patched_one_by_one
from relprop.patching._runs import (
    between,
    check_pair,
    coefficients,
    difference,
    inside_of,
    summed,
)
from relprop.places.kinds import places_of


def nodes(
    f: Callable[..., Any],
    clean: Sequence[Any],
    corrupted: Sequence[Any],
    rules: Any = None,
    argnums: int | Sequence[int] = 0,
    *,
    places: Any,
    axes: int | Sequence[int] | None = None,
    steps: int = 1,
    exact: bool = False,
    batch_size: int | None = 16,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> dict[str, Float[Array, "..."]]:
    r"""What the score changes where single values of the clean run become those of the corrupted.

    .. math:: s_v = (v_{corrupted} - v_{clean}) \; c_v
              \;\approx\; f(x) \big|_{v \leftarrow v_{corrupted}} - f(x)

    with the coefficient c of the clean run by any rules, from two forward passes and one backward
    pass: attribution patching by `relprop.rules.Gradient`, relevance patching by
    `relprop.presets.relp`.

    Args:
        f: a function that returns a real scalar.
        clean: the tuple of its arguments.
        corrupted: a second one, of the same shapes.
        rules: as for `relprop.relevance`; not needed with `exact`.
        argnums: of which arguments the values at places are computed, as for `relprop.relevance`.
        places: where nodes are, as in `places=`: `relprop.places.Heads`, `Branches` and `Stream`
            name the parts of a transformer, `Input` with a path the neurons of a layer.
        axes: the axes of the values that tell nodes apart; over all others effects are summed, and
            with `exact` such entries are patched together. By default each entry is a node.
        steps: over how many inputs the coefficient is averaged, on the line from the corrupted to
            the clean one, :math:`x' + \frac{k}{n} (x - x')` for k = 1 ... n. One is the clean one.
        exact: evaluate f with each node patched, instead of estimating what it would return.
        batch_size: how many inputs on the line, or patched nodes, are evaluated at a time.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.

    Returns:
        By the name of the place an array of the shape of the value there, of which with `axes`
        only those are left, in units of the score. In a `scan` the first axis is that of the steps.

    Raises:
        InputError: the arguments differ in shapes, a place has no coefficient by these rules, an
            axis or `steps` does not exist, or f returns no real scalar.
        NothingMatchedError: a place is not there.
        MissingRuleError, RuleError: as for `relprop.relevance`.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.sum(relprop.named(2 * x, "doubled") ** 2)
    >>> clean, corrupted = (jnp.array([1.0, 3.0]),), (jnp.array([0.0, 3.0]),)
    >>> gradient = relprop.rules.Gradient()
    >>> nodes(f, clean, corrupted, gradient, places="doubled")["doubled"].tolist()
    [-8.0, 0.0]
    >>> nodes(f, clean, corrupted, places="doubled", exact=True)["doubled"].tolist()
    [-4.0, 0.0]

    Source: Nanda 2023 (attribution patching); Jafari et al. 2025, section 3 (RelP); Hanna et al.
    2024, section 3 (integrated).
    """
    check_pair(clean, corrupted)
    if steps < 1:
        raise InputError(f"`steps` must be at least 1, got {steps!r}.")
    batches, wanted = Batches(batch_size), places_of(places)
    if exact:
        return patched_one_by_one(f, clean, corrupted, argnums, wanted, axes, batches)
    if rules is None:
        raise InputError("Without `exact=True` nodes need rules, such as `relprop.presets.relp()`.")
    policies = {"on_missing": on_missing, "on_suspicion": on_suspicion}
    inside = inside_of(f, rules, argnums, wanted, **policies)
    ours, theirs = inside(*clean), inside(*corrupted)
    if steps == 1:
        slopes = coefficients(ours)
    else:
        parts = jnp.arange(1.0, steps + 1) / steps

        def slope(part: Array) -> dict[str, Array]:
            return coefficients(inside(*between(clean, corrupted, argnums, part)))

        slopes = jax.tree.map(lambda total: total / steps, batches.sum(slope, parts))
    return {
        name: summed(difference(ours[name].value, theirs[name].value) * c, axes, name)
        for name, c in slopes.items()
    }
