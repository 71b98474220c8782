"""F-Fidelity: removal by chance that stays near what the model has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from relprop._batches import Batches
from relprop._errors import InputError
from relprop.metrics import _checks
from relprop.metrics._curves import counts_of
from relprop.metrics._removal import Removal, numbered, positions
from relprop.metrics.fills import filler


def f_fidelity(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    fractions: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5),
    alpha: float = 0.5,
    beta: float = 0.1,
    samples: int = 50,
    features: Any = None,
    fill: Any = 0.0,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""What removing relevant features by chance costs, less the others. Higher is better.

    .. math::
        \operatorname{mean}_q \; \mathbb{E}\big[f(x) - f(x_{A^+})\big] -
        \mathbb{E}\big[f(x) - f(x_{A^-})\big]

    with A+ a random part of the most relevant fraction q of the features and A- one of all others,
    each feature with probability :math:`\min(\alpha, \beta n / |\cdot|)`: never more than
    :math:`\beta` of all features are removed in the mean, for which the model is fine-tuned
    beforehand (`remove_at_random` is that augmentation). Without fine-tuning it is the robust
    fidelity of Zheng et al. 2024, bounded by :math:`\beta`.

    Args:
        f: as for `perturbation_curve`, of the fine-tuned model.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        fractions: the q, parts of all features, rounded up.
        alpha: the largest probability with which a feature is removed.
        beta: the largest part of all features that is removed, in the mean.
        samples: how many removals are drawn of each kind.
        features: as for `perturbation_curve`.
        fill: as for `perturbation_curve`.
        key: of what is drawn; None for ``jax.random.key(0)``.
        batch_size: how many removals are evaluated at a time; None: all at once.
        progress: as for `perturbation_curve`.

    Returns:
        A number in the units of the score.

    Raises:
        InputError: as for `comprehensiveness`; alpha or beta is not in (0, 1].

    >>> f = lambda x: x[0]
    >>> R = jnp.array([1.0, 0.0, 0.0, 0.0])
    >>> bool(f_fidelity(f, jnp.ones(4), R, fractions=[0.25], beta=0.5) > 0.2)
    True

    Source: Zheng et al. 2025 (F-Fidelity).
    """
    if not (0 < alpha <= 1 and 0 < beta <= 1):
        raise InputError(f"`alpha` and `beta` must be in (0, 1], got {alpha!r} and {beta!r}.")
    _checks.at_least_one("samples", samples)
    removal = Removal.of(f, x, features, fill)
    amounts = removal.amounts(R)
    place = positions(amounts, "most", key)
    n = removal.count
    batches = Batches(batch_size, progress, "F-Fidelity")
    # The same chance for both kinds and all fractions: their difference varies less.
    chances = jax.random.uniform(jax.random.key(1) if key is None else key, (samples, n))
    sizes = np.array(counts_of(n, fractions))
    most = jnp.asarray(np.minimum(alpha, beta * n / sizes))
    others = jnp.asarray(np.minimum(alpha, beta * n / np.maximum(n - sizes, 1)))
    tops = jnp.asarray(sizes, place.dtype)

    def gain(number: Any) -> Any:
        size, sample = jnp.divmod(number, samples)
        inside, chance = place < tops[size], chances[sample]
        kept = removal.score(~inside & (chance < others[size].astype(chance.dtype)))
        return kept - removal.score(inside & (chance < most[size].astype(chance.dtype)))

    gains = batches.map(gain, jnp.arange(len(sizes) * samples))
    return jnp.where(jnp.any(jnp.isnan(amounts)), jnp.nan, jnp.mean(gains))


def remove_at_random(
    key: Key[Array, ""], x: Any, share: float = 0.1, *, features: Any = None, fill: Any = 0.0
) -> Float[Array, "..."]:
    """A sample with some of its features removed by chance, to fine-tune a model with.

    Args:
        key: of the chance.
        x: one sample.
        share: the largest part that is removed; how much is drawn uniformly from 0 to that.
        features: as for `perturbation_curve`.
        fill: as for `perturbation_curve`.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> remove_at_random(jax.random.key(0), jnp.ones(3), 0.0).tolist()
    [1.0, 1.0, 1.0]

    Source: Zheng et al. 2025 (F-Fidelity).
    """
    x = _checks.sample(x)
    labels = numbered(features, x.shape)
    part, each = jax.random.split(key)
    most = share * jax.random.uniform(part)
    missing = (jax.random.uniform(each, (int(labels.max()) + 1,)) < most)[labels]
    return jnp.where(missing, filler(fill, x)(x, missing), x)
