"""Quantisation passes: what is rounded between a division and a multiplication by one scale.

``round(x / s) * s`` is x, as exactly as its bits allow; a derivative does not see that, nor would
relevance. It is read as a function of x that relevance passes, ``x + stop_gradient(q - x)``, the
straight-through estimator. Layers of integers with scales are read before, as the layers that they
stand for (`integers`).
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from jax import lax

from relprop._core.graph import Atom, Equation, Value
from relprop.reading.draft import Draft
from relprop.reading.integers import of_integers
from relprop.reading.rounding import BETWEEN, LIMITS, REACH, ideal, rounds
from relprop.reading.terms import Term


def quantised(draft: Draft) -> None:
    """Reads rounded values as functions of what was rounded, and layers of integers as layers."""
    if not any(rounds(draft, equation) for equation in draft.equations):
        return
    done = of_integers(draft)
    for equation in list(draft.equations):
        if rounds(draft, equation) and equation.outputs[0] not in done:
            _straight_through(draft, equation, done)


def _straight_through(draft: Draft, rounding: Equation, done: Set[Value]) -> None:
    algebra = ideal(draft)
    sources = [*_sources(draft, rounding.inputs[0])]
    queue = [(rounding.outputs[0], 0)]
    seen: set[Value] = set()
    found: dict[int, Equation] = {}
    while queue:
        value, depth = queue.pop(0)
        if value in seen or depth > REACH:
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
            if use.name in BETWEEN and use.outputs[0] not in done:
                queue.extend((out, depth + 1) for out in use.outputs)
    if found:  # The nearer ones, as ``x / s`` before a zero point is added, are not the last word.
        number = max(found)
        _passes(draft, found[number], sources[number])


def _sources(draft: Draft, atom: Atom) -> Iterator[Value]:
    """What a rounded value may stand for: what was divided by a scale."""
    scaled = False
    for _ in range(REACH):
        maker = draft.index.maker.get(atom)
        if maker is None or maker.name not in (*BETWEEN, "integer_pow"):
            return
        if scaled and maker.name in LIMITS:
            return  # What is limited before it is scaled is the result of an activation.
        scaled |= maker.name in ("mul", "div")
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
