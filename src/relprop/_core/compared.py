"""Pairs of values, of an input and of the reference that it is compared with.

DeepLIFT explains the difference that an input makes from a reference. The function is evaluated
for both, by one plan, and a value that differs between the two is kept as a `Compared` pair.
Machinery that only hands values on need not know about it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Shaped

from relprop._core.graph import Equation
from relprop._core.relevance import precise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Compared:
    """A value and what it is in the run of the reference."""

    value: Shaped[Array, "*shape"]
    reference: Shaped[Array, "*shape"]


def paired(value: Any, reference: Any) -> Any:
    """A value with its reference, or alone if they are the same array."""
    return value if value is reference else Compared(value, reference)


def paired_trees(value: Any, reference: Any) -> Any:
    """All leaves of a tree with those of another one."""
    return jax.tree.map(paired, value, reference)


def is_compared(values: Sequence[Any]) -> bool:
    return any(isinstance(v, Compared) for v in values)


def value_of(x: Any) -> Any:
    return x.value if isinstance(x, Compared) else x


def reference_of(x: Any) -> Any:
    return x.reference if isinstance(x, Compared) else x


def amount_of(x: Any) -> Any:
    """What a multiplier is multiplied with: the value, or its difference from the reference."""
    if isinstance(x, Compared):
        return precise(x.value) - precise(x.reference)
    return precise(x)


def evaluate(equation: Equation, values: Sequence[Any]) -> list[Any]:
    """The results of an equation, compared if operands are."""
    if not is_compared(values):
        return equation.evaluate(values)
    ours, theirs = (equation.evaluate([*map(side, values)]) for side in (value_of, reference_of))
    return [*map(paired, ours, theirs)]
