"""What the score loses when part of the input is taken away."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from relprop._batches import Batches
from relprop._errors import InputError
from relprop.baselines._features import Features
from relprop.baselines._problem import Problem, explaining, reference_of


def feature_ablation(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    baseline: PyTree[Float[ArrayLike, "..."]] | None = None,
    feature_mask: PyTree[Int[ArrayLike, "..."]] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Callable[..., Any]:
    r"""What the score loses when one feature after the other is replaced by a baseline.

    .. math:: R_i = f(x) - f(x_{S(i) \to x'}),

    where S(i) are the entries of the feature that i belongs to; each of them gets the whole
    difference.

    Args:
        f: as for `gradient`.
        argnums: as for `gradient`.
        has_aux: as for `gradient`.
        baseline: as for `integrated_gradients`.
        feature_mask: a tree like what is explained, of integers that can be broadcast to it:
            entries with one number are one feature, also across leaves. By default every entry is
            a feature.
        batch_size: how many features are ablated at a time; None: all at once.
        progress: as for `integrated_gradients`.

    Returns:
        As `gradient`, in the units of the score.

    Raises:
        InputError: as for `gradient`, or baseline or mask do not fit.

    >>> import jax.numpy as jnp
    >>> f = lambda x: x[0] * x[1] + x[2]
    >>> feature_ablation(f)(jnp.array([2.0, 3.0, 4.0])).tolist()
    [6.0, 6.0, 4.0]
    >>> feature_ablation(f, feature_mask=jnp.array([0, 0, 1]))(jnp.array([2.0, 3.0, 4.0])).tolist()
    [6.0, 6.0, 4.0]

    Source: Zeiler and Fergus 2014, section 4.2; feature masks as in Captum.
    """
    batches = Batches(batch_size, progress, "feature ablation")

    def method(problem: Problem) -> Any:
        features = Features.of(problem, feature_mask, baseline)
        numbers = jnp.arange(features.count)
        without = batches.map(lambda n: problem.score(features.keep(numbers != n)), numbers)
        return features.spread(problem.score(problem.x) - without)

    return explaining(f, argnums, has_aux, method)


def occlusion(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    window: Any,
    strides: Any = 1,
    baseline: PyTree[Float[ArrayLike, "..."]] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Callable[..., Any]:
    r"""What the score loses where a window is laid over the input, averaged over windows.

    .. math:: R_i = \frac{1}{|\{W : i \in W\}|} \sum_{W \ni i} f(x) - f(x_{W \to x'})

    Windows begin at multiples of the stride, until one reaches the end; there it is cut off. What
    no window covers, between strides that are longer than the window, gets 0.

    Args:
        f: as for `gradient`.
        argnums: as for `gradient`.
        has_aux: as for `gradient`.
        window: the lengths of the window along all axes, such as ``(4, 4, 3)`` for an image of
            shape (height, width, 3); or a number for all axes; or a tree of those, like what is
            explained. A tuple of numbers is lengths along the axes, of each leaf. Leaves are
            occluded one after the other.
        strides: by how much it moves, likewise.
        baseline: as for `integrated_gradients`.
        batch_size: how many windows are evaluated at a time; None: all at once.
        progress: as for `integrated_gradients`.

    Returns:
        As `gradient`, in the units of the score.

    Raises:
        InputError: as for `gradient`, or baseline, window or strides do not fit.

    >>> import jax.numpy as jnp
    >>> occlusion(lambda x: x.sum(), window=2)(jnp.array([1.0, 2.0, 5.0])).tolist()
    [3.0, 5.0, 7.0]

    Source: Zeiler and Fergus 2014, section 4.2 (occlusion sensitivity).
    """
    batches = Batches(batch_size, progress, "occlusion")

    def method(problem: Problem) -> Any:
        leaves, tree = jax.tree.flatten(problem.x)
        backgrounds = jax.tree.leaves(reference_of(baseline, problem.x))
        value = problem.score(problem.x)
        found = []
        for number, (leaf, background, size, stride) in enumerate(
            zip(
                leaves,
                backgrounds,
                _lengths("window", window, problem.x),
                _lengths("strides", strides, problem.x),
                strict=True,
            )
        ):

            def lost(start, number=number, leaf=leaf, background=background, size=size):
                inside = _box(leaf.shape, start, size)
                hidden = [*leaves]
                hidden[number] = jnp.where(inside, background, leaf)
                change = value - problem.score(jax.tree.unflatten(tree, hidden))
                return change * inside.astype(change.dtype)

            starts = _starts(leaf.shape, size, stride)
            covered = batches.sum(lambda s, n=size, a=leaf: _box(a.shape, s, n).astype(int), starts)
            summed = batches.sum(lost, starts)
            mean = summed / jnp.maximum(covered, 1).astype(summed.dtype)
            found.append(mean.astype(leaf.dtype))
        return jax.tree.unflatten(tree, found)

    return explaining(f, argnums, has_aux, method)


def _starts(shape: Sequence[int], size: Sequence[int], stride: Sequence[int]) -> Array:
    """Where the windows begin, one row per window."""
    along = [
        [step * i for i in range(1 + -(-max(length - width, 0) // step))]
        for length, width, step in zip(shape, size, stride, strict=True)
    ]
    starts = np.array([*itertools.product(*along)], dtype=np.int32)
    return jnp.asarray(starts.reshape(-1, len(shape)))


def _box(shape: Sequence[int], start: Array, size: Sequence[int]) -> Array:
    """Which entries lie in a window."""
    inside = jnp.ones(shape, bool)
    for axis, (length, width) in enumerate(zip(shape, size, strict=True)):
        place = jnp.arange(length, dtype=start.dtype)
        here = (place >= start[axis]) & (place < start[axis] + width)
        inside &= here.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return inside


def _lengths(name: str, given: Any, x: PyTree) -> list[tuple[int, ...]]:
    """One tuple of lengths per leaf."""
    leaves = jax.tree.leaves(x)
    if _is_lengths(given):
        each = [given] * len(leaves)
    else:
        each, tree = jax.tree.flatten(given, is_leaf=_is_lengths)
        if tree != jax.tree.structure(x) or not all(map(_is_lengths, each)):
            raise InputError(
                f"`{name}` must be a number, a tuple of numbers, or a tree of those like what is "
                f"explained, {jax.tree.structure(x)}; it is {given!r}."
            )
    found = [
        (int(one),) * leaf.ndim if _is_integer(one) else tuple(map(int, one))
        for one, leaf in zip(each, leaves, strict=True)
    ]
    wrong = [
        f"  {one} for the shape {leaf.shape}"
        for one, leaf in zip(found, leaves, strict=True)
        if len(one) != leaf.ndim or min(one, default=1) < 1
    ]
    if wrong:
        raise InputError(f"`{name}` needs one positive length per axis:\n" + "\n".join(wrong))
    return found


def _is_lengths(given: Any) -> bool:
    return _is_integer(given) or (
        isinstance(given, tuple) and len(given) > 0 and all(map(_is_integer, given))
    )


def _is_integer(given: Any) -> bool:
    return isinstance(given, (int, np.integer)) and not isinstance(given, bool)
