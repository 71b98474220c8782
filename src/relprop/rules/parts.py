"""Parts of inputs, weights and biases: functions of each number in them, which give one again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

from relprop.rules.parameters import Number, number

#: A function of an array that gives one of its shape; or what takes the place of each number in it,
#: whatever it is: one number, or an array that broadcasts.
Part = Callable[[Array], Array] | Number


def whole(x: Inexact[Array, "*s"]) -> Inexact[Array, "*s"]:
    """All of x, as it is: what `LinearRule` has computed already in the forward pass.

    >>> whole(jnp.array([1.0, -2.0])).tolist()
    [1.0, -2.0]
    """
    return x


def nonzero(x: Inexact[Array, "*s"]) -> Inexact[Array, "*s"]:
    """All of it, where that is anything: relevance per unit of 0 is 0."""
    return x


def positive(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The positive part, zero elsewhere, of the shape of x.

    >>> positive(jnp.array([1.0, -2.0])).tolist()
    [1.0, 0.0]
    """
    return lax.max(x, _zero(x))


def negative(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The negative part, zero elsewhere, of the shape of x.

    >>> negative(jnp.array([0.0, -2.0])).tolist()
    [0.0, -2.0]
    """
    return lax.min(x, _zero(x))


@dataclasses.dataclass(frozen=True, eq=False)
class Favouring:
    """All of x, and its positive part once more, times a number.

    >>> Favouring(0.5)(jnp.array([1.0, -2.0])).tolist()
    [1.5, -2.0]
    """

    gamma: Number

    def __call__(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return x + number(self.gamma, x) * positive(x)


def _zero(x: Array) -> np.ndarray:
    return np.zeros((), x.dtype)


def is_by_entry(part: Any) -> bool:
    """Whether a part is one of each entry by itself, so that some can be made without others."""
    return any(part is own for own in (jnp.abs, positive, negative)) or isinstance(part, Favouring)


#: Parts that are in proportion to x, with their size per unit of x. NaN is a part of all.
PER_UNIT: Mapping[Any, Callable[[Array], Array | Bool[Array, "..."] | None]] = {
    whole: lambda x: None,
    nonzero: lambda x: lax.ne(x, _zero(x)),
    positive: lambda x: lax.bitwise_not(lax.le(x, _zero(x))),
    negative: lambda x: lax.bitwise_not(lax.ge(x, _zero(x))),
    jnp.abs: jnp.sign,
}
