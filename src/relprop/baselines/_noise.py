"""Attributions of noisy copies of the input, averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from relprop._batches import Batches, check_samples
from relprop.baselines._problem import Problem, difference, explaining, product, reference_of

Transform = Callable[[Callable[[Any], Any]], Callable[[Any], Any]]


def smooth_grad(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    key: Key[Array, ""],
    samples: int = 50,
    stdev: PyTree[Float[ArrayLike, "..."]] | None = None,
    square: bool = False,
    of: Transform = jax.grad,
    batch_size: int | None = None,
    progress: bool = False,
) -> Callable[..., Any]:
    r"""The gradient averaged over noise around the input.

    .. math:: R = \mathbb{E}_{\epsilon \sim N(0, \sigma^2)} [\nabla f(x + \epsilon)]
              \qquad\text{or}\qquad
              R = \mathbb{E}_\epsilon [\nabla f(x + \epsilon)^2]

    Args:
        f: as for `gradient`.
        argnums: as for `gradient`.
        has_aux: as for `gradient`.
        key: of the random numbers, as from `jax.random.key`.
        samples: how many noisy copies.
        stdev: the standard deviation :math:`\sigma`, a number or a tree like what is explained, in
            units of x. By default 15 % of the range of each leaf, maximum minus minimum.
        square: whether squares are averaged (SmoothGrad-squared).
        of: what is averaged: a transform of the score as a function of what is explained, such as
            ``lambda f: relprop.relevance(f, rules)``.
        batch_size: as for `integrated_gradients`.
        progress: as for `integrated_gradients`.

    Returns:
        As `gradient`, in the units of what is averaged, or their square.

    Raises:
        InputError: as for `gradient`, the standard deviation does not fit, or there is no sample.

    >>> import jax, jax.numpy as jnp
    >>> explain = smooth_grad(lambda x: 3 * x.sum(), key=jax.random.key(0), samples=4)
    >>> explain(jnp.array([0.0, 1.0])).tolist()
    [3.0, 3.0]

    Source: Smilkov et al. 2017, section 2; squares: Hooker et al. 2019, section 3.
    """
    check_samples(samples)
    batches = Batches(batch_size, progress, "SmoothGrad")

    def method(problem: Problem) -> Any:
        def one(noise_key):
            found = of(problem.score)(_noisy(noise_key, problem.x, stdev))
            return product(found, found) if square else found

        sums = batches.sum(one, jax.random.split(key, samples))
        return jax.tree.map(lambda a: a / samples, sums)

    return explaining(f, argnums, has_aux, method)


def var_grad(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    key: Key[Array, ""],
    samples: int = 50,
    stdev: PyTree[Float[ArrayLike, "..."]] | None = None,
    of: Transform = jax.grad,
    batch_size: int | None = None,
    progress: bool = False,
) -> Callable[..., Any]:
    r"""The variance of the gradient over noise around the input.

    .. math:: R = \mathbb{E}_\epsilon [\nabla f(x + \epsilon)^2]
              - \mathbb{E}_\epsilon [\nabla f(x + \epsilon)]^2

    Args:
        f: as for `gradient`.
        argnums: as for `gradient`.
        has_aux: as for `gradient`.
        key: as for `smooth_grad`.
        samples: as for `smooth_grad`.
        stdev: as for `smooth_grad`.
        of: as for `smooth_grad`.
        batch_size: as for `integrated_gradients`.
        progress: as for `integrated_gradients`.

    Returns:
        As `gradient`, in the units of its square.

    Raises:
        InputError: as for `smooth_grad`.

    >>> import jax, jax.numpy as jnp
    >>> explain = var_grad(lambda x: 3 * x.sum(), key=jax.random.key(0), samples=4)
    >>> explain(jnp.array([0.0, 1.0])).tolist()
    [0.0, 0.0]

    Source: Adebayo et al. 2018, section 2 (VarGrad).
    """
    check_samples(samples)
    batches = Batches(batch_size, progress, "VarGrad")

    def method(problem: Problem) -> Any:
        # Moments about the attribution of the input itself: those about zero would cancel.
        centre = of(problem.score)(problem.x)

        def moments(noise_key):
            found = of(problem.score)(_noisy(noise_key, problem.x, stdev))
            away = difference(found, centre)
            return away, product(away, away)

        first, second = batches.sum(moments, jax.random.split(key, samples))
        return jax.tree.map(lambda a, b: b / samples - (a / samples) ** 2, first, second)

    return explaining(f, argnums, has_aux, method)


def _noisy(key: Any, x: PyTree, stdev: PyTree | None) -> PyTree:
    widths = jax.tree.map(_default, x) if stdev is None else reference_of(stdev, x)
    leaves, tree = jax.tree.flatten(x)
    keys = jax.tree.unflatten(tree, list(jax.random.split(key, len(leaves))))
    return jax.tree.map(
        lambda k, a, s: a + s * jax.random.normal(k, a.shape, a.dtype), keys, x, widths
    )


def _default(x: Array) -> Array:
    return 0.15 * (jnp.max(x) - jnp.min(x))
