"""Constants that are added belong to the layer that they are the bias of.

In ``t + x @ W + b`` the code adds b to a residual sum, and its author means a layer with a bias.
Sums are taken as a whole, through signs, scales and moves: a constant belongs to the one summand
that is a layer without a bias. Where several are, as in a sum over heads, it stays where it is.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.general import is_move
from relprop.propagators.linear import Addition, Contraction, Division, Multiplication, Negation
from relprop.reading.draft import Draft
from relprop.reading.numbers import is_literal


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
        root = _part(draft, out, inside, top=True)
        _assign(root)
        if root.changes:
            gone.update(part.equation for part in root.walk() if part.equation is not None)
            _written(draft, root, made.setdefault(equation, []), same, out)
    if made:
        new = ((e,) if e not in gone else made.get(e, ()) for e in draft.equations)
        draft.replace(itertools.chain.from_iterable(new), same)


@dataclasses.dataclass(eq=False)
class _Part:
    """A part of a sum.

    Attributes:
        value: what it is.
        equation: what makes it of its parts; None for a summand, which is taken as it is.
        parts: what it is the sum or the image of.
        constant: what else is added here.
        factor: the number that its only part is multiplied with.
        settled: whether the constant has found its layer.
        moved: whether that is not where it is added.
        layer: of a summand, whether it is a layer, perhaps moved or scaled.
        biased: whether that layer has a bias already.
        gained: constants that belong to it.
    """

    value: Value
    equation: Equation | None = None
    parts: tuple[_Part, ...] = ()
    constant: Atom | None = None
    factor: float | None = None
    settled: bool = False
    moved: bool = False
    layer: bool = False
    biased: bool = False
    gained: list[_Gain] = dataclasses.field(default_factory=list)

    def walk(self) -> Iterator[_Part]:
        yield self
        for part in self.parts:
            yield from part.walk()

    @property
    def changes(self) -> bool:
        return any(part.gained or part.moved for part in self.walk())

    def path_to(self, other: _Part) -> list[_Part]:
        """The parts from here to one below, both ends among them; nothing if it isn't there."""
        if self is other:
            return [self]
        below = next((path for part in self.parts if (path := part.path_to(other))), None)
        return [self, *below] if below else []


def _part(draft: Draft, value: Value, inside: set[Value], top: bool = False) -> _Part:
    """The sum behind a value, as far as nothing else reads what is added up."""
    index = draft.index
    equation = index.maker.get(value)
    if equation is not None and len(equation.outputs) == 1 and (top or index.only_reader(value)):
        operands = index.operands(equation)
        if isinstance(registry.lookup(equation.primitive), Addition):
            if all(a.shape == value.shape for a in operands) and len(operands) in (1, 2):
                inside.add(value)
                parts = tuple(_part(draft, a, inside) for a in operands)
                constant = next((a for a in equation.inputs if a not in index.dependent), None)
                # A touched one is no bias, such as a maximum, its gradient stopped.
                return _Part(
                    value, equation, parts, None if constant in index.touched else constant
                )
        elif _is_link(draft, equation):
            part = _part(draft, operands[0], inside)
            if part.parts:
                inside.add(value)
                return _Part(value, equation, (part,), factor=_factor(draft, equation))
    return summand(draft, value)


def summand(draft: Draft, value: Value) -> _Part:
    """A summand, which may be a layer behind moves and scales."""
    index, atom, biased = draft.index, value, False
    while True:
        equation = index.maker.get(atom)
        operands = [] if equation is None else index.operands(equation)
        if equation is None or len(operands) != 1 or len(equation.outputs) != 1:
            return _Part(value)
        kind = registry.lookup(equation.primitive)
        if isinstance(kind, Contraction):
            others = [a for a in equation.inputs if a not in operands]
            if all(is_literal(index.maker, a) for a in others):
                return _Part(value)
            return _Part(value, layer=True, biased=biased)
        if isinstance(kind, Addition):
            biased = True
        elif not _is_link(draft, equation):
            return _Part(value)
        (atom,) = operands


def _assign(root: _Part) -> None:
    """Gives constants to layers, from the innermost sums on."""
    for part in root.parts:
        _assign(part)
    pending = [p for p in root.walk() if p.constant is not None and not p.settled]
    layers = [part for part in root.walk() if part.layer]
    free = [layer for layer in layers if not (layer.biased or layer.gained)]
    chosen = free or layers
    if not pending or len(chosen) != 1:
        return
    (layer,) = chosen
    for part in pending:
        part.settled = True
        below = part.path_to(layer)
        if below and all(len(step.parts) == 1 for step in below[:-1]):
            layer.biased = True  # It follows its layer and stays where it is.
        else:
            part.moved = True
            layer.gained.append(_Gain(part, root.path_to(part), root.path_to(layer)))


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
    return above.equation.evaluate([full])[0]


def _lowered(above: _Part, below: _Part, constant: Array) -> Array:
    """What a constant in the whole is in a part."""
    if above.factor is not None:
        return constant / jnp.asarray(above.factor, constant.dtype)
    assert above.equation is not None
    if isinstance(registry.lookup(above.equation.primitive), Addition):
        return _signed(above, below.value, constant)
    full = jnp.broadcast_to(constant, above.value.shape)
    if above.equation.name == "transpose":
        full = jnp.transpose(full, np.argsort(above.equation.params["permutation"]).tolist())
    return full.reshape(below.value.shape).astype(below.value.dtype)


def _written(
    draft: Draft, part: _Part, made: list[Equation], same: dict[Value, Atom], out: Value | None
) -> Value:
    """Computes a part with all constants where they belong; returns what it is then.

    Args:
        draft: the reading.
        part: the part.
        made: takes the equations.
        same: takes what is to be read as another value.
        out: what the part is to be called, if that matters.
    """
    equation = part.equation
    if not part.changes:
        return part.value
    if equation is None:  # A layer.
        like = part.gained[0].part.equation
        atoms = [part.value, *(gain.part.constant for gain in part.gained)]

        def biased(value: Array, *constants: Array) -> Array:
            arrays = (jnp.asarray(constant, value.dtype) for constant in constants)
            bias = sum(gain(c) for gain, c in zip(part.gained, arrays, strict=True))
            return value + jnp.broadcast_to(bias, value.shape)

        assert like is not None
        made.extend(draft.derived(biased, atoms, like, out))
        return made[-1].outputs[0]
    if part.moved:
        # What is left of this sum is its only part, or the negative of it.
        (below,) = part.parts
        negative = _sign(part, below.value) < 0
        if not negative and below.changes:
            return _written(draft, below, made, same, out)
        value = _written(draft, below, made, same, None)
        if not negative and (out is None or out not in draft.visible):
            if out is not None:
                same[out] = value
            return value
        sign = -1 if negative else 1
        made.extend(draft.derived(lambda x: x * jnp.asarray(sign, x.dtype), [value], equation, out))
        return made[-1].outputs[0]
    inputs = list(equation.inputs)
    for below in part.parts:
        position = equation.inputs.index(below.value)
        inputs[position] = _written(draft, below, made, same, None)
    made.append(draft.again(equation, inputs, out))
    return made[-1].outputs[0]


def _is_link(draft: Draft, equation: Equation) -> bool:
    """Whether it is a change of sign, a scale by one known number, or gives numbers other axes."""
    if len(draft.index.operands(equation)) != 1 or len(equation.outputs) != 1:
        return False
    if _factor(draft, equation) is not None:
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
