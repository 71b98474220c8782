"""Robustness: does an explanation stay while the input hardly changes?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop._batches import Batches
from relprop._errors import InputError
from relprop.metrics import _checks

#: ``explain(x)``: the relevance of a sample.
Explain = Callable[[Any], Any]
_SMALL = 1e-6


def max_sensitivity(
    explain: Explain,
    x: Any,
    *,
    radius: float = 0.1,
    samples: int = 10,
    relative: bool = True,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""The most that an explanation changes near the input. Lower is better.

    .. math:: \max_{\|\delta\|_\infty \leq r} \frac{\|E(x + \delta) - E(x)\|_2}{\|E(x)\|_2}

    Args:
        explain: from a sample to its relevance, as `relprop.relevance` returns it.
        x: the sample.
        radius: the r, in units of x.
        samples: how many :math:`\delta` are drawn, uniformly.
        relative: whether by the size of the explanation, without which small explanations look
            robust; the paper has it without.
        key: of what is drawn; None for ``jax.random.key(0)``.
        batch_size: how many explanations are computed at a time; None: all at once.
        progress: whether to show a bar, which needs tqdm.

    Returns:
        From 0; with `relative` without unit.

    Raises:
        InputError: the radius is not positive, or there is not one sample.

    >>> float(max_sensitivity(lambda x: 2 * x, jnp.ones(3), radius=0.1) < 0.1)
    1.0

    Source: Yeh et al. 2019 (maximum sensitivity).
    """
    return jnp.max(_changes(explain, x, radius, samples, relative, key, batch_size, progress))


def avg_sensitivity(
    explain: Explain,
    x: Any,
    *,
    radius: float = 0.1,
    samples: int = 10,
    relative: bool = True,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""How much an explanation changes near the input, in the mean. Lower is better.

    .. math:: \mathbb{E}_{\delta} \frac{\|E(x + \delta) - E(x)\|_2}{\|E(x)\|_2}

    Args:
        explain: as for `max_sensitivity`.
        x: as for `max_sensitivity`.
        radius: as for `max_sensitivity`.
        samples: as for `max_sensitivity`.
        relative: as for `max_sensitivity`.
        key: as for `max_sensitivity`.
        batch_size: as for `max_sensitivity`.
        progress: as for `max_sensitivity`.

    Returns:
        From 0; with `relative` without unit.

    Raises:
        InputError: as for `max_sensitivity`.

    >>> float(avg_sensitivity(lambda x: 2 * x, jnp.ones(3), radius=0.1) < 0.1)
    1.0

    Source: Bhatt et al. 2020 (average sensitivity).
    """
    return jnp.mean(_changes(explain, x, radius, samples, relative, key, batch_size, progress))


def local_lipschitz(
    explain: Explain,
    x: Any,
    *,
    radius: float = 0.1,
    samples: int = 10,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""The steepest slope of the explanation near the input. Lower is better.

    .. math:: \max_{\|x' - x\|_\infty \leq r} \frac{\|E(x') - E(x)\|_2}{\|x' - x\|_2}

    Args:
        explain: as for `max_sensitivity`.
        x: as for `max_sensitivity`.
        radius: as for `max_sensitivity`.
        samples: as for `max_sensitivity`.
        key: as for `max_sensitivity`.
        batch_size: as for `max_sensitivity`.
        progress: as for `max_sensitivity`.

    Returns:
        From 0, in units of relevance by those of x.

    Raises:
        InputError: as for `max_sensitivity`.

    >>> float(local_lipschitz(lambda x: 2 * x, jnp.ones(3)).round(3))
    2.0

    Source: Alvarez-Melis and Jaakkola 2018.
    """
    batches = Batches(batch_size, progress, "local Lipschitz")
    return _steepest(explain, _near(x, radius, samples, key), _norm, batches)


def continuity(
    explain: Explain,
    x: Any,
    *,
    radius: float = 0.1,
    samples: int = 10,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""The strongest variation of the explanation near the input. Lower is better.

    .. math:: \max_{x' \neq x} \frac{\|E(x') - E(x)\|_1}{\|x' - x\|_2}

    Args:
        explain: as for `max_sensitivity`.
        x: as for `max_sensitivity`.
        radius: as for `max_sensitivity`.
        samples: as for `max_sensitivity`.
        key: as for `max_sensitivity`.
        batch_size: as for `max_sensitivity`.
        progress: as for `max_sensitivity`.

    Returns:
        From 0, in units of relevance by those of x.

    Raises:
        InputError: as for `max_sensitivity`.

    >>> float(continuity(lambda x: 2 * x, jnp.ones(1)).round(3))
    2.0

    Source: Montavon et al. 2018 (explanation continuity).
    """
    batches = Batches(batch_size, progress, "continuity")
    near = _near(x, radius, samples, key)
    return _steepest(explain, near, lambda change: jnp.sum(jnp.abs(change)), batches)


def relative_input_stability(
    explain: Explain,
    x: Any,
    *,
    predict: Callable[[Any], Any] | None = None,
    radius: float = 0.05,
    samples: int = 10,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""How much more an explanation changes than the input does, both relative. Lower is better.

    .. math:: \max_{x' : \hat y' = \hat y}
              \frac{\big\| \frac{E(x) - E(x')}{E(x)} \big\|_2}
                   {\max\big( \big\| \frac{x - x'}{x} \big\|_2, \epsilon \big)}

    Args:
        explain: as for `max_sensitivity`.
        x: as for `max_sensitivity`.
        predict: from a sample to the predicted class: neighbours of other classes are left out.
        radius: as for `max_sensitivity`.
        samples: as for `max_sensitivity`.
        key: as for `max_sensitivity`.
        batch_size: as for `max_sensitivity`.
        progress: as for `max_sensitivity`.

    Returns:
        From 0, without unit; NaN where all neighbours are of other classes. Entries near 0 are
        divided by 1e-6, which makes the number large: compare it only between methods.

    Raises:
        InputError: as for `max_sensitivity`.

    >>> float(relative_input_stability(lambda x: 2 * x, jnp.ones(3)).round(3))
    1.0

    Source: Agarwal et al. 2022.
    """
    return _relative(
        explain, x, lambda a: a, True, predict, radius, samples, key, batch_size, progress
    )


def relative_output_stability(
    explain: Explain,
    x: Any,
    *,
    logits: Callable[[Any], Any],
    predict: Callable[[Any], Any] | None = None,
    radius: float = 0.05,
    samples: int = 10,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""How much more an explanation changes, relative, than the outputs do. Lower is better.

    .. math:: \max_{x' : \hat y' = \hat y}
              \frac{\big\| \frac{E(x) - E(x')}{E(x)} \big\|_2}
                   {\max( \| h(x) - h(x') \|_2, \epsilon )}

    Args:
        explain: as for `max_sensitivity`.
        x: as for `max_sensitivity`.
        logits: the h, from a sample to the scores of all classes.
        predict: as for `relative_input_stability`.
        radius: as for `max_sensitivity`.
        samples: as for `max_sensitivity`.
        key: as for `max_sensitivity`.
        batch_size: as for `max_sensitivity`.
        progress: as for `max_sensitivity`.

    Returns:
        From 0, by units of the logits; see `relative_input_stability`.

    Raises:
        InputError: as for `max_sensitivity`.

    >>> f = lambda x: x
    >>> float(relative_output_stability(f, jnp.ones(3), logits=f).round(3))
    1.0

    Source: Agarwal et al. 2022.
    """
    return _relative(explain, x, logits, False, predict, radius, samples, key, batch_size, progress)


def relative_representation_stability(
    explain: Explain,
    x: Any,
    *,
    layer: Callable[[Any], Any],
    predict: Callable[[Any], Any] | None = None,
    radius: float = 0.05,
    samples: int = 10,
    key: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Array, ""]:
    r"""How much more an explanation changes than what a layer sees, both relative. Lower is better.

    .. math:: \max_{x' : \hat y' = \hat y}
              \frac{\big\| \frac{E(x) - E(x')}{E(x)} \big\|_2}
                   {\max\big( \big\| \frac{L(x) - L(x')}{L(x)} \big\|_2, \epsilon \big)}

    Args:
        explain: as for `max_sensitivity`.
        x: as for `max_sensitivity`.
        layer: the L, from a sample to the values of a layer.
        predict: as for `relative_input_stability`.
        radius: as for `max_sensitivity`.
        samples: as for `max_sensitivity`.
        key: as for `max_sensitivity`.
        batch_size: as for `max_sensitivity`.
        progress: as for `max_sensitivity`.

    Returns:
        From 0, without unit; see `relative_input_stability`.

    Raises:
        InputError: as for `max_sensitivity`.

    >>> f = lambda x: x
    >>> float(relative_representation_stability(f, jnp.ones(3), layer=f).round(3))
    1.0

    Source: Agarwal et al. 2022.
    """
    return _relative(explain, x, layer, True, predict, radius, samples, key, batch_size, progress)


def _near(x: Any, radius: float, samples: int, key: Any) -> tuple[Array, Array]:
    """The sample, and some in the box around it."""
    x = _checks.sample(x)
    if not radius > 0:
        raise InputError(f"`radius` must be positive, got {radius!r}.")
    _checks.at_least_one("samples", samples)
    key = jax.random.key(0) if key is None else key
    steps = jax.random.uniform(key, (samples, *x.shape), x.dtype, -radius, radius)
    return x, x[None] + steps


def _steepest(
    explain: Explain, near: tuple[Array, Array], size: Callable[[Array], Array], batches: Batches
) -> Array:
    """The most that an explanation changes, by its size, per distance from the sample."""
    x, others = near
    reference = explain(x)

    def slope(other):
        return size(explain(other) - reference) / _norm(other - x)

    return jnp.max(batches.map(slope, others))


def _changes(explain, x, radius, samples, relative, key, batch_size, progress) -> Array:
    x, near = _near(x, radius, samples, key)
    reference = explain(x)
    size = _norm(reference) if relative else 1.0
    batches = Batches(batch_size, progress, "sensitivity")
    return batches.map(lambda other: _norm(explain(other) - reference) / size, near)


def _relative(
    explain, x, inner, by_entry, predict, radius, samples, key, batch_size, progress
) -> Array:
    x, near = _near(x, radius, samples, key)
    reference, before = explain(x), inner(x)
    label = None if predict is None else predict(x)

    def quotient(other):
        above = _norm((reference - explain(other)) / _away_from_zero(reference))
        change = before - inner(other)
        below = _norm(change / _away_from_zero(before) if by_entry else change)
        found = above / jnp.maximum(below, _SMALL)
        if predict is None:
            return found
        return jnp.where(jnp.all(predict(other) == label), found, -jnp.inf)

    worst = jnp.max(Batches(batch_size, progress, "relative stability").map(quotient, near))
    return jnp.where(worst == -jnp.inf, jnp.nan, worst)


def _away_from_zero(a: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return jnp.where(jnp.abs(a) < _SMALL, jnp.where(a < 0, -_SMALL, _SMALL).astype(a.dtype), a)


def _norm(a: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(a * a))
