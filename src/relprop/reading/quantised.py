"""Quantisation passes: what is rounded between a division and a multiplication by one scale.

``round(x / s) * s`` is x, as exactly as its bits allow; a derivative does not see that, nor would
relevance. It is read as a function of x that relevance passes, ``x + stop_gradient(q - x)``, the
straight-through estimator. A product of integers with scales is the layer that it stands for: the
product of what the integers stand for.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from relprop._core import registry
from relprop._core.control import Call
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.linear import Contraction
from relprop.reading.algebra import Algebra
from relprop.reading.draft import Draft
from relprop.reading.primitives import algebra_of
from relprop.reading.terms import ONE, Index, Term, plus

_ROUNDINGS = ("round", "floor", "ceil", "convert_element_type")
_LIMITS = ("clamp", "max", "min")
# So many operations after the rounding the scale is multiplied with again.
_REACH = 12


def quantised(draft: Draft) -> None:
    """Reads rounded values as functions of what was rounded, and products of integers as layers."""
    if not any(_rounds(draft, equation) for equation in draft.equations):
        return
    for equation in list(draft.equations):
        if _is_integer_product(draft, equation):
            _as_layer(draft, equation)
    for equation in list(draft.equations):
        if _rounds(draft, equation):
            _straight_through(draft, equation)


def _rounds(draft: Draft, equation: Equation) -> bool:
    """Whether an equation rounds what depends on the explained inputs."""
    if not any(atom in draft.index.dependent for atom in equation.inputs[:1]):
        return False
    if equation.bodies:
        return _is_rounding(equation)
    if equation.name == "convert_element_type":
        (out,) = equation.outputs
        return not out.inexact or np.dtype(out.dtype).itemsize == 1  # Of eight bits.
    return equation.name in _ROUNDINGS


def _is_rounding(equation: Equation) -> bool:
    """Whether a function with a derivative of its own does nothing but round and limit."""
    if type(registry.lookup(equation.primitive)) is not Call or len(equation.bodies) != 1:
        return False
    (body,) = equation.bodies
    names = [inner.name for inner in body.equations]
    limits = (*_ROUNDINGS, *_LIMITS)
    return len(body.inputs) == 1 and names != [] and all(name in limits for name in names)


def _first(number: int):
    def handler(algebra: Algebra, equation: Equation, index: Index) -> Term:
        return algebra.operand(equation, number, index)

    return handler


def _limit(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    numbers = [algebra.number(a) is not None for a in equation.inputs]
    if sum(numbers) != 1:
        return None
    return algebra.operand(equation, numbers.index(False), index)


def _floor(algebra: Algebra, equation: Equation, index: Index) -> Term:
    # To the nearest, by adding a half.
    term = algebra.operand(equation, 0, index)
    return plus(term, {ONE: -0.5}) if term.get(ONE) == 0.5 else term


def _rounded(algebra: Algebra, equation: Equation, index: Index) -> Term | None:
    return algebra.operand(equation, 0, index) if _is_rounding(equation) else None


def _ideal(draft: Draft) -> Algebra:
    """The terms of values, as if numbers had all the bits in the world."""
    handlers = {
        "round": _first(0),
        "ceil": _first(0),
        "floor": _floor,
        "clamp": _first(1),
        "max": _limit,
        "min": _limit,
        **dict.fromkeys(("custom_vjp_call", "custom_vjp_call_jaxpr", "custom_jvp_call"), _rounded),
    }
    return algebra_of(draft.index.maker.get, draft.index.number, handlers)


# One value.


def _straight_through(draft: Draft, rounding: Equation) -> None:
    algebra = _ideal(draft)
    sources = [*_sources(draft, rounding.inputs[0])]
    queue = [(rounding.outputs[0], 0)]
    seen: set[Value] = set()
    found: dict[int, Equation] = {}
    while queue:
        value, depth = queue.pop(0)
        if value in seen or depth > _REACH:
            continue
        seen.add(value)
        maker = draft.index.maker[value]
        if value.inexact and len(maker.outputs) == 1:
            for number, source in enumerate(sources):
                if source.shape == value.shape and source.dtype == value.dtype:
                    index = algebra.indices(value.shape)
                    if _equal(algebra.of(value, index), algebra.of(source, index)):
                        found.setdefault(number, maker)
        for use in draft.index.readers.get(value, []):
            if use.name in _BETWEEN:
                queue.extend((out, depth + 1) for out in use.outputs)
    if found:  # The nearer ones, as ``x / s`` before a zero point is added, are not the last word.
        number = max(found)
        _passes(draft, found[number], sources[number])


_BETWEEN = (
    "mul", "div", "add", "sub", "clamp", "max", "min", "convert_element_type", "round", "neg",
    "reshape", "broadcast_in_dim", "squeeze", "stop_gradient", "copy",
)  # fmt: skip


def _sources(draft: Draft, atom: Atom) -> Iterator[Value]:
    """What a rounded value may stand for: what was divided by a scale."""
    for _ in range(_REACH):
        maker = draft.index.maker.get(atom)
        if maker is None or maker.name not in (*_BETWEEN, "integer_pow"):
            return
        operands = [a for a in maker.inputs if a in draft.index.dependent and a.shape]
        full = [a for a in operands if a.shape == maker.outputs[0].shape]
        if not full:
            return
        atom = full[0]
        assert isinstance(atom, Value)
        yield atom


def _equal(a: Term, b: Term) -> bool:
    return a.keys() == b.keys() and all(abs(a[k] - b[k]) <= 1e-6 * abs(b[k]) for k in b)


def _passes(draft: Draft, maker: Equation, source: Value) -> None:
    """Reads a value as its source plus a constant."""
    (out,) = maker.outputs
    copied = draft.again(maker, maker.inputs, None)
    new = draft.derived(
        lambda x, q: x + lax.stop_gradient(q - x), [source, copied.outputs[0]], maker, out
    )
    draft.put({maker: [copied, *new]})


# Products of integers.


def _is_integer_product(draft: Draft, equation: Equation) -> bool:
    kind = registry.lookup(equation.primitive)
    if not isinstance(kind, Contraction) or equation.outputs[0] not in draft.index.touched:
        return False
    touched = [atom for atom in equation.inputs[:2] if atom in draft.index.touched]
    integers = not any(atom.inexact for atom in equation.inputs[:2] if isinstance(atom, Value))
    return integers or all(_is_rounded(draft, atom) for atom in touched)


def _is_rounded(draft: Draft, atom: Atom) -> bool:
    """Whether a value has been rounded, and limited at most: an integer, of whatever type."""
    while (maker := draft.index.maker.get(atom)) is not None:
        if _rounds(draft, maker):
            return True
        if maker.name not in (*_LIMITS, "convert_element_type", "stop_gradient"):
            return False
        atom = next((a for a in maker.inputs if a in draft.index.touched), maker.inputs[0])
    return False


def _as_layer(draft: Draft, product: Equation) -> None:
    """Multiplies what integers stand for, with the scales that they are multiplied with later."""
    algebra = _ideal(draft)
    scaled = [_dequantised(draft, algebra, atom) for atom in product.inputs[:2]]
    touched = [atom in draft.index.touched for atom in product.inputs[:2]]
    if any(on and found is None for on, found in zip(touched, scaled, strict=True)):
        return
    scales = {scale for found in scaled if found is not None for scale in found[2]}
    scales |= {below for scale in scales if (below := _inverted(draft, scale)) is not None}
    end = _dequantisation(draft, product.outputs[0], scales)
    if end is None:
        return
    chain, last = end
    constants = [*_constants(draft, product.outputs[0], chain)]
    # What an input was divided by is in what its integers stand for, and not in the weight.
    inputs = [found for found in scaled if found is not None]
    for _, _, by, divides in inputs:
        constants += [(scale, divides) for scale in by if scale not in draft.index.touched]
    sources = [found[:2] for found in inputs]
    known = [found is not None for found in scaled]
    count = 2 * len(sources)
    shape = last.outputs[0].shape
    dtype = last.outputs[0].dtype
    if shape != product.outputs[0].shape:
        return

    def layer(a: Array, b: Array, *others: Array) -> Array:
        supply, factors = iter(others[:count]), others[count:]
        scale = jnp.ones((), dtype)
        for factor, (_, divides) in zip(factors, constants, strict=True):
            scale = scale / factor if divides else scale * factor
        ideal = []
        for integers, on in zip((a, b), known, strict=True):
            real = integers.astype(dtype)
            if on:
                x, own = (array.astype(dtype) for array in (next(supply), next(supply)))
                real = x + lax.stop_gradient(real * own - x)
            ideal.append(real)
        if all(known):
            return _float_product(product, *ideal) * scale
        weight = known.index(False)
        ideal[weight] = _scaled_weight(product, weight, ideal[weight], scale)
        return _float_product(product, *ideal)

    atoms = [a for pair in sources for a in pair] + [atom for atom, _ in constants]
    new = draft.derived(layer, [*product.inputs[:2], *atoms], last, last.outputs[0])
    draft.put({last: new})


def _inverted(draft: Draft, scale: Atom) -> Atom | None:
    """What a scale is the inverse of, if it was made as one."""
    maker = draft.index.maker.get(scale)
    if maker is not None and maker.name == "div" and draft.index.number(maker.inputs[0]) == 1:
        return maker.inputs[1]
    return None


def _constants(draft: Draft, value: Atom, chain: list[Equation]) -> Iterator[tuple[Atom, bool]]:
    """What a product of integers is multiplied with, or divided by, that is known beforehand."""
    for step in chain:
        others = [a for a in step.inputs if a is not value]
        divides = step.name == "div"
        for other in others if step.name in ("mul", "div") else ():
            maker = draft.index.maker.get(other)
            while maker is not None and maker.name in ("broadcast_in_dim", "reshape"):
                maker = draft.index.maker.get(maker.inputs[0])
            if other not in draft.index.touched:
                yield other, divides
            elif maker is not None and maker.name in ("mul", "div"):
                # A scale of weights, multiplied with that of the input before.
                for position, part in enumerate(maker.inputs):
                    if part not in draft.index.touched and part.shape != ():
                        yield part, divides is not (maker.name == "div" and position == 1)
        (value,) = step.outputs


def _scaled_weight(product: Equation, position: int, weight: Array, scale: Array) -> Array:
    """A weight with the scales of its results."""
    kind = registry.lookup(product.primitive)
    assert isinstance(kind, Contraction)
    if not scale.shape:
        return weight * scale
    full = jnp.broadcast_to(scale, product.outputs[0].shape)
    return kind.with_scaled_result(product, position, weight, full)


def _float_product(product: Equation, a: Array, b: Array) -> Array:
    (out,) = product.evaluate([a, b], preferred_element_type=a.dtype)
    return out


def _dequantised(
    draft: Draft, algebra: Algebra, atom: Atom
) -> tuple[Value, Value, set[Atom], bool] | None:
    """What an integer operand stands for, and the scale: the value is the integer times that.

    The scale comes in the shape of the value, and as what it was computed by.
    """
    if atom not in draft.index.touched:
        return None
    queue: list[Atom] = [atom]
    while queue:
        maker = draft.index.maker.get(queue.pop(0))
        if maker is None:
            continue
        if maker.name in ("div", "mul") and maker.outputs[0].inexact:
            full = [a for a in maker.inputs if a.shape == maker.outputs[0].shape]
            if not full or full[0] not in draft.index.dependent:
                return None
            index = algebra.indices(atom.shape)
            if atom.shape != full[0].shape:
                return None
            ratio = algebra.of(maker.outputs[0], index)
            if not _equal(algebra.of(atom, index), ratio):
                return None
            source = full[0]
            assert isinstance(source, Value)
            others = {a for a in maker.inputs if a is not source}
            return source, _inverse_scale(draft, maker, source), others, maker.name == "div"
        if maker.name in (*_BETWEEN, *_ROUNDINGS):
            operands = [a for a in maker.inputs if a in draft.index.touched]
            queue.extend(operands[:1] if maker.name != "clamp" else maker.inputs[1:2])
    return None


def _inverse_scale(draft: Draft, maker: Equation, source: Value) -> Value:
    """The scale that a value was divided by, as a value of the reading."""
    (other,) = [a for a in maker.inputs if a is not source] or [source]
    divides = maker.name == "div"
    new = (
        draft.derived(
            lambda s: jnp.broadcast_to(s if divides else 1 / s, source.shape), [other], maker
        )
        if isinstance(other, Value)
        else draft.derived(
            lambda x: jnp.full_like(x, other.array if divides else 1 / other.array), [source], maker
        )
    )
    draft.put({maker: [maker, *new]})
    return new[-1].outputs[0]


def _dequantisation(
    draft: Draft, value: Value, scales: set[Atom]
) -> tuple[list[Equation], Equation] | None:
    """The equations that make a number with scales of a product of integers, and the last one."""
    chain: list[Equation] = []
    end: int | None = None
    while True:
        readers = draft.index.readers.get(value, [])
        if len(readers) != 1:
            break
        (reader,) = readers
        if reader.name not in ("convert_element_type", "mul", "div", "reshape", "broadcast_in_dim"):
            break
        if reader.name == "div" and reader.inputs[0] is not value:
            break
        if not all(_is_scale(draft, a, scales) for a in reader.inputs if a is not value):
            break
        chain.append(reader)
        (value,) = reader.outputs
        if value.inexact and reader.name in ("mul", "div"):
            end = len(chain)
    return None if end is None else (chain[:end], chain[end - 1])


def _is_scale(draft: Draft, atom: Atom, scales: set[Atom]) -> bool:
    """Whether a factor is a constant, or computed from nothing but the scales of operands."""
    queue, seen = [atom], set()
    while queue:
        atom = queue.pop()
        if atom in scales or atom in seen or atom not in draft.index.dependent:
            continue
        seen.add(atom)
        maker = draft.index.maker.get(atom)
        if maker is None or maker.name not in ("mul", "div", *_BETWEEN):
            # A scale may be the inverse of what was multiplied with.
            return any(draft.index.maker.get(s) is maker for s in scales) and maker is not None
        queue.extend(maker.inputs)
    return True
