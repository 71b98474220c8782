"""Kernel SHAP and LIME: a linear model of the score on random parts of the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree

from relprop._batches import Batches, check_samples
from relprop._core.relevance import precise
from relprop._errors import InputError
from relprop.baselines._features import Features
from relprop.baselines._problem import Problem, explaining, total
from relprop.baselines._regression import Lasso, Ridge, constrained

_MOST_ENUMERATED = 16  # features: 65,534 coalitions


def kernel_shap(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    key: Key[Array, ""] | None = None,
    samples: int | None = None,
    baseline: PyTree[Float[ArrayLike, "..."]] | None = None,
    feature_mask: PyTree[Int[ArrayLike, "..."]] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Callable[..., Any]:
    r"""Shapley values of the features, by weighted least squares over coalitions of them.

    .. math:: \phi = \arg\min_\phi \sum_{z} \frac{M - 1}{\binom{M}{|z|} |z| (M - |z|)}
              \Big( f(x_z) - f(x') - \sum_i z_i \phi_i \Big)^2,
              \qquad \sum_i \phi_i = f(x) - f(x'),

    where :math:`x_z` has the baseline in place of the features that are absent from the coalition
    z. Exact where all :math:`2^M - 2` coalitions are evaluated; else they are drawn in proportion
    to their weight, each with its complement.

    Args:
        f: as for `gradient`.
        argnums: as for `gradient`.
        has_aux: as for `gradient`.
        key: of the random numbers; not needed where all coalitions are evaluated.
        samples: how many coalitions are drawn, an even number, and at least twice that of the
            features but one; None: all of them, for up to 16 features.
        baseline: as for `integrated_gradients`.
        feature_mask: as for `feature_ablation`.
        batch_size: how many coalitions are evaluated at a time; None: all at once.
        progress: as for `integrated_gradients`.

    Returns:
        As `gradient`, in the units of the score; each entry gets the value of its feature.

    Raises:
        InputError: as for `feature_ablation`; there are too many features for all coalitions, too
            few samples for the features, or no key to draw them with.

    >>> import jax.numpy as jnp
    >>> f = lambda x: x[0] * x[1] + x[2]
    >>> kernel_shap(f)(jnp.array([2.0, 3.0, 4.0])).round(1).tolist()
    [3.0, 3.0, 4.0]

    Source: Lundberg and Lee 2017, theorem 2; pairs: Covert and Lee 2021, section 4.2.
    """
    batches = Batches(batch_size, progress, "Kernel SHAP")

    def method(problem: Problem) -> Any:
        features = Features.of(problem, feature_mask, baseline)
        empty = problem.score(features.reference)
        change = problem.score(problem.x) - empty
        if features.count == 1:
            return features.spread(change[None])
        present, weight = _coalitions(features.count, samples, key)
        scores = batches.map(lambda z: problem.score(features.keep(z)), present)
        gains = _solvable(scores) - _solvable(empty)
        z, weight = present.astype(gains.dtype), weight.astype(gains.dtype)
        return features.spread(constrained(z, gains, weight, change.astype(gains.dtype)))

    return explaining(f, argnums, has_aux, method)


def lime(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    key: Key[Array, ""],
    samples: int = 1000,
    baseline: PyTree[Float[ArrayLike, "..."]] | None = None,
    feature_mask: PyTree[Int[ArrayLike, "..."]] | None = None,
    distance: Literal["features", "cosine", "euclidean"] = "features",
    kernel_width: float = 0.25,
    model: Ridge | Lasso = Ridge(1.0),  # noqa: B008 - a frozen value
    batch_size: int | None = None,
    progress: bool = False,
) -> Callable[..., Any]:
    r"""The coefficients of a linear model of the score near the input.

    .. math:: \beta = \arg\min_{\beta, b} \sum_k \exp\!\Big(-\frac{D_k^2}{\sigma^2}\Big)
              \big( f(x_{z_k}) - z_k^\top \beta - b \big)^2 + \text{penalty}(\beta),

    for random parts z of the features, each present with probability 1/2.

    Args:
        f: as for `gradient`.
        argnums: as for `gradient`.
        has_aux: as for `gradient`.
        key: of the random numbers, as from `jax.random.key`.
        samples: how many parts are drawn.
        baseline: as for `integrated_gradients`.
        feature_mask: as for `feature_ablation`.
        distance: D between the part and the whole: ``"features"``, the cosine distance of z and
            the vector of ones; ``"cosine"`` or ``"euclidean"``, of :math:`x_z` and x.
        kernel_width: the :math:`\sigma`, in units of the distance.
        model: the penalty, `Ridge` or `Lasso`.
        batch_size: how many parts are evaluated at a time; None: all at once.
        progress: as for `integrated_gradients`.

    Returns:
        As `gradient`, in the units of the score; each entry gets the value of its feature.

    Raises:
        InputError: as for `feature_ablation`; there is no sample, or the width is not positive.

    >>> import jax, jax.numpy as jnp
    >>> explain = lime(lambda x: x @ jnp.array([1.0, 2.0]), key=jax.random.key(0), model=Ridge(0))
    >>> explain(jnp.array([3.0, 4.0])).round(1).tolist()
    [3.0, 8.0]

    Source: Ribeiro et al. 2016, eq. 2 and section 3.4.
    """
    check_samples(samples)
    if kernel_width <= 0:
        raise InputError(f"`kernel_width` must be positive, got {kernel_width!r}.")
    batches = Batches(batch_size, progress, "LIME")
    if distance not in _DISTANCES:
        raise ValueError(f"distance must be one of {[*_DISTANCES]}, got {distance!r}.")

    def method(problem: Problem) -> Any:
        features = Features.of(problem, feature_mask, baseline)
        present = jax.random.bernoulli(key, 0.5, (samples, features.count))

        def look(z):
            part = features.keep(z)
            return problem.score(part), _DISTANCES[distance](z, part, problem.x)

        scores, distances = batches.map(look, present)
        scores = _solvable(scores)
        weight = jnp.exp(-((distances / kernel_width) ** 2)).astype(scores.dtype)
        return features.spread(model.coefficients(present.astype(scores.dtype), scores, weight))

    return explaining(f, argnums, has_aux, method)


def _solvable(a: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """In a type that linear systems are solved in, which half precision is not."""
    return precise(a)


def _coalitions(
    count: int, samples: int | None, key: Any
) -> tuple[Bool[Array, "n m"], Float[Array, " n"]]:
    """Coalitions of some, not all, of the features, and their weights."""
    if samples is None or (count <= _MOST_ENUMERATED and samples >= 2**count - 2):
        if count > _MOST_ENUMERATED:
            raise InputError(
                f"There are {count} features and 2**{count} coalitions of them. Give `samples` and "
                "a `key` to draw some, or group entries to features with `feature_mask`."
            )
        bits = np.arange(1, 2**count - 1)[:, None] >> np.arange(count) & 1
        sizes = bits.sum(axis=1)
        weight = [(count - 1) / (math.comb(count, s) * s * (count - s)) for s in sizes]
        return jnp.asarray(bits, bool), jnp.asarray(weight)
    if key is None:
        raise InputError("Coalitions are drawn by chance: `kernel_shap` needs a `key` for that.")
    if samples % 2:
        raise InputError(
            f"Coalitions are drawn in pairs: `samples` must be an even number, got {samples}."
        )
    if samples < 2 * (count - 1):
        raise InputError(
            f"{count} features have Shapley values that fewer than {count - 1} pairs of coalitions "
            f"do not determine: `samples` must be at least {2 * (count - 1)}, and better many "
            f"times that, got {samples}. Or group entries to features with `feature_mask`."
        )
    by_size, by_order = jax.random.split(key)
    sizes = np.arange(1, count)
    chance = 1 / (sizes * (count - sizes))
    drawn = jax.random.choice(by_size, sizes, (samples // 2,), p=jnp.asarray(chance / chance.sum()))
    ranks = jnp.argsort(jax.random.uniform(by_order, (samples // 2, count)), axis=1)
    half = ranks < drawn[:, None]
    return jnp.concatenate([half, ~half]), jnp.ones(samples)


def _cosine(z, part, x):
    along = total(jax.tree.map(lambda a, b: a * b, part, x))
    lengths = total(jax.tree.map(jnp.square, part)) * total(jax.tree.map(jnp.square, x))
    # Nothing at all is as far away as what is orthogonal.
    return 1 - jnp.where(lengths > 0, along / jnp.sqrt(jnp.where(lengths > 0, lengths, 1)), 0)


def _euclidean(z, part, x):
    return jnp.sqrt(total(jax.tree.map(lambda a, b: (a - b) ** 2, part, x)))


def _of_features(z, part, x):
    return 1 - jnp.sqrt(jnp.mean(z.astype(float)))


_DISTANCES = {"features": _of_features, "cosine": _cosine, "euclidean": _euclidean}
