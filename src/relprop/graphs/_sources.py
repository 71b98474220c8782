"""The values that nodes are entries of: features, errors and explained arguments."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from relprop._core.graph import Graph, Value
from relprop._core.plan import Plan
from relprop._core.trace import Trace
from relprop._errors import InputError
from relprop._globs import glob
from relprop.places import Errors
from relprop.places.kinds import Place, graphs, places_of
from relprop.places.matching import tag

_ERROR, _FEATURES = " error", " features"


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A value with nodes in it.

    Attributes:
        value: which one.
        name: of its place.
        kind: of its nodes, as in `Node`.
        axes: that tell its nodes apart.
        layer: as in `Node`.
        along: the axis of positions, None if all is at the position of the logits.
        first: the number of its first node among those of its kind, of embeddings.
        start: the position of its first node, of embeddings.
    """

    value: Value
    name: str
    kind: str
    axes: tuple[int, ...]
    layer: int
    along: int | None
    first: int = 0
    start: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """That of its nodes."""
        return tuple(self.value.shape[axis] for axis in self.axes)

    @property
    def single(self) -> bool:
        """Whether each entry is a node."""
        return len(self.axes) == len(self.value.shape)

    def summed(self, array: Array) -> Float[Array, " own"]:
        """The sums of entries of each node."""
        others = tuple(axis for axis in range(array.ndim) if axis not in self.axes)
        return jnp.sum(array, axis=others).ravel()

    def selected(self, number: Array) -> Bool[Array, "..."]:
        """The entries of one node; none of them if there is no such number."""
        sizes = [n if axis in self.axes else 1 for axis, n in enumerate(self.value.shape)]
        return (jnp.arange(math.prod(self.shape)) == number).reshape(sizes)

    def located(self, number: int, position: int) -> tuple[int, int]:
        """The position of a node, which is that given if it has no other, and which one there."""
        coordinates = dict(
            zip(self.axes, map(int, np.unravel_index(number, self.shape)), strict=True)
        )
        if self.kind == "embedding":
            at = 0 if self.along is None else coordinates[self.along]
            return self.start + at, self.first + number
        if self.along is None:
            return position, number
        position = coordinates.pop(self.along)
        sizes = [self.value.shape[axis] for axis in coordinates]
        index = np.ravel_multi_index([*coordinates.values()], sizes) if sizes else 0
        return position, int(index)


@dataclasses.dataclass(frozen=True)
class Text:
    """The positions of all embeddings.

    Attributes:
        starts: the position of the first embedding of each explained array.
        length: how many positions there are.
    """

    starts: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, traced: Trace, tokens: int | None) -> Text:
        """Arrays of one length share positions; others, and those of as many tokens, follow."""
        lengths = [_length(value.shape) for value in _embeddings(traced)]
        if len({*lengths}) > 1 or tokens == sum(lengths):
            starts = [0, *itertools.accumulate(lengths)]
            return cls(tuple(starts[:-1]), starts[-1])
        return cls((0,) * len(lengths), lengths[0])


def _embeddings(traced: Trace) -> list[Value]:
    return [traced.graph.inputs[i] for group in traced.explained for i in group]


def _length(shape: tuple[int, ...]) -> int:
    return shape[max(len(shape) - 2, 0)] if shape else 1


@dataclasses.dataclass(frozen=True)
class _Positions:
    """Which axis of a value is that of positions.

    Attributes:
        length: of the text.
        told: by name of a place, or by a glob.
        problems: what did not fit, filled while axes are looked for.
        used: which names or globs have been of use, likewise.
    """

    length: int
    told: Mapping[str, int | None]
    problems: list[str] = dataclasses.field(default_factory=list)
    used: set[str] = dataclasses.field(default_factory=set)

    def axis(
        self, name: str, shape: tuple[int, ...], axes: tuple[int, ...], like: Source | None = None
    ) -> int | None:
        """The axis, None if there is none; of errors that of their features, unless it is told."""
        own = [pattern for pattern in self.told if glob(name, pattern)]
        self.used.update(own)
        if own:
            return self._told(self.told[own[0]], name, shape, axes)
        if like is not None and (like.along is None or _shared(like, shape, axes)):
            return like.along
        fitting = [axis for axis in axes if shape[axis] == self.length]
        if self.length == 1 or len(fitting) == 1:
            return fitting[0] if len(fitting) == 1 else None
        self.problems.append(
            f"{name} of shape {shape} has nodes along axes {axes}, {len(fitting) or 'none'} of "
            f"which are as long as the text, {self.length}"
        )
        return None

    def _told(
        self, axis: Any, name: str, shape: tuple[int, ...], axes: tuple[int, ...]
    ) -> int | None:
        if axis is None:
            return None
        chosen = axis % len(shape) if shape and _fit(axis, len(shape)) else None
        if chosen in axes and shape[chosen] <= self.length:
            return chosen
        self.problems.append(
            f"{name} of shape {shape} has nodes along axes {axes}, but {axis!r} is none of these, "
            f"or longer than the text, {self.length}"
        )
        return None

    def check(self) -> None:
        """Raises an InputError for all that did not fit."""
        unused = [name for name in self.told if name not in self.used]
        problems = [*self.problems, *(f"{name!r} is no place with nodes" for name in unused)]
        if problems:
            raise InputError(
                f"The positions of nodes are not known: {'; '.join(problems)}. Say which axis is "
                "that of positions with `position_axis={place: axis}`, None for what is of one "
                "position as a whole."
            )


def _shared(like: Source, shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    along = like.along
    return along in axes and shape[along] == like.value.shape[along]


class _ErrorsOfFeatures(Errors):
    """Errors that are surely those of `relprop.splice`, for any value may have such a name.

    Features of the same name are beside them, and they go back to nothing.
    """

    def sources(self, graph: Graph) -> Iterator[tuple[str, Value]]:
        for inner in graphs(graph):
            names = {tag(e) for e in inner.equations if e.name == "name"}
            ends = {e.outputs[0] for e in inner.equations if e.name == "stop_gradient"}
            for equation in inner.equations:
                if equation.name != "name" or not tag(equation).endswith(_ERROR):
                    continue
                beside = tag(equation).removesuffix(_ERROR) + _FEATURES in names
                if beside and equation.inputs[0] in ends:
                    yield tag(equation), equation.outputs[0]


def wanted_places(traced: Trace, places: Any) -> tuple[list[Place], list[Any]]:
    """The places of features, and that of errors if there are any; axes of nodes of the former.

    Raises:
        InputError: there is none, or one of them changes relevance.
    """
    given = places if isinstance(places, Mapping) else dict.fromkeys(_listed(places))
    wanted = [*places_of([*given])]
    if not wanted:
        raise InputError(
            "A graph needs places of features, such as those of `relprop.splice`, or of neurons "
            "or heads; `places` is empty."
        )
    changing = [place for place in wanted if place.edits("")]
    if changing:
        raise InputError(f"Nodes are values, but {changing} change relevance. Name places alone.")
    axes = [*given.values()]
    if [*_ErrorsOfFeatures().sources(traced.graph)]:
        wanted = [*wanted, _ErrorsOfFeatures()]
    return wanted, axes


def _listed(places: Any) -> Sequence[Any]:
    return [places] if isinstance(places, str) or not isinstance(places, Sequence) else places


def _axes_by_value(
    plan: Plan, errors: Set[Value], places: Sequence[Place], axes: Sequence[Any]
) -> dict[Value, tuple[int, ...]]:
    """By value with features in it, the axes that tell its nodes apart."""
    told: dict[Value, tuple[int, ...]] = {}
    problems = []
    for place, given in zip(places, axes, strict=False):  # Errors, which come last, have none.
        for name, value in [*place.values(plan), *place.sources(plan.graph)]:
            # The output has a name of ours, which a glob may match.
            if value in errors or value not in plan.watched or value is plan.graph.outputs[0]:
                continue
            if value not in plan.active:
                problems.append(f"{name} does not depend on the explained arguments")
            elif not _fit(given, len(value.shape)):
                problems.append(f"{name} has {len(value.shape)} axes, not those of {given!r}")
            else:
                chosen = _all_axes(given, len(value.shape))
                if told.setdefault(value, chosen) != chosen:
                    problems.append(f"{name} is given both axes {told[value]} and {chosen}")
    if not told and not problems:
        problems.append(f"{list(places)} mean no values that depend on the explained arguments")
    if problems:
        raise InputError(f"{len(problems)} place(s) are no nodes: " + "; ".join(problems) + ".")
    return told


def sources_of(
    traced: Trace,
    plan: Plan,
    places: Sequence[Place],
    axes: Sequence[Any],
    text: Text,
    position_axis: Mapping[str, int | None],
) -> list[Source]:
    """All values with nodes in them, in the order of the nodes.

    Raises:
        InputError: a value is inside of a loop, does not depend on what is explained, has no such
            axes, or others by another place, or its axis of positions is not known.
    """
    own = {value: number for number, value in enumerate(plan.graph.values())}
    inside = [names for body in plan.nested() for v, names in body.watched.items() if v not in own]
    if inside:
        raise InputError(
            f"{len(inside)} place(s) are in a loop, a branch or another function inside: "
            f"{[names[0] for names in inside]}. Write a loop over layers as a Python loop, so that "
            "each layer has a place of its own."
        )
    errors = {value for _, value in _ErrorsOfFeatures().sources(traced.graph)}
    told = _axes_by_value(plan, errors, places, axes)
    ordered = sorted(told, key=own.__getitem__)
    positions = _Positions(text.length, position_axis)
    found = []
    for layer, value in enumerate(ordered):
        name = plan.watched[value][0]
        along = positions.axis(name, value.shape, told[value])
        found.append(Source(value, name, "feature", told[value], layer, along))
    stems = {source.name.removesuffix(_FEATURES): source for source in found}
    for value in sorted(errors & own.keys(), key=own.__getitem__):
        name = plan.watched[value][0]
        before = sum(own[feature] < own[value] for feature in ordered)
        like = stems.get(name.removesuffix(_ERROR))
        layer = max(before - 1, 0) if like is None else like.layer
        along = positions.axis(name, value.shape, _leading(value), like)
        found.append(Source(value, name, "error", _leading(value), layer, along))
    positions.check()
    first = 0
    numbers = [i for group in traced.explained for i in group]
    for i, start in zip(numbers, text.starts, strict=True):
        value = traced.graph.inputs[i]
        along = max(len(value.shape) - 2, 0) if value.shape else None
        source = Source(
            value, traced.names[i], "embedding", _leading(value), -1, along, first, start
        )
        found.append(source)
        first += math.prod(source.shape)
    return found


def _leading(value: Value) -> tuple[int, ...]:
    """All axes but that of the vectors."""
    return tuple(range(max(len(value.shape) - 1, min(len(value.shape), 1))))


def _fit(axes: Any, ndim: int) -> bool:
    given = [] if axes is None else axes if isinstance(axes, Sequence) else [axes]
    return all(isinstance(axis, int) and -ndim <= axis < ndim for axis in given)


def _all_axes(axes: Any, ndim: int) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(ndim))
    given = (axes,) if isinstance(axes, int) else axes
    return tuple(sorted({axis % ndim for axis in given}))
