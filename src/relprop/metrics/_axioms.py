"""Axioms: what an explanation should be by what it claims to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from relprop._batches import Batches
from relprop._errors import InputError
from relprop._ledger import Ledger
from relprop.metrics import _checks
from relprop.metrics._removal import Removal, replaced


def completeness(
    f: Callable[[Any], Any], x: Any, R: Any, *, baseline: ArrayLike | None = None
) -> Float[Array, ""]:
    r"""How far relevance is from adding up to the score. Lower is better.

    .. math:: \Big| \sum_i R_i - (f(x) - f(x')) \Big|

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        baseline: the :math:`x'`, which can be broadcast to x, of methods that compare; None: the
            score itself is to be shared out, as relevance propagation does.

    Returns:
        From 0, in the units of the score; 0 is complete.

    Raises:
        InputError: R has another shape than x or NaN in it; f returns no scalar.

    >>> f = lambda x: x @ jnp.array([1.0, 2.0])
    >>> float(completeness(f, jnp.ones(2), jnp.array([1.0, 1.5])))
    0.5

    Source: Sundararajan et al. 2017 (completeness); Bach et al. 2015 (conservation).
    """
    x = _checks.sample(x)
    _checks.score_of(f, x)
    given = f(x)
    if baseline is not None:
        given = given - f(_checks.of_shape(baseline, x, "The baseline"))
    return jnp.abs(jnp.sum(_checks.relevance(R, x.shape)) - given)


def unexplained(ledger: Ledger) -> dict[str, float]:
    """Where the relevance went that an explanation lacks, by its ledger; all 0 is complete.

    Args:
        ledger: what `relprop.ledger` returned.

    Returns:
        Parts of the seed without unit: ``"bias"``, ``"epsilon"`` and ``"stopped"``, which rules
        took up, and ``"gap"``, all else that the input did not receive: the gradient of a softmax,
        cuts, rounding. They add up to what is missing.

    Raises:
        InputError: the seed is 0, so that there are no parts of it.

    >>> import relprop
    >>> f = lambda x: x @ jnp.array([1.0, 2.0]) + 1.0
    >>> parts = unexplained(relprop.ledger(f, relprop.rules.Epsilon(0.0))(jnp.ones(2)))
    >>> {name: round(part, 3) for name, part in parts.items()}
    {'bias': 0.25, 'epsilon': 0.0, 'stopped': 0.0, 'gap': 0.0}
    """
    seed = float(np.sum(np.asarray(ledger.seed)))
    if seed == 0:
        raise InputError("The seed of this explanation is 0: there is nothing to be shared out.")
    parts = {name: getattr(ledger, name) / seed for name in ("bias", "epsilon", "stopped")}
    return parts | {"gap": 1 - ledger.left / seed - sum(parts.values())}


def non_sensitivity(
    f: Callable[[Any], Any],
    x: Any,
    R: Any,
    *,
    threshold: float = 1e-5,
    samples: int = 10,
    draw: Callable[[Any, Any], Any] | None = None,
    features: Any = None,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""How many features have relevance without being used, or the reverse. Lower is better.

    .. math:: \big| \{i : |R_i| \leq t\} \mathbin{\triangle}
              \{i : \max_v |f(x) - f(x_{i \to v})| \leq t\} \big|

    Args:
        f: as for `perturbation_curve`.
        x: as for `perturbation_curve`.
        R: as for `perturbation_curve`.
        threshold: the t, in units of the score.
        samples: how many values v are drawn for each feature.
        draw: as for `monotonicity_correlation`.
        features: as for `perturbation_curve`.
        key: of the values; None for ``jax.random.key(0)``.
        batch_size: how many evaluations are made at a time; None: all at once.
        progress: as for `perturbation_curve`.

    Returns:
        From 0 to the number of features.

    Raises:
        InputError: as for `perturbation_curve`.

    >>> f = lambda x: x[0]
    >>> float(non_sensitivity(f, jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])))
    1.0

    Source: Nguyen and Martinez 2020 (non-sensitivity).
    """
    removal = Removal.of(f, x, features, 0.0)
    amounts = removal.amounts(R)
    unused = jnp.abs(amounts) <= threshold
    batches = Batches(batch_size, progress, "non-sensitivity")
    scores = replaced(removal, samples, draw, key, batches)
    still = jnp.max(jnp.abs(scores - removal.f(removal.x)), axis=1) <= threshold
    count = jnp.sum(unused != still).astype(amounts.dtype)
    return jnp.where(jnp.any(jnp.isnan(amounts)), jnp.nan, count)


def input_invariance(
    method: Callable[[Callable[[Any], Any]], Callable[[Any], Any]],
    f: Callable[[Any], Any],
    x: Any,
    *,
    shift: ArrayLike = 1.0,
) -> Float[Array, ""]:
    r"""How much an explanation changes where input and function shift. Lower is better.

    .. math:: \frac{\|E_f(x) - E_g(x + s)\|_2}{\|E_f(x)\|_2}, \qquad g(z) = f(z - s)

    Args:
        method: from a function to what explains it: ``lambda f: relprop.relevance(f, rules)``.
        f: from one sample to its score.
        x: the sample.
        shift: the s, which can be broadcast to x.

    Returns:
        From 0, without unit; 0 is invariant, as a gradient is. Methods that multiply by the input
        are not, and need not be: a shift of the input moves their reference.

    Raises:
        InputError: f returns no scalar; the shift cannot be broadcast to x.

    >>> import jax
    >>> float(input_invariance(jax.grad, lambda x: jnp.sum(x**2), jnp.ones(2)))
    0.0

    Source: Kindermans et al. 2019.
    """
    x = _checks.sample(x)
    _checks.score_of(f, x)
    step = _checks.of_shape(shift, x, "The shift")
    before = method(f)(x)
    after = method(lambda z: f(z - step))(x + step)
    return jnp.sqrt(jnp.sum((before - after) ** 2) / jnp.sum(before**2))
