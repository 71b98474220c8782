"""Pruning by relevance: the least relevant weights are masked, and what that costs is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from relprop._errors import InputError
from relprop._table import Table

__all__ = ["Pruned", "accuracy_after", "masks"]


@dataclasses.dataclass(frozen=True, repr=False)
class Pruned(Table):
    """How well a model does without its least relevant weights.

    Attributes:
        shares: of the weights, how many are masked.
        weights: how many those are.
        accuracy: of the model without them.
    """

    shares: tuple[float, ...]
    weights: tuple[int, ...]
    accuracy: tuple[float, ...]

    def columns(self) -> Sequence[str]:
        return ("masked", "weights", "accuracy")

    def cells(self) -> list[list[str]]:
        rows = zip(self.shares, self.weights, self.accuracy, strict=True)
        return [[f"{share:.0%}", f"{count:,}", f"{good:.3f}"] for share, count, good in rows]

    __repr__ = Table.__str__


def masks(relevance: Any, share: float) -> Any:
    r"""Masks that leave out the least relevant weights of all arrays together.

    .. math:: m_i = [\, |R_i| \text{ is not among the } k \text{ smallest} \,]

    Args:
        relevance: of each weight, in a tree of arrays, such as the sums over a dataset of
            `relprop.jobs.Total`; what is None in it is not masked.
        share: how much of all weights to leave out, from 0 to 1, rounded to whole weights. Of
            equals those that come first in the tree.

    Returns:
        A tree like that of the relevance, True where weights stay.

    Raises:
        InputError: the share is none, or relevance is not finite or not there.

    >>> masks({"w": np.array([3.0, -0.1, -2.0]), "b": None}, 1 / 3)["w"].tolist()
    [True, False, True]

    Source: Yeom et al. 2021, with weights in the place of filters.
    """
    _check_share(share)
    leaves, tree = jax.tree.flatten(relevance)
    arrays = [np.asarray(leaf) for leaf in leaves]
    flat = np.concatenate([np.abs(array).reshape(-1) for array in arrays] or [np.zeros(0)])
    if not flat.size or not np.isfinite(flat).all():
        raise InputError(
            "Relevance of weights must be there and finite: leave out samples that have none, as "
            "`relprop.jobs.Total` does."
        )
    keep = np.ones(flat.size, bool)
    keep[np.argsort(flat, kind="stable")[: round(share * flat.size)]] = False
    parts = np.split(keep, np.cumsum([array.size for array in arrays])[:-1])
    return tree.unflatten([p.reshape(a.shape) for p, a in zip(parts, arrays, strict=True)])


def accuracy_after(
    predict: Callable[[Any, Any], Float[Array, "n classes"]],
    params: Any,
    relevance: Any,
    inputs: Any,
    labels: Int[Any, " n"],
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 0.9),
    batch_size: int = 256,
) -> Pruned:
    """The accuracy of a model whose least relevant weights are 0.

    Args:
        predict: ``predict(params, inputs)`` gives scores of classes.
        params: the weights.
        relevance: of each, in a tree like `params`, with None for arrays that are left as they
            are. ``jax.tree.map(jnp.abs, params)`` in its place is pruning by magnitude.
        inputs: a tree of arrays whose first axis is that of the samples.
        labels: the right class of each.
        shares: of the weights that have relevance, how many are masked.
        batch_size: samples at once.

    Returns:
        A table with a row per share.

    Raises:
        InputError: the relevance does not fit the weights, or the labels not the inputs; as for
            `masks`.

    >>> params = {"w": jnp.array([[2.0, 0.0], [0.0, 2.0], [0.1, 0.0]])}
    >>> relevance = {"w": jnp.array([[5.0, 0.0], [0.0, 5.0], [0.1, 0.0]])}
    >>> x, y = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), jnp.array([0, 1])
    >>> accuracy_after(lambda p, x: x @ p["w"], params, relevance, x, y, (0.5, 1))
    masked  weights  accuracy
    ------  -------  --------
    50%     3        1.000
    100%    6        0.500

    Source: Yeom et al. 2021, section 4.
    """
    labels = np.asarray(labels)
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(inputs)}
    if labels.ndim != 1 or sizes != {len(labels)} or not len(labels):
        raise InputError(
            f"There must be a label for each sample, got {list(labels.shape)} for {sorted(sizes)}."
        )
    _check_fits(params, relevance)
    for share in shares:
        _check_share(share)
    compiled = jax.jit(predict)
    counts, found = [], []
    for share in shares:
        keep = masks(relevance, share)
        counts.append(sum(int((~mask).sum()) for mask in jax.tree.leaves(keep)))
        pruned = jax.tree.map(_masked, keep, params, is_leaf=_is_none)
        good = 0
        for begin in range(0, len(labels), batch_size):
            part = slice(begin, begin + batch_size)
            scores = compiled(pruned, jax.tree.map(lambda x, part=part: x[part], inputs))
            good += int((np.asarray(scores).argmax(-1) == labels[part]).sum())
        found.append(good / len(labels))
    return Pruned(tuple(shares), tuple(counts), tuple(found))


def _masked(keep: Any, weights: Any) -> Any:
    return weights if keep is None else jax.tree.map(lambda w: jnp.where(keep, w, 0), weights)


def _is_none(x: Any) -> bool:
    return x is None


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise InputError(f"A share of weights is from 0 to 1, got {share!r}.")


def _check_fits(params: Any, relevance: Any) -> None:
    """Whether relevance is that of the weights: the same shapes, and each has some or None."""
    shapes = {jax.tree_util.keystr(p): np.shape(x) for p, x in _leaves(params)}
    given = {jax.tree_util.keystr(p): np.shape(x) for p, x in _leaves(relevance)}
    wrong = [f"{path} {list(shape)}" for path, shape in given.items() if shapes.get(path) != shape]
    if wrong:
        raise InputError(f"These have relevance, but are no weights: {', '.join(wrong)}.")
    told = {path for path, _ in _leaves(relevance, _is_none)}
    lacking = [
        jax.tree_util.keystr(path)
        for path, _ in _leaves(params)
        if not any(path[:n] in told for n in range(len(path) + 1))
    ]
    if lacking:
        raise InputError(
            f"These weights have no relevance: {', '.join(lacking)}. Give None for them to leave "
            "them as they are."
        )


def _leaves(tree: Any, is_leaf: Any = None) -> Any:
    return jax.tree_util.tree_leaves_with_path(tree, is_leaf)
