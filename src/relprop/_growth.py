"""Relevance that is far above the score: what is said about it, and to whom."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import jax
import numpy as np

from relprop import _compat
from relprop._errors import GrowthWarning

#: So many times the score is far above it, if nobody says otherwise.
A_LOT = 1e3
_ADVICE = (
    "Where weights are applied again and again, as in a recurrence, "
    "`relprop.presets.lstm()` keeps relevance in bounds; elsewhere rules that favour "
    "contributions of one sign do (`Gamma`, `ZPlus`)."
)
_WHERE = "`relprop.ledger(f, rules)(*args)` says where it grows."


def times_the_score(score: Any, relevance: Any) -> float:
    """How many times the score the largest relevance is; 0 where that means nothing.

    Nothing is known while a function around is being traced, and a score of zero has no multiples.
    """
    leaves = jax.tree.leaves((score, relevance))
    if any(_compat.is_traced(x) or not _compat.is_at_hand(x) for x in leaves):
        return 0.0
    whole = float(np.max(np.abs(np.asarray(score)), initial=0.0))
    with np.errstate(invalid="ignore"):
        arrays = [np.asarray(x) for x in jax.tree.leaves(relevance)]
        largest = max((float(np.max(np.abs(a), initial=0.0)) for a in arrays), default=0.0)
    return largest / whole if whole > 0 else 0.0


def warn_of_growth(times: float, limit: float, where: str = _WHERE) -> None:
    """Warns the caller of the package, if relevance is so many times the score and more."""
    if times > limit:
        warnings.warn(
            f"Relevance grows to {times:.3g} times the score (the limit is `growth_limit`, "
            f"{limit:g} times). {where} {_ADVICE}",
            GrowthWarning,
            stacklevel=outside(),
        )


#: Packages whose frames are none of the caller's: jaxtyping's are around checked functions.
_INSIDE = "relprop", "jax", "jaxtyping"


def outside() -> int:
    """The stack level, for a warning in the function that called, of who called the package."""
    frame, level = sys._getframe(1), 0
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    return level + 1
