r"""Concept relevance: what single channels, heads or neurons of a layer contribute to a score.

A channel stands for a concept. The relevance that goes through this channel, and through no other
one of its layer, shows where in the input the concept was found, as far as it matters here:

.. math:: R_i(c) = R_i \text{ with } R'_j = \delta_{jc} R_j \text{ at the layer}

That is one pass with a mask at the layer (`relprop.places.Masked`). Over all channels these sum to
the relevance of the input, less what goes around the layer. Channels are ranked by the relevance
that arrives at them; the samples in which it is largest show what a channel stands for.

Which axis the channels lie along is read from the layer that made the value: from the dimension
numbers of a convolution (NHWC, NCHW, whatever a framework makes of them), from the axis that the
weight of a dense layer brings, and then followed through activations, norms, pooling, transposes
and reshapes, in loops too. Where it is not known it is asked for: ``axis=``.

Source: Achtibat et al. 2023 (concept relevance propagation, relevance maximisation).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from relprop import _compat
from relprop._errors import InputError
from relprop._run import Run, closed
from relprop._transform import relevance
from relprop.anatomy.channels import channel_axis
from relprop.composites import composite_of
from relprop.places import Inside, Masked
from relprop.places.kinds import places_of

__all__ = ["Only", "References", "channels", "references", "relevance_of"]

Statistic = Literal["sum", "max"]


@dataclasses.dataclass(frozen=True, eq=False)
class Only:
    """A mask that keeps one entry along an axis, for `relprop.places.Masked`.

    Masks of several layers together are the conditions of concept relevance: `places=[Masked(a,
    Only(3)), Masked(b, Only(17))]` is what passes channel 3 of a and channel 17 of b.

    Args:
        index: which entry.
        axis: of the value; by default that of the channels, which `Masked` reads from the layer
            before the place. Of attention maps the heads are axis -3.

    Raises:
        InputError: there is no such entry, or the axis is needed and not known.

    >>> Only(1)(jnp.ones(3), jnp.ones(3)).tolist()
    [False, True, False]
    """

    index: int | Int[Array, ""]
    axis: int | None = None

    def along(self, known: Callable[[], int]) -> Only:
        """The same with the axis that the layer before the place says, if none was given."""
        return self if self.axis is not None else dataclasses.replace(self, axis=known())

    def __call__(self, relevance: Float[Array, "*s"], value: Float[Array, "*s"]) -> Array:
        axis = -1 if self.axis is None and value.ndim == 1 else self.axis
        if axis is None:
            raise InputError(
                f"Outside of `relprop.places.Masked` it is not known which axis of the shape "
                f"{list(value.shape)} is meant: Only({self.index!r}, axis=...)."
            )
        axis = _axis(axis, value.shape)
        count = value.shape[axis]
        _check_indices(self.index, count)
        index = jnp.where(jnp.asarray(self.index) < 0, self.index + count, self.index)
        shape = (count, *[1] * (value.ndim - axis - 1))
        return (jnp.arange(count) == index).reshape(shape)


def relevance_of(
    f: Callable[..., Any],
    rules: Any,
    place: Any,
    index: int | Sequence[int] | Int[Array, " concepts"],
    *,
    axis: int | None = None,
    argnums: int | Sequence[int] = 0,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> Callable[..., Any]:
    r"""The relevance of the input that passes one channel, head or neuron, or each of several.

    Args:
        f: as for `relprop.relevance`.
        rules: as for `relprop.relevance`.
        place: the layer, as in `places=`.
        index: which entry along the axis; several of them are computed in one batch.
        axis: the axis of channels in the value at the place; by default the one that the layer
            before it says.
        argnums: as for `relprop.relevance`.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.

    Returns:
        A function with the arguments of f that returns what `relprop.relevance` does; for several
        indices, with one entry for each in front.

    Raises:
        NothingMatchedError, InputError: as for `relprop.relevance`; or there is no such entry, or
            no layer that says which axis is meant.

    >>> from relprop import named, rules
    >>> f = lambda x: jnp.sum(named(x * jnp.array([1.0, 2.0]), "hidden"))
    >>> relevance_of(f, rules.Epsilon(), "hidden", [0, 1])(jnp.array([3.0, 4.0])).tolist()
    [[3.0, 0.0], [0.0, 8.0]]

    Source: Achtibat et al. 2023 (conditional relevance).
    """
    indices = jnp.asarray(index)
    if indices.ndim > 1 or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise InputError(f"A concept is an index or a sequence of such, got {index!r}.")

    def explained(*args: Any, **kwargs: Any) -> Any:
        def one(entry: Array) -> Any:
            only = Masked(place, _OneOf(entry, axis, index))
            explain = relevance(
                f,
                rules,
                argnums,
                places=only,
                on_missing=on_missing,
                on_suspicion=on_suspicion,
            )
            return explain(*args, **kwargs)[0]

        return jax.vmap(one)(indices) if indices.ndim else one(indices)

    return explained


def channels(
    f: Callable[..., Any],
    rules: Any,
    place: Any,
    *,
    axis: int | None = None,
    statistic: Statistic = "sum",
    argnums: int | Sequence[int] = 0,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> Callable[..., Float[Array, " channels"]]:
    r"""How much relevance arrives at each channel of a layer: which concepts count.

    .. math:: R_c = \sum_p R_{pc} \quad\text{or}\quad \max_p R_{pc}

    over all positions p. `jnp.argsort(-R)` ranks the channels.

    Args:
        f: as for `relprop.relevance`.
        rules: as for `relprop.relevance`.
        place: the layer, as in `places=`; it must mean one value.
        axis: the axis of channels in the value there; by default the one that the layer before it
            says.
        statistic: over all other axes, the sum or the largest entry.
        argnums: the arguments that the layer depends on, as for `relprop.relevance`.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.

    Returns:
        A function with the arguments of f that returns one number per channel, in the units of the
        score.

    Raises:
        NothingMatchedError: the place is not there.
        InputError: the place means several values, the axis is none of the value's, or it was not
            given and cannot be read from what made the value.

    >>> from relprop import named, rules
    >>> f = lambda x: jnp.sum(named(x @ jnp.array([[1.0, 1.0], [0.0, 2.0]]), "hidden"))
    >>> channels(f, rules.Epsilon(), "hidden")(jnp.array([[3.0, 4.0], [1.0, 0.0]])).tolist()
    [4.0, 12.0]

    Source: Achtibat et al. 2023 (ranking of concepts).
    """
    if statistic not in ("sum", "max"):
        raise InputError(f"statistic must be 'sum' or 'max', got {statistic!r}.")
    explain = relevance(
        f, rules, argnums, places=place, on_missing=on_missing, on_suspicion=on_suspicion
    )

    def arriving(*args: Any, **kwargs: Any) -> Float[Array, " channels"]:
        R = _only(explain(*args, **kwargs)[1]).relevance
        known = read_axis(*args, **kwargs) if axis is None else axis
        axis_of_channels = _axis(known, R.shape)
        others = tuple(i for i in range(R.ndim) if i != axis_of_channels)
        return jnp.sum(R, axis=others) if statistic == "sum" else jnp.max(R, axis=others)

    def read_axis(*args: Any, **kwargs: Any) -> int:
        wanted = places_of(place)
        run = Run.start(
            closed(f, kwargs),
            args,
            argnums,
            composite_of(rules),
            on_missing,
            False,
            places=wanted,
            on_suspicion="ignore",  # Whatever there is to say has been said.
        )
        watched = {v: names for plan in run.plan.nested() for v, names in plan.watched.items()}
        ((value, (name, *_)),) = watched.items()
        return channel_axis(run.plan.graph, value, name)

    return arriving


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """The samples in which channels have most relevance.

    Attributes:
        samples: their positions among the samples, the most relevant first, per channel.
        relevance: of the channel in those samples.
    """

    samples: Int[Array, "channels k"]
    relevance: Float[Array, "channels k"]


def references(
    f: Callable[..., Any],
    rules: Any,
    place: Any,
    samples: PyTree[Array],
    k: int = 8,
    *,
    axis: int | None = None,
    statistic: Statistic = "sum",
    batch_size: int | None = None,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
) -> References:
    r"""For each channel of a layer the samples in which it is most relevant.

    .. math:: \mathcal{X}_c = \operatorname{arg\,top}_k \; R_c(x), \qquad x \in \text{samples}

    They show what a channel is used for, where those that activate it most show what it reacts to.

    Args:
        f: a score of one sample.
        rules: as for `relprop.relevance`.
        place: the layer, as in `places=`; it must mean one value.
        samples: an array or tree of arrays with one entry per sample in front.
        k: how many samples are wanted per channel.
        axis: the axis of channels in the value of one sample; by default as for `channels`.
        statistic: as for `channels`.
        batch_size: how many samples are explained at the same time; one by default. It bounds the
            memory.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.

    Raises:
        NothingMatchedError: the place is not there.
        InputError: there are fewer samples than k, of several lengths or none, or as for
            `channels`.

    >>> from relprop import named, rules
    >>> f = lambda x: jnp.sum(named(x, "hidden"))
    >>> images = jnp.array([[1.0, 5.0], [3.0, 2.0], [2.0, 7.0]])
    >>> references(f, rules.Epsilon(), "hidden", images, k=2).samples.tolist()
    [[1, 2], [2, 0]]

    Source: Achtibat et al. 2023 (relevance maximisation).
    """
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(samples)}
    if len(counts) != 1 or () in counts:
        raise InputError(
            "The samples must be arrays with one axis of samples in front, of one length; they "
            f"have the shapes {[np.shape(leaf) for leaf in jax.tree.leaves(samples)]}."
        )
    ((count,),) = counts
    if not 0 < k <= count:
        raise InputError(f"k must be a number from 1 to that of the samples, {count}; got {k}.")
    one = channels(
        f,
        rules,
        place,
        axis=axis,
        statistic=statistic,
        on_missing=on_missing,
        on_suspicion=on_suspicion,
    )
    found = lax.map(one, samples, batch_size=batch_size)
    best, positions = lax.top_k(found.T, k)
    return References(positions, best)


@dataclasses.dataclass(frozen=True, eq=False)
class _OneOf(Only):
    """One of several indices, which is traced by now, while all of them may still be known."""

    all_of: Any = ()

    def __call__(self, relevance, value):
        if self.axis is not None:
            _check_indices(self.all_of, value.shape[_axis(self.axis, value.shape)])
        return super().__call__(relevance, value)


def _axis(axis: int, shape: tuple[int, ...]) -> int:
    if not -len(shape) <= axis < len(shape):
        raise InputError(f"There is no axis {axis} of channels in a value of shape {shape}.")
    return axis % len(shape)


def _check_indices(index: Any, count: int) -> None:
    """Refuses what is out of range, where that is known: its mask would be zeros."""
    if any(map(_compat.is_traced, jax.tree.leaves(index))):
        return
    wrong = [int(i) for i in np.ravel(index) if not -count <= i < count]
    if wrong:
        raise InputError(f"There are {count} channels, but none of the index {wrong[0]}.")


def _only(inside: dict[str, Inside]) -> Inside:
    if len(inside) != 1:
        raise InputError(
            f"The place must mean one value, but there are {len(inside)}: {', '.join(inside)}."
        )
    (place,) = inside.values()
    return place
