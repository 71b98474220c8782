"""Limits that stand for infinity: a running maximum that begins with -1e38 limits nothing.

That is so where nothing else is infinite: of a row that is masked altogether, with minus infinity,
the limit is all that is left, and without it such a row has no numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from relprop import _compat
from relprop._core import registry
from relprop._core.graph import Atom, Equation, Literal
from relprop.propagators.general import is_move
from relprop.propagators.linear import Contraction
from relprop.reading.draft import Draft
from relprop.reading.numbers import is_literal

#: Of finite numbers, these are as finite as anything is.
_FINITE = frozenset(
    "add sub mul neg abs max min reduce_max reduce_min reduce_sum exp exp2 square select_n pad "
    "concatenate convert_element_type stop_gradient copy gather dynamic_slice".split()
)
_BOUNDED = ("tanh", "logistic", "sin", "cos", "erf")
#: Larger arrays are not looked at.
_MOST = 1 << 20


def never_limited(draft: Draft, equation: Equation) -> Atom | None:
    """What is limited by a number that stands for infinity, as running maxima begin with one."""
    sign = -1.0 if equation.name == "max" else 1.0
    for limit, other in (equation.inputs, equation.inputs[::-1]):
        # Infinity itself limits nothing, whatever else there is.
        itself = draft.index.number(limit) == sign * np.inf
        if itself and is_literal(draft.index.maker, limit):
            return other
        if _is_infinite(draft, limit, sign) and _is_finite(draft, other):
            return other
    return None


def _far(atom: Atom) -> float:
    """A number from which on others stand for infinity.

    That is the last number of its type, or a hundredth of it where that is far from what anybody
    computes with: 1e38, but no number in half precision.
    """
    last = float(jnp.finfo(atom.dtype).max)
    return last / 100 if last > 1e30 else last


def _real_numbers(queue: list[Atom]) -> Iterator[Atom]:
    """Those of a queue, each once; who looks at them puts in what they are computed from."""
    seen: set[Atom] = set()
    while queue:
        atom = queue.pop()
        if atom not in seen and jnp.issubdtype(atom.dtype, jnp.floating):
            seen.add(atom)
            yield atom


def _is_infinite(draft: Draft, atom: Atom, sign: float) -> bool:
    """Whether the code says that a value is about infinity; whatever is added changes nothing."""
    queue = [atom]
    for atom in _real_numbers(queue):
        number = draft.index.number(atom)
        if number is not None:
            if sign * number >= _far(atom) and is_literal(draft.index.maker, atom):
                return True
            continue
        maker = draft.index.maker.get(atom)
        if maker is None or atom in draft.index.touched:
            continue
        if maker.name in ("add", "sub", "broadcast_in_dim", "reshape", "convert_element_type"):
            queue.extend(maker.inputs if maker.name == "add" else maker.inputs[:1])
    return False


def _is_finite(draft: Draft, atom: Atom) -> bool:
    """Whether a value is known not to be infinite, but by an overflow."""
    queue = [atom]
    for atom in _real_numbers(queue):
        if isinstance(atom, Literal) or atom in draft.constants:
            array = atom.array if isinstance(atom, Literal) else draft.constants[atom]
            if _compat.is_traced(array) or np.size(array) > _MOST:
                return False
            if not np.all(np.abs(np.asarray(array, dtype=float)) < _far(atom)):
                return False
            continue
        maker = draft.index.maker.get(atom)
        if maker is None:
            if atom not in draft.index.touched:
                return False  # An argument may be a mask.
        elif maker.name in _FINITE or is_move(maker):
            queue.extend(maker.inputs)
        elif not (
            isinstance(registry.lookup(maker.primitive), Contraction) or maker.name in _BOUNDED
        ):
            return False
    return True
