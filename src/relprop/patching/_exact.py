"""Activation patching: an evaluation per node, with its corrupted value in the clean run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relprop._arguments import check_score
from relprop._batches import Batches
from relprop._core.replaced import Replacing
from relprop._intervene import values_at
from relprop.patching._runs import axes_of
from relprop.places.kinds import Place
from relprop.places.opened import Opened


def patched_one_by_one(
    f: Callable[..., Any],
    clean: Sequence[Any],
    corrupted: Sequence[Any],
    argnums: int | Sequence[int],
    places: Sequence[Place],
    axes: int | Sequence[int] | None,
    batches: Batches,
) -> dict[str, Array]:
    """The change of the score by each node of each place."""
    opened = Opened.of(f, clean, argnums, has_aux=False)
    check_score(opened.trace.out_shapes, "")
    theirs = values_at(f, places, argnums)(*corrupted)
    before = opened.evaluated(Replacing({}))[0][0]
    effects = {}
    for value, (name, *more) in opened.named(places).items():
        patch = theirs[name]
        kept = axes_of(axes, name, patch.ndim)
        sizes = [patch.shape[axis] for axis in kept]

        def effect(number, value=value, patch=patch, kept=kept, sizes=sizes):
            here = jnp.ones(patch.shape, bool)
            for axis, index in zip(kept, jnp.unravel_index(number, sizes), strict=True):
                here &= lax.broadcasted_iota(jnp.int32, patch.shape, axis) == index

            def replace(array, turns):
                return jnp.where(here[turns], patch[turns], array)

            return opened.evaluated(Replacing({value: replace}))[0][0] - before

        count = math.prod(sizes)
        found = batches.map(effect, jnp.arange(count)) if count else jnp.zeros(0, before.dtype)
        effects.update(dict.fromkeys((name, *more), found.reshape(sizes)))
    return dict(sorted(effects.items()))
