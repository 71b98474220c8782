"""What integers stand for, one operation after another."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relprop._core import registry
from relprop._core.graph import Atom, Equation, Value
from relprop.propagators.linear import Division
from relprop.reading.algebra import Algebra
from relprop.reading.draft import Draft
from relprop.reading.scaled_axes import along, carried, moved_axes, varying
from relprop.reading.scales import (
    floored,
    is_float,
    is_half,
    is_rounded_soon,
    is_whole,
    known_by,
    over,
    quotient,
    quotient_below,
    scales_in,
)
from relprop.reading.standing import Layer, Standing

#: What does with a sum what it does with the summands.
_LINEAR = (
    "add", "sub", "reduce_sum", "cumsum", "reduce_window_sum", "pad", "concatenate", "select_n",
    "dynamic_slice",
)  # fmt: skip
SHIFTS = ("shift_right_arithmetic", "shift_right_logical")


class Steps:
    """Computes beside each operation with integers what its result stands for.

    A step returns None where that is not known.

    Attributes:
        made: the equations that compute it, with those that they come after.
        numbers: whether constants that are added are no zero points.
    """

    def __init__(self, draft: Draft, algebra: Algebra, numbers: bool = False):
        self.numbers = numbers
        self.draft = draft
        self.algebra = algebra
        self.made: dict[Equation, list[Equation]] = {}

    def _new(self, equation: Equation, function: Callable[..., Array], *inputs: Atom) -> Value:
        """A value that is computed beside what an equation makes."""
        new = self.draft.derived(function, inputs, equation)
        self.made.setdefault(equation, [equation]).extend(new)
        return new[-1].outputs[0]

    def _constant(self, equation: Equation, function: Callable[..., Array], *inputs: Atom) -> Value:
        return self._new(equation, lambda *arrays: lax.stop_gradient(function(*arrays)), *inputs)

    def rounded(self, equation: Equation) -> Standing | None:
        """What is rounded after it was divided by a scale."""
        found = quotient(self.draft, equation)
        if found is None or found.source.shape != equation.outputs[0].shape:
            return None
        source, scale, divides, offsets = found
        exact = source
        if jnp.finfo(source.dtype).bits < 32:  # Integers of more bits have no room in those.
            exact = self._new(equation, lambda x: x.astype(jnp.float32), source)

        def unit(x: Array, factor: Array) -> Array:
            factor = jnp.asarray(factor, x.dtype)
            return jnp.broadcast_to(1 / factor if divides else factor, x.shape)

        standing = Standing(
            exact,
            exact,
            self._constant(equation, unit, exact, scale),
            varies=varying(self.algebra, scale, len(source.shape)),
            scale=scale,
            positive=self._is_positive(scale),
            scales=frozenset({scale} & self.draft.index.touched),
        )
        # What is no whole number is a bias that is rounded with what it is added to.
        biases = [pair for pair in offsets if not is_whole(self.draft, pair[0])]
        if biases:
            biased = self._with_offsets(equation, standing, biases)
            assert biased.offset is not None
            exact = self._new(equation, operator.add, exact, biased.offset)
            standing = dataclasses.replace(standing, real=exact, exact=exact)
        zeros = [pair for pair in offsets if pair not in biases]
        return self._corrected(equation, self._with_offsets(equation, standing, zeros))

    def _is_positive(self, scale: Atom) -> bool:
        """Whether a scale is above zero, as all are that are computed from inputs."""
        if scale in self.draft.index.touched:
            return True
        known = self.draft.known(scale)
        return known is not None and bool((known > 0).all())

    def _with_offsets(
        self, equation: Equation, standing: Standing, added: Sequence[tuple[Atom, int]]
    ) -> Standing:
        """With more constants, which have a sign each."""
        if not added:
            return standing
        old = [a for a in (standing.unit, standing.offset) if a is not None]
        has_unit, shape = standing.unit is not None, standing.real.shape

        def offset(real: Array, *arrays: Array) -> Array:
            constants, before = arrays[: len(added)], arrays[len(added) :]
            total = jnp.zeros((), real.dtype)
            for array, (_, sign) in zip(constants, added, strict=True):
                total = total + sign * jnp.asarray(array).astype(real.dtype)
            if has_unit:
                total = over(total, before[0], standing.positive)
            return jnp.broadcast_to(functools.reduce(operator.add, before[has_unit:], total), shape)

        atoms = [standing.real, *(atom for atom, _ in added), *old]
        return dataclasses.replace(standing, offset=self._constant(equation, offset, *atoms))

    def _corrected(self, equation: Equation, standing: Standing) -> Standing:
        """With the error of what an equation has rounded or limited, as a constant."""
        known = [a for a in (standing.unit, standing.offset) if a is not None]
        has_unit, has_offset = standing.unit is not None, standing.offset is not None

        def real(x: Array, value: Array, *arrays: Array) -> Array:
            value = value.astype(x.dtype)
            if has_unit:
                value = over(value, arrays[0], standing.positive)
            if has_offset:
                value = value - arrays[-1]
            return x + lax.stop_gradient(value - x)

        made = self._new(equation, real, standing.exact, equation.outputs[0], *known)
        return dataclasses.replace(standing, real=made)

    def limited(self, equation: Equation, standings: Sequence[Standing | None]) -> Standing | None:
        """What a limit leaves of an integer: all of it where it was rounded, or an activation."""
        position = next(n for n, s in enumerate(standings) if s is not None)
        standing = standings[position]
        assert standing is not None
        if not standing.computed:
            return self._corrected(equation, standing)
        if equation.name == "clamp" and position != 1:
            return None
        standing = self._biased(equation, standing)
        if not standing.positive:  # Limits would be the other way round.
            return self.alike(equation, standings)
        bounds = [a for n, a in enumerate(equation.inputs) if n != position]
        known = [a for a in (standing.unit, standing.offset) if a is not None]
        has_unit, has_offset = standing.unit is not None, standing.offset is not None

        def bound(real: Array, array: Array, *arrays: Array) -> Array:
            array = jnp.asarray(array).astype(real.dtype)
            array = over(array, arrays[0], standing.positive) if has_unit else array
            return jnp.broadcast_to(array - arrays[-1] if has_offset else array, real.shape)

        limits = [self._constant(equation, bound, standing.real, a, *known) for a in bounds]

        def limited(x: Array, *limits: Array) -> Array:
            if equation.name == "clamp":
                return lax.min(lax.max(x, limits[0]), limits[1])
            return lax.max(x, limits[0]) if equation.name == "max" else lax.min(x, limits[0])

        real = self._new(equation, limited, standing.real, *limits)
        return dataclasses.replace(
            standing, real=real, exact=real, scale=None, fresh=False, layer=None
        )

    def rounded_again(self, equation: Equation, standing: Standing) -> Standing | None:
        """An integer as another type, or what was scaled to be one again."""
        before, (out,) = equation.inputs[0], equation.outputs
        if equation.name in SHIFTS:
            bits = self.draft.index.number(equation.inputs[1])
            if bits is None:
                return None
            unit = self._unit_times(equation, standing, lambda: 0.5**bits)
            return self._whole(equation, dataclasses.replace(standing, unit=unit), floored)
        if not is_float(before) and not is_float(out):
            return standing
        if not standing.computed:
            return self._corrected(equation, standing)
        return self._whole(equation, standing, lambda x: equation.evaluate([x])[0])

    def _whole(
        self, equation: Equation, standing: Standing, rounded: Callable[[Array], Array]
    ) -> Standing:
        """Rounds what was computed, with its bias, as the code rounds the integer."""
        standing = self._biased(equation, standing)
        exact, unit, offset = standing.exact, standing.unit, standing.offset
        arrays = [a for a in (unit, offset) if a is not None]

        def real(x: Array, *arrays: Array) -> Array:
            z = x if offset is None else x + arrays[-1]
            value = rounded(z if unit is None else z * arrays[0]).astype(x.dtype)
            value = value if unit is None else over(value, arrays[0], standing.positive)
            value = value if offset is None else value - arrays[-1]
            return x + lax.stop_gradient(value - x)

        return dataclasses.replace(
            standing,
            real=self._new(equation, real, exact, *arrays),
            scale=None,
            rescaled=False,
            fresh=False,
            layer=None,
        )

    def _biased(self, equation: Equation, standing: Standing) -> Standing:
        """The result of a layer with its bias."""
        return self._shifted(equation, standing) if standing.fresh else standing

    def _shifted(self, equation: Equation, standing: Standing) -> Standing:
        """With an offset of zero: a constant is added, as by any operation."""
        if standing.offset is None:
            return standing
        real = self._new(equation, operator.add, standing.real, standing.offset)
        return dataclasses.replace(standing, real=real, exact=real, offset=None, layer=None)

    def moved(self, equation: Equation, standing: Standing, negative: bool) -> Standing | None:
        """What is moved, or made negative: the unit is only moved."""
        axes = moved_axes(equation, standing.varies)
        if axes is None:
            return None

        def move(array: Array) -> Array:
            return -array if negative else equation.evaluate([array])[0]

        unit, offset = standing.unit, standing.offset
        if unit is not None and not negative:
            unit = self._constant(equation, move, unit)
        real = self._new(equation, move, standing.real)
        return dataclasses.replace(
            standing,
            real=real,
            exact=real,
            unit=unit,
            offset=None if offset is None else self._constant(equation, move, offset),
            varies=axes,
            layer=None,
        )

    def summed(
        self, equation: Equation, standings: Sequence[Standing | None], sign: int
    ) -> Standing | None:
        """With a constant, which is an offset then; or the sum of two of one unit."""
        (out,) = equation.outputs
        if None in standings:
            at = list(standings).index(None)
            standing, constant = standings[1 - at], equation.inputs[at]
            if standing is None or standing.real.shape != out.shape:
                return None
            if sign < 0 and at == 0:  # No zero point is taken away so: it is a number.
                standing = self._negative(equation, standing)
                standing = self._with_offsets(equation, standing, [(constant, 1)])
                return self._shifted(equation, standing)
            if is_float(out) and is_half(self.draft, constant):
                return standing  # To the nearest, by what comes next.
            added = self._with_offsets(equation, standing, [(constant, sign if at else 1)])
            return self._shifted(equation, added) if self.numbers and not standing.fresh else added
        return self.alike(equation, standings)

    def _negative(self, equation: Equation, standing: Standing) -> Standing:
        """What the negative of an integer stands for."""
        real, offset = self._new(equation, jnp.negative, standing.real), standing.offset
        if offset is not None:
            offset = self._constant(equation, jnp.negative, offset)
        return dataclasses.replace(
            standing, real=real, exact=real, offset=offset, scale=None, computed=True, layer=None
        )

    def scaled(self, equation: Equation, standings: Sequence[Standing | None]) -> Standing | None:
        """What is multiplied with a scale, or divided by one."""
        at = 0 if standings[0] is None else 1
        standing, other = standings[1 - at], equation.inputs[at]
        (out,) = equation.outputs
        assert standing is not None
        divides = isinstance(registry.lookup(equation.primitive), Division)
        if (divides and at == 0) or standing.real.shape != out.shape:
            return None
        below = {s: known_by(self.draft, s) for s in standing.scales}
        known = set().union(*below.values())
        used = scales_in(self.draft, other, known)
        if used is None:
            return None
        if standing.is_number and not is_rounded_soon(self.draft, out):
            # It is a number again: what comes now is done with numbers, but for the weight's scale.
            layer = standing.layer
            if other in self.draft.index.touched or layer is None or not layer.brings(other.shape):
                return None
        dtype = standing.real.dtype

        def factor(array: Array) -> Array:
            array = jnp.asarray(array).astype(dtype)
            return 1 / array if divides else array

        scaled = dataclasses.replace(
            standing,
            unit=self._unit_times(equation, standing, factor, other),
            positive=standing.positive and self._is_positive(other),
            varies=standing.varies | varying(self.algebra, other, len(out.shape)),
            scales=frozenset(s for s, alike in below.items() if not alike & used),
            rescaled=True,
        )
        return scaled if is_float(out) else self._whole(equation, scaled, jnp.trunc)

    def switched(self, equation: Equation, standing: Standing, switch: Atom) -> Standing:
        """What is left of an integer where a switch is on."""
        standing = self._biased(equation, standing)

        def real(x: Array, on: Array) -> Array:
            return jnp.where(on != 0, x, 0)

        value, offset = self._new(equation, real, standing.real, switch), standing.offset
        if offset is not None:
            offset = self._constant(equation, real, offset, switch)
        left = {"real": value, "exact": value, "offset": offset, "scale": None, "layer": None}
        return dataclasses.replace(standing, **left, computed=True, fresh=False)

    def _unit_times(
        self, equation: Equation, standing: Standing, factor: Callable[..., Any], *others: Atom
    ) -> Value:
        (out,) = equation.outputs
        if standing.unit is None:
            return self._constant(
                equation,
                lambda x, *arrays: jnp.broadcast_to(jnp.asarray(factor(*arrays), x.dtype), x.shape),
                standing.real,
                *others,
            )
        return self._constant(
            equation,
            lambda unit, *arrays: jnp.broadcast_to(unit * factor(*arrays), out.shape),
            standing.unit,
            *others,
        )

    def product(self, equation: Equation, standings: Sequence[Standing | None]) -> Standing | None:
        """A layer of what integers stand for, or the product of two."""
        operands: list[Standing | None] = []
        for position, standing in enumerate(standings[:2]):
            if standing is None:
                if equation.inputs[position] in self.draft.index.touched:
                    return None
            elif carried(equation, position, standing.varies) is None:
                if standing.scales or standing.unit is None:
                    return None
                standing = self._in_units(equation, standing)
            operands.append(standing)
        if len(standings) > 2 and any(s is not None for s in standings[2:]):
            return None
        both = [standing for standing in operands if standing is not None]
        if len(both) == 2:  # Zero points are part of the numbers then.
            operands = [
                s and (self._as_real(equation, s) if s.offset is not None else s) for s in operands
            ]
            both = [standing for standing in operands if standing is not None]
        dtype = both[0].real.dtype
        rest = equation.inputs[2:]
        atoms = [
            atom if s is None else s.real
            for atom, s in zip(equation.inputs[:2], operands, strict=True)
        ]

        weight = standings.index(None) if len(both) == 1 else -1
        product = Layer(equation, (*atoms, *rest), weight, dtype)
        unit, varies = self._product_unit(equation, operands)
        offset = None
        if len(both) == 1 and both[0].offset is not None:
            shifted = [
                atom if s is None else s.offset
                for atom, s in zip(equation.inputs[:2], operands, strict=True)
            ]
            offset = self._constant(equation, product, *shifted, *rest)  # type: ignore[arg-type]
        real = self._new(equation, product, *atoms, *rest)
        return Standing(
            real,
            real,
            unit,
            offset,
            varies,
            scale=both[0].scale if len(both) == 1 else None,
            positive=all(standing.positive for standing in both),
            scales=frozenset().union(*(standing.scales for standing in both)),
            rescaled=any(standing.rescaled for standing in both),
            computed=True,
            fresh=True,
            layer=product if weight >= 0 else None,
            through=any(s.through or (s.offset is not None and not s.fresh) for s in both),
        )

    def _product_unit(
        self, equation: Equation, operands: Sequence[Standing | None]
    ) -> tuple[Value | None, frozenset[int]]:
        """The unit of a product: that of its factors, along the axes that come from them."""
        (out,) = equation.outputs
        units, maps = [], []
        for position, standing in enumerate(operands):
            if standing is not None and standing.unit is not None:
                axes = carried(equation, position, standing.varies)
                assert axes is not None
                units.append(standing.unit)
                maps.append(axes)
        if not units:
            return None, frozenset()

        def unit(*arrays: Array) -> Array:
            few = [along(x, axes, out.shape) for x, axes in zip(arrays, maps, strict=True)]
            return jnp.broadcast_to(functools.reduce(operator.mul, few), out.shape)

        varies = frozenset(to for axes in maps for to in axes.values())
        return self._constant(equation, unit, *units), varies

    def _in_units(self, equation: Equation, standing: Standing) -> Standing:
        """With a unit of 1: a constant scale is an operation as any."""
        if standing.unit is None:
            return standing
        real = self._new(equation, operator.mul, standing.real, standing.unit)
        offset = standing.offset
        if offset is not None:
            offset = self._constant(equation, operator.mul, offset, standing.unit)
        return dataclasses.replace(
            standing,
            real=real,
            exact=real,
            unit=None,
            offset=offset,
            varies=frozenset(),
            positive=True,
            layer=None,
        )

    def _as_real(self, equation: Equation, standing: Standing) -> Standing:
        """The integers themselves, as real numbers."""
        return self._in_units(equation, self._shifted(equation, standing))

    def alike(self, equation: Equation, standings: Sequence[Standing | None]) -> Standing | None:
        """The same with real numbers: activations, pools and sums of integers."""
        given = [s for s in standings if s is not None]
        first = given[0]
        if equation.name == "select_n" and len(given) == len(equation.inputs) - 1:
            below = quotient_below(self.draft, equation)
            if below is not None:
                return self._whole(equation, given[below], floored)
            both = all(s.exact is first.exact and not s.computed for s in given)
            if both and all(s.scale is first.scale and s.offset is None for s in given):
                return self._corrected(equation, first)  # Up or down, by the sign.
        (out,) = equation.outputs
        linear = equation.name in _LINEAR
        whole = [
            s and (self._in_units(equation, s) if linear else self._as_real(equation, s))
            for s in standings
        ]
        dtype = first.real.dtype
        # What stands beside integers is of their type; a condition and where to cut are not.
        beside = [
            equation.name != "dynamic_slice" and a.dtype == out.dtype for a in equation.inputs
        ]

        def same(*arrays: Array) -> Array:
            reals = (
                jnp.asarray(x).astype(dtype) if s is not None or on else x
                for x, s, on in zip(arrays, standings, beside, strict=True)
            )
            return equation.evaluate([*reals])[0]

        def moving(*arrays: Array) -> Array:
            """Constants beside what moves are parts of the offset."""
            kept = (
                jnp.zeros_like(x) if s is None and on and linear else x
                for x, s, on in zip(arrays, standings, beside, strict=True)
            )
            return same(*kept)

        atoms = [a if s is None else s.real for s, a in zip(whole, equation.inputs, strict=True)]
        real = self._new(equation, moving, *atoms)
        offset = None
        others = [s is None and on for s, on in zip(standings, beside, strict=True)]
        if linear and (any(others) or any(s is not None and s.offset is not None for s in whole)):
            fixed = [
                a if s is None else s.offset or self._constant(equation, jnp.zeros_like, s.real)
                for s, a in zip(whole, equation.inputs, strict=True)
            ]
            offset = self._constant(equation, same, *fixed)
        return Standing(
            real,
            real,
            offset=offset,
            scales=frozenset().union(*(s.scales for s in given)),
            rescaled=any(s.rescaled for s in given),
            computed=True,
        )
