"""The gradient, alone and multiplied by the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from relprop.baselines._places import gradients_at
from relprop.baselines._problem import Problem, explaining, product


def gradient(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    abs: bool = False,
    at: Any = (),
) -> Callable[..., Any]:
    r"""The gradient of a score, or its absolute value (saliency).

    .. math:: R_i = \frac{\partial f}{\partial x_i}
              \qquad\text{or}\qquad R_i = \left|\frac{\partial f}{\partial x_i}\right|

    Args:
        f: any function of pytrees of arrays that returns a real scalar, or with `has_aux` a pair
            of that and anything else. For a batch use `jax.vmap`, or a sum of scores.
        argnums: which argument or arguments are explained; the rest are constants.
        has_aux: whether f returns a pair; then so does the result.
        abs: whether to take the absolute value, as Simonyan et al. do.
        at: places inside of f that are explained in place of the arguments, as for
            `relprop.relevance`. Then the result is a dict of `relprop.places.Inside`, whose
            relevance is the attribution.

    Returns:
        A function with the arguments of f. Its result has the structure of the explained argument
        (a tuple of such, if `argnums` is a sequence), in units of the score per unit of x.

    Raises:
        InputError: what is explained is not real, or the score is not a real scalar.
        NothingMatchedError: a place is not there.

    >>> import jax.numpy as jnp
    >>> gradient(lambda x: jnp.sum(x**2), abs=True)(jnp.array([1.0, -2.0])).tolist()
    [2.0, 4.0]

    Source: Simonyan et al. 2014, section 3 (saliency maps).
    """
    if at:
        sized = jnp.abs if abs else lambda slope: slope
        return gradients_at(f, argnums, has_aux, at, lambda slope, value: sized(slope))

    def method(problem: Problem) -> Any:
        slope = jax.grad(problem.score)(problem.x)
        return jax.tree.map(jnp.abs, slope) if abs else slope

    return explaining(f, argnums, has_aux, method)


def gradient_times_input(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    at: Any = (),
) -> Callable[..., Any]:
    r"""The gradient times the input: the first-order share of each entry.

    .. math:: R_i = x_i \frac{\partial f}{\partial x_i}

    Complete, :math:`\sum_i R_i = f(x)`, for functions that are positively homogeneous, such as
    ReLU networks without biases.

    Args:
        f: as for `gradient`.
        argnums: as for `gradient`.
        has_aux: as for `gradient`.
        at: as for `gradient`: gradient times activation.

    Returns:
        As `gradient`, in the units of the score.

    Raises:
        InputError, NothingMatchedError: as for `gradient`.

    >>> import jax.numpy as jnp
    >>> gradient_times_input(lambda x: x[0] * 3 - x[1])(jnp.array([2.0, 1.0])).tolist()
    [6.0, -1.0]

    Source: Shrikumar et al. 2016, section 2 (input times gradient).
    """
    if at:
        return gradients_at(f, argnums, has_aux, at, jnp.multiply)

    def method(problem: Problem) -> Any:
        return product(problem.x, jax.grad(problem.score)(problem.x))

    return explaining(f, argnums, has_aux, method)
