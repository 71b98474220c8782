"""What an integer stands for, and how a number comes out of that again."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.linear import Contraction
from relprop.reading.algebra import Algebra
from relprop.reading.draft import Draft
from relprop.reading.scaled_axes import along


class Layer(NamedTuple):
    """A layer of real numbers in place of one of integers."""

    equation: Equation
    operands: tuple[Atom, ...]
    weight: int
    dtype: Any

    def brings(self, shape: Sequence[int]) -> bool:
        """Whether the weight alone brings the axes along which such an array may differ."""
        kind = registry.lookup(self.equation.primitive)
        assert isinstance(kind, Contraction)
        own = kind.carried(self.equation, self.weight)
        first = len(self.equation.outputs[0].shape) - len(shape)
        return all(n == 1 or axis in own for axis, n in enumerate(shape, first))

    def __call__(self, *arrays: Array, scale: Array | None = None) -> Array:
        operands = [jnp.asarray(array).astype(self.dtype) for array in arrays[:2]]
        if scale is not None and self.weight >= 0:
            kind = registry.lookup(self.equation.primitive)
            assert isinstance(kind, Contraction)
            operands[self.weight] = kind.with_scaled_result(
                self.equation, self.weight, operands[self.weight], scale
            )
        operands += arrays[2:]
        (out,) = self.equation.evaluate(operands, preferred_element_type=self.dtype)
        return out


@dataclasses.dataclass(frozen=True, eq=False)
class Standing:
    """What an integer stands for: it is ``(real + offset) * unit``.

    Attributes:
        real: a value of the reading, in which relevance passes.
        exact: the same before it was rounded.
        unit: of the same shape; None where it is 1.
        offset: of the same shape or none; None where it is 0.
        varies: the axes along which the unit may differ.
        scale: what it was divided by when it was rounded; None once more was done.
        positive: whether the unit is known to be above zero.
        scales: what depends on the inputs and was divided by; it has to be multiplied with again.
        rescaled: whether it was multiplied with a scale or a constant since.
        computed: whether more was done than to round.
        fresh: whether it is the result of a layer, not rounded since: its offset is a bias then.
        layer: that layer, if its result was not even moved.
        through: whether a zero point went through a layer since.
    """

    real: Value
    exact: Value
    unit: Value | None = None
    offset: Value | None = None
    varies: frozenset[int] = frozenset()
    scale: Atom | None = None
    positive: bool = True
    scales: frozenset[Atom] = frozenset()
    rescaled: bool = False
    computed: bool = False
    fresh: bool = False
    layer: Layer | None = None
    through: bool = False

    @property
    def is_number(self) -> bool:
        """Whether it has its scale again."""
        return self.rescaled and not self.scales


class _Factor(NamedTuple):
    """A unit as a product of constants, in which the scales of the inputs are gone.

    Attributes:
        number: the number in it.
        atoms: the arrays in it.
        powers: of each, 1 or -1.
        axes: of each, where its axes are in the unit.
        like: the unit.
    """

    number: float
    atoms: list[Value]
    powers: list[float]
    axes: list[dict[int, int]]
    like: Value

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the unit, with 1 where it does not differ."""
        kept = {axis for axes in self.axes for axis in axes.values()}
        return tuple(n if axis in kept else 1 for axis, n in enumerate(self.like.shape))

    @property
    def is_one(self) -> bool:
        """Whether nothing is left."""
        return not self.atoms and abs(self.number - 1) < 1e-6

    def __call__(self, *arrays: Array) -> Array:
        total = jnp.full((1,) * len(self.like.shape), self.number, self.like.dtype)
        for array, power, axes in zip(arrays, self.powers, self.axes, strict=True):
            few = along(array, axes, self.like.shape).astype(self.like.dtype)
            total = total * few if power > 0 else total / few
        return total


def _factor(draft: Draft, algebra: Algebra, unit: Value) -> _Factor | None:
    """A unit without the scales of inputs, where they are gone."""
    index = algebra.indices(unit.shape)
    term = algebra.of(unit, index)
    if len(term) != 1:
        return None
    ((product, number),) = term.items()
    found = _Factor(number, [], [], [], unit)
    for base, power in product:
        if base[0] != "value" or not isinstance(base[1], Value) or power not in (1, -1):
            return None
        _, value, places = base
        if value in draft.index.touched or any(i != 0 and i not in index for i in places):
            return None
        found.atoms.append(value)
        found.powers.append(power)
        found.axes.append({n: index.index(i) for n, i in enumerate(places) if i != 0})
    return found


def number_of(
    draft: Draft, algebra: Algebra, standing: Standing, value: Value, offsets: list[Value]
) -> tuple[Callable[..., Array] | None, list[Atom]]:
    """A number with its scales again as a function of what it stands for, and of what that is.

    No function is returned where it is just that.
    """
    unit, layer = standing.unit, standing.layer
    factor = None if unit is None else _factor(draft, algebra, unit)
    scales: list[Atom] = [] if unit is None else [unit] if factor is None else [*factor.atoms]
    own = layer is not None and factor is not None and layer.brings(factor.shape)
    one = unit is None or (factor is not None and factor.is_one)
    parts = [*layer.operands] if own and layer is not None else [standing.real]
    plain = (standing.real.shape, standing.real.dtype) == (value.shape, value.dtype)
    if plain and one and not offsets:
        return None, [standing.real]

    def number(*arrays: Array) -> Array:
        real, rest = arrays[: len(parts)], arrays[len(parts) :]
        by = rest[: len(scales)]
        scale = None if unit is None else by[0] if factor is None else factor(*by)
        if own and layer is not None and scale is not None:
            # The scale is the weight's.
            total = layer(*real, scale=jnp.broadcast_to(scale, value.shape))
            total = functools.reduce(operator.add, (o * scale for o in rest[len(scales) :]), total)
        else:
            total = functools.reduce(operator.add, rest[len(scales) :], real[0])
            total = total * (jnp.ones((), total.dtype) if scale is None else scale)
        return jnp.broadcast_to(total, value.shape).astype(value.dtype)

    return number, [*parts, *scales, *offsets]
