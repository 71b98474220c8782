"""A sample from which any of its features can be removed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from relprop import _compat
from relprop._batches import Batches
from relprop._errors import InputError
from relprop.metrics import _checks
from relprop.metrics.fills import Fill, filler


@dataclasses.dataclass(frozen=True, eq=False)
class Removal:
    """A score of a sample, of which features can be filled.

    Attributes:
        f: the score of one sample.
        x: the sample.
        fill: what takes the place of what is missing.
        labels: the feature of each entry, from 0 to count - 1.
        count: how many features there are.
    """

    f: Callable[[Any], Any]
    x: Float[Array, "..."]
    fill: Fill
    labels: Int[np.ndarray, "..."]
    count: int

    @classmethod
    def of(cls, f: Callable[[Any], Any], x: Any, features: Any, fill: Any) -> Removal:
        """Checks what is given.

        Raises:
            InputError: f returns no score, the features are no integers that can be broadcast to
                x and are known while tracing, or the fill does not fit.
        """
        x = _checks.sample(x)
        _checks.score_of(f, x)
        labels = numbered(features, x.shape)
        return cls(f, x, filler(fill, x), labels, int(labels.max()) + 1)

    def without(self, removed: Bool[Array, " features"]) -> Float[Array, "..."]:
        """The sample with what is removed filled."""
        missing = removed.reshape(self.x.shape) if self.single else removed[self.labels]
        return jnp.where(missing, self.fill(self.x, missing), self.x)

    def score(self, removed: Bool[Array, " features"]) -> Float[Array, ""]:
        """The score of that."""
        return self.f(self.without(removed))

    def amounts(self, R: Any) -> Float[Array, " features"]:
        """Relevance, summed within features.

        Raises:
            InputError: it has another shape than the sample, or NaN in it.
        """
        R = _checks.relevance(R, self.x.shape)
        if self.single:
            return R.ravel()
        return jax.ops.segment_sum(R.ravel(), self.labels.ravel(), self.count)

    @property
    def single(self) -> bool:
        """Whether every entry is a feature, in their order: nothing has to be looked up."""
        return self.count == self.x.size and bool((np.diff(self.labels.ravel()) == 1).all())

    @property
    def sizes(self) -> Int[np.ndarray, " features"]:
        """How many entries each feature has."""
        return np.bincount(self.labels.ravel(), minlength=self.count)


def numbered(features: Any, shape: tuple[int, ...]) -> Int[np.ndarray, "..."]:
    """Labels from 0, one for each entry; without features every entry is its own.

    Raises:
        InputError: they do not fit.
    """
    if features is None:
        return np.arange(int(np.prod(shape))).reshape(shape)
    if _compat.is_traced(features):
        raise InputError(
            "`features` says how many there are, so it must be known while tracing, but is traced. "
            "Close over it instead."
        )
    labels = np.asarray(features)
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"`features` must be an array of integers, but has dtype {labels.dtype}.")
    try:
        labels = np.broadcast_to(labels, shape)
    except ValueError:
        raise InputError(
            f"`features` must have the shape of x, {list(shape)}, or one that can be broadcast to "
            f"it; it has {list(labels.shape)}."
        ) from None
    _, numbers = np.unique(labels, return_inverse=True)
    return numbers.reshape(shape)


def positions(amounts: Float[Array, " features"], order: str, key: Any) -> Int[Array, " features"]:
    """Where each feature stands in the order of removal, from 0.

    Args:
        amounts: relevance of the features.
        order: ``"most"`` relevant first, ``"least"`` or ``"random"``.
        key: for what is random, also the order of those that are alike.
    """
    _checks.choice("order", order, ("most", "least", "random"))
    if order != "random":
        _checks.warn_of_ties(amounts, "the order of removal")
    sign = {"most": -1.0, "least": 1.0, "random": 0.0}[order]
    return _places(sign, amounts, jax.random.key(0) if key is None else key)


@jax.jit
def _places(sign: Any, amounts: Float[Array, " n"], key: Any) -> Int[Array, " n"]:
    chance = jax.random.uniform(key, amounts.shape)
    ranked = jnp.lexsort((chance, sign * amounts))
    return jnp.zeros(ranked.shape, ranked.dtype).at[ranked].set(jnp.arange(ranked.size))


def scores_without(
    removal: Removal,
    amounts: Float[Array, " features"],
    counts: Any,
    *,
    order: str = "most",
    keep: bool = False,
    key: Any = None,
    batches: Batches,
) -> Float[Array, " counts"]:
    """The scores without the first features of an order, or with them alone.

    Args:
        removal: the sample.
        amounts: relevance of the features; where it is NaN all scores are, since NaN has no order.
        counts: how many of the first features are removed.
        order: as for `positions`.
        keep: whether they are kept and all others removed instead.
        key: as for `positions`.
        batches: how many scores are computed at a time.
    """
    place = positions(amounts, order, key)
    counts = jnp.asarray(counts, place.dtype)
    scores = batches.map(lambda n: removal.score((place < n) ^ keep), counts)
    return jnp.where(jnp.any(jnp.isnan(amounts)), jnp.nan, scores)


def ends_of_steps(count: int, steps: int | None) -> Int[np.ndarray, " points"]:
    """How many features are gone after each step, from none to all, in groups as equal as can be.

    Raises:
        InputError: there are more steps than features, or none.
    """
    if steps is None:
        steps = min(count, 100)
    _checks.at_least_one("steps", steps)
    if steps > count:
        raise InputError(
            f"There are {count} features and {steps} steps, and every step removes at least one: "
            f"`steps` can be at most {count}."
        )
    sizes = [len(part) for part in np.array_split(np.arange(count), steps)]
    return np.cumsum([0, *sizes])


def subsets(
    key: Any, sizes: Sequence[int], samples: int, count: int
) -> Bool[Array, "sizes samples features"]:
    """Sets of features, drawn by chance: so many of each size.

    Raises:
        InputError: there is no set of such a size, or not one sample.
    """
    _checks.at_least_one("samples", samples)
    for size in sizes:
        if not 1 <= size <= count:
            raise InputError(f"A set of {size} of {count} features: its size must be from 1 to it.")
    key = jax.random.key(0) if key is None else key
    return _sets(key, jnp.asarray([*sizes], jnp.int32), samples, count)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _sets(
    key: Any, sizes: Int[Array, " sizes"], samples: int, count: int
) -> Bool[Array, "sizes samples features"]:
    # In random order the numbers below a size are at as many places, drawn by chance.
    drawn = jax.random.uniform(key, (sizes.size, samples, count))
    return jnp.argsort(drawn, axis=-1).astype(jnp.int32) < sizes[:, None, None]


def replaced(
    removal: Removal, samples: int, draw: Any, key: Any, batches: Batches
) -> Float[Array, "features samples"]:
    """The scores with each feature in turn replaced by values that are drawn.

    Args:
        removal: the sample; its fill is not used.
        samples: how many values each feature is replaced by.
        draw: ``draw(key, x)`` gives an array like x to take them from; None: uniform between the
            least and the greatest entry of x.
        key: of the values; None for ``jax.random.key(0)``.
        batches: how many evaluations are made at a time.
    """
    _checks.at_least_one("samples", samples)
    x = removal.x
    keys = jax.random.split(jax.random.key(0) if key is None else key, samples)
    values = jax.vmap(lambda k: (_uniform if draw is None else draw)(k, x).astype(x.dtype))(keys)
    numbers = jnp.arange(removal.count * samples)

    def changed(number: Int[Array, ""]) -> Float[Array, ""]:
        feature, sample = jnp.divmod(number, samples)
        return removal.f(jnp.where(removal.labels == feature, values[sample], x))

    return batches.map(changed, numbers).reshape(removal.count, samples)


def _uniform(key: Any, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    low, high = jnp.min(x), jnp.max(x)
    return low + (high - low) * jax.random.uniform(key, x.shape, x.dtype)
