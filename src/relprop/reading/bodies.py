"""Bodies with one caller are part of what is around them.

`jax.checkpoint`, functions with a derivative of their own, a `cond` whose predicate is known or
whose branches are equal, a loop of one turn: none of them changes what is computed, so a layer
whose bias is added outside, or a root that is divided by outside, must not be told apart by them.
What was inside of `jax.checkpoint` is still computed again on the way back.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from relprop import _compat
from relprop._core import registry
from relprop._core.control import Branch, Call, Remat, Scan
from relprop._core.graph import (
    Atom,
    Environment,
    Equation,
    Graph,
    Value,
    depends_on,
)
from relprop._core.trace import graph_of
from relprop.propagators.general import is_move
from relprop.propagators.linear import Contraction, Dense, Division, Multiplication
from relprop.reading.branches import are_equal
from relprop.reading.draft import Draft, resolved, rewired


def opened(draft: Draft) -> None:
    """Puts what is inside of bodies with one caller in the place of their call."""
    if not any(equation.bodies for equation in draft.equations):
        return
    same: dict[Value, Atom] = {}
    made: list[Equation] = []
    for equation in draft.equations:
        for inner in _opened(draft, equation, same, None, inside=False):
            made.append(inner)
            # What a predicate inside is computed from is known from here on.
            draft.makers.update(dict.fromkeys(inner.outputs, inner))
    draft.replace(made, same)


def _opened(
    draft: Draft,
    equation: Equation,
    same: dict[Value, Atom],
    recall: Equation | None,
    inside: bool = True,
) -> Iterator[Equation]:
    """The equations in place of one; `recall` is the checkpoint that it lies in."""
    equation = rewired(equation, same)
    if _is_unfinished_map(draft, equation) and equation.outputs[0] not in draft.visible:
        for inner in draft.derived(
            functools.partial(_mapped, equation), equation.inputs, equation, equation.outputs[0]
        ):
            yield from _opened(draft, inner, same, recall)
        return
    body = _body(draft, equation)
    if body is None or any(out in draft.visible for out in equation.outputs):
        if recall is not None:
            fresh = (out for out in equation.outputs if not draft.is_made(out))
            draft.recalled.update(dict.fromkeys(fresh, recall))
        if inside and equation.bodies and equation.outputs:
            draft.entered[equation.outputs[0]] = recall
        yield equation
        return
    kind = registry.lookup(equation.primitive)
    if isinstance(kind, Remat) and (recall is not None or not inside):
        # Inside of another body, which was run as a whole, nothing has kept even its result.
        recall = equation
    draft.constants.update(body.constants)
    operands = equation.inputs[len(equation.inputs) - len(body.inputs) :]
    results = list(body.outputs)
    if isinstance(kind, Scan):
        yield from _entries(draft, equation, body, same, recall)
        carried = _compat.scan_sizes(equation.params)[1]
        stacked = dict(zip(equation.outputs[carried:], results[carried:], strict=True))
    else:
        same.update(zip(body.inputs, operands, strict=True))
        stacked = {}
    # What a body returns takes the place of the result of the call, where it is made inside.
    made = {out for inner in body.equations for out in inner.outputs}
    names: dict[Value, Value] = {}
    for out, result in zip(equation.outputs, results, strict=True):
        if out in stacked:
            continue
        own = result in made and result not in draft.visible and result not in names
        if isinstance(result, Value) and own:
            names[result] = out
        else:
            same[out] = names.get(result, result)  # type: ignore[arg-type]
    for inner in body.equations:
        renamed = rewired(inner, names)  # type: ignore[arg-type]
        outputs = tuple(names.get(out, out) for out in renamed.outputs)
        renamed = dataclasses.replace(renamed, outputs=outputs, callers=(*inner.callers,))
        yield from _opened(draft, renamed, same, recall)
    for out, result in stacked.items():
        value = resolved(names.get(result, result), same)  # type: ignore[arg-type]
        for inner in draft.derived(lambda y: jnp.asarray(y)[None], [value], equation, out):
            yield from _opened(draft, inner, same, recall)


def _is_unfinished_map(draft: Draft, equation: Equation) -> bool:
    """Whether a function is mapped over an axis of which more has to be known than it does.

    What is mapped is a layer whose bias may be added outside, or a root, a sum, an exponential or a
    product of which only what is outside says what it is, as is what a function of entries opens.
    """
    if not isinstance(registry.lookup(equation.primitive), Scan) or equation.has_effects:
        return False
    if len(equation.outputs) != 1 or _compat.scan_sizes(equation.params)[1]:
        return False
    if registry.unrepeatable(equation) or draft.closed(equation):
        return False
    (body,) = equation.bodies
    if _is_by_entry(body):
        return True
    makers = {out: inner for inner in body.equations for out in inner.outputs}
    atom = body.outputs[0]
    while (maker := makers.get(atom)) is not None and is_move(maker) and len(maker.inputs) == 1:  # type: ignore[arg-type]
        (atom,) = maker.inputs
    if maker is None:
        return False
    kind = registry.lookup(maker.primitive)
    if isinstance(kind, Contraction):
        # A product of two that depend on the inputs, as attention is, is complete by itself, but
        # not that of one query, of which the loop is the axis.
        pairs = zip(body.inputs, equation.inputs, strict=True)
        start = {v for v, a in pairs if a in draft.index.dependent}
        found = depends_on(body.equations, start or set(body.inputs))
        return sum(a in found for a in maker.inputs[:2]) == 1 or _has_no_axis(maker)
    return kind.reduces or isinstance(kind, _FACTORED) or maker.name in _UNFINISHED


def _is_by_entry(body: Graph) -> bool:
    """Whether a body is a function of single entries."""
    return all(
        is_move(inner)
        or registry.lookup(inner.primitive).elementwise
        or (bool(inner.bodies) and all(map(_is_by_entry, inner.bodies)))
        for inner in body.equations
    )


def _has_no_axis(product: Equation) -> bool:
    """Whether a factor of a contraction has no axis that is in the result by itself."""
    if not isinstance(registry.lookup(product.primitive), Dense):
        return False
    contracting, batch = product.params["dimension_numbers"]
    shared = len(contracting[0]) + len(batch[0])
    return any(len(atom.shape) == shared for atom in product.inputs[:2])


_FACTORED = (Contraction, Multiplication, Division)
_UNFINISHED = ("sqrt", "rsqrt", "pow", "exp", "exp2", "log")


def _mapped(equation: Equation, *operands: Array) -> Array:
    """A loop without a carry, all of its turns at once."""
    (body,) = equation.bodies
    consts, _ = _compat.scan_sizes(equation.params)

    def turn(*entries: Array) -> Array:
        known = Environment(body.constants)
        known.update(zip(body.inputs, (*operands[:consts], *entries), strict=True))
        for inner in body.equations:
            values = inner.evaluate(known.read_all(inner.inputs))
            known.update(zip(inner.outputs, values, strict=True))
        return known.read(body.outputs[0])

    return jax.vmap(turn, axis_size=equation.params["length"])(*operands[consts:])


def _entries(
    draft: Draft,
    equation: Equation,
    body: Graph,
    same: dict[Value, Atom],
    recall: Equation | None,
) -> Iterator[Equation]:
    """The only entry of each array that a loop of one turn goes over."""
    consts, carried = _compat.scan_sizes(equation.params)
    first = consts + carried
    same.update(zip(body.inputs[:first], equation.inputs[:first], strict=True))
    for inside, array in zip(body.inputs[first:], equation.inputs[first:], strict=True):
        for inner in draft.derived(lambda xs: jnp.asarray(xs)[0], [array], equation, inside):
            yield from _opened(draft, inner, same, recall)


def _body(draft: Draft, equation: Equation) -> Graph | None:
    """The body that an equation is a mere wrapping of."""
    if not equation.bodies or equation.has_effects or registry.unrepeatable(equation):
        return None
    if draft.closed(equation):
        return None
    kind = registry.lookup(equation.primitive)
    if type(kind) in (Call, Remat):  # A region is one thing to its author, a shard to a device.
        (body,) = equation.bodies
        plain = isinstance(kind, Remat) or _passes(body) or not _has_derivative(equation)
        return body if plain else None
    if isinstance(kind, Branch):
        index = draft.known(equation.inputs[0])
        if any(map(_has_names, equation.bodies)):
            return None  # A place with a name is there, also where it has no relevance.
        if index is None:
            return equation.bodies[0] if are_equal(equation) else None
        return equation.bodies[int(np.clip(index, 0, len(equation.bodies) - 1))]
    if isinstance(kind, Scan) and equation.params["length"] == 1:
        return equation.bodies[0]
    return None


def _has_names(body: Graph) -> bool:
    return any(e.name == "name" or any(map(_has_names, e.bodies)) for e in body.equations)


def _passes(body: Graph) -> bool:
    """Whether what a function returns depends on its arguments, and is not cut off from them.

    A rounding whose derivative is that of the identity is a function of its own.
    """
    start = {value for value in body.inputs if value.inexact}
    found = depends_on(body.equations, start, lambda e: registry.lookup(e.primitive).cuts)
    return any(out in found for out in body.outputs)


def _has_derivative(equation: Equation) -> bool:
    """Whether the derivative that a function was given is not zero, wherever it is taken."""
    numbers = [i for i, a in enumerate(equation.inputs) if a.inexact]
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in equation.inputs]
    inexact = [out for out in equation.outputs if out.inexact]
    results = [jax.ShapeDtypeStruct(out.shape, out.dtype) for out in inexact]

    def pulled_back(cotangents: list[Array], *operands: Array) -> list[Array]:
        def function(*some: Array) -> list[Array]:
            given = dict(zip(numbers, some, strict=True))
            values = [given.get(i, operand) for i, operand in enumerate(operands)]
            outs = zip(equation.evaluate(values), equation.outputs, strict=True)
            return [array for array, out in outs if out.inexact]

        return list(jax.vjp(function, *(operands[i] for i in numbers))[1](cotangents))

    try:
        jaxpr, _ = _compat.make_jaxpr(pulled_back, results, *shapes)
    except Exception:  # The user's rule may raise whatever it likes; that it is one is enough.
        return True
    graph = graph_of(jaxpr)
    found = depends_on(graph.equations, {*graph.inputs[: len(results)]})
    return any(out in found for out in graph.outputs)
