"""Perturbation curves as single papers draw them: their features, fills and scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop._batches import Batches
from relprop._errors import InputError
from relprop.metrics import _checks
from relprop.metrics._curves import area, perturbation_curve
from relprop.metrics._removal import Removal, ends_of_steps, scores_without
from relprop.metrics.features import patches
from relprop.metrics.fills import linear_imputation

_PERCENTAGES = tuple(range(1, 100, 2))


def pixel_flipping(
    f: Callable[[Any], Any], x: Any, R: Any, *, steps: int | None = None, **options: Any
) -> Float[Array, " points"]:
    r"""The scores while pixels are flipped to the fill, the most relevant first. Lower is better.

    .. math:: c_k = f(x_{S_k \to \text{fill}}), \qquad |S_k| = k

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        steps: by default as many as there are features.
        **options: those of `perturbation_curve`. Channels of a pixel are flipped together with
            ``features=relprop.metrics.features.pixels(x.shape)``.

    Returns:
        The whole curve, in the units of the score; the mean is the number in tables.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0])
    >>> pixel_flipping(f, jnp.ones(2), jnp.array([1.0, 2.0])).tolist()
    [3.0, 1.0, 0.0]

    Source: Bach et al. 2015.
    """
    if steps is None:
        steps = Removal.of(f, x, options.get("features"), options.get("fill", 0.0)).count
    return perturbation_curve(f, x, R, steps=steps, **options)


def region_perturbation(
    f: Callable[[Any], Any], x: Any, R: Any, *, size: int = 9, **options: Any
) -> Float[Array, " points"]:
    r"""What the score has lost while patches go, the most relevant first. Higher is better.

    .. math:: f(x) - f(x_{S_k \to \text{fill}})

    Its mean is `aopc` of patches.

    Args:
        f: as for `perturbation_curve`.
        x: an image ``[height, width, ...]``.
        R: as for `perturbation_curve`.
        size: side of the patches, in pixels; ``features=`` gives other regions.
        **options: those of `perturbation_curve`. The paper fills with uniform noise.

    Returns:
        The losses after each step, from 0, in the units of the score.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> f = lambda x: x.sum()
    >>> region_perturbation(f, jnp.ones((2, 4)), jnp.eye(2, 4), size=2).tolist()
    [0.0, 4.0, 8.0]

    Source: Samek et al. 2017.
    """
    features = options.pop("features", None)
    if features is None:
        features = patches(_checks.sample(x).shape, size)
    curve = perturbation_curve(f, x, R, features=features, **options)
    return curve[0] - curve


def selectivity(
    f: Callable[[Any], Any], x: Any, R: Any, *, size: int = 4, **options: Any
) -> Float[Array, ""]:
    r"""The area under the score while patches go, the most relevant first. Lower is better.

    .. math:: \int_0^1 c_\text{most}(q) \, dq

    It is `deletion` of patches.

    Args:
        f: as for `perturbation_curve`.
        x: an image ``[height, width, ...]``.
        R: as for `perturbation_curve`.
        size: side of the patches, in pixels; ``features=`` gives other regions.
        **options: those of `perturbation_curve`, but not `order`.

    Returns:
        A number in the units of the score.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> float(selectivity(lambda x: x.sum(), jnp.ones((2, 4)), jnp.eye(2, 4), size=2))
    4.0

    Source: Montavon et al. 2018 (explanation selectivity).
    """
    features = options.pop("features", None)
    if features is None:
        features = patches(_checks.sample(x).shape, size)
    count = Removal.of(f, x, features, options.get("fill", 0.0)).count
    curve = perturbation_curve(f, x, R, features=features, **options)
    return area(curve, ends_of_steps(count, options.get("steps")) / count)


def irof(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    features: Any,
    fill: Any = 0.0,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""The area over the curve of removing superpixels, the most relevant first. Higher is better.

    .. math:: 1 - \int_0^1 \frac{c(q)}{f(x)} \, dq

    Superpixels are ordered by their mean relevance, so that large ones have no advantage.

    Args:
        f: as for `perturbation_curve`; the paper takes a probability.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        features: the segments, as of `relprop.metrics.features.superpixels`.
        fill: as for `perturbation_curve`; the paper takes the mean of the data set per channel.
        key: as for `perturbation_curve`.
        batch_size: as for `perturbation_curve`.
        progress: as for `perturbation_curve`.

    Returns:
        A number without unit, from 0 to 1 where the score falls and stays positive.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> f = lambda x: x @ jnp.array([1.0, 3.0])
    >>> float(irof(f, jnp.ones(2), jnp.array([1.0, 2.0]), features=jnp.arange(2)))
    0.625

    Source: Rieger and Hansen 2020.
    """
    removal = Removal.of(f, x, features, fill)
    sizes = jnp.asarray(removal.sizes)
    amounts = removal.amounts(R)
    means = amounts / sizes.astype(amounts.dtype)
    batches = Batches(batch_size, progress, "IROF")
    curve = scores_without(removal, means, range(removal.count + 1), key=key, batches=batches)
    return 1 - area(curve / curve[0])


def road(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    percentages: Sequence[float] = _PERCENTAGES,
    noise: float = 0.01,
    order: str = "most",
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, " percentages"]:
    r"""The scores without the most relevant pixels, imputed from those beside. Lower is better.

    .. math:: f(x_{S_p \to \text{imputed} + \text{noise}}), \qquad
              |S_p| = \lfloor p / 100 \cdot n \rfloor

    The imputation keeps the shape of what is removed from being seen by the model.

    Args:
        f: as for `perturbation_curve`; the paper takes whether the prediction is right.
        x: an image ``[height, width]`` or ``[height, width, channels]``, whose pixels are removed
            with all channels.
        R: as for `perturbation_curve`; summed over channels.
        percentages: of pixels that are removed.
        noise: standard deviation of what is added to imputed values, in units of x.
        order: ``"most"`` relevant first (MoRF) or ``"least"`` (LeRF, for which higher is better).
        key: of the noise and of what is random in the order.
        batch_size: how many percentages are evaluated at a time; None: all at once.
        progress: as for `perturbation_curve`.

    Returns:
        One score for each percentage; the mean is the number in tables.

    Raises:
        InputError: as for `perturbation_curve`; x is no image; a percentage is not in [0, 100].

    >>> f = lambda x: x[0, 0]
    >>> x = jnp.zeros((3, 3)).at[0, 0].set(1)
    >>> road(f, x, x, percentages=[0, 12], noise=0.0).round(2).tolist()
    [1.0, 0.0]

    Source: Rong et al. 2022 (ROAD).
    """
    x = _checks.sample(x)
    if not len(percentages) or not all(0 <= part <= 100 for part in percentages):
        raise InputError(f"`percentages` must be in [0, 100], got {[*percentages]}.")
    labels = patches(x.shape, 1) if x.ndim >= 2 else None
    removal = Removal.of(f, x, labels, linear_imputation(noise, key))
    counts = [int(part / 100 * removal.count + 1e-9) for part in percentages]
    batches = Batches(batch_size, progress, "ROAD")
    amounts = removal.amounts(R)
    return scores_without(removal, amounts, counts, order=order, key=key, batches=batches)
