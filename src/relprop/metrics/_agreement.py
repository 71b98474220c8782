"""Faithfulness as agreement: does relevance say what the score loses, feature by feature?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from relprop._batches import Batches
from relprop.metrics import _checks
from relprop.metrics._curves import perturbation_curve
from relprop.metrics._removal import Removal, replaced, subsets
from relprop.metrics._similarity import Similarity, pearson, similarity, spearman


def faithfulness_correlation(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    size: int | None = None,
    samples: int = 100,
    features: Any = None,
    fill: Any = 0.0,
    agreement: str | Similarity = "pearson",
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""Whether sets of features have the relevance that the score loses. Higher is better.

    .. math:: \operatorname{corr}_{S} \Big( \sum_{i \in S} R_i,\; f(x) - f(x_{S \to \text{fill}})
              \Big), \qquad |S| = \text{size}

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        size: of the sets, in features; None: a tenth of all.
        samples: how many sets are drawn.
        features: as for `perturbation_curve`.
        fill: as for `perturbation_curve`.
        agreement: ``"pearson"``, ``"spearman"``, ``"cosine"``, or a function of two arrays.
        key: of the sets; None for ``jax.random.key(0)``.
        batch_size: how many sets are evaluated at a time; None: all at once.
        progress: as for `perturbation_curve`.

    Returns:
        From -1 to 1; NaN where R or the score does not vary.

    Raises:
        InputError: as for `perturbation_curve`; the size is not from 1 to the number of features.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0, 3.0])
    >>> R = jnp.array([1.0, 2.0, 3.0])
    >>> float(faithfulness_correlation(f, jnp.ones(3), R, size=1, samples=9).round(3))
    1.0

    Source: Bhatt et al. 2020 (faithfulness).
    """
    removal = Removal.of(f, x, features, fill)
    size = max(1, round(removal.count / 10)) if size is None else size
    (sets,) = subsets(key, [size], samples, removal.count)
    batches = Batches(batch_size, progress, "faithfulness correlation")
    said, lost = _summed(sets, removal.amounts(R)), _lost(removal, sets, batches)
    return similarity(agreement)(said, lost)


def sensitivity_n(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    sizes: Sequence[int] | None = None,
    samples: int = 100,
    features: Any = None,
    fill: Any = 0.0,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, " sizes"]:
    r"""The correlation of `faithfulness_correlation` for sets of several sizes. Higher is better.

    .. math:: \operatorname{corr}_{|S| = n} \Big( \sum_{i \in S} R_i,\;
              f(x) - f(x_{S \to \text{fill}}) \Big)

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        sizes: the n, in features; None: up to eight from 1 to 80 % of them, evenly by logarithm.
        samples: how many sets are drawn of each size.
        features: as for `perturbation_curve`.
        fill: as for `perturbation_curve`.
        key: of the sets; None for ``jax.random.key(0)``.
        batch_size: how many sets are evaluated at a time; None: all at once.
        progress: as for `perturbation_curve`.

    Returns:
        One correlation for each size; the mean is the number in tables.

    Raises:
        InputError: as for `faithfulness_correlation`.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0, 3.0])
    >>> R = jnp.array([1.0, 2.0, 3.0])
    >>> sensitivity_n(f, jnp.ones(3), R, sizes=[1, 2], samples=9).round(3).tolist()
    [1.0, 1.0]

    Source: Ancona et al. 2018.
    """
    removal = Removal.of(f, x, features, fill)
    amounts = removal.amounts(R)
    if sizes is None:
        most = max(1, int(0.8 * removal.count))
        sizes = sorted({round(most ** (i / 7)) for i in range(8)})
    sets = subsets(key, sizes, samples, removal.count).reshape(-1, removal.count)
    batches = Batches(batch_size, progress, "sensitivity-n")
    said, lost = _summed(sets, amounts), _lost(removal, sets, batches)
    shape = len(sizes), samples
    return jax.vmap(pearson)(said.reshape(shape), lost.reshape(shape))


def faithfulness_estimate(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    features: Any = None,
    fill: Any = 0.0,
    agreement: str | Similarity = "pearson",
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""Whether single features have the relevance that the score loses. Higher is better.

    .. math:: \operatorname{corr}_i \big( R_i,\; f(x) - f(x_{i \to \text{fill}}) \big)

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        features: as for `perturbation_curve`.
        fill: as for `perturbation_curve`.
        agreement: as for `faithfulness_correlation`.
        batch_size: how many features are evaluated at a time; None: all at once.
        progress: as for `perturbation_curve`.

    Returns:
        From -1 to 1; NaN where R or the score does not vary.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0, 3.0])
    >>> float(faithfulness_estimate(f, jnp.ones(3), jnp.array([1.0, 2.0, 3.0])).round(3))
    1.0

    Source: Alvarez-Melis and Jaakkola 2018 (faithfulness).
    """
    removal = Removal.of(f, x, features, fill)
    amounts = removal.amounts(R)
    numbers = jnp.arange(removal.count)
    batches = Batches(batch_size, progress, "faithfulness estimate")
    scores = batches.map(lambda n: removal.score(numbers == n), numbers)
    return similarity(agreement)(amounts, removal.f(removal.x) - scores)


def monotonicity(f: Callable[[Any], Any], x: Any, R: Any, **options: Any) -> Float[Array, ""]:
    r"""Whether the score never falls while features come, the least relevant first.

    Higher is better.

    .. math:: \big[ f(x_{S_0}) \leq f(x_{S_1}) \leq \dots \leq f(x) \big]

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`; the order is by R, not by its absolute value.
        **options: those of `perturbation_curve`, but not `order`.

    Returns:
        1 or 0; the mean over samples is the share that is monotonic.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0, 3.0])
    >>> float(monotonicity(f, jnp.ones(3), jnp.array([1.0, 2.0, 3.0])))
    1.0

    Source: Arya et al. 2019 (AI Explainability 360); Luss et al. 2021.
    """
    curve = perturbation_curve(f, x, R, **options, order="most")
    rises = curve[:-1] >= curve[1:]  # read backwards, features come
    return jnp.where(jnp.any(jnp.isnan(curve)), jnp.nan, jnp.all(rises).astype(curve.dtype))


def monotonicity_correlation(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    samples: int = 10,
    draw: Callable[[Any, Any], Any] | None = None,
    features: Any = None,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""Whether the more relevant feature is the one whose value matters more. Higher is better.

    .. math:: \operatorname{spearman}_i \Big( |R_i|,\;
              \mathbb{E}_v \big[ (f(x) - f(x_{i \to v}))^2 \big] \Big)

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        samples: how many values are drawn for each feature.
        draw: ``draw(key, x)`` gives an array like x to take values from; None: uniform between the
            least and the greatest entry of x.
        features: as for `perturbation_curve`.
        key: of the values; None for ``jax.random.key(0)``.
        batch_size: how many evaluations are made at a time; None: all at once.
        progress: as for `perturbation_curve`.

    Returns:
        From -1 to 1; NaN where R or the score does not vary.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0, 3.0])
    >>> R = jnp.array([1.0, 2.0, 3.0])
    >>> normal = lambda key, x: jax.random.normal(key, x.shape)
    >>> float(monotonicity_correlation(f, jnp.zeros(3), R, draw=normal, samples=99).round(3))
    1.0

    Source: Nguyen and Martinez 2020 (monotonicity).
    """
    removal = Removal.of(f, x, features, 0.0)
    amounts = jnp.abs(removal.amounts(R))
    batches = Batches(batch_size, progress, "monotonicity correlation")
    scores = replaced(removal, samples, draw, key, batches)
    return spearman(amounts, jnp.mean((scores - removal.f(removal.x)) ** 2, axis=1))


def infidelity(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    noise: float | None = None,
    size: int | None = None,
    samples: int = 100,
    features: Any = None,
    fill: Any = 0.0,
    scaled: bool = False,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""The squared error of relevance as a forecast of what the score loses. Lower is better.

    .. math:: \mathbb{E}_S \Big[ \Big( \sum_{i \in S} R_i -
              \big( f(x) - f(x_{S \to \text{fill}}) \big) \Big)^2 \Big]

    or with `noise`, for explanations in units of a gradient,

    .. math:: \mathbb{E}_I \big[ ( I^\top R - ( f(x) - f(x - I) ) )^2 \big], \qquad
              I \sim \mathcal{N}(0, \text{noise}^2)

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`: a share of the score, or with `noise` a slope of it.
        noise: standard deviation of what is subtracted, in units of x; None: features are removed.
        size: of the sets, in features; None: each is in a set with probability 1/2.
        samples: how many sets or noises are drawn.
        features: as for `perturbation_curve`.
        fill: as for `perturbation_curve`.
        scaled: whether R is first scaled by the number that makes the error least, for
            explanations without a scale.
        key: of what is drawn; None for ``jax.random.key(0)``.
        batch_size: how many evaluations are made at a time; None: all at once.
        progress: as for `perturbation_curve`.

    Returns:
        From 0, in squared units of the score.

    Raises:
        InputError: as for `faithfulness_correlation`.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0, 3.0])
    >>> float(infidelity(f, jnp.ones(3), jnp.array([1.0, 2.0, 3.0])).round(3))
    0.0

    Source: Yeh et al. 2019 (infidelity, and its best scale).
    """
    removal = Removal.of(f, x, features, fill)
    batches = Batches(batch_size, progress, "infidelity")
    key = jax.random.key(0) if key is None else key
    if noise is not None:
        R, x = _checks.relevance(R, removal.x.shape), removal.x
        _checks.at_least_one("samples", samples)

        def forecast(k):
            step = noise * jax.random.normal(k, x.shape, x.dtype)
            return jnp.sum(step * R), removal.f(x) - removal.f(x - step)

        said, lost = batches.map(forecast, jax.random.split(key, samples))
    else:
        amounts = removal.amounts(R)
        if size is None:
            _checks.at_least_one("samples", samples)
            sets = jax.random.bernoulli(key, 0.5, (samples, removal.count))
        else:
            (sets,) = subsets(key, [size], samples, removal.count)
        said, lost = _summed(sets, amounts), _lost(removal, sets, batches)
    if scaled:
        power = jnp.mean(said**2)
        said = said * jnp.where(power > 0, jnp.mean(said * lost) / power, 0)
    return jnp.mean((said - lost) ** 2)


def _summed(sets: Bool[Array, "n m"], amounts: Float[Array, " m"]) -> Float[Array, " n"]:
    return jnp.sum(jnp.where(sets, amounts[None], 0), axis=1)


def _lost(removal: Removal, sets: Bool[Array, "n m"], batches: Batches) -> Float[Array, " n"]:
    return removal.f(removal.x) - batches.map(removal.score, sets)
