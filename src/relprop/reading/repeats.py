"""What changes nothing is not there, and nothing is there twice."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Literal, Value
from relprop._core.operation import Propagator
from relprop.propagators.linear import Addition, Division, Multiplication, Negation
from relprop.reading.draft import Draft, rewired
from relprop.reading.limits import never_limited
from relprop.reading.turns import before_each_turn

_IN_ANY_ORDER = ("add", "mul", "max", "min")


def simplified(draft: Draft) -> None:
    """Reads a value that equals another one as that."""
    same: dict[Value, Atom] = {}
    made: dict[Hashable, Equation] = {}
    kept = []
    for equation in draft.equations:
        equation = rewired(equation, same)
        if not any(out in draft.visible for out in equation.outputs):
            equal = _unchanged(draft, equation)
            if equal is not None:
                same[equation.outputs[0]] = equal
                continue
            key = _key(draft, equation)
            before = made.setdefault(key, equation) if key is not None else equation
            if before is not equation:
                same.update(zip(equation.outputs, before.outputs, strict=True))
                continue
        kept.append(equation)
    draft.replace(kept, same)


def _unchanged(draft: Draft, equation: Equation) -> Atom | None:
    """The operand that the only result equals in any case."""
    if len(equation.outputs) != 1 or not equation.outputs[0].inexact:
        return None
    (out,) = equation.outputs
    kind = registry.lookup(equation.primitive)
    found: Atom | None = None
    if isinstance(kind, Negation):
        before = draft.index.maker.get(equation.inputs[0])
        if before is not None and isinstance(registry.lookup(before.primitive), Negation):
            found = before.inputs[0]
    elif isinstance(kind, Addition | Multiplication | Division):
        neutral = 0.0 if isinstance(kind, Addition) else 1.0
        a, b = equation.inputs
        if draft.index.number(b) == neutral:
            found = a
        elif draft.index.number(a) == neutral and _commutes(kind):
            found = b
        elif isinstance(kind, Multiplication):  # Nothing times anything is nothing.
            found = next((atom for atom in (a, b) if draft.index.literal(atom) == 0), None)
    elif equation.name in ("convert_element_type", "copy", "copy_p", "reshape", "squeeze"):
        found = equation.inputs[0]
    elif equation.name == "slice":
        found = _cut_out(draft, equation)
    elif equation.name == "pad" and not any(map(any, equation.params["padding_config"])):
        found = equation.inputs[0]
    elif equation.name == "rev":
        before = draft.index.maker.get(equation.inputs[0])
        if before is not None and before.name == "rev" and before.params == equation.params:
            found = before.inputs[0]
    elif equation.name in ("max", "min"):
        found = never_limited(draft, equation)
    elif equation.name == "select_n":
        found = _chosen(draft, equation)
    elif equation.name == "reduce_sum":
        found = _alone(draft, equation)
    elif equation.name == "transpose":
        found = _transposed_back(draft, equation)
    if found is None or isinstance(found, Literal):
        return None
    alike = found.shape == out.shape and found.dtype == out.dtype
    return found if alike and equation.params.get("sharding") is None else None


def _chosen(draft: Draft, equation: Equation) -> Atom | None:
    """The case that the code itself always chooses, or that there is whatever it chooses."""
    if len(set(equation.inputs[1:])) == 1:
        return equation.inputs[1]
    which = draft.index.literal(equation.inputs[0])
    return None if which is None else equation.inputs[1 + int(which)]


def _alone(draft: Draft, equation: Equation) -> Atom | None:
    """The one value that is added up along an axis made for it, as by ``jnp.stack([x]).sum(0)``."""
    made, axes = draft.index.maker.get(equation.inputs[0]), tuple(equation.params["axes"])
    if made is not None and made.name == "stack" and len(made.inputs) == 1:
        return made.inputs[0] if axes == (made.params["axis"],) else None
    if made is None or made.name != "broadcast_in_dim":
        return None
    kept = made.params["broadcast_dimensions"]
    shape, whole = made.inputs[0].shape, made.outputs[0].shape
    same = tuple(whole[axis] for axis in kept) == shape and len(kept) + len(axes) == len(whole)
    alone = same and all(whole[axis] == 1 and axis not in kept for axis in axes)
    return made.inputs[0] if alone else None


def _transposed_back(draft: Draft, equation: Equation) -> Atom | None:
    """What has its axes in their old order after a transposition, or after several."""
    own = list(equation.params["permutation"])
    for atom, order, _ in before_each_turn(draft.index, equation.inputs[0]):
        if [order[axis] for axis in own] == list(range(len(own))):
            return atom
    return None


def _cut_out(draft: Draft, equation: Equation) -> Atom | None:
    """What a slice cuts out again: what was padded, or one of what was joined."""
    before = draft.index.maker.get(equation.inputs[0])
    strides = equation.params["strides"]
    if before is None or (strides and any(n != 1 for n in strides)):
        return None
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    if before.name == "pad":
        inner, config = before.inputs[0], before.params["padding_config"]
        fits = all(
            inside == 0 and low == start and limit - start == n
            for (low, _, inside), start, limit, n in zip(
                config, starts, limits, inner.shape, strict=True
            )
        )
        return inner if fits else None
    if before.name == "concatenate":
        axis, at = before.params["dimension"], 0
        for part in before.inputs:
            if starts[axis] == at and limits[axis] == at + part.shape[axis]:
                return part
            at += part.shape[axis]
    return None


def _commutes(kind: Propagator) -> bool:
    return isinstance(kind, Multiplication) or (isinstance(kind, Addition) and kind.sign == 1)


def _key(draft: Draft, equation: Equation) -> Hashable:
    """What equations have in common that compute the same in the same place."""
    if equation.bodies or equation.has_effects or equation.region or not equation.outputs:
        return None
    recall = draft.recalled.get(equation.outputs[0])
    params = tuple(sorted(equation.params.items(), key=lambda item: item[0]))
    names: Hashable = tuple(map(_name, equation.inputs))
    if equation.name in _IN_ANY_ORDER and len(set(equation.inputs)) == 2:
        names = frozenset(map(_name, equation.inputs))
    key = (equation.primitive, equation.scope, recall, params, names)
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _name(atom: Atom) -> Hashable:
    if isinstance(atom, Value):
        return atom
    array = np.asarray(atom.array)
    return array.dtype, array.shape, array.tobytes() if array.size <= 64 else id(atom.array)
