"""Perturbation curves: the score while features go, in the order of their relevance; and areas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from relprop._batches import Batches
from relprop._errors import InputError
from relprop.metrics._removal import Removal, ends_of_steps, scores_without

Order = Literal["most", "least", "random"]
_BINS = (0.01, 0.05, 0.1, 0.2, 0.5)


def perturbation_curve(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    order: Order = "most",
    steps: int | None = None,
    features: Any = None,
    fill: Any = 0.0,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, " points"]:
    r"""The score while features are filled, group after group, in the order of their relevance.

    .. math:: c_k = f(x_{S_k \to \text{fill}}), \qquad
              \emptyset = S_0 \subset S_1 \subset \dots \subset S_n = \text{all}

    Args:
        f: from one sample to its score, a real scalar.
        x: the sample, an array; of many samples, `jax.vmap` or `relprop.evaluate`.
        R: relevance, of the shape of x; summed within features.
        order: the ``"most"`` relevant features first, the ``"least"``, or ``"random"``.
        steps: into how many groups the features are split, as equal as `numpy.array_split` makes
            them; None: one each, and 100 if there are more.
        features: integer labels that can be broadcast to x, see `relprop.metrics.features`; None:
            every entry is a feature.
        fill: what they are filled with: a number, an array, or a function, see
            `relprop.metrics.fills`.
        key: for what is random: the order of features that are alike, and the random order. None
            for ``jax.random.key(0)``.
        batch_size: how many steps are evaluated at a time; None: all at once.
        progress: whether to show a bar, which needs tqdm.

    Returns:
        The scores: the first of x itself, the last with every feature filled.

    Raises:
        InputError: R has another shape than x, or NaN in it; features or fill do not fit; there
            are more steps than features; f returns no scalar.

    Warns:
        TiesWarning: all features have the same relevance.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0, 3.0])
    >>> perturbation_curve(f, jnp.ones(3), jnp.array([1.0, 2.0, 3.0])).tolist()
    [6.0, 3.0, 1.0, 0.0]

    Source: Bach et al. 2015 (pixel flipping); Samek et al. 2017.
    """
    removal = Removal.of(f, x, features, fill)
    ends = ends_of_steps(removal.count, steps)
    batches = Batches(batch_size, progress, "perturbation")
    amounts = removal.amounts(R)
    return scores_without(removal, amounts, ends, order=order, key=key, batches=batches)


def area(
    curve: Float[Array, " points"], fractions: Float[np.ndarray, " points"] | None = None
) -> Float[Array, ""]:
    r"""The area under a curve over the fraction removed, from 0 to 1, by the trapezoid rule.

    .. math:: \sum_k \tfrac12 (c_{k-1} + c_k) (q_k - q_{k-1})

    Args:
        curve: scores, as `perturbation_curve` returns them.
        fractions: of features that are gone at each of them; None: evenly spaced.

    >>> float(area(jnp.array([1.0, 0.0])))
    0.5
    """
    if fractions is None:
        fractions = np.linspace(0, 1, curve.shape[0])
    return (curve[1:] + curve[:-1]) / 2 @ jnp.asarray(np.diff(fractions), curve.dtype)


def deletion(f: Callable[[Any], Any], x: Any, R: Any, **options: Any) -> Float[Array, ""]:
    r"""The area under the curve of the most relevant first. Lower is better.

    .. math:: \int_0^1 c_\text{most}(q) \, dq

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        **options: those of `perturbation_curve`, but not `order`.

    Returns:
        A number in the units of the score, within the range of its values.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0])
    >>> float(deletion(f, jnp.ones(2), jnp.array([1.0, 2.0])))
    1.25

    Source: Petsiuk et al. 2018 (RISE).
    """
    return _area(f, x, R, "most", options)


def insertion(f: Callable[[Any], Any], x: Any, R: Any, **options: Any) -> Float[Array, ""]:
    r"""The area while features come back, the most relevant first. Higher is better.

    Read backwards it is the curve of removing the least relevant first, which has the same area:

    .. math:: \int_0^1 c_\text{least}(q) \, dq

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        **options: as for `deletion`. RISE inserts into a blurred image, and deletes to zero.

    Returns:
        A number in the units of the score.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0])
    >>> float(insertion(f, jnp.ones(2), jnp.array([1.0, 2.0])))
    1.75

    Source: Petsiuk et al. 2018 (RISE).
    """
    return _area(f, x, R, "least", options)


def abpc(f: Callable[[Any], Any], x: Any, R: Any, **options: Any) -> Float[Array, ""]:
    r"""The area between the two curves. Higher is better; 0 is chance.

    .. math:: \int_0^1 c_\text{least}(q) - c_\text{most}(q) \, dq

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        **options: as for `deletion`.

    Returns:
        A number in the units of the score, `insertion` minus `deletion`.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0])
    >>> float(abpc(f, jnp.ones(2), jnp.array([1.0, 2.0])))
    0.5

    Source: Schulz et al. 2020; Achtibat et al. 2024 (as ABPC).
    """
    return insertion(f, x, R, **options) - deletion(f, x, R, **options)


def aopc(f: Callable[[Any], Any], x: Any, R: Any, **options: Any) -> Float[Array, ""]:
    r"""What the score has lost, averaged over the steps. Higher is better.

    .. math:: \frac{1}{n + 1} \sum_{k=0}^{n} c_0 - c_k

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        **options: those of `perturbation_curve`; Samek et al. remove patches.

    Returns:
        A number in the units of the score.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0])
    >>> round(float(aopc(f, jnp.ones(2), jnp.array([1.0, 2.0]))), 2)
    1.67

    Source: Samek et al. 2017.
    """
    curve = perturbation_curve(f, x, R, **options)
    return jnp.mean(curve[0] - curve)


def comprehensiveness(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    fractions: Sequence[float] = _BINS,
    features: Any = None,
    fill: Any = 0.0,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""What the score loses without its most relevant features. Higher is better.

    .. math:: \frac{1}{|B|} \sum_{q \in B} f(x) - f(x \text{ without the top } q)

    Args:
        f: as for `perturbation_curve`; ERASER takes the probability of the predicted class.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        fractions: the B, parts of all features, rounded up to whole features.
        features: as for `perturbation_curve`.
        fill: as for `perturbation_curve`.
        key: as for `perturbation_curve`.
        batch_size: how many fractions are evaluated at a time; None: all at once.
        progress: as for `perturbation_curve`.

    Returns:
        A number in the units of the score.

    Raises:
        InputError: as for `perturbation_curve`; a fraction is not in (0, 1].

    >>> f = lambda x: x @ jnp.array([1.0, 2.0])
    >>> float(comprehensiveness(f, jnp.ones(2), jnp.array([1.0, 2.0]), fractions=[0.5]))
    2.0

    Source: DeYoung et al. 2020 (ERASER).
    """
    removal = Removal.of(f, x, features, fill)
    counts = [*counts_of(removal.count, fractions), 0]
    batches = Batches(batch_size, progress, "comprehensiveness")
    scores = scores_without(removal, removal.amounts(R), counts, key=key, batches=batches)
    return scores[-1] - jnp.mean(scores[:-1])


def sufficiency(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    fractions: Sequence[float] = _BINS,
    features: Any = None,
    fill: Any = 0.0,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""What the score loses where only the most relevant features are left. Lower is better.

    .. math:: \frac{1}{|B|} \sum_{q \in B} f(x) - f(\text{only the top } q \text{ of } x)

    Args:
        f: as for `comprehensiveness`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        fractions: as for `comprehensiveness`.
        features: as for `perturbation_curve`.
        fill: as for `perturbation_curve`.
        key: as for `perturbation_curve`.
        batch_size: as for `comprehensiveness`.
        progress: as for `perturbation_curve`.

    Returns:
        A number in the units of the score.

    Raises:
        InputError: as for `comprehensiveness`.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0])
    >>> float(sufficiency(f, jnp.ones(2), jnp.array([1.0, 2.0]), fractions=[0.5]))
    1.0

    Source: DeYoung et al. 2020 (ERASER).
    """
    removal = Removal.of(f, x, features, fill)
    counts = [*counts_of(removal.count, fractions), removal.count]
    batches = Batches(batch_size, progress, "sufficiency")
    amounts = removal.amounts(R)
    scores = scores_without(removal, amounts, counts, keep=True, key=key, batches=batches)
    return scores[-1] - jnp.mean(scores[:-1])


def _area(f: Any, x: Any, R: Any, order: str, options: dict[str, Any]) -> Float[Array, ""]:
    if "order" in options:
        raise InputError(
            f"The order of this area is {order!r}; of another one, take `perturbation_curve`."
        )
    curve = perturbation_curve(f, x, R, order=order, **options)  # pyright: ignore[reportArgumentType]
    count = Removal.of(f, x, options.get("features"), options.get("fill", 0.0)).count
    return area(curve, ends_of_steps(count, options.get("steps")) / count)


def counts_of(count: int, fractions: Sequence[float]) -> list[int]:
    """Fractions of the features as whole numbers of them, at least one."""
    if not len(fractions) or not all(0 < part <= 1 for part in fractions):
        raise InputError(f"`fractions` must be in (0, 1], at least one, got {[*fractions]}.")
    # Less than a hundredth of a feature is rounding of the fraction.
    return [max(1, math.ceil(part * count - 0.01)) for part in fractions]
