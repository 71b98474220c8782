"""The kinds of places: how the values are said whose relevance is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Shaped

from relprop._core.edit import Edit
from relprop._core.graph import Atom, Graph, Value
from relprop._core.plan import Plan, Step
from relprop._errors import InputError
from relprop._globs import glob
from relprop.anatomy import anatomy_of
from relprop.anatomy.attention import all_attention
from relprop.composites import Where
from relprop.places.matching import leaving, tag


def named(x: Shaped[Array, "*shape"], name: str) -> Shaped[Array, "*shape"]:
    """Names a value, so that `places=["name"]` finds it; it changes nothing.

    This is `jax.ad_checkpoint.checkpoint_name`, whose names are found as well.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.sum(named(2 * x, "doubled") + 1)
    >>> R, inside = relprop.relevance(f, relprop.rules.Epsilon(), places="doubled")(jnp.ones(2))
    >>> inside["doubled"].relevance.tolist()
    [2.0, 2.0]
    """
    return checkpoint_name(x, name)


@dataclasses.dataclass(frozen=True)
class Place:
    """What all places have in common: see the classes below."""

    def sources(self, graph: Graph) -> Iterator[tuple[str, Value]]:
        """Values that start a way of their own, with their names."""
        yield from ()

    def parameters(self, graph: Graph) -> Iterator[tuple[str, Value]]:
        """Parameters that are credited with what they contribute, with their names."""
        yield from ()

    def values(self, plan: Plan) -> Iterator[tuple[str, Value]]:
        """Values on the way from the explained inputs, with their names."""
        yield from ()

    def edits(self, name: str) -> tuple[Edit, ...]:
        """What is done to the relevance of its values."""
        del name
        return ()

    @property
    def alone(self) -> bool:
        """Whether relevance starts here and not at the score."""
        return False


@dataclasses.dataclass(frozen=True, eq=False)
class Around(Place):
    """A place with something said of it: its values are those of the place."""

    place: Any

    def __post_init__(self):
        object.__setattr__(self, "place", place_of(self.place))

    def sources(self, graph):
        return self.place.sources(graph)

    def parameters(self, graph):
        return self.place.parameters(graph)

    def values(self, plan):
        return self.place.values(plan)

    @property
    def alone(self):
        return self.place.alone


@dataclasses.dataclass(frozen=True)
class Named(Place):
    """Values that were given a name with `relprop.named`.

    Args:
        name: the name, or a glob.
    """

    name: str

    def values(self, plan):
        for body in plan.nested():
            for equation in body.graph.equations:
                named = equation.name == "name" and glob(tag(equation), self.name)
                if named and equation.outputs[0].touched:
                    yield tag(equation), equation.outputs[0]


@dataclasses.dataclass(frozen=True)
class Scope(Place):
    """Values that leave a named scope: the outputs of a layer.

    A scope that is left and entered again counts as another one, numbered as ``layer#1``; one that
    is entered again with nothing in between cannot be told from one that is entered once.

    Args:
        scope: the whole scope, as ``model/layers/0/mlp``; each part may be a glob, and ``**``
            stands for any number of parts.
    """

    scope: str

    def values(self, plan):
        pattern = tuple(self.scope.split("/"))
        for body in plan.nested():
            for name, outputs in leaving(body, pattern):
                for i, value in enumerate(outputs):
                    yield (name if len(outputs) == 1 else f"{name}[{i}]"), value


@dataclasses.dataclass(frozen=True, init=False)
class Output(Place):
    """Results of operations, such as attention maps: ``Output(structure="softmax")``.

    Args:
        where: the selection; or give the keywords of `relprop.Where`.
    """

    where: Where

    def __init__(self, where: Where | None = None, **keywords: Any):
        object.__setattr__(self, "where", where or Where(**keywords))

    def values(self, plan):
        for step in _selected(plan, self.where):
            for out in step.operation.outputs:
                if out.inexact:
                    yield _name(step), out


@dataclasses.dataclass(frozen=True, init=False)
class Input(Output):
    """What operations read, such as the neurons of an MLP: ``Input(path="*down_proj*")``.

    The relevance is that of the value, from all operations that read it.

    Args:
        where: the selection; or give the keywords of `relprop.Where`.
    """

    def values(self, plan):
        for step in _selected(plan, self.where):
            for atom, on in zip(step.operation.inputs, step.active, strict=True):
                if on and isinstance(atom, Value):
                    yield _name(step), atom


@dataclasses.dataclass(frozen=True)
class AttentionMaps(Place):
    """All attention maps, in order of evaluation: ``attention 000``, ``attention 001``, ...

    They are found by what is done with them, and the softmax of a classifier is none of them.
    """

    def values(self, plan):
        # Whatever the rules, so that the same map has the same name by all of them.
        anatomy = anatomy_of(plan.graph, starting(plan))
        for count, block in enumerate(all_attention(anatomy)):
            yield f"attention {count:03d}", block.value


@dataclasses.dataclass(frozen=True)
class Parameter(Place):
    r"""Parameters: what each weight and bias contributes to the relevance of the inputs.

    .. math:: R_{w_{ij}} = \sum_{\text{uses}} c_{ij}, \qquad
              \text{such as } w_{ij} \sum_{\text{uses}} \frac{x_i R_j}{z_j} \text{ for LRP-0}

    with the contributions :math:`c_{ij}` by which the rule of a layer shares out relevance, so that
    the weights of a layer have as much together as its inputs. It is a second reading of the same
    pass: for all else parameters are the constants that they are, and the relevance of the inputs
    does not change. A bias has what it absorbs, the table of an embedding what its entries have
    where they are looked up, a position embedding its share of the sum. What was done to a
    parameter before it was used (moves, masks, scales, products) is followed back by the rules for
    such operations.

    The parameters must be a positional argument of the explained function that is not explained
    itself. `Inside.relevance` has the shape of the parameter, also where a scan takes it apart.

    Args:
        path: the path of the parameter, or a glob.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x, params: jnp.sum(x @ params["w"] + params["b"])
    >>> params = {"w": jnp.array([[1.0, 2.0], [0.0, -1.0]]), "b": jnp.array([0.5, 0.0])}
    >>> explain = relprop.relevance(f, relprop.rules.Zero(), places=Parameter("params/*"))
    >>> R, inside = explain(jnp.array([1.0, 2.0]), params)
    >>> inside["params/w"].relevance.tolist(), inside["params/b"].relevance.tolist()
    ([[1.0, 2.0], [0.0, -2.0]], [0.5, 0.0])

    Source: Becking et al. 2022 (weights); Bakish et al. 2025, section 4 (learned
    positions).
    """

    path: str

    def parameters(self, graph):
        for value in graph.inputs:
            if value.inexact and value.path and glob(value.path, self.path):
                yield value.path, value


@dataclasses.dataclass(frozen=True)
class Start(Place):
    """Parameters that count as explained inputs, such as the object queries of a DETR.

    Unlike `Parameter` this changes how relevance is shared out: what reads such a parameter and an
    input is a sum or a product of two things, and the way of the parameter is followed as that of
    the input is. Weights of layers would take half of what is due to the inputs.

    Args:
        path: the path of the parameter, or a glob.
    """

    path: str

    def sources(self, graph):
        return Parameter(self.path).parameters(graph)


@dataclasses.dataclass(frozen=True)
class Phases(Place):
    """The cosines and sines of positions: rotary or sinusoidal position embeddings.

    They take relevance of their own, named ``cos`` and ``sin``. A product with a phase is a
    product of two things then, and shared by the rule of products.

    Source: Bakish et al. 2025, section 4 (rotary positions).
    """

    def sources(self, graph):
        for inner in graphs(graph):
            for equation in inner.equations:
                if equation.name in ("cos", "sin") and not equation.outputs[0].touched:
                    yield equation.name, equation.outputs[0]


def positions(parameter: str = "") -> tuple[Place, ...]:
    """Everything that tells a model where a token is, for `relprop.presets.pa_lrp`.

    Args:
        parameter: path of the learned position embeddings, or a glob; without it only cosines and
            sines are looked for.
    """
    return (Parameter(parameter),) if parameter else (Phases(),)


@dataclasses.dataclass(frozen=True)
class _NamedOrScope(Place):
    text: str

    def values(self, plan):
        yield from Named(self.text).values(plan)
        yield from Scope(self.text).values(plan)

    def __repr__(self) -> str:
        return repr(self.text)


def place_of(place: Any) -> Place:
    """A place from what users give for one: a name or a scope as a string, a selection, a place."""
    if isinstance(place, Place):
        return place
    if isinstance(place, Where):
        return Output(place)
    if isinstance(place, str):
        return _NamedOrScope(place)
    raise InputError(
        f"A place must be a string, a `relprop.Where` or one of `relprop.places`, got {place!r}."
    )


def places_of(places: Any) -> tuple[Place, ...]:
    """A tuple of places from a place, a string, a selection or a sequence of those."""
    if isinstance(places, (str, Place, Where)):
        places = (places,)
    return tuple(map(place_of, places))


def starting(plan: Plan) -> set[Value]:
    """What all active values of a plan are computed from: its inputs, and values like those."""
    begin = set(plan.active) & set(plan.graph.inputs)
    found: set[Atom] = set(begin)
    for equation in plan.graph.equations:
        if not any(atom in found for atom in equation.inputs):
            own = [out for out in equation.outputs if out in plan.active]
            begin.update(own)
            found.update(own)
        else:
            found.update(equation.outputs)
    return begin


def graphs(graph: Graph) -> Iterator[Graph]:
    """A graph and all those inside of it."""
    yield graph
    for equation in graph.equations:
        for body in equation.bodies:
            yield from graphs(body)


def _selected(plan: Plan, where: Where) -> list[Step]:
    return where.pick([step for step in plan.walk() if where.matches(step)])


def _name(step: Step) -> str:
    return step.path or "/".join(part for part in (step.scope, step.structure) if part)
