"""The rule for inputs that live in a box."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import ArrayLike

from relprop.rules.base import Stabilizer
from relprop.rules.linear_rule import LinearRule, Term
from relprop.rules.parameters import Number, check_number, is_array, known, text
from relprop.rules.parts import negative, positive


@jtu.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class ZBox(LinearRule):
    r"""z-box rule for inputs that live in a box, such as pixels.

    .. math::
        R_i = \sum_j \frac{x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-}
                          {\sum_k x_k w_{kj} - l_k w_{kj}^+ - h_k w_{kj}^-}\, R_j

    The bias cancels.

    Args:
        low: smallest value an input can take; a number or array that broadcasts to the input.
        high: largest value, likewise.
        epsilon: stabiliser, in units of z.

    Raises:
        ValueError: a bound is not finite, low is above high, or epsilon is no finite number from 0.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 4.0])
    >>> print(relprop.relevance(f, relprop.rules.ZBox(-1, 1, epsilon=0))(jnp.ones(4)))
    [0.75 2.25 0.   3.  ]

    Source: Montavon et al. 2017, eq. 7.
    """

    low: Sequence | ArrayLike = 0.0
    high: Sequence | ArrayLike = 1.0
    epsilon: Number | Stabilizer = 1e-6

    def __post_init__(self):
        super().__post_init__()
        for name in ("low", "high"):
            object.__setattr__(self, name, _bound(getattr(self, name)))
            check_number(name, getattr(self, name), least=-np.inf)
        low, high = known(self.low), known(self.high)
        if low is not None and high is not None and not _is_box(low, high):
            raise ValueError(
                "low must not be above high, and have a shape that fits, got "
                f"low={text(self.low)}, high={text(self.high)}."
            )

    def terms(self, site):
        low: Any = self.low
        high: Any = self.high
        return [Term(), Term(low, positive, factor=-1), Term(high, negative, factor=-1)]


def _bound(given: Any) -> Any:
    """A bound as it is kept: a number, an array that nobody changes, or what is being traced."""
    if isinstance(given, (list, tuple)):
        parts = [_bound(part) for part in given]
        if any(is_array(part) and known(part) is None for part in parts):
            return jnp.stack(parts)
        given = np.asarray(parts)
    array = known(given) if is_array(given) else None
    if array is None or not jnp.issubdtype(array.dtype, jnp.number):
        return given
    if array.ndim == 0:
        return array.item()
    # One type for all, so that equal bounds are equal rules.
    array = array.astype(np.float64)
    array.setflags(write=False)
    return array


def _is_box(low: np.ndarray, high: np.ndarray) -> bool:
    try:
        return bool(np.all(low <= high))
    except ValueError:  # The shapes do not fit.
        return False
