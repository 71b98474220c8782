"""Gradients along lines from baselines to the input."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from relprop._batches import Batches, check_samples
from relprop._errors import InputError, unknown_name
from relprop.baselines._places import Inner, explaining_places
from relprop.baselines._problem import (
    Problem,
    difference,
    explaining,
    product,
    reference_of,
    total,
    with_delta,
)
from relprop.places import Inside


def integrated_gradients(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    baseline: PyTree[Float[ArrayLike, "..."]] | None = None,
    steps: int = 50,
    method: str = "gausslegendre",
    multiply_by_inputs: bool = True,
    return_delta: bool = False,
    at: Any = (),
    batch_size: int | None = None,
    progress: bool = False,
) -> Callable[..., Any]:
    r"""The gradient averaged over the straight line from a baseline to the input.

    .. math:: R_i = (x_i - x'_i) \int_0^1
              \frac{\partial f}{\partial x_i}\big(x' + \alpha (x - x')\big)\, d\alpha

    Complete: :math:`\sum_i R_i = f(x) - f(x')`, up to the error of the numerical integral.

    Args:
        f: as for `gradient`.
        argnums: as for `gradient`.
        has_aux: as for `gradient`.
        baseline: the :math:`x'`: None for zeros, a number, or a tree like what is explained, whose
            leaves can be broadcast to it.
        steps: number of points on the line.
        method: of integration: ``"gausslegendre"``, ``"riemann_left"``, ``"riemann_middle"``,
            ``"riemann_right"`` or ``"riemann_trapezoid"``. The last has the weights of Captum, for
            comparisons: in single precision and of the sum :math:`1 - 1/n` for n steps.
        multiply_by_inputs: whether to multiply by :math:`x - x'`; without, the mean gradient.
        return_delta: whether the result is a pair of the attribution and of what it lacks to be
            complete, :math:`\sum_i R_i - (f(x) - f(x'))`.
        at: as for `gradient`: the line then goes from the values of the baseline at these places to
            those of the input, while the arguments stay what they are. All places move together,
            so that a value that is computed from other ones of them alone leaves these nothing.
            Places in loops, branches and checkpointed functions, parameters and places that change
            relevance are refused.
        batch_size: how many points are evaluated at a time; None: all at once.
        progress: whether to show a progress bar, which needs tqdm.

    Returns:
        As `gradient`, in the units of the score.

    Raises:
        InputError: as for `gradient`, or the baseline does not fit, or a place is refused.
        UnknownNameError: there is no such method.
        NothingMatchedError: a place is not there.

    >>> import jax.numpy as jnp
    >>> f = lambda x: x[0] * x[1]
    >>> integrated_gradients(f)(jnp.array([2.0, 3.0])).round(4).tolist()
    [3.0, 3.0]

    Source: Sundararajan et al. 2017, eq. 1 and 3.
    """
    positions, weights = quadrature(method, steps)
    batches = Batches(batch_size, progress, "integrated gradients")

    def explain(problem: Problem) -> Any:
        reference = reference_of(baseline, problem.x)
        step = difference(problem.x, reference)
        slope = mean_gradient(problem.score, reference, step, (positions, weights), batches)
        attribution = product(step, slope) if multiply_by_inputs else slope
        return with_delta(attribution, problem, reference) if return_delta else attribution

    def explain_places(inner: Inner) -> Any:
        inputs, value = inner.inputs(inner.x), inner.values(inner.x)
        start = inner.values(reference_of(baseline, inner.x))
        step, score = difference(value, start), functools.partial(inner.score, inputs)
        slope = mean_gradient(score, start, step, (positions, weights), batches)
        attribution = product(step, slope) if multiply_by_inputs else slope
        inside = {name: Inside(attribution[name], value[name]) for name in sorted(value)}
        lacking = total(attribution) - (score(value) - score(start))
        return (inside, lacking) if return_delta else inside

    if at:
        return explaining_places(f, argnums, has_aux, at, explain_places)
    return explaining(f, argnums, has_aux, explain)


def expected_gradients(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    baselines: PyTree[Float[ArrayLike, "n ..."]],
    key: Key[Array, ""],
    samples: int = 200,
    batch_size: int | None = None,
    progress: bool = False,
) -> Callable[..., Any]:
    r"""Integrated gradients averaged over random baselines.

    .. math:: R_i = \mathbb{E}_{x' \sim D,\, \alpha \sim U(0, 1)} \Big[ (x_i - x'_i)
              \frac{\partial f}{\partial x_i}\big(x' + \alpha (x - x')\big) \Big]

    In the mean complete: :math:`\sum_i R_i = f(x) - \mathbb{E}[f(x')]`.

    Args:
        f: as for `gradient`.
        argnums: as for `gradient`.
        has_aux: as for `gradient`.
        baselines: the data D: a tree like what is explained, each leaf with an axis of samples in
            front.
        key: of the random numbers, as from `jax.random.key`.
        samples: how many pairs of a baseline and a position are drawn.
        batch_size: as for `integrated_gradients`.
        progress: as for `integrated_gradients`.

    Returns:
        As `gradient`, in the units of the score.

    Raises:
        InputError: as for `gradient`, the baselines do not fit, or there is no sample.

    >>> import jax, jax.numpy as jnp
    >>> explain = expected_gradients(
    ...     lambda x: 2 * x.sum(), baselines=jnp.ones((1, 2)), key=jax.random.key(0), samples=4
    ... )
    >>> explain(jnp.array([2.0, 3.0])).tolist()
    [2.0, 4.0]

    Source: Erion et al. 2021, eq. 2.
    """
    check_samples(samples)
    batches = Batches(batch_size, progress, "expected gradients")

    def explain(problem: Problem) -> Any:
        count = _check_samples(baselines, problem.x)
        which, where = jax.random.split(key)
        numbers = jax.random.randint(which, (samples,), 0, count)
        positions = jax.random.uniform(where, (samples,))

        def share(point):
            number, position = point
            reference = jax.tree.map(lambda b, a: b[number].astype(a.dtype), data, problem.x)
            step = difference(problem.x, reference)
            return product(step, jax.grad(problem.score)(_between(reference, step, position)))

        data = jax.tree.map(jnp.asarray, baselines)
        sums = batches.sum(share, (numbers, positions))
        return jax.tree.map(lambda a: a / samples, sums)

    return explaining(f, argnums, has_aux, explain)


def mean_gradient(
    score: Callable[[Any], Float[Array, ""]],
    start: PyTree[Float[ArrayLike, "..."]],
    step: PyTree[Float[ArrayLike, "..."]],
    rule: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]],
    batches: Batches,
) -> PyTree[Float[ArrayLike, "..."]]:
    """The weighted mean of the gradient at points between `start` and `start + step`."""

    def weighted(point):
        position, weight = point
        slope = jax.grad(score)(_between(start, step, position))
        return jax.tree.map(lambda a: weight.astype(a.dtype) * a, slope)

    return batches.sum(weighted, tuple(map(jnp.asarray, rule)))


def _between(start: PyTree, step: PyTree, position: Array) -> PyTree:
    return jax.tree.map(lambda a, s: a + position.astype(a.dtype) * s, start, step)


METHODS = (
    "gausslegendre",
    "riemann_left",
    "riemann_middle",
    "riemann_right",
    "riemann_trapezoid",
)


def quadrature(method: str, steps: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Positions in [0, 1] and their weights."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}.")
    if method not in METHODS:
        raise unknown_name("method of integration", method, METHODS)
    if method == "riemann_trapezoid" and steps < 2:
        raise ValueError(f"riemann_trapezoid needs at least 2 steps, got {steps!r}.")
    if method == "gausslegendre":
        positions, weights = np.polynomial.legendre.leggauss(steps)
        return (positions + 1) / 2, weights / 2
    weights = np.full(steps, 1 / steps)
    if method == "riemann_trapezoid":
        weights[[0, -1]] /= 2
        # In single precision, as there: the method is for comparisons with Captum.
        return np.linspace(0, 1, steps), weights.astype(np.float32)
    offset = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
    return (np.arange(steps) + offset) / steps, weights


def _check_samples(baselines: PyTree, x: PyTree) -> int:
    """How many baselines there are."""
    if jax.tree.structure(baselines) != jax.tree.structure(x):
        raise InputError(
            f"The baselines must have the structure of what is explained, {jax.tree.structure(x)}, "
            f"but have {jax.tree.structure(baselines)}."
        )
    shapes = [np.shape(b) for b in jax.tree.leaves(baselines)]
    expected = [a.shape for a in jax.tree.leaves(x)]
    counts = {shape[:1] for shape in shapes}
    if len(counts) == 1 and [s[1:] for s in shapes] == expected and (0,) not in counts:
        return shapes[0][0]
    raise InputError(
        "The baselines must have the shapes of what is explained with one axis of samples in "
        f"front, {[('n', *s) for s in expected]}, but have {shapes}."
    )
