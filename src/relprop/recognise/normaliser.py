"""The normaliser of a normalisation: a root of something summed over what is divided by it.

LayerNorm, RMSNorm, GroupNorm and L2-normalisation are spelled in many ways. Whatever the spelling,
once the root counts as a constant, what is left of the normalisation is linear. A root is a
normaliser only if that can be proven: all that is done with it is to divide by it, and all that is
divided is linear in what the root was summed over. What was computed from the quotient alone may
be multiplied by the root again. The share that a root has of the mean of such roots is a
normaliser, too, where it scales what they are roots of, as in global response normalisation. A
distance by which something else is divided is no normaliser, nor is a norm that is a score or a
feature.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from relprop import _compat
from relprop._core import registry
from relprop._core.graph import Atom, Equation, Literal, Value
from relprop._core.operation import Operation
from relprop.propagators.linear import Addition, Contraction, Division, Multiplication, Negation
from relprop.propagators.recognised import Normaliser
from relprop.propagators.sums import DeviceSum, Linear, WindowSum
from relprop.reading.terms import ONE
from relprop.recognise.dataflow import Dataflow, is_elementwise, is_move

# What may be done to the entries of a value before they are summed into a normaliser.
_POWERS = ("square", "integer_pow", "pow", "abs", "mul", "real", "imag", "conj", "max", "select_n")


def normalisers(flow: Dataflow) -> Iterator[Operation]:
    """Each root of a reduction of what is then divided by it, and each share of such a root."""
    others: dict[Atom, Equation] = {}
    for equation in flow.equations:
        if not flow.operands(equation):
            continue
        exponent = root_exponent(flow, equation)
        if exponent is not None:
            bases = bases_of(flow, equation)
            inverse = _is_inverse(flow, equation, exponent)
            if bases and _divides(flow, equation.outputs[0], inverse, bases):
                yield Operation(Normaliser(), (equation,), equation.inputs, equation.outputs)
                continue
            if bases and not inverse:
                others[equation.outputs[0]] = equation
        root = _shared(flow, equation, others) if others else None
        if root is not None and _scales(flow, equation.outputs[0], bases_of(flow, root)):
            yield Operation(Normaliser(), (equation,), equation.inputs, equation.outputs)


def _shared(flow: Dataflow, equation: Equation, roots: Mapping[Atom, Equation]) -> Equation | None:
    """The root that is divided by the mean or sum of such roots, as in response normalisation."""
    if equation.name not in ("mul", "div") or len(flow.operands(equation)) != 2:
        return None
    sides = (equation.inputs, equation.inputs[::-1])
    for above, below in sides if equation.name == "mul" else sides[:1]:
        root, _ = flow.origin(above)
        total = flow.producer(flow.origin(below)[0])
        if root not in roots or total is None:
            continue
        if equation.name == "mul":
            if total.name == "div" and flow.number(total.inputs[0]) is not None:
                below = total.inputs[1]
            elif total.params.get("y") == -1:
                below = total.inputs[0]
            else:
                continue
        among = _summed(flow, _unguarded(flow, below))
        if among and all(flow.origin(value)[0] is root for value in among):
            return roots[root]
    return None


def _unguarded(flow: Dataflow, atom: Atom) -> Atom:
    """A sum before it was moved, multiplied by numbers and kept from being zero.

    Anything else is none, whatever it is a function of.
    """
    while (equation := flow.producer(atom)) is not None and not reduces(flow, equation):
        operands = flow.operands(equation)
        below = equation.name == "div" and equation.inputs[-1] in flow.dependent
        if len(operands) != 1 or below or not (is_move(equation) or _only_scales(flow, equation)):
            break
        (atom,) = operands
    return atom if equation is not None and reduces(flow, equation) else Literal(0.0)


def _scales(flow: Dataflow, value: Value, bases: set[Value]) -> bool:
    """Whether all that is done with a share is to multiply by it what its root is one of."""
    meetings = _meetings(flow, value, True, True)
    return bool(meetings) and all(
        m.divides and m.plain and is_linear_in(flow, m.other, bases) for m in meetings or ()
    )


def root_exponent(flow: Dataflow, equation: Equation) -> float | None:
    """The exponent, 0.5 or -0.5, if the equation takes a root."""
    if equation.name in ("rsqrt", "sqrt"):
        return -0.5 if equation.name == "rsqrt" else 0.5
    if equation.name == "pow":
        exponent = flow.number(equation.inputs[1])
        if exponent in (0.5, -0.5):
            return exponent
    if equation.name in ("mul", "div"):
        return _of_itself_and_its_root(flow, equation)
    if equation.name not in ("exp", "exp2") and not _is_power_of_power(flow, equation):
        return None
    # The exponential of half of a logarithm, or a power of a power.
    (value,) = equation.outputs
    term = flow.algebra.of(value, flow.algebra.indices(value.shape))
    powers = [p for product in term for b, p in product if b[0] != "exp" and abs(p) == 0.5]
    factors = [(b, p) for product in term for b, p in product if b != ("exp", ONE)]
    others = [b for b, p in factors if b[0] == "exp" or abs(p) != 0.5]
    return powers[0] if len(powers) == 1 and not others else None


def _is_power_of_power(flow: Dataflow, equation: Equation) -> bool:
    """Whether an equation takes a power of what is a power or a root already."""
    makers = [flow.producer(a) for a in flow.operands(equation)]
    again = equation.name in ("integer_pow", "square", "pow")
    return again and any(m is not None and m.name in ("sqrt", "rsqrt", "pow") for m in makers)


def _of_itself_and_its_root(flow: Dataflow, equation: Equation) -> float | None:
    """The exponent of ``q / sqrt(q)``, ``sqrt(q) / q`` or ``q * rsqrt(q)``."""
    for position in (0, 1):
        root = flow.producer(equation.inputs[1 - position])
        if root is None or root.inputs[:1] != (equation.inputs[position],):
            continue
        power = root_exponent(flow, root) if root.name in ("sqrt", "rsqrt", "pow") else None
        if power is not None:
            own = {"mul": 1 + power, "div": 1 - power if position == 0 else power - 1}
            return own[equation.name] if abs(own[equation.name]) == 0.5 else None
    return None


def _is_inverse(flow: Dataflow, equation: Equation, exponent: float) -> bool:
    """Whether a root falls where what was summed rises, as that of `1 / sum` does."""
    (value,) = equation.outputs
    term = flow.algebra.of(value, flow.algebra.indices(value.shape))
    own = ("value", value)
    powers = [p for product in term for b, p in product if b[0] != "mask" and b[:2] != own]
    return powers[0] < 0 if len(term) == 1 and len(powers) == 1 else exponent < 0


def _summed(flow: Dataflow, atom: Atom) -> list[Value]:
    """What a value was summed from; nothing if it depends on anything that was not summed."""
    queue, seen = [atom], set()
    found: list[Value] = []
    while queue:
        atom = queue.pop()
        if not isinstance(atom, Value) or atom not in flow.dependent or atom in seen:
            continue
        seen.add(atom)
        equation = flow.producer(atom)
        if equation is None:
            return []
        if reduces(flow, equation):
            found.extend(flow.operands(equation))
        elif is_move(equation) or is_elementwise(equation) or equation.name in ("real", "imag"):
            queue.extend(equation.inputs)
        else:
            return []
    return found


def reduces(flow: Dataflow, equation: Equation) -> bool:
    """Whether an equation sums up the entries of a value, or picks out one of them."""
    kind = registry.lookup(equation.primitive)
    operands = flow.operands(equation)
    if kind.reduces:
        return True
    if isinstance(kind, Contraction):
        # A sum of products of a value with itself, or with equal numbers.
        others = [a for a in equation.inputs if a not in operands]
        return len(operands) > 1 or any(flow.number(a) is not None for a in others[:1])
    if equation.name in ("slice", "dynamic_slice", "gather") and operands:
        before, after = operands[0].shape, equation.outputs[0].shape
        total = isinstance(
            registry.lookup(getattr(flow.producer(operands[0]), "primitive", equation.primitive)),
            WindowSum,
        )
        dropped = len(after) < len(before) or any(
            a < b for a, b in zip(after, before, strict=False)
        )
        return dropped and (total or 1 in after or len(after) < len(before))
    return _only_adds(flow, equation)


def _only_adds(flow: Dataflow, equation: Equation) -> bool:
    """Whether it is a loop that adds something to what it carries in each turn."""
    if equation.name != "scan" or len(equation.bodies) != 1:
        return False
    (body,) = equation.bodies
    consts, carried = _compat.scan_sizes(equation.params)
    makers = {out: e for e in body.equations for out in e.outputs}
    results = list(zip(equation.outputs, body.outputs, strict=True))
    starts = body.inputs[consts : consts + carried]
    if any(out in flow.dependent for out, _ in results[carried:]):
        return False
    for start, (out, result) in zip(starts, results[:carried], strict=True):
        if out in flow.dependent:
            maker = makers.get(result)  # type: ignore[arg-type]
            kind = None if maker is None else registry.lookup(maker.primitive)
            if maker is None or not isinstance(kind, Addition) or start not in maker.inputs:
                return False
    return True


def bases_of(flow: Dataflow, root: Equation) -> set[Value]:
    """What a root is one of: all from the entries that were summed to what they are powers of.

    Of a difference, both parts as well: `x - mean` was computed from x, which may be divided, too.
    """
    found: set[Value] = set()
    queue = _summed(flow, root.inputs[0])
    while queue:
        value = queue.pop()
        if value in found:
            continue
        found.add(value)
        equation = flow.producer(value)
        operands = [] if equation is None else flow.operands(equation)
        if equation is None or not operands:
            continue
        kind = registry.lookup(equation.primitive)
        power = equation.name in _POWERS and all(a is operands[0] for a in operands)
        # By a constant: the part of a mean that one device has is divided before all are added.
        scaled = len(operands) == 1 and isinstance(
            kind, (Multiplication, Division, Addition, Negation)
        )
        if power or scaled or is_move(equation) or isinstance(kind, (Linear, DeviceSum)):
            queue.extend(operands)
        elif isinstance(kind, Addition):
            found.update(operands)
            found.update(flow.origin(a)[0] for a in operands)  # type: ignore[misc]
    return found


class _Meeting(NamedTuple):
    """Where a root meets another value that depends on the inputs.

    Attributes:
        use: the product or quotient.
        other: the other value.
        divides: whether the root is below.
        plain: whether nothing but a factor or a guard against zero has changed the root before.
    """

    use: Equation
    other: Value
    divides: bool
    plain: bool


def _divides(flow: Dataflow, value: Value, inverse: bool, bases: set[Value]) -> bool:
    """Whether all that is done with a root is to divide by it what it is the root of.

    What was computed from that quotient may be multiplied by the root again, as a forecast is that
    was made of a normalised series: in the units of the series, the root is a constant throughout.

    Args:
        flow: the graph.
        value: the root, or what has become of it.
        inverse: whether it is one over the root.
        bases: what the root was summed over.
    """
    meetings = _meetings(flow, value, inverse, True)
    if not meetings:
        return False
    divided = [meeting for meeting in meetings if meeting.divides]
    again = [meeting for meeting in meetings if not meeting.divides]
    if not divided or not all(is_linear_in(flow, m.other, bases) for m in divided):
        return False
    quotients = {out for meeting in divided for out in meeting.use.outputs}
    return all(m.plain and _is_made_of(flow, m.other, quotients) for m in again)


def _is_made_of(flow: Dataflow, value: Value, parts: set[Value]) -> bool:
    """Whether a value depends on the inputs through some values alone.

    What has another way to the inputs has the size of these in it, and the root is a factor then.
    """
    queue: list[Atom] = [value]
    seen: set[Atom] = set()
    while queue:
        atom = queue.pop()
        if atom in seen or atom in parts or atom not in flow.dependent:
            continue
        seen.add(atom)
        equation = flow.producer(atom)
        if equation is None:
            return False
        queue.extend(equation.inputs)
    return True


def _meetings(flow: Dataflow, value: Value, inverse: bool, plain: bool) -> list[_Meeting] | None:
    """All products and quotients of a root and other values; None if it is used otherwise."""
    if value in flow.graph.explained_outputs:
        return None
    found: list[_Meeting] = []
    for use in flow.consumers(value):
        if not any(out in flow.dependent for out in use.outputs):
            continue
        operands = flow.operands(use)
        if len(operands) == 2 and operands[0] is not operands[1]:
            below = use.name == "div" and use.inputs[1] is value
            if not (use.name == "mul" or below):
                return None
            (other,) = [a for a in operands if a is not value]
            found.append(_Meeting(use, other, below is not inverse, plain))
            continue
        goes_on = is_move(use) or is_elementwise(use) or use.name == "stop_gradient"
        if len(operands) != 1 or not goes_on:
            return None
        flips = (use.name == "div" and use.inputs[1] is value) or use.params.get("y") == -1
        flips = flips or (use.name == "pow" and flow.number(use.inputs[1]) == -1)
        scaled = flips or _keeps(use) or _only_scales(flow, use)
        more = _meetings(flow, use.outputs[0], inverse is not flips, plain and scaled)
        if not more:
            return None
        found.extend(more)
    return found


def _keeps(equation: Equation) -> bool:
    """Whether numbers are moved, and none is dropped or comes to where another one was."""
    if not is_move(equation) or equation.name in ("rev", "sort", "gather"):
        return False
    return math.prod(equation.outputs[0].shape) >= math.prod(equation.inputs[0].shape)


def _only_scales(flow: Dataflow, equation: Equation) -> bool:
    """Whether a value stays what it is, but for its unit and where it would be about zero."""
    if equation.name in ("add", "max", "min", "clamp", "select_n"):
        chosen = equation.name == "select_n"
        others = [a for a in equation.inputs[chosen:] if a not in flow.dependent]
        if not others or not all(map(flow.is_number, others)):
            return False
        # What is chosen where a root is about zero may be any number.
        low = [] if equation.name == "min" else _compared(flow, equation) if chosen else others[:1]
        high = {"min": others, "clamp": others[1:]}.get(equation.name, [])
        small = all(abs(flow.number(a) or 0.0) <= _GUARD for a in low)
        return small and all((flow.number(a) or 0.0) >= 1 / _GUARD for a in high)
    return equation.name in ("mul", "div", "stop_gradient")


def _compared(flow: Dataflow, choice: Equation) -> list[Atom]:
    """The numbers by comparison with which something is chosen."""
    test = flow.producer(choice.inputs[0])
    return [] if test is None else [a for a in test.inputs if flow.number(a) is not None]


# A number of that size keeps a root from being zero; roots themselves are of the order of one.
_GUARD = 1e-2
_LINEAR = (Addition, Negation, Linear, DeviceSum)
_ONE_SIDED = (Multiplication, Contraction)


def is_linear_in(flow: Dataflow, value: Value, bases: set[Value]) -> bool:
    """Whether a value has been computed from one of others by linear operations."""
    queue, seen = [value], set()
    while queue:
        value = queue.pop()
        if value in bases:
            return True
        if value in seen:
            continue
        seen.add(value)
        equation = flow.producer(value)
        if equation is None:
            continue
        kind, operands = registry.lookup(equation.primitive), flow.operands(equation)
        one = len(operands) == 1
        if (
            is_move(equation)
            or isinstance(kind, _LINEAR)
            or (one and isinstance(kind, _ONE_SIDED))
            or (one and isinstance(kind, Division) and equation.inputs[0] is operands[0])
            or equation.name in ("select_n", "scatter-add")
        ):
            queue.extend(operands)
    return False
