"""Logarithms of sums of exponentials, with the shift of the arguments where it belongs.

``(z - m) - log(sum(exp(z - m)))`` is ``z - logsumexp(z)``, ``log(exp(z) / s)`` is ``z - log(s)``,
and ``logsumexp(z - c)`` is ``logsumexp(z) - c``. ``exp(log(q) - c)`` is ``q * exp(-c)``: what is
added up in logarithms is a sum.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence, Set

import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop._core.operation import Propagator
from relprop.propagators.general import is_move
from relprop.propagators.linear import Addition, Division, Multiplication
from relprop.reading.algebra import Algebra
from relprop.reading.draft import Draft
from relprop.reading.primitives import algebra_of
from relprop.reading.terms import Index, plus, scaled, values


def shifted_back(draft: Draft) -> None:
    """Reads the logarithm of a sum of exponentials with the shift of their arguments."""
    if not any(equation.name == "log" for equation in draft.equations):
        return
    while _raised_again(draft):
        _shifted_for_range(draft)
    _logarithms_of_quotients(draft)
    _shifted_together(draft)
    _shifted_before(draft)


def _raised_again(draft: Draft) -> bool:
    """Reads ``exp(n * log(q) - c)`` with constants c as ``q**n * exp(-c)``."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if equation.name != "exp":
            continue
        atom, factor = equation.inputs[0], 1.0
        shifts: list[tuple[Atom, float]] = []
        while (maker := draft.index.maker.get(atom)) is not None:
            if maker.name == "log" and factor >= 1 and factor.is_integer():
                value, power = maker.inputs[0], int(factor)
                made[equation] = _without_logarithm(draft, equation, value, power, shifts)
            kind, operands = registry.lookup(maker.primitive), draft.index.operands(maker)
            if len(operands) != 1 or not (isinstance(kind, Addition) or _scales(kind)):
                break
            (atom,), left = operands, maker.inputs[0] is operands[0]
            other = maker.inputs[1 if left else 0]
            if isinstance(kind, Addition) and (left or kind.sign > 0):
                shifts.append((other, factor * kind.sign))
            elif _scales(kind) and (n := draft.index.number(other)) is not None:
                factor *= float(n)
            else:
                break
    # One inside another comes first: the shift of its argument may go.
    outs = {equation.outputs[0] for equation in made}
    inner = {e: new for e, new in made.items() if not draft.index.leads(outs, e.outputs[0])}
    if inner:
        draft.put(inner)
    return bool(inner)


def _shifted_for_range(draft: Draft) -> None:
    """Reads ``log(sum(q * exp(-c))) + c`` as ``log(sum(q))``."""
    algebra = algebra_of(draft.index.maker.get, draft.index.number)
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        kind, operands = registry.lookup(equation.primitive), draft.index.operands(equation)
        if not isinstance(kind, Addition) or kind.sign < 0 or len(operands) != 1:
            continue
        logarithm = _moved_from(draft, operands[0], "log")
        total = None if logarithm is None else _moved_from(draft, logarithm.inputs[0], "reduce_sum")
        product = None if total is None else draft.index.maker.get(total.inputs[0])
        if product is None or product.name != "mul" or total is None:
            continue
        (out,) = equation.outputs
        (shift,) = (a for a in equation.inputs if a is not operands[0])
        value = [a for a in product.inputs if a in draft.index.dependent]
        index = algebra.indices(out.shape)
        known = values(algebra.of(shift, _within(shift, index)))
        if len(value) != 1 or not known or known & values(algebra.of(out, index)):
            continue
        axes = total.params["axes"]
        whole = value[0].shape == total.inputs[0].shape

        def sums(q: Array, axes: tuple[int, ...] = axes, out: Value = out) -> Array:
            return jnp.log(jnp.sum(q, axes)).reshape(out.shape)

        if whole:
            made[equation] = draft.derived(sums, value, equation, out)
    if made:
        draft.put(made)


def _moved_from(draft: Draft, atom: Atom, name: str) -> Equation | None:
    """The equation of some name that makes a value, perhaps moved; a sum may be kept positive."""
    while (maker := draft.index.maker.get(atom)) is not None and maker.name != name:
        if not (is_move(maker) or maker.name == "abs") or len(maker.inputs) != 1:
            return None
        (atom,) = maker.inputs
    return maker


def _scales(kind: Propagator) -> bool:
    return isinstance(kind, Multiplication) and not isinstance(kind, Division)


def _without_logarithm(
    draft: Draft, like: Equation, value: Atom, power: int, shifts: Sequence[tuple[Atom, float]]
) -> list[Equation]:
    """A power of what a logarithm was taken of, times exponentials of what was added to that."""
    (out,) = like.outputs

    def product(q: Array, *constants: Array) -> Array:
        q = q if power == 1 and shifts else q**power
        if shifts:  # Together they may be small where each is large.
            pairs = zip(constants, shifts, strict=True)
            parts = [c * jnp.asarray(factor, q.dtype) for c, (_, factor) in pairs]
            q = q * jnp.exp(functools.reduce(jnp.add, parts))
        return jnp.broadcast_to(q, out.shape)

    return draft.derived(product, [value, *(atom for atom, _ in shifts)], like, out)


def _shifted_together(draft: Draft) -> None:
    """Reads ``(z - m) - log(sum(exp(z - m)))`` as ``z - (log(sum(exp(z - m))) + m)``."""
    algebra = algebra_of(draft.index.maker.get, draft.index.number)
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        kind = registry.lookup(equation.primitive)
        if not (isinstance(kind, Addition) and kind.sign < 0) or len(equation.inputs) != 2:
            continue
        shifted, logarithm = equation.inputs
        before = draft.index.maker.get(shifted)
        if before is None or before.name != "sub" or not _is_log(draft, logarithm):
            continue
        argument, shift = before.inputs
        if argument not in draft.index.dependent or argument.shape != equation.outputs[0].shape:
            continue
        index = algebra.indices(equation.outputs[0].shape)
        own = algebra.of(logarithm, _within(logarithm, index))
        more = algebra.of(shift, _within(shift, index))
        if more and len(plus(own, more)) == len(own) - len(more):
            made[equation] = draft.derived(
                lambda z, y, m: z - (y + m),
                [argument, logarithm, shift],
                equation,
                equation.outputs[0],
            )
    if made:
        draft.put(made)


def _shifted_before(draft: Draft) -> None:
    """Reads ``log(sum(exp(z - c)))`` as ``(log(sum(exp(z - c))) + c) - c`` where c is a summand.

    What is added again later anyway, as a maximum, is none.
    """
    algebra = algebra_of(draft.index.maker.get, draft.index.number)
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if equation.name != "log" or equation.outputs[0] not in draft.index.dependent:
            continue
        total = draft.index.maker.get(equation.inputs[0])
        while total is not None and total.name in ("abs", "convert_element_type", "reshape"):
            total = draft.index.maker.get(total.inputs[0])
        if total is None or total.name != "reduce_sum":
            continue
        exponential = draft.index.maker.get(total.inputs[0])
        if exponential is None or exponential.name != "exp":
            continue
        shift = _shift(draft, exponential.inputs[0], total.params["axes"])
        last = _unguarded(draft, equation)
        if shift is None or _added_again(draft, algebra, last.outputs[0], shift):
            continue
        again = draft.again(last, last.inputs, None)
        made[last] = [
            again,
            *draft.derived(_there_and_back, [again.outputs[0], shift], equation, last.outputs[0]),
        ]
    if made:
        draft.put(made)


def _there_and_back(y: Array, c: Array) -> Array:
    c = jnp.broadcast_to(c, y.shape) if c.size == 1 else c.reshape(y.shape)
    return (y + c) - c


def _shift(draft: Draft, atom: Atom, axes: tuple[int, ...]) -> Value | None:
    """What is subtracted from arguments of exponentials, the same along some axes."""
    while (maker := draft.index.maker.get(atom)) is not None and maker.name == "sub":
        first, second = maker.inputs
        if second not in draft.index.dependent:  # As a maximum that has been cut off.
            atom = first
            continue
        sizes = [second.shape[a] for a in axes] if len(second.shape) == len(atom.shape) else []
        alike = not second.shape or (sizes and set(sizes) == {1})
        inner = first in draft.index.dependent and first.shape == atom.shape
        return second if alike and inner and isinstance(second, Value) else None
    return None


def _unguarded(draft: Draft, logarithm: Equation) -> Equation:
    """The logarithm with what has been cut off and is added to it, as its maximum."""
    while (reader := draft.index.only_reader(logarithm.outputs[0])) is not None:
        kind = registry.lookup(reader.primitive)
        if not isinstance(kind, Addition) or kind.sign < 0:
            break
        if len(draft.index.operands(reader)) != 1 or reader.outputs[0].shape != (
            logarithm.outputs[0].shape
        ):
            break
        logarithm = reader
    return logarithm


def _added_again(draft: Draft, algebra: Algebra, value: Value, shift: Value) -> bool:
    """Whether something that is read with a value takes the shift of its arguments away."""
    queue: list[Atom] = [value]
    while queue:
        atom = queue.pop()
        for reader in draft.index.readers.get(atom, ()):
            if is_move(reader) and len(reader.inputs) == 1:
                queue.extend(reader.outputs)
            elif isinstance(registry.lookup(reader.primitive), Addition):
                others = [a for a in reader.inputs if a is not atom]
                if any(draft.index.behind(a) >= {shift} or a is shift for a in others):
                    return True
    return False


def cancels(algebra: Algebra, value: Atom, other: Atom, sign: int = 1) -> bool:
    """Whether a value has a summand that the other one, with a sign, takes away."""
    if other.shape not in ((), value.shape):
        return False
    index = algebra.indices(value.shape)
    own, more = algebra.of(value, index), algebra.of(other, index if other.shape else ())
    return bool(more) and len(plus(own, scaled(more, sign))) == len(own) - len(more)


def _logarithms_of_quotients(draft: Draft) -> None:
    """Reads ``log(exp(z) / s)`` as ``z - log(s)``, also of entries that are taken out of it."""
    made: dict[Equation, list[Equation]] = {}
    for equation in draft.equations:
        if equation.name != "log" or equation.outputs[0] not in draft.index.dependent:
            continue
        atom, moves = equation.inputs[0], []
        quotient = draft.index.maker.get(atom)
        while quotient is not None and _takes(draft, quotient):
            moves.insert(0, quotient)
            atom = quotient.inputs[0]
            quotient = draft.index.maker.get(atom)
        if quotient is None or not isinstance(atom, Value):
            continue
        if len(moves) > 0 and any(move.name == "convert_element_type" for move in moves):
            continue
        new = _logarithm(draft, quotient, equation, None if moves else equation.outputs[0])
        for number, move in enumerate(moves) if new else ():
            out = equation.outputs[0] if number == len(moves) - 1 else None
            new.append(draft.again(move, [new[-1].outputs[0], *move.inputs[1:]], out))
        if new:
            made[equation] = new
    if made:
        draft.put(made)


def _takes(draft: Draft, equation: Equation) -> bool:
    """Whether an equation takes entries out of its first operand and changes none."""
    if len(equation.inputs) == 1:
        return is_move(equation)
    return equation.name in ("gather", "dynamic_slice") and len(draft.index.operands(equation)) == 1


def _logarithm(
    draft: Draft, quotient: Equation, like: Equation, out: Value | None
) -> list[Equation]:
    """The logarithm of a quotient with an exponential above, if it is one."""
    if quotient.name != "div" or len(draft.index.operands(quotient)) != 2:
        return []
    above, below = quotient.inputs
    exponential = draft.index.maker.get(above)
    if exponential is None or exponential.name != "exp" or below not in _sums(draft):
        return []
    return draft.derived(
        lambda z, s: jnp.broadcast_to(z - jnp.log(s), quotient.outputs[0].shape),
        [exponential.inputs[0], below],
        like,
        out,
    )


def _sums(draft: Draft) -> Set[Atom]:
    """What is computed from sums of exponentials."""
    return draft.index.exponentials[1]


def _is_log(draft: Draft, atom: Atom) -> bool:
    """Whether a value that depends on the inputs is a logarithm, perhaps moved about."""
    while atom in draft.index.dependent:
        maker = draft.index.maker.get(atom)
        if maker is None or maker.name == "log":
            return maker is not None
        if not is_move(maker) or len(maker.inputs) != 1:
            return False
        (atom,) = maker.inputs
    return False


def _within(atom: Atom, index: Index) -> Index:
    return (
        tuple(0 if n == 1 else i for n, i in zip(atom.shape, index, strict=True))
        if atom.shape
        else ()
    )
