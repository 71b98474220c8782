"""What is divided by its own sum is divided before entries of it are taken.

``e[0] / e.sum()`` is ``(e / e.sum())[0]``; ``exp(z[0] - logsumexp(z))`` and
``sigmoid(z[0] - logsumexp(z[1:]))`` are entries of the softmax.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.general import is_elementwise, is_move
from relprop.reading.draft import Draft
from relprop.reading.pieces import taken_apart, together
from relprop.reading.primitives import algebra_of
from relprop.reading.repeats import simplified
from relprop.reading.terms import Symbol, exponential, plus, summed
from relprop.reading.turns import moved

_FUNCTIONS = ("exp", "log", "neg")


def taken_last(draft: Draft) -> None:
    """Divides, or shifts, a value by what it was reduced to before entries of it are taken."""
    if not draft.index.exponentials[1]:
        return
    while _one_taken_last(draft):
        simplified(draft)


def _one_taken_last(draft: Draft) -> bool:
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        new = (
            _by_reduction(draft, equation)
            or _function(draft, equation)
            or _against_the_others(draft, equation)
        )
        if new:
            made[equation] = new
    if made:
        draft.put(made)
    return bool(made)


def _by_reduction(draft: Draft, equation: Equation) -> list[Equation]:
    """An entry, combined with what all entries of its axis were reduced to."""
    sums = draft.index.exponentials[1]
    if equation.name not in ("div", "mul", "sub") or len(draft.index.operands(equation)) != 2:
        return []
    for position in (0, 1) if equation.name == "mul" else (0,):
        part, other = equation.inputs[position], equation.inputs[1 - position]
        if other not in sums or part.shape != other.shape or not isinstance(part, Value):
            continue
        source, moves = _before_taking(draft, part)
        axes = _axes(draft, part, source) if moves else None
        if axes is None or not _reduced_over(draft, other, source, axes):
            continue

        def whole(
            x: Array, y: Array, position: int = position, axes: tuple[int, ...] = axes
        ) -> Array:
            y = y.reshape([1 if a in axes else n for a, n in enumerate(x.shape)])
            y = jnp.broadcast_to(y, x.shape)
            return equation.evaluate([x, y] if position == 0 else [y, x])[0]

        return _then_taken(draft, equation, whole, [source, other], moves)
    return []


def _function(draft: Draft, equation: Equation) -> list[Equation]:
    """A function of an entry of what was made by this pass, which comes before it, too."""
    if equation.name not in _FUNCTIONS or equation.inputs[0] not in draft.index.dependent:
        return []
    source, moves = _before_taking(draft, equation.inputs[0])
    maker = draft.index.maker.get(source)
    own = maker is not None and not draft.is_made(source) and maker.name in ("sub", "mul", "div")
    if not own or not moves or source not in draft.index.exponentials[1]:
        return []
    return _then_taken(draft, equation, lambda x: equation.evaluate([x])[0], [source], moves)


def _against_the_others(draft: Draft, equation: Equation) -> list[Equation]:
    """The sigmoid of an entry less the logarithm of the sum of the exponentials of the others."""
    difference = draft.index.maker.get(equation.inputs[0]) if equation.name == "logistic" else None
    if difference is None or difference.name != "sub":
        return []
    part, other = difference.inputs
    if other not in draft.index.exponentials[1] or part not in draft.index.dependent:
        return []
    source, moves = _before_taking(draft, part)
    axes = _axes(draft, part, source) if moves and isinstance(part, Value) else None
    if axes is None or part.shape != other.shape:
        return []
    algebra = algebra_of(draft.index.maker.get, draft.index.number)
    index = algebra.indices(part.shape)
    kept = iter(i for i in index if i != 0)
    whole = algebra.indices(source.shape)
    place = tuple(
        i if a in axes or not isinstance(i, Symbol) else next(kept) for a, i in enumerate(whole)
    )
    parts = (exponential(algebra.of(atom, index)) for atom in (part, other))
    entries = exponential(algebra.of(source, place))
    if together(taken_apart(algebra, plus(*parts))) != summed(entries, [place[a] for a in axes]):
        return []
    return _then_taken(draft, equation, lambda z: jax.nn.softmax(z, axes), [source], moves)


def _then_taken(
    draft: Draft,
    like: Equation,
    function: Callable[..., Array],
    inputs: Sequence[Atom],
    moves: Sequence[Equation],
) -> list[Equation]:
    """A function of whole arrays, and what is taken out of its result."""
    new = draft.derived(function, inputs, like)

    taken = functools.partial(moved, moves=moves)
    return [*new, *draft.derived(taken, [new[-1].outputs[0]], like, like.outputs[0])]


def _before_taking(draft: Draft, atom: Atom) -> tuple[Value, list[Equation]]:
    """A value before entries were taken out of it, and the moves that took them; none if none."""
    moves: list[Equation] = []
    while (maker := draft.index.maker.get(atom)) is not None and is_move(maker):
        if len(maker.inputs) != 1 or maker.inputs[0] not in draft.index.dependent:
            break
        moves.insert(0, maker)
        (atom,) = maker.inputs
    assert isinstance(atom, Value)
    return atom, moves if any(move.name == "slice" for move in moves) else []


def _axes(draft: Draft, part: Value, source: Value) -> tuple[int, ...] | None:
    """The axes of a source along which a part of it is one entry; the others stay as they are."""
    algebra = algebra_of(lambda a: None if a is source else draft.index.maker.get(a), _no_number)
    index = algebra.indices(part.shape)
    for (base, _), *more in algebra.of(part, index):
        if more or base[:2] != ("value", source):
            return None
        # Along an axis of one entry nothing is taken.
        places = zip(base[2], source.shape, strict=True)
        axes = tuple(a for a, (i, n) in enumerate(places) if isinstance(i, int) and n > 1)
        kept = [i for i in base[2] if not isinstance(i, int)]
        return axes if axes and kept == [i for i in index if i != 0] else None
    return None


def _no_number(atom: Atom) -> None:
    return None


def _reduced_over(draft: Draft, atom: Atom, source: Value, axes: tuple[int, ...]) -> bool:
    """Whether a value is a function of a sum over axes of a source, or of what that has become."""
    while (maker := draft.index.maker.get(atom)) is not None:
        if maker.name == "reduce_sum":
            (inner,) = maker.inputs
            long = {a for a in maker.params["axes"] if inner.shape[a] > 1}
            alike = long == {*axes} and inner.shape == source.shape
            return alike and (inner is source or draft.index.leads(source, inner))
        operands = draft.index.operands(maker)
        if len(operands) != 1 or not (is_move(maker) or is_elementwise(maker)):
            return False
        (atom,) = operands
    return False
