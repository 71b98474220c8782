r"""Relevance of more than one thing at a time: of pairs of inputs, pairs of features, and walks.

First-order relevance says how much a token counts. What it counts *for* is a question of second
order: which token of one text a similarity is from together with which of another (`bilrp`), how
two tokens of one text depend on each other (`interactions`), what speaks for a class and not for
all others (`contrastive`), by which way through the layers a node of a graph counts (`walks`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from relprop._batches import Batches
from relprop._errors import InputError
from relprop._transform import relevance, vrp
from relprop.concepts import Only
from relprop.places import Masked
from relprop.places.kinds import places_of

__all__ = ["bilrp", "contrastive", "interactions", "walks"]

Reduce = Callable[[Array], Array]


def bilrp(
    g: Callable[..., Any],
    rules: Any,
    reduce: Reduce = lambda R: R,
    *,
    batch_size: int | None = None,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> Callable[..., Float[Array, "..."]]:
    r"""Which feature of one input makes it similar to another one, together with which of that.

    .. math:: \langle g(x), g(y) \rangle = \sum_{ij} R_{ij} + \text{absorbed}, \qquad
              R_{ij} = \sum_m R_i\big[g_m(x)\big] \; R_j\big[g_m(y)\big]

    with the relevance of each entry of the embedding of its own.

    Args:
        g: the embedding, a function of one array that returns one.
        rules: as for `relprop.relevance`.
        reduce: what is done to relevance of an input before it is multiplied, such as the sum over
            the channels of pixels or tokens: the result has an entry for each pair of what is left.
        batch_size: how many entries of the embedding are explained at a time; None: all of them.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.

    Returns:
        A function of x and y; its result has the axes of x and then those of y, in units of the
        similarity.

    Raises:
        InputError: g returns something else than one array of real numbers, or of other shapes for
            x and y.
        MissingRuleError, RuleError: as for `relprop.relevance`.

    >>> import relprop
    >>> g = lambda x: x @ jnp.array([[1.0, 0.0], [1.0, 2.0]])
    >>> bilrp(g, relprop.rules.Zero())(jnp.array([1.0, 2.0]), jnp.array([3.0, 1.0])).tolist()
    [[3.0, 1.0], [6.0, 10.0]]

    Source: Eberle et al. 2022, section 3 (BiLRP).
    """
    batches = Batches(batch_size)

    def parts(x: Array) -> Array:
        out, back = vrp(g, x, rules=rules, on_missing=on_missing, on_suspicion=on_suspicion)
        if not hasattr(out, "shape") or not jnp.issubdtype(out.dtype, jnp.floating):
            raise InputError(f"An embedding is one array of real numbers, got {out!r}.")

        def of_entry(number: Array) -> Array:
            here = jnp.arange(out.size) == number
            return reduce(back(jnp.where(here.reshape(out.shape), out, 0))[0])

        return batches.map(of_entry, jnp.arange(out.size))

    def similarity(x: Array, y: Array) -> Float[Array, "..."]:
        ours, theirs = parts(jnp.asarray(x)), parts(jnp.asarray(y))
        if len(ours) != len(theirs):
            raise InputError(
                f"The embeddings have {len(ours)} and {len(theirs)} entries, between which there "
                "is no similarity."
            )
        return jnp.tensordot(ours, theirs, (0, 0))

    return similarity


def interactions(
    f: Callable[..., Any],
    rules: Any,
    axes: int | Sequence[int] | None = None,
    *,
    batch_size: int | None = None,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> Callable[..., Float[Array, "..."]]:
    r"""How the relevance of one feature depends on another one.

    .. math:: R_{ij} = x_j \, \frac{\partial R_i(x)}{\partial x_j}

    By `relprop.rules.Gradient`, whose relevance is the derivative, that is the derivative of second
    order times a feature. By LRP-0, where that is gradient times input, what is outside of the
    diagonal is :math:`x_i x_j \, \partial^2 f / \partial x_i \partial x_j`.

    Args:
        f: a function of one array, and of others that are constants, that returns a real scalar.
        rules: as for `relprop.relevance`; they must have derivatives.
        axes: the axes of x that tell features apart, such as that of tokens; over all others is
            summed. By default each entry is a feature.
        batch_size: how many features j are looked at at a time; None: all of them.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.

    Returns:
        A function with the arguments of f. Its result has the axes of the features i and then
        those of j, in units of the score.

    Raises:
        InputError: x has no such axis.
        MissingRuleError, RuleError: as for `relprop.relevance`.

    >>> import relprop
    >>> f = lambda x: x[0] * x[1] + x[2]
    >>> interactions(f, relprop.rules.Zero())(jnp.array([2.0, 3.0, 4.0])).tolist()
    [[3.0, 3.0, 0.0], [3.0, 3.0, 0.0], [0.0, 0.0, 4.0]]

    Source: the derivative of relevance, as second-order methods before BiLRP have that of the
    score: Eberle et al. 2022, section 3 (Hessian times product).
    """
    explain = relevance(f, rules, on_missing=on_missing, on_suspicion=on_suspicion)
    batches = Batches(batch_size)

    def second_order(x: Array, *more: Any) -> Float[Array, "..."]:
        x = jnp.asarray(x)
        kept = tuple(range(x.ndim)) if axes is None else _axes(axes, x.ndim)
        sizes = [x.shape[axis] for axis in kept]
        others = tuple(axis for axis in range(x.ndim) if axis not in kept)

        def by(number: Array) -> Array:
            here = _one_of(number, kept, x.shape)
            change = jnp.where(here, x, jnp.zeros_like(x))
            return jnp.sum(jax.jvp(lambda x: explain(x, *more), (x,), (change,))[1], axis=others)

        found = batches.map(by, jnp.arange(math.prod(sizes)))
        return jnp.moveaxis(found, 0, -1).reshape(*sizes, *sizes)

    return second_order


def contrastive(
    f: Callable[..., Any],
    rules: Any,
    target: int | Int[Array, ""],
    *,
    positive: bool = True,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> Callable[..., Float[Array, "..."]]:
    r"""What speaks for one class and not as much for all others.

    .. math:: R = \max\!\Big(0,\; R\big[f_t(x) \text{ at } t\big]
              - R\big[\tfrac{f_t(x)}{n - 1} \text{ at each } k \neq t\big]\Big)

    Both ways have the same relevance to begin with, the score of the target.

    Args:
        f: a function of one array, and of others that are constants, that returns the scores of n
            classes.
        rules: as for `relprop.relevance`.
        target: the class.
        positive: whether what speaks for the others is left out, as in the paper.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.

    Returns:
        A function with the arguments of f that returns an array of the shape of the first.

    Raises:
        InputError: f returns no vector of at least two scores, or there is no such class.
        MissingRuleError, RuleError: as for `relprop.relevance`.

    >>> import relprop
    >>> f = lambda x: x @ jnp.array([[1.0, 1.0], [2.0, 0.0]])
    >>> contrastive(f, relprop.rules.Zero(), 0, positive=False)(jnp.array([3.0, 1.0])).tolist()
    [-2.0, 2.0]

    Source: Gu et al. 2018, section 3.2 (CLRP, the first variant).
    """

    def contrasted(x: Array, *more: Any) -> Float[Array, "..."]:
        scores, back = vrp(
            lambda x: f(x, *more),
            jnp.asarray(x),
            rules=rules,
            on_missing=on_missing,
            on_suspicion=on_suspicion,
        )
        if jnp.ndim(scores) != 1 or len(scores) < 2:
            raise InputError(
                f"Classes are contrasted by a vector of scores, got the shape {jnp.shape(scores)}."
            )
        count = len(scores)
        if isinstance(target, (int, np.integer)) and not -count <= target < count:
            raise InputError(f"There are {count} classes, but none of the number {target}.")
        own = jnp.arange(count) == target % count
        score = jnp.sum(jnp.where(own, scores, 0))
        (ours,) = back(jnp.where(own, score, 0))
        (theirs,) = back(jnp.where(own, 0, score / (count - 1)))
        return jnp.maximum(ours - theirs, 0) if positive else ours - theirs

    return contrasted


def walks(
    f: Callable[..., Any],
    rules: Any,
    places: Sequence[Any],
    axis: int | Sequence[int] = 0,
    nodes: Sequence[Sequence[int]] | Int[Array, "walks steps"] | None = None,
    *,
    batch_size: int | None = 16,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> Callable[..., Float[Array, "..."]]:
    r"""The relevance of walks: by way of which node in each layer the nodes of the input count.

    .. math:: R_{i_0 i_1 \dots i_L} = R_{i_0} \text{ with } R'_j = \delta_{j i_k} R_j
              \text{ at layer } k, \qquad
              \sum_{i_1 \dots i_L} R_{i_0 i_1 \dots i_L} = R_{i_0}

    The nodes are those of message passing in a graph network, or the tokens of a transformer. Each
    walk is a backward pass; all of them are as many as there are nodes to the power of layers.

    Args:
        f: a function of one array, and of others that are constants, that returns a real scalar.
        rules: as for `relprop.relevance`.
        places: one for each layer, as in `places=`; each must mean one value, all that goes on to
            the score must go through it, and each must be the only way from the one before.
        axis: the axis of nodes, of the input and of the value at each place; a sequence gives that
            of each place, after that of the input.
        nodes: walks as rows with one node per place; by default all of them.
        batch_size: how many walks are followed at a time.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.

    Returns:
        A function with the arguments of f. Its result has an axis for the nodes of the input and
        one for those of each place; with `nodes` a row per walk, an entry per node of the input.

    Raises:
        InputError: a place means several values or is in a loop, there is no such node, or the
            number of axes or of nodes is not that of places.
        NothingMatchedError, MissingRuleError, RuleError: as for `relprop.relevance`.

    >>> import relprop
    >>> A = jnp.array([[1.0, 1.0], [0.0, 1.0]])
    >>> def f(x):
    ...     h = relprop.named(A @ x, "first")
    ...     return jnp.sum(A @ h)
    >>> walks(f, relprop.rules.Zero(), ["first"])(jnp.array([[1.0], [2.0]])).tolist()
    [[1.0, 0.0], [2.0, 4.0]]

    Source: Schnake et al. 2022, section 4 (GNN-LRP).
    """
    wanted = places_of(list(places))
    along = [axis] * (len(wanted) + 1) if isinstance(axis, int) else list(axis)
    if len(along) != len(wanted) + 1:
        raise InputError(
            f"`axis` has {len(along)} entries: one is needed for the input, and one for each of "
            f"{len(wanted)} place(s)."
        )
    policies = {"on_missing": on_missing, "on_suspicion": on_suspicion}
    batches = Batches(batch_size)

    def followed(x: Array, *more: Any) -> Float[Array, "..."]:
        x = jnp.asarray(x)
        counts = _nodes(f, rules, wanted, along, (x, *more), policies)
        rows = np.array([*itertools.product(*map(range, counts))], int)
        chosen = rows.reshape(math.prod(counts), -1) if nodes is None else _rows(nodes, counts)
        others = tuple(i for i in range(x.ndim) if i != along[0] % x.ndim)

        def walk(row: Array) -> Array:
            masks = [Masked(place, Only(row[k], along[k + 1])) for k, place in enumerate(wanted)]
            R, _ = relevance(f, rules, places=masks, **policies)(x, *more)
            return jnp.sum(R, axis=others)

        found = batches.map(walk, jnp.asarray(chosen))
        return found if nodes is not None else jnp.moveaxis(found, 0, -1).reshape(-1, *counts)

    return followed


def _nodes(
    f: Any, rules: Any, places: Any, along: Sequence[int], args: Any, policies: Any
) -> list[int]:
    """How many nodes there are at each place."""
    counts = []
    for place, axis in zip(places, along[1:], strict=True):
        inside = jax.eval_shape(
            lambda args, place=place: relevance(f, rules, places=place, **policies)(*args)[1], args
        )
        if len(inside) != 1:
            raise InputError(f"{place!r} must mean one value, but there are {sorted(inside)}.")
        ((name, found),) = inside.items()
        (axis,) = _axes(axis, found.value.ndim, name)
        counts.append(found.value.shape[axis])
    return counts


def _rows(nodes: Any, counts: Sequence[int]) -> np.ndarray:
    rows = np.asarray(nodes)
    if rows.ndim != 2 or rows.shape[1] != len(counts) or rows.dtype.kind not in "iu":
        raise InputError(
            f"`nodes` must be rows of {len(counts)} integers, one node per place, got "
            f"{rows.dtype}{list(rows.shape)}."
        )
    if (rows < 0).any() or (rows >= np.array(counts)).any():
        raise InputError(
            f"There are {list(counts)} nodes at the places, but a walk goes elsewhere."
        )
    return rows


def _axes(axes: int | Sequence[int], ndim: int, name: str = "the input") -> tuple[int, ...]:
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    if any(not -ndim <= axis < ndim for axis in given):
        raise InputError(f"Of {name} there are {ndim} axes, but {given} are named.")
    return tuple(sorted({axis % ndim for axis in given}))


def _one_of(number: Array, axes: Sequence[int], shape: Sequence[int]) -> Array:
    """Where the entries of one feature are."""
    here = jnp.ones(shape, bool)
    sizes = [shape[axis] for axis in axes]
    for axis, index in zip(axes, jnp.unravel_index(number, sizes), strict=True):
        here &= jax.lax.broadcasted_iota(jnp.int32, shape, axis) == index
    return here
