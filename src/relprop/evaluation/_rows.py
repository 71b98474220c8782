"""One line of an evaluation: a method on a model, and what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

LEVEL = 0.95


def bootstrap(
    values: Float[np.ndarray, " n"], resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of a mean: percentiles of the means of samples drawn anew.

    What is NaN is left out; without two other values the interval is NaN.

    >>> low, high = bootstrap(np.array([0.0, 1.0, 0.0, 1.0]))
    >>> 0 <= low < 0.5 < high <= 1
    True
    """
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    means = values[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One method on one model.

    Attributes:
        model: its name.
        method: its name.
        control: whether it looks at nothing that was learnt.
        values: metric -> one number for each sample; NaN where it is not defined.
        seconds: of one explanation, compiled, on this machine.
        memory: bytes of working memory for one explanation; None where XLA does not tell.
        curves: ``"most"`` and ``"least"`` -> ``[samples, steps + 1]``, if they were asked for.
        R: relevance of the first samples, for pictures.
        notes: what else is to be said.
    """

    model: str
    method: str
    control: bool
    values: Mapping[str, Float[np.ndarray, " n"]]
    seconds: float
    memory: float | None
    curves: Mapping[str, Float[np.ndarray, "n points"]]
    R: Float[np.ndarray, "k ..."]
    notes: Sequence[str] = ()
