"""What a loop only adds to is a sum; what it carries by `logaddexp` is a logsumexp."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Literal, Value, computed_from
from relprop.propagators.linear import Addition
from relprop.reading.draft import Draft
from relprop.reading.loop import Loop, algebra_of_turn
from relprop.reading.terms import exponential, leaf


def folds(
    draft: Draft, loop: Loop, exponentials: bool
) -> Iterator[tuple[int, Callable[..., Array]]]:
    """What is carried and is a sum or a logsumexp over all turns.

    Args:
        draft: the reading that the loop is in.
        loop: the loop.
        exponentials: whether there are any in its body.

    Yields:
        Which of the carried values it is, and the function that computes it from what the loop
        closes over and goes over, and from what the value was before.
    """
    for carry, added in _plain_sums(loop):
        yield carry, functools.partial(_added_up, loop, added)
    for carry, one in _logarithms(loop) if exponentials else ():
        none_before = draft.index.number(loop.given[carry]) == -math.inf
        yield carry, functools.partial(_logsumexp, loop, one, none_before)


#: What a turn may do to what it adds up without a shift: no more than a sum of products does, as
#: of blocks of a matrix, or one of exponentials.
_FACTORS = frozenset(
    "add sub mul neg integer_pow square broadcast_in_dim reshape squeeze expand_dims transpose "
    "convert_element_type copy dot_general exp exp2".split()
)


def _plain_sums(loop: Loop) -> Iterator[tuple[int, list[Value]]]:
    """What is carried and only added to, with what each turn adds to it."""
    for carry, start in enumerate(loop.starts):
        own = computed_from(loop.body.equations, [start])
        added: list[Atom] = []
        atom = _as_it_was(loop, loop.body.outputs[carry])
        while atom is not start:
            maker = loop.makers.get(atom)
            kind = None if maker is None else registry.lookup(maker.primitive)
            if maker is None or not isinstance(kind, Addition) or kind.sign < 0:
                break
            carried = [a for a in maker.inputs if a in own]
            if len(carried) != 1:
                break
            added += [a for a in maker.inputs if a not in own]
            atom = _as_it_was(loop, carried[0])
        values = [a for a in added if isinstance(a, Value) and _is_product(loop, a)]
        if atom is start and values and len(values) == len(added):
            yield carry, values


def _as_it_was(loop: Loop, atom: Atom) -> Atom:
    """A value before it was made one of the type that it has, as what begins as a number is."""
    while (maker := loop.makers.get(atom)) is not None and maker.name == "convert_element_type":
        if maker.inputs[0].dtype != atom.dtype:
            break
        (atom,) = maker.inputs
    return atom


def _is_product(loop: Loop, value: Value) -> bool:
    """Whether a turn adds an entry of what the loop goes over, or a product of such entries."""
    queue: list[Atom] = [value]
    seen: set[Atom] = set()
    while queue:
        atom = queue.pop()
        if atom in loop.starts:
            return False
        if atom in seen:
            continue
        seen.add(atom)
        maker = loop.makers.get(atom)
        if maker is None:
            continue
        if maker.name in ("dynamic_slice", "gather"):  # Its places may only depend on the turn.
            if not all(isinstance(a, Literal) or loop.is_free(a) for a in maker.inputs[1:]):
                return False
            queue.append(maker.inputs[0])
        elif maker.name in _FACTORS:
            queue.extend(maker.inputs)
        else:
            return False
    return True


def _added_up(loop: Loop, added: Sequence[Value], *operands: Array) -> Array:
    """The sum over all turns of what each of them adds, and what there was before."""
    totals = [jnp.sum(loop.turns(value, operands[:-1], {}), 0) for value in added]
    return operands[-1] + functools.reduce(jnp.add, totals)


def _logarithms(loop: Loop) -> Iterator[tuple[int, Value]]:
    """What is carried as the logarithm of a sum of exponentials, with what each turn adds to it."""
    algebra = algebra_of_turn(loop)
    for carry, start in enumerate(loop.starts):
        result = loop.body.outputs[carry]
        if not start.inexact or loop.makers.get(result) is None:
            continue
        index = algebra.indices(result.shape)
        fresh = dict(exponential(algebra.of(result, index)))
        ((own, one),) = exponential(leaf(start, index)).items()
        if abs(fresh.pop(own, 0.0) - one) > 1e-6 or not fresh:
            continue
        for value in _compared(loop, result):
            if exponential(algebra.of(value, index)) == fresh:
                yield carry, value
                break


def _compared(loop: Loop, result: Atom) -> Iterator[Value]:
    """What a turn takes a maximum with, which is what it adds under a logarithm."""
    for inner in loop.body.equations:
        for atom in inner.inputs if inner.name == "max" else ():
            alike = atom.shape == result.shape and atom.dtype == result.dtype
            if alike and isinstance(atom, Value) and loop.is_free(atom):
                yield atom


def _logsumexp(loop: Loop, added: Value, none_before: bool, *operands: Array) -> Array:
    """The logarithm of the sum of what there was before and of what each turn adds."""
    entries = loop.turns(added, operands[:-1], {})
    if not none_before:
        entries = jnp.concatenate([operands[-1][None], entries])
    return jax.nn.logsumexp(entries, axis=0)
