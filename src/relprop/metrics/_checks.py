"""What every metric asks of its arrays, said once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from relprop import _compat
from relprop._arguments import check_score
from relprop._errors import InputError, TiesWarning


def sample(x: Any) -> Float[Array, "..."]:
    """One sample as an array.

    Raises:
        InputError: it is no array of real numbers, or it is empty.
    """
    try:
        array = jnp.asarray(x)
    except (TypeError, ValueError):
        raise InputError(
            f"A metric is of one sample, an array; x is a {type(x).__name__}. Close over what is "
            "not explained, and explain one array."
        ) from None
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.size == 0:
        raise InputError(
            "x must hold real numbers, at least one, but is "
            f"{array.dtype}{list(array.shape)}. Of token ids, perturb the embeddings."
        )
    return array


def single(array: Array) -> Float[Array, "..."]:
    """The same in single precision at least.

    Half precision counts to 2048 and ends at 65504, and an image has more pixels.
    """
    return array if array.dtype.itemsize >= 4 else array.astype(jnp.float32)


def relevance(R: Any, shape: tuple[int, ...] | None = None) -> Float[Array, "..."]:
    """Relevance as an array, of the shape of the sample, in single precision at least.

    While tracing, what would be refused becomes NaN as a whole, so that whatever is measured of it
    is NaN too.

    Raises:
        InputError: it has another shape, no real numbers, or NaN or infinity in it.
    """
    array = jnp.asarray(R)
    if shape is not None and array.shape != shape:
        hint = "Sum over nothing: entries that belong together are one feature (`features=`)."
        if array.ndim < len(shape):
            hint = "Give it the axes that it lacks with `jnp.broadcast_to(R[..., None], x.shape)`."
        raise InputError(
            f"R must have the shape of x, {list(shape)}, but has {list(array.shape)}. {hint}"
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(float)
    array = single(array)
    if _compat.is_traced(array):
        return jnp.where(jnp.all(jnp.isfinite(array)), array, jnp.nan)
    bad = ~np.isfinite(np.asarray(array, np.float64))
    if bad.any():
        first = [int(i) for i in np.argwhere(bad)[0]]
        raise InputError(
            f"R has {int(bad.sum())} of {bad.size} entries that are NaN or infinite, the first "
            f"at {first}: no order is made of those. `relprop.ledger(f, rules)(x).fault` names "
            "the operation that they are from."
        )
    return array


def mask(given: Any, shape: tuple[int, ...], *, negatives: bool = False) -> Bool[Array, "..."]:
    """A mask of the shape of the relevance.

    Args:
        given: booleans, or numbers that are positive inside.
        shape: of the relevance.
        negatives: whether there must be some outside as well.

    Raises:
        InputError: it has another shape, or nothing is inside, or outside.
    """
    array = jnp.asarray(given)
    if array.shape != shape:
        raise InputError(
            f"The mask must have the shape of R, {list(shape)}, but has {list(array.shape)}. Sum R "
            "over its channels, or broadcast the mask to them."
        )
    if array.dtype != bool:
        array = array > 0
    if not _compat.is_traced(array):
        inside = int(np.asarray(array).sum())
        if inside == 0:
            raise InputError(
                "The mask has no positive: nothing is where the explanation should be, so that "
                "there is nothing to measure. Leave the sample out."
            )
        if negatives and inside == array.size:
            raise InputError("The mask covers everything, so that nothing is outside to tell from.")
    return array


def defined(value: Array, R: Array, inside: Array, *, negatives: bool = False) -> Array:
    """NaN for what is refused where it is known: while tracing it may turn up later.

    Args:
        value: of the metric.
        R: from `relevance`.
        inside: from `mask`.
        negatives: as for `mask`.
    """
    if not (_compat.is_traced(R) or _compat.is_traced(inside)):
        return value
    refused = jnp.any(jnp.isnan(R)) | ~jnp.any(inside)
    if negatives:
        refused |= jnp.all(inside)
    return jnp.where(refused, jnp.nan, value)


def score_of(f: Callable[[Any], Any], x: Float[Array, "..."]) -> None:
    """Refuses a function that does not return one real number.

    Raises:
        InputError: it returns something else.
    """
    check_score(jax.tree.leaves(jax.eval_shape(f, x)))


def warn_of_ties(amounts: Float[Array, " features"], what: str) -> None:
    """Says so where all features are alike, so that the order is one by chance."""
    if _compat.is_traced(amounts) or amounts.size < 2:
        return
    values = np.asarray(amounts)
    if (values == values[0]).all():
        warnings.warn(
            f"All {values.size} features have the relevance {values[0]:.4g}, so that {what} is by "
            "chance, drawn with `key`.",
            TiesWarning,
            stacklevel=4,
        )


def choice(name: str, value: Any, known: Any) -> None:
    """Refuses a word that is not among some.

    Raises:
        InputError: lists them.
    """
    if value not in known:
        raise InputError(f"`{name}` must be one of {[*known]}, got {value!r}.")


def at_least_one(name: str, value: int) -> None:
    """Refuses to draw nothing.

    Raises:
        InputError: the number is below 1, or no integer.
    """
    if not isinstance(value, (int, np.integer)):
        raise InputError(f"`{name}` must be an integer, got {value!r}.")
    if value < 1:
        raise InputError(f"`{name}` must be at least 1, got {value!r}.")


def of_shape(value: ArrayLike, x: Float[Array, "*s"], what: str) -> Float[Array, "*s"]:
    """Something in place of x, broadcast to it.

    Raises:
        InputError: it cannot be, or is nothing of numbers.
    """
    try:
        array = jnp.asarray(value).astype(x.dtype)
    except (TypeError, ValueError):
        raise InputError(
            f"{what} must be a number or an array of numbers, got {value!r}."
        ) from None
    try:
        fits = np.broadcast_shapes(array.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise InputError(
            f"{what} must have the shape of x, {list(x.shape)}, or one that can be broadcast to "
            f"it; it has {list(array.shape)}."
        )
    return jnp.broadcast_to(array, x.shape)
