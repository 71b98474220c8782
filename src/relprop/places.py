"""Places inside a function whose relevance is asked for, beside that of its inputs.

    explain = relprop.relevance(f, rules, places=["encoder/layer_*", Output(structure="softmax")])
    R, inside = explain(x)
    inside["encoder/layer_0"].relevance

A place is said by what is known about it: the scope that its value leaves (`Scope`; Linen,
Equinox and `relprop.interop.from_torch` name scopes after layers), a name given in the code
(`Named`, with `relprop.named`), an operation that makes it (`Output`) or reads it (`Input`). A
string means a name or a scope. Two places are no part of the way from the inputs: `Parameter`
credits weights and biases with what they contribute; `Phases` and `Start` start ways of their own.

Relevance can be changed at a place as well: `Masked` lets a part of it through, and `Seeded` lets
relevance start there.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Shaped

from relprop._core.edit import Edit, Mask, Seed, fits
from relprop._core.graph import Atom, Equation, Graph, Value
from relprop._core.plan import Plan, Step
from relprop._core.run import Inside as Inside
from relprop._errors import InputError, NothingMatchedError
from relprop.anatomy import anatomy_of
from relprop.anatomy.attention import all_attention
from relprop.anatomy.channels import channel_axis
from relprop.composites import Where

__all__ = [
    "AttentionMaps",
    "Inside",
    "Input",
    "Masked",
    "Named",
    "Output",
    "Parameter",
    "Phases",
    "Place",
    "Scope",
    "Seeded",
    "Start",
    "named",
    "positions",
]


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
                named = equation.name == "name" and _is(_tag(equation), self.name)
                if named and equation.outputs[0].touched:
                    yield _tag(equation), equation.outputs[0]


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
            for name, outputs in _leaving(body, pattern):
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
        anatomy = anatomy_of(plan.graph, set(plan.active) & set(plan.graph.inputs))
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
            if value.inexact and value.path and _is(value.path, self.path):
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
        for inner in _graphs(graph):
            for equation in inner.equations:
                if equation.name in ("cos", "sin") and not equation.outputs[0].touched:
                    yield equation.name, equation.outputs[0]


@dataclasses.dataclass(frozen=True, eq=False)
class _Changed(Place):
    """A place where something is done to relevance."""

    place: Any

    def __post_init__(self):
        object.__setattr__(self, "place", _place(self.place))

    def sources(self, graph):
        return self.place.sources(graph)

    def parameters(self, graph):
        return self.place.parameters(graph)

    def values(self, plan):
        return self.place.values(plan)

    @property
    def alone(self):
        return self.place.alone


@dataclasses.dataclass(frozen=True, eq=False)
class Masked(_Changed):
    r"""A place whose relevance is multiplied by a mask before it goes on.

    .. math:: R' = m \odot R

    The ground for concept relevance: with a mask that keeps one channel, the relevance of the
    inputs is that which goes through this channel. What the mask takes away counts as stopped.

    Args:
        place: where, as in `places=`.
        mask: numbers or truth values that broadcast to the shape of `Inside.relevance` there, which
            inside of a scan has an axis for the steps in front; or a function ``(relevance, value)
            -> mask`` of the arrays of one evaluation (in a scan, of one step).

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.sum(named(2 * x, "doubled") + 1)
    >>> second = Masked("doubled", jnp.array([0.0, 1.0]))
    >>> R, inside = relprop.relevance(f, relprop.rules.Epsilon(), places=second)(jnp.ones(2))
    >>> R.tolist()
    [0.0, 2.0]

    Source: Achtibat et al. 2023 (conditional relevance).
    """

    mask: Any

    def edits(self, name):
        return (*self.place.edits(name), _edit(Mask, self.mask, name))


@dataclasses.dataclass(frozen=True, eq=False)
class Seeded(_Changed):
    """A place at which relevance starts, instead of at the score or besides.

    Args:
        place: where, as in `places=`.
        relevance: what is handed out there: numbers or a function, of shapes as for `Masked`.
        besides: the relevance of the score is handed out as well. In `relprop.vrp` what is given
            to ``back`` always is.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.sum(named(2 * x, "doubled") + 1)
    >>> at_first = Seeded("doubled", jnp.array([5.0, 0.0]))
    >>> R, inside = relprop.relevance(f, relprop.rules.Epsilon(), places=at_first)(jnp.ones(2))
    >>> R.tolist()
    [5.0, 0.0]
    """

    relevance: Any
    besides: bool = False

    def edits(self, name):
        return (*self.place.edits(name), _edit(Seed, self.relevance, name))

    @property
    def alone(self):
        return not self.besides or self.place.alone


def positions(parameter: str = "") -> tuple[Place, ...]:
    """Everything that tells a model where a token is, for `relprop.presets.pa_lrp`.

    Args:
        parameter: path of the learned position embeddings, or a glob; without it only cosines and
            sines are looked for.
    """
    return (Parameter(parameter),) if parameter else (Phases(),)


def places_of(places: Any) -> tuple[Place, ...]:
    """A tuple of places from a place, a string, a selection or a sequence of those."""
    if isinstance(places, (str, Place, Where)):
        places = (places,)
    return tuple(map(_place, places))


def _place(place: Any) -> Place:
    if isinstance(place, Place):
        return place
    if isinstance(place, Where):
        return Output(place)
    if isinstance(place, str):
        return _NamedOrScope(place)
    raise InputError(
        f"A place must be a string, a `relprop.Where` or one of `relprop.places`, got {place!r}."
    )


@dataclasses.dataclass(frozen=True)
class _NamedOrScope(Place):
    text: str

    def values(self, plan):
        yield from Named(self.text).values(plan)
        yield from Scope(self.text).values(plan)

    def __repr__(self) -> str:
        return repr(self.text)


def sources(graph: Graph, places: Sequence[Place], explained: set[Value]) -> dict[Value, str]:
    """The values that are to be active although they don't depend on the explained inputs."""
    found = [pair for place in places for pair in place.sources(graph)]
    return {value: name for name, value in found if value not in explained}


def parameters(graph: Graph, places: Sequence[Place], explained: set[Value]) -> dict[Value, str]:
    """The constants that are to be credited with what they contribute."""
    found = [pair for place in places for pair in place.parameters(graph)]
    return {value: name for name, value in found if value not in explained}


def located(plan: Plan, places: Sequence[Place], extra: Mapping[Value, str]) -> Plan:
    """The plan with the places marked in it.

    Args:
        plan: the plan.
        places: the places.
        extra: values that are no part of the way from the inputs, with their names.

    Raises:
        NothingMatchedError: a place isn't there.
        InputError: a mask does not fit.
    """
    here = {value for body in plan.nested() for value in body.graph.values()}
    found: list[tuple[str, Value]] = [(n, v) for v, n in extra.items() if v in here]
    edits: dict[Value, list[Edit]] = {}
    idle = []
    for place in places:
        inside = [*place.values(plan)]
        found.extend(inside)
        beside = itertools.chain(place.sources(plan.graph), place.parameters(plan.graph))
        starting = [(n, v) for n, v in beside if v in here and v in extra]
        if not inside and not starting:
            idle.append(place)
        for name, value in dict.fromkeys([*inside, *starting]):
            changes = (_knowing_channels(e, plan, value) for e in place.edits(name))
            edits.setdefault(value, []).extend(changes)
    if idle:
        raise NothingMatchedError(_idle_message(idle, plan))
    marked = _mark(plan, _unique(found))
    return dataclasses.replace(marked, edits=_fitted(plan, edits))


def hidden(plan: Plan) -> dict[Value, str]:
    """Watched values that the backward pass goes around, with what to say about them."""
    watched = {v: names for body in plan.nested() for v, names in body.watched.items()}
    found = {}
    for step in plan.walk():
        inputs = set(step.operation.inputs)
        for equation in step.operation.equations:
            for atom in equation.inputs:
                if isinstance(atom, Value) and atom in watched and atom not in inputs:
                    merged = step.operation.propagator.note
                    where = f"inside of {step.structure} at {step.source}"
                    reason = f" ({merged}; `composite.canonized()` leaves it apart)"
                    found[atom] = f"  {watched[atom][0]}: {where}{reason if merged else ''}"
    return found


def check_visible(plan: Plan) -> None:
    """Raises an InputError for places that have no relevance of their own."""
    found = hidden(plan)
    if found:
        raise InputError(
            f"{len(found)} place(s) have no relevance of their own, because they lie inside of "
            "what was recognised as one operation:\n"
            + "\n".join(found.values())
            + "\nName the input or the output of that operation instead."
        )


def _mark(plan: Plan, names: Mapping[Value, tuple[str, ...]]) -> Plan:
    steps = [
        dataclasses.replace(step, bodies=tuple(_mark(body, names) for body in step.bodies))
        for step in plan.steps
    ]
    own = {value: names[value] for value in plan.graph.values() if value in names}
    return dataclasses.replace(plan, steps=tuple(steps), watched=own)


def _edit(kind: type[Mask | Seed], given: Any, name: str) -> Edit:
    if callable(given):
        return kind(None, given, name)
    if isinstance(given, (str, type(None))):
        raise InputError(
            f"A {kind.kind} must be numbers or a function of relevance and value; for {name!r} "
            f"there is {given!r}."
        )
    return kind(jnp.asarray(given), None, name)


def _knowing_channels(edit: Edit, plan: Plan, value: Value) -> Edit:
    """The edit, told the axis of channels at its place if what computes it wants to know."""
    along = getattr(edit.make, "along", None)
    if along is None:
        return edit
    return dataclasses.replace(edit, make=along(lambda: channel_axis(plan.graph, value, edit.name)))


def _fitted(plan: Plan, edits: Mapping[Value, Sequence[Edit]]) -> dict[Value, list[Edit]]:
    """The edits with arrays of the shape of what they change; all that do not fit are told."""
    fitted: dict[Value, list[Edit]] = {}
    wrong = []
    for body, rounds in _in_loops(plan):
        for value in body.graph.values():
            shape = (*rounds, *value.shape)
            for edit in edits.get(value, ()):
                if isinstance(edit, Seed) and value not in body.active:
                    wrong.append(f"  {edit.name}: the rules take the value as a constant")
                elif edit.array is not None and not fits(edit.array.shape, shape):
                    wrong.append(
                        f"  {edit.name}: {edit.kind} {edit.array.shape}, relevance {shape}"
                    )
                else:
                    fitted.setdefault(value, []).append(edit.of_shape(shape))
    if wrong:
        raise InputError(
            f"{len(wrong)} change(s) cannot be made to the relevance at places:\n"
            + "\n".join(wrong)
            + "\nMasks and seeds must broadcast to the shape of the relevance there, which the "
            "place alone in `places=` returns; in a scan it has an axis for the steps in front."
        )
    return fitted


def _in_loops(plan: Plan, rounds: tuple[int, ...] = ()) -> Iterator[tuple[Plan, tuple[int, ...]]]:
    """The plan and those of bodies, each with how often the loops around it are run."""
    yield plan, rounds
    for step in plan.steps:
        for body in step.bodies:
            yield from _in_loops(body, (*rounds, *step.nested.rounds(step)))


def _unique(pairs: Iterable[tuple[str, Value]]) -> dict[Value, tuple[str, ...]]:
    """The names of each value; what has a name already taken gets a number behind it."""
    names: dict[Value, tuple[str, ...]] = {}
    given: dict[tuple[str, Value], str] = {}
    for name, value in pairs:
        if (name, value) in given:
            continue
        free = name
        for count in itertools.count(1):
            if free not in given.values():
                break
            free = f"{name}#{count}"
        given[name, value] = free
        names[value] = (*names.get(value, ()), free)
    return names


def _idle_message(idle: Sequence[Place], plan: Plan) -> str:
    scopes = sorted({"/".join(parts) for body in plan.nested() for parts in _all_scopes(body)})
    tags = sorted(
        {_tag(e) for body in plan.nested() for e in body.graph.equations if e.name == "name"}
    )
    shown = ", ".join(scopes[:40]) + (f" and {len(scopes) - 40} more" if len(scopes) > 40 else "")
    return (
        f"{len(idle)} place(s) are not on the way from the explained inputs to the score:\n"
        + "\n".join(f"  {place!r}" for place in idle)
        + f"\nNames given with `relprop.named`: {', '.join(tags) or 'none'}. Scopes: "
        f"{shown or 'none'}. Operations are listed by `relprop.inspect(f, rules)(*args)`; what a "
        "region or loop that has a rule of its own consists of is not there. Parameters must be "
        "positional arguments that are not explained themselves."
    )


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for equation in graph.equations:
        for body in equation.bodies:
            yield from _graphs(body)


def _selected(plan: Plan, where: Where) -> list[Step]:
    return where.pick([step for step in plan.walk() if where.matches(step)])


def _name(step: Step) -> str:
    return step.path or "/".join(part for part in (step.scope, step.structure) if part)


def _tag(equation: Equation) -> str:
    return str(equation.params["name"])


def _parts(equation: Equation) -> tuple[str, ...]:
    return tuple(equation.scope.split("/")) if equation.scope else ()


def _base(graph: Graph) -> int:
    """How many parts of the scope belong to what is around a body, and not to the body."""
    return len(graph.scope.split("/")) if graph.scope else 0


def _all_scopes(plan: Plan) -> Iterator[tuple[str, ...]]:
    for equation in plan.graph.equations:
        if any(out in plan.active for out in equation.outputs):
            parts = _parts(equation)
            yield from (parts[:n] for n in range(_base(plan.graph) + 1, len(parts) + 1))


def _leaving(plan: Plan, pattern: tuple[str, ...]) -> Iterator[tuple[str, list[Value]]]:
    """Per run of equations in a scope that matches, the active values that others read."""
    readers: dict[Atom, list[int]] = {}
    for i, equation in enumerate(plan.graph.equations):
        for atom in equation.inputs:
            readers.setdefault(atom, []).append(i)
    for scope, (begin, end) in _runs(plan, lambda parts: _matches(parts, pattern)):
        leaving = []
        for equation in plan.graph.equations[begin:end]:
            for out in equation.outputs:
                outside = any(not begin <= i < end for i in readers.get(out, ()))
                if out.inexact and out.touched and (outside or out in plan.graph.outputs):
                    leaving.append(out)
        # Of what rules have made a constant of, relevance is asked only where nothing else is.
        leaving = [out for out in leaving if out in plan.active] or leaving
        if leaving:
            yield "/".join(scope), leaving


def _runs(
    plan: Plan, wanted: Callable[[tuple[str, ...]], bool]
) -> Iterator[tuple[tuple[str, ...], tuple[int, int]]]:
    """Each wanted scope with the first and the end of a run of equations inside it."""
    open_since: dict[tuple[str, ...], int] = {}
    base = _base(plan.graph)
    count = len(plan.graph.equations)
    for i in range(count + 1):
        parts = _parts(plan.graph.equations[i]) if i < count else ()
        around = {parts[:n] for n in range(base + 1, len(parts) + 1)}
        for scope in [scope for scope in open_since if scope not in around]:
            yield scope, (open_since.pop(scope), i)
        for scope in sorted(around, key=len):
            if scope not in open_since and wanted(scope):
                open_since[scope] = i


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[n:], pattern[1:]) for n in range(len(parts) + 1))
    if not parts:
        return False
    # Under a transformation a scope is called `vmap(layer)`.
    bare = re.sub(r"^(?:\w+\()+(.*?)\)+$", r"\1", parts[0])
    named = _is(parts[0], pattern[0]) or _is(bare, pattern[0])
    return named and _matches(parts[1:], pattern[1:])


def _is(text: str, pattern: str) -> bool:
    return text == pattern or fnmatch.fnmatchcase(text, pattern)
