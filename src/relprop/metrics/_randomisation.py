"""Randomisation: does an explanation depend on what the model has learnt?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Key, PyTree

from relprop._batches import Batches
from relprop._errors import InputError
from relprop.metrics import _checks
from relprop.metrics._similarity import Similarity, similarity

#: ``explain(params, x)``: the relevance of a sample by a model with these parameters.
Explain = Callable[[Any, Any], Any]
Order = Literal["cascading", "independent", "bottom_up"]


def mprt(
    explain: Explain,
    params: PyTree,
    x: Any,
    *,
    layers: Sequence[str] | None = None,
    order: Order = "cascading",
    agreement: str | Similarity = "spearman",
    draw: Callable[[Any, Any], Any] | None = None,
    key: Any = None,
) -> Float[Array, " layers"]:
    r"""How alike explanations are before and after layers are randomised. Lower is better.

    .. math:: s_l = \operatorname{sim}\big( E_\theta(x),\; E_{\theta_l}(x) \big)

    where in :math:`\theta_l` the parameters of layer l are drawn anew, and those of all layers
    above it (``"cascading"``) or below it (``"bottom_up"``) as well. An explanation that does not
    change does not depend on what was learnt there.

    Args:
        explain: from parameters and a sample to its relevance:
            ``lambda params, x: relprop.relevance(lambda x: f(params, x), rules)(x)``.
        params: of the trained model, a pytree.
        x: the sample.
        layers: beginnings of the paths of their parameters, from the input to the output:
            ``["conv1", "conv2", "head"]``. By default, for ``"independent"`` alone, all.
        order: ``"cascading"`` from the output to the input, ``"independent"`` one at a time, or
            ``"bottom_up"`` from the input to the output.
        agreement: ``"spearman"``, ``"pearson"``, ``"cosine"``, ``"ssim"``, or a function of two
            arrays.
        draw: ``draw(key, leaf)`` gives new parameters; None: the old ones in random order, which
            keeps their distribution; such as are all alike are drawn from a normal distribution.
        key: of what is drawn; None for ``jax.random.key(0)``.

    Returns:
        One similarity for each layer, in the order of randomisation; the mean is the number in
        tables.

    Raises:
        InputError: a layer has no parameters, or layers are needed and not given.

    >>> f = lambda params, x: params["w"] * x
    >>> params = {"w": jnp.arange(8.0)}
    >>> float(mprt(f, params, jnp.ones(8), layers=["w"])[0]) < 1
    True

    Source: Adebayo et al. 2018; bottom-up: Hedström et al. 2023.
    """
    compare, reference = similarity(agreement), explain(params, x)
    found = [
        compare(reference, explain(changed, x))
        for changed in _randomised(params, layers, order, draw, key)
    ]
    return jnp.stack(found)


def smooth_mprt(
    explain: Explain,
    params: PyTree,
    x: Any,
    *,
    samples: int = 20,
    noise: float = 0.1,
    layers: Sequence[str] | None = None,
    order: Order = "bottom_up",
    agreement: str | Similarity = "spearman",
    draw: Callable[[Any, Any], Any] | None = None,
    key: Any = None,
    batch_size: int | None = None,
) -> Float[Array, " layers"]:
    r"""`mprt` of explanations that are averaged over noise first. Lower is better.

    .. math:: s_l = \operatorname{sim}\Big( \frac1N \sum_n E_\theta(x + \epsilon_n),\;
              \frac1N \sum_n E_{\theta_l}(x + \epsilon_n) \Big)

    Without the average the shattered gradient of an explanation makes it look sensitive to
    parameters, since noise is unlike noise.

    Args:
        explain: as for `mprt`.
        params: as for `mprt`.
        x: as for `mprt`.
        samples: the N.
        noise: standard deviation, as a part of the range of x.
        layers: as for `mprt`.
        order: as for `mprt`.
        agreement: as for `mprt`.
        draw: as for `mprt`.
        key: as for `mprt`, and of the noise.
        batch_size: how many explanations are computed at a time; None: all at once.

    Returns:
        As `mprt`.

    Raises:
        InputError: as for `mprt`; there is not one sample.

    >>> f = lambda params, x: params["w"] * x
    >>> params = {"w": jnp.arange(8.0)}
    >>> smooth_mprt(f, params, jnp.arange(8.0), layers=["w"], samples=2).shape
    (1,)

    Source: Hedström et al. 2023 (Sanity checks revisited).
    """
    x = _checks.sample(x)
    _checks.at_least_one("samples", samples)
    key = jax.random.key(0) if key is None else key
    width = noise * (jnp.max(x) - jnp.min(x))
    steps = jax.random.normal(jax.random.fold_in(key, 1), (samples, *x.shape), x.dtype)
    batches = Batches(batch_size)

    def smooth(params: Any, x: Any) -> Any:
        return batches.sum(lambda step: explain(params, x + width * step), steps) / samples

    return mprt(
        smooth, params, x, layers=layers, order=order, agreement=agreement, draw=draw, key=key
    )


def efficient_mprt(
    explain: Explain,
    params: PyTree,
    x: Any,
    *,
    bins: int = 100,
    draw: Callable[[Any, Any], Any] | None = None,
    key: Any = None,
) -> Float[Array, ""]:
    r"""How much more complex an explanation is of a model that is all random. Higher is better.

    .. math:: \frac{H(E_{\hat\theta}(x)) - H(E_\theta(x))}{H(E_\theta(x))}

    with the entropy H of a histogram of the relevance.

    Args:
        explain: as for `mprt`.
        params: as for `mprt`.
        x: as for `mprt`.
        bins: of the histogram, between the least and the greatest relevance.
        draw: as for `mprt`.
        key: as for `mprt`.

    Returns:
        Above 0 the random model has the more complex explanation, as it should. NaN where the
        explanation is constant.

    Raises:
        InputError: there is not one bin.

    >>> f = lambda params, x: params["w"] * x
    >>> params = {"w": jnp.arange(8.0)}
    >>> float(efficient_mprt(f, params, jnp.ones(8)))  # the same numbers in another order
    0.0

    Source: Hedström et al. 2023 (Sanity checks revisited).
    """
    _checks.at_least_one("bins", bins)
    changed = _drawn(params, list(range(len(jax.tree.leaves(params)))), draw, _key(key))
    before, after = (_complexity(explain(p, x), bins) for p in (params, changed))
    return (after - before) / before


def random_logit(
    explain: Callable[[Any, Any], Any],
    x: Any,
    target: Any,
    *,
    classes: int,
    agreement: str | Similarity = "spearman",
    key: Any = None,
) -> Float[Array, ""]:
    r"""How alike the explanations of the class and of another one are. Lower is better.

    .. math:: \operatorname{sim}\big( E_t(x),\; E_{t'}(x) \big), \qquad
              t' \neq t \text{ by chance}

    Args:
        explain: ``explain(x, target)``, the relevance of a sample for a class.
        x: the sample.
        target: the explained class, an integer.
        classes: how many there are.
        agreement: as for `mprt`; the paper takes ``"ssim"``.
        key: of the other class; None for ``jax.random.key(0)``.

    Returns:
        From -1 to 1; 1 is an explanation that does not look at the class.

    Raises:
        InputError: there is only one class.

    >>> explain = lambda x, target: jnp.where(jnp.arange(3) == target, x, 0.0)
    >>> float(random_logit(explain, jnp.ones(3), 1, classes=3).round(3))
    -0.5

    Source: Sixt et al. 2020.
    """
    if classes < 2:
        raise InputError(f"Another class needs at least two of them, got classes={classes!r}.")
    step = jax.random.randint(_key(key), (), 1, classes)
    other = (jnp.asarray(target, step.dtype) + step) % classes
    return similarity(agreement)(explain(x, target), explain(x, other))


def _key(key: Any) -> Any:
    return jax.random.key(0) if key is None else key


def _randomised(params, layers, order, draw, key):
    """The parameters after each step of the randomisation."""
    _checks.choice("order", order, ("cascading", "independent", "bottom_up"))
    groups = _groups(params, layers, order)
    if order == "cascading":
        groups = groups[::-1]
    changed, keys = params, jax.random.split(_key(key), len(groups))
    for group, k in zip(groups, keys, strict=True):
        changed = _drawn(params if order == "independent" else changed, group, draw, k)
        yield changed


def _groups(params: PyTree, layers: Sequence[str] | None, order: str) -> list[list[int]]:
    """The leaves of each layer, by number."""
    paths = [
        jtu.keystr(p, simple=True, separator="/") for p, _ in jtu.tree_leaves_with_path(params)
    ]
    if layers is None:
        if order != "independent":
            raise InputError(
                f"The order {order!r} needs `layers` from the input to the output; a pytree says "
                f"only their names: {', '.join(paths)}."
            )
        layers = list(dict.fromkeys(path.rpartition("/")[0] or path for path in paths))
    groups = [
        [i for i, path in enumerate(paths) if f"{path}/".startswith(f"{layer}/")]
        for layer in layers
    ]
    empty = [layer for layer, group in zip(layers, groups, strict=True) if not group]
    if empty or not groups:
        raise InputError(
            f"No parameters belong to the layers {empty}. The paths are {', '.join(paths)}; a "
            "layer is the beginning of some, up to a slash."
        )
    return groups


def _drawn(params: PyTree, group: Sequence[int], draw: Any, key: Key[Array, ""]) -> PyTree:
    leaves, tree = jax.tree.flatten(params)
    for i in group:
        leaf = jnp.asarray(leaves[i])
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            leaves[i] = (_shuffled if draw is None else draw)(jax.random.fold_in(key, i), leaf)
    return jax.tree.unflatten(tree, leaves)


def _shuffled(key: Key[Array, ""], leaf: Float[Array, "*s"]) -> Float[Array, "*s"]:
    mixed = jax.random.permutation(key, leaf.ravel()).reshape(leaf.shape)
    alike = jnp.max(leaf) == jnp.min(leaf)
    return jnp.where(alike, jax.random.normal(key, leaf.shape, leaf.dtype), mixed)


def _complexity(R: Float[Array, "..."], bins: int) -> Float[Array, ""]:
    counts = jnp.histogram(R.ravel(), bins)[0].astype(_checks.single(R).dtype)
    shares = counts / R.size
    return -jnp.sum(shares * jnp.log(jnp.where(shares > 0, shares, 1)))
