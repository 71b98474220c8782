"""Constants that are added belong to the layer that they are the bias of.

In ``t + x @ W + b`` the code adds b to a residual sum, and its author means a layer with a bias.
Sums are taken as a whole, through signs, scales and moves: a constant belongs to the one summand
that is a layer without a bias. Where several are, as in a sum over heads, it stays where it is.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.general import is_move
from relprop.propagators.linear import Addition, Contraction, Division, Multiplication, Negation
from relprop.reading.draft import Draft
from relprop.reading.numbers import is_literal
from relprop.reading.orders import order_of


def settled(draft: Draft) -> None:
    """Adds constants to the layers that they belong to."""
    inside: set[Value] = set()
    made: dict[Equation, list[Equation]] = {}
    same: dict[Value, Atom] = {}
    gone: set[Equation] = set()
    for equation in reversed(draft.equations):
        if not isinstance(registry.lookup(equation.primitive), Addition):
            continue
        (out,) = equation.outputs
        if out not in draft.index.dependent or out in inside:
            continue
        parts = _parts(draft, out, inside)
        _assign(parts)
        if parts[0].changes:
            gone.update(part.equation for part in parts if part.equation is not None)
            _written(draft, parts, made.setdefault(equation, []), same)
    if made:
        new = ((e,) if e not in gone else made.get(e, ()) for e in draft.equations)
        draft.replace(itertools.chain.from_iterable(new), same)


@dataclasses.dataclass(eq=False)
class _Part:
    """A part of a sum.

    Attributes:
        value: what it is.
        whole: the part that it is a part of, but for the sum itself.
        equation: what makes it of its parts; None for a summand, which is taken as it is.
        parts: what it is the sum or the image of.
        constant: what else is added here.
        factor: the number that its only part is multiplied with.
        order: where each number was in its only part, which has them in another order.
        moved: whether the constant belongs to a layer elsewhere.
        layer: of a summand, whether it is a layer, perhaps moved or scaled.
        biased: whether that layer has a bias already.
        gained: constants that belong to it.
        bottom: the summand that it is the image of, if it is one of one only.
        changes: whether a constant leaves it or anything in it, or comes there.
    """

    value: Value
    whole: _Part | None = None
    equation: Equation | None = None
    parts: tuple[_Part, ...] = ()
    constant: Atom | None = None
    factor: float | None = None
    order: np.ndarray | None = None
    moved: bool = False
    layer: bool = False
    biased: bool = False
    gained: list[_Gain] = dataclasses.field(default_factory=list)
    bottom: _Part | None = None
    changes: bool = False

    def up_to(self, whole: _Part) -> list[_Part]:
        """The parts from one that it is in down to itself, both ends among them."""
        path: list[_Part] = [self]
        while path[-1] is not whole:
            above = path[-1].whole
            assert above is not None
            path.append(above)
        return path[::-1]


def _parts(draft: Draft, out: Value, inside: set[Value]) -> list[_Part]:
    """A sum and all its parts, each before its own, as far as nothing else reads them."""
    found = [_Part(out)]
    for part in found:  # Which grows on the way.
        top = part.whole is None
        if not (_adds(draft, part.value) if top else _opens(draft, part.value)):
            part.layer, part.biased = _is_layer(draft, part.value)
            continue
        index, equation = draft.index, draft.index.maker[part.value]
        operands = index.operands(equation)
        part.equation = equation
        part.parts = tuple(_Part(value, part) for value in operands)
        inside.add(part.value)
        if isinstance(registry.lookup(equation.primitive), Addition):
            constant = next((a for a in equation.inputs if a not in index.dependent), None)
            # A touched one is no bias, such as a maximum, its gradient stopped.
            varies = constant is not None and index.varies(constant)
            part.constant = None if varies else constant
        else:
            part.factor = _factor(draft, equation)
            part.order = order_of(draft, equation)
        found.extend(part.parts)
    return found


def _adds(draft: Draft, value: Value) -> bool:
    """Whether a value is the sum of one or two others of its shape, and of constants."""
    equation = draft.index.maker.get(value)
    if equation is None or not isinstance(registry.lookup(equation.primitive), Addition):
        return False
    operands = draft.index.operands(equation)
    return len(operands) in (1, 2) and all(a.shape == value.shape for a in operands)


def _opens(draft: Draft, value: Value) -> bool:
    """Whether a value is read once, and is a sum or the image of one that is."""
    known = draft.index.memory.setdefault("sums", {})
    passed: list[Value] = []
    while value not in known:
        equation, reader = draft.index.maker.get(value), draft.index.only_reader(value)
        alone = reader is not None and reader.inputs.count(value) == 1
        if equation is None or not alone or not _is_link(draft, equation):
            known[value] = alone and _adds(draft, value)
            break
        passed.append(value)
        (value,) = draft.index.operands(equation)
    ordered = False
    for above in reversed(passed):
        # A bias behind another order goes before it, where it is the layer's.
        ordered = ordered or order_of(draft, draft.index.maker[above]) is not None
        known[above] = known[value] or (ordered and is_any_layer(draft, above))
    return known[passed[0]] if passed else known[value]


def is_free_layer(draft: Draft, value: Value) -> bool:
    """Whether a value is a layer without a bias, perhaps behind moves and scales."""
    return _is_layer(draft, value) == (True, False)


def is_any_layer(draft: Draft, value: Value) -> bool:
    """Whether a value is a layer, perhaps behind moves, scales and a bias."""
    return _is_layer(draft, value)[0]


def _is_layer(draft: Draft, value: Value) -> tuple[bool, bool]:
    """Whether a value is a layer, perhaps behind moves and scales, and whether it has a bias."""
    known = draft.index.memory.setdefault("layers", {})
    passed: list[tuple[Value, bool]] = []
    while value not in known:
        equation = draft.index.maker.get(value)
        operands = [] if equation is None else draft.index.operands(equation)
        known[value] = (False, False)
        if equation is None or len(operands) != 1 or len(equation.outputs) != 1:
            break
        kind = registry.lookup(equation.primitive)
        if isinstance(kind, Contraction):
            others = [a for a in equation.inputs if a not in operands]
            learnt = not all(is_literal(draft.index.maker, a) for a in others)
            known[value] = (learnt, False)
            break
        if not (isinstance(kind, Addition) or _is_link(draft, equation)):
            break
        passed.append((value, isinstance(kind, Addition)))
        (value,) = operands
    layer, biased = known[value]
    for above, adds in reversed(passed):
        biased = layer and (biased or adds)
        known[above] = (layer, biased)
    return layer, biased


@dataclasses.dataclass(eq=False)
class _Inside:
    """What is in a part.

    Attributes:
        pending: the parts whose constants have found no layer.
        layers: how many layers there are, and the only one.
        free: those without a bias, likewise.
    """

    pending: list[_Part]
    layers: tuple[int, _Part | None]
    free: tuple[int, _Part | None]


def _assign(parts: list[_Part]) -> None:
    """Gives constants to layers, from the innermost sums on."""
    known: dict[_Part, _Inside] = {}
    for part in reversed(parts):
        single = len(part.parts) == 1
        part.bottom = part.parts[0].bottom if single else None if part.parts else part
        if part.order is not None:
            part.bottom = None
        own = _inside(part, [known.pop(below) for below in part.parts])
        known[part] = own
        count, layer = own.free if own.free[0] else own.layers
        if not own.pending or count != 1:
            continue
        assert layer is not None
        for pending in own.pending:
            if pending.bottom is layer:
                layer.biased = True  # It follows its layer and stays where it is.
            else:
                pending.moved = True
                gain = _Gain(pending, pending.up_to(part), layer.up_to(part))
                layer.gained.append(gain)
        own.pending, own.free = [], (0, None)
    for part in reversed(parts):
        below = any(inner.changes for inner in part.parts)
        part.changes = bool(part.gained) or part.moved or below


def _inside(part: _Part, below: list[_Inside]) -> _Inside:
    """What is in a part, of what is in its parts."""
    if not below:
        one = (1, part) if part.layer else (0, None)
        return _Inside([], one, (0, None) if part.biased else one)
    largest = max(below, key=lambda inner: len(inner.pending))
    pending = largest.pending  # The others are added to it, so that each is moved a few times.
    for inner in below:
        if inner is not largest:
            pending.extend(inner.pending)
    if part.constant is not None:
        pending.append(part)
    return _Inside(
        pending, _one([inner.layers for inner in below]), _one([inner.free for inner in below])
    )


def _one(counted: list[tuple[int, _Part | None]]) -> tuple[int, _Part | None]:
    """How many there are in all, with the only one."""
    total = sum(count for count, _ in counted)
    return total, next((only for count, only in counted if count), None)


@dataclasses.dataclass(frozen=True, eq=False)
class _Gain:
    """A constant on its way to a layer: up to a sum that both are in, and down again.

    Attributes:
        part: where it is added.
        up: from the sum to that.
        down: from the sum to the layer.
    """

    part: _Part
    up: list[_Part]
    down: list[_Part]

    def __call__(self, constant: Array) -> Array:
        """The constant, as it is to be added to the layer."""
        constant = _signed(self.part, self.part.constant, constant)
        for above, below in reversed([*itertools.pairwise(self.up)]):
            constant = _raised(above, below, constant)
        for above, below in itertools.pairwise(self.down):
            constant = _lowered(above, below, constant)
        return constant


def _sign(part: _Part, operand: Atom | None) -> int:
    """The sign of an operand of a sum."""
    assert part.equation is not None
    kind = registry.lookup(part.equation.primitive)
    assert isinstance(kind, Addition)
    return kind.sign if part.equation.inputs[1] is operand else 1


def _signed(part: _Part, operand: Atom | None, array: Array) -> Array:
    """An operand of a sum with its sign."""
    return -array if _sign(part, operand) < 0 else array


def _raised(above: _Part, below: _Part, constant: Array) -> Array:
    """What a constant in a part is in the whole."""
    if above.factor is not None:
        return constant * jnp.asarray(above.factor, constant.dtype)
    assert above.equation is not None
    if isinstance(registry.lookup(above.equation.primitive), Addition):
        return _signed(above, below.value, constant)
    full = jnp.broadcast_to(constant.astype(below.value.dtype), below.value.shape)
    if above.order is not None:
        return full.ravel()[above.order].reshape(above.value.shape)
    return above.equation.evaluate([full])[0]


def _lowered(above: _Part, below: _Part, constant: Array) -> Array:
    """What a constant in the whole is in a part."""
    if above.factor is not None:
        return constant / jnp.asarray(above.factor, constant.dtype)
    assert above.equation is not None
    if isinstance(registry.lookup(above.equation.primitive), Addition):
        return _signed(above, below.value, constant)
    full = jnp.broadcast_to(constant, above.value.shape)
    if above.order is not None:
        return full.ravel()[np.argsort(above.order)].reshape(below.value.shape)
    if above.equation.name == "rev":
        return jnp.flip(full, above.equation.params["dimensions"]).astype(below.value.dtype)
    if above.equation.name == "transpose":
        full = jnp.transpose(full, np.argsort(above.equation.params["permutation"]).tolist())
    return full.reshape(below.value.shape).astype(below.value.dtype)


def _written(
    draft: Draft, parts: list[_Part], made: list[Equation], same: dict[Value, Atom]
) -> None:
    """Computes a sum with all constants where they belong.

    Args:
        draft: the reading.
        parts: the sum and its parts, each before its own.
        made: takes the equations.
        same: takes what is to be read as another value.
    """
    # What some parts are to be called: the sum as before, and so what alone is left of it.
    names: dict[_Part, Value | None] = {parts[0]: parts[0].value}
    for part in parts:
        if _leaves_its_part(part):
            names[part.parts[0]] = names.get(part)
    values: dict[_Part, Value] = {}
    for part in reversed(parts):
        values[part] = part.value
        if not part.changes:
            continue
        out = names.get(part)
        if part.equation is None:
            made.extend(_biased(draft, part, out))
        elif _leaves_its_part(part):
            values[part] = values[part.parts[0]]
            continue
        elif part.moved:
            # What is left of this sum is its only part, or the negative of it.
            value, sign = values[part.parts[0]], _sign(part, part.parts[0].value)
            if sign > 0 and (out is None or out not in draft.visible):
                if out is not None:
                    same[out] = value
                values[part] = value
                continue
            scale = functools.partial(_scaled, sign)
            made.extend(draft.derived(scale, [value], part.equation, out))
        else:
            inputs = list(part.equation.inputs)
            for below in part.parts:
                inputs[part.equation.inputs.index(below.value)] = values[below]
            made.append(draft.again(part.equation, inputs, out))
        values[part] = made[-1].outputs[0]


def _leaves_its_part(part: _Part) -> bool:
    """Whether all that is left of a sum is its only part, which is computed anew."""
    if not part.moved or not part.parts[0].changes:
        return False
    return _sign(part, part.parts[0].value) > 0


def _scaled(sign: int, x: Array) -> Array:
    return x * jnp.asarray(sign, x.dtype)


def _biased(draft: Draft, layer: _Part, out: Value | None) -> list[Equation]:
    """A layer with the constants that it has gained."""
    like = layer.gained[0].part.equation
    atoms = [layer.value, *(gain.part.constant for gain in layer.gained)]

    def biased(value: Array, *constants: Array) -> Array:
        arrays = (jnp.asarray(constant, value.dtype) for constant in constants)
        bias = sum(gain(c) for gain, c in zip(layer.gained, arrays, strict=True))
        return value + jnp.broadcast_to(bias, value.shape)

    assert like is not None
    return draft.derived(biased, atoms, like, out)


def _is_link(draft: Draft, equation: Equation) -> bool:
    """Whether it is a change of sign, a scale by one known number, or gives numbers other axes."""
    if len(draft.index.operands(equation)) != 1 or len(equation.outputs) != 1:
        return False
    if _factor(draft, equation) is not None or order_of(draft, equation) is not None:
        return True
    if len(equation.inputs) != 1 or not is_move(equation):
        return False
    (operand,), (out,) = equation.inputs, equation.outputs
    # All that is left where no number is copied, dropped or brought along.
    return np.prod(operand.shape) == np.prod(out.shape) and equation.name in (
        "reshape",
        "transpose",
        "squeeze",
        "expand_dims",
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "copy_p",
        "name",
        "checkpoint_name",
        "reduce_precision",
        "rev",
    )


def _factor(draft: Draft, equation: Equation) -> float | None:
    """The known number that an equation multiplies its operand with, if it does only that."""
    kind = registry.lookup(equation.primitive)
    if isinstance(kind, Negation):
        return -1.0
    (operand,) = draft.index.operands(equation)
    if (
        not isinstance(kind, Multiplication | Division)
        or operand.shape != equation.outputs[0].shape
    ):
        return None
    position = equation.inputs.index(operand)
    if isinstance(kind, Division) and position == 1:
        return None
    found = draft.index.number(equation.inputs[1 - position])
    if not found or not np.isfinite(found):
        return None
    return 1 / found if isinstance(kind, Division) else found
