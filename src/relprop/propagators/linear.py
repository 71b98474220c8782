"""Propagators for arithmetic and for layers with weights, or products of two active values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from relprop._core.graph import Atom, Equation, Literal
from relprop._core.linear_map import LinearMap
from relprop._core.operation import Numbers, Propagator
from relprop._core.relevance import common_dtype, summed_to

#: Per axis of an operand, an axis of another array or None.
Axes = tuple[int | None, ...]


def only(items):
    """The one item there is."""
    (item,) = items
    return item


def _other(active, role, operands=2):
    """Of two operands, the constant one with its role."""
    on = [*active[:operands]]
    return {on.index(False): role} if on.count(False) == 1 else {}


@dataclasses.dataclass(frozen=True)
class Negation(Propagator):
    """`-x`: a scale by -1."""

    native: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    transposable: ClassVar[bool] = True

    def structure(self, operation, active):
        return "scale"

    def linear(self, operation, active):
        return True

    def unread(self, operation, position, arriving):
        return None

    def linear_map(self, site):
        return _scale(site, -jnp.ones((), site.output.dtype))


@dataclasses.dataclass(frozen=True)
class Addition(Propagator):
    """`a + b` or `a - b`: a residual sum, or an offset where one of them is inactive.

    Args:
        sign: the weight of the second operand.
    """

    sign: int = 1
    native: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    transposable: ClassVar[bool] = True

    def structure(self, operation, active):
        return "sum" if all(active) else "offset"

    def linear(self, operation, active):
        return True

    def constants(self, operation, active):
        return _other(active, "bias")

    def unread(self, operation, position, arriving):
        return None

    def linear_map(self, site):
        shape = site.output.shape
        if all(site.active):
            return LinearMap(
                site.inputs,
                site.output,
                # Each operand has a weight, so that rules see the sign of a difference.
                apply=lambda xs, w: w[0] * xs[0] + w[1] * xs[1],
                weight=jnp.array([1, self.sign], site.output.dtype),
                pull=lambda w, c: [
                    summed_to(x.shape, lax.index_in_dim(w, i, keepdims=False) * c)
                    for i, x in enumerate(site.inputs)
                ],
            )
        left = site.active[0]
        return LinearMap(
            site.inputs,
            site.output,
            apply=lambda xs, w: jnp.broadcast_to(w * xs[0], shape),
            weight=jnp.array(1 if left else self.sign, site.output.dtype),
            bias=self.sign * site.values[1] if left else site.values[0],
            diagonal=site.inputs[0].shape == shape,
            pull=lambda w, c: [summed_to(site.inputs[0].shape, w * c)],
        )


@dataclasses.dataclass(frozen=True)
class Multiplication(Propagator):
    """`a * b`: a product, or a scale where one of them is inactive."""

    native: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    transposable: ClassVar[bool] = True
    multiplies: ClassVar[bool] = True

    def structure(self, operation, active):
        return "product" if all(active) else "scale"

    def linear(self, operation, active):
        return not all(active)

    def constants(self, operation, active):
        return _other(active, "weight")

    def repeats(self, inputs, dtype):
        a, b = inputs
        return b if _is_one(a) else a if _is_one(b) else None

    def unread(self, operation, position, arriving):
        return _unless_by_number(self, operation, position, arriving)

    def linear_map(self, site):
        (weight,) = (v for v, on in zip(site.values, site.active, strict=True) if not on)
        return _scale(site, weight)


@dataclasses.dataclass(frozen=True)
class Division(Propagator):
    """`a / b`: a scale by 1 / b, a function of b, or a quotient."""

    native: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    transposable: ClassVar[bool] = True

    def structure(self, operation, active):
        if all(active):
            return "quotient"
        return "scale" if active[0] else "activation"

    def linear(self, operation, active):
        return not active[1]

    def constants(self, operation, active):
        return _other(active, "weight")

    def repeats(self, inputs, dtype):
        return inputs[0] if _is_one(inputs[1]) else None

    def unread(self, operation, position, arriving):
        return _unless_by_number(self, operation, position, arriving)

    def linear_map(self, site):
        return _scale(site, 1 / site.values[1])


def _unless_by_number(kind, operation, position, arriving):
    """As `Propagator.unread`, for products and quotients; numbers and parameters are finite."""
    other = operation.inputs[1 - position]
    if other.path or (isinstance(other, Literal) and other.shape == ()):
        return None
    return Propagator.unread(kind, operation, position, arriving)


def _is_one(atom: Atom) -> bool:
    """Whether it is the number 1, written into the function."""
    return isinstance(atom, Literal) and atom.shape == () and bool(np.asarray(atom.array) == 1)


def _scale(site, weight):
    shape = site.output.shape
    return LinearMap(
        site.inputs,
        site.output,
        apply=lambda xs, w: jnp.broadcast_to(xs[0] * w, shape),
        weight=weight,
        diagonal=site.inputs[0].shape == shape,
        unread=unread_at(site),
        pull=lambda w, c: [summed_to(site.inputs[0].shape, w * c)],
    )


def unread_at(site: Numbers) -> Callable[[Array], Array | None]:
    """`Propagator.unread` for the one active operand, as a linear map needs it."""
    operation, position = site.operation, site.active.index(True)
    return lambda c: operation.propagator.unread(operation, position, c)


@dataclasses.dataclass(frozen=True)
class Contraction(Propagator):
    """`dot_general` and its kind: a dense layer, or a matrix product of two active operands.

    Which operand is the weight is a matter of which one is inactive, never of its position.

    Args:
        name: the structure with one active operand.
        operands: how many of the operands are factors; the rest are indices or sizes.
    """

    name: str = "dense"
    operands: int = 2
    native: ClassVar[bool] = False
    transposable: ClassVar[bool] = True
    multiplies: ClassVar[bool] = True

    def structure(self, operation, active):
        return "product" if sum(active) > 1 else self.name

    def detached_structure(self, operation, active):
        # Attention times values stays a product where attention is taken as a constant.
        return "product"

    def linear(self, operation, active):
        return sum(active) == 1

    def constants(self, operation, active):
        return _other(active, "weight", self.operands)

    def linear_map(self, site):
        apply, weight = self.split(site.operation, site.active, site.values)
        free = self.free(site.operation, site.active)
        return LinearMap(
            site.inputs,
            site.output,
            apply,
            weight,
            free=free,
            unread=unread_at(site),
            layout=self.layout(site.operation, site.active),
            pull=self.pull(site.operation, site.active, site.values),
        )

    def pull(self, operation, active, values):
        """The way back to the input of a product, from a weight and coefficients."""
        position = active[: self.operands].index(True)

        def back(w, c):
            operands = list(values)
            operands[1 - position] = w
            return self.transposed(operation, active, operands, c)

        return back

    def layout(self, operation, active) -> tuple[int, int] | None:
        """The axes of the active operand that count samples and channels, if it has such axes."""
        del operation, active
        return None

    def unread(self, operation, position, arriving):
        # To look for rows that nothing reads costs reductions at every product of attention.
        return None

    def free(self, operation, active) -> tuple[int, int] | None:
        """The longest axis that the weight alone brings into the result: its own, the result's."""
        if operation.last.params.get("feature_group_count", 1) != 1:
            return None
        position = 1 - active[: self.operands].index(True)
        shape = operation.last.inputs[position].shape
        axes = zip(
            self.carried(operation.last, position),
            self.contracted(operation.last, position),
            strict=True,
        )
        own = [(n, to) for n, (to, met) in enumerate(axes) if to is not None and met is None]
        return max(own, key=lambda axis: shape[axis[0]], default=None)

    def split(self, operation, active, values):
        """The product as a function of input and weight, and the weight."""
        position = active[: self.operands].index(True)

        def apply(xs, w):
            operands = list(values)
            operands[position], operands[1 - position] = xs[0], w
            return only(self.evaluate(operation, operands))

        return apply, values[1 - position]

    def evaluate(self, operation, values):
        return operation.evaluate(values, **self._in_precision(operation, values))

    def transposed(self, operation, active, values, given):
        if type(self).evaluate is not Contraction.evaluate:
            return None
        precision = self._in_precision(operation, values)
        return operation.transposed(active, values, given, **precision)

    @staticmethod
    def _in_precision(operation, values):
        if operation.last.params.get("preferred_element_type") is None:
            return {}
        # The traced result type would round a product that is meant to be in high precision.
        return {"preferred_element_type": common_dtype(*values[:2])}

    def carried(self, equation: Equation, position: int) -> Axes:
        """Per axis of the weight, an operand, the axis of the result that it becomes, or None."""
        return (None,) * len(equation.inputs[position].shape)

    def contracted(self, equation: Equation, position: int) -> Axes:
        """Per axis of the weight the axis of the other factor that it meets, or None."""
        return (None,) * len(equation.inputs[position].shape)

    def with_scaled_result(
        self, equation: Equation, position: int, weight: Array, scale: Array
    ) -> Array:
        """The weight whose product is `scale`, of the result's shape, times that of `weight`.

        The scale may vary along axes that the weight brings into the result, and no others.
        """
        return weight * _aligned(scale, self.carried(equation, position))

    def with_scaled_input(
        self, equation: Equation, position: int, weight: Array, scale: Array
    ) -> Array:
        """The weight whose product with x is that of `weight` with x times `scale`.

        The scale may vary along axes of x that the weight meets, and no others.
        """
        return weight * _aligned(scale, self.contracted(equation, position))


@dataclasses.dataclass(frozen=True)
class Dense(Contraction):
    """`dot_general`, of which it is known which axis is which."""

    def carried(self, equation, position):
        contracting, batch = equation.params["dimension_numbers"]
        ranks = [len(a.shape) for a in equation.inputs[:2]]
        left = ranks[0] - len(contracting[0])  # Where the free axes of the right factor begin.
        free = len(batch[0]) if position == 0 else left
        axes: list[int | None] = []
        for axis in range(ranks[position]):
            if axis in batch[position]:
                axes.append(batch[position].index(axis))
            elif axis in contracting[position]:
                axes.append(None)
            else:
                axes.append(free)
                free += 1
        return tuple(axes)

    def contracted(self, equation, position):
        contracting, batch = equation.params["dimension_numbers"]
        own = (*contracting[position], *batch[position])
        others = (*contracting[1 - position], *batch[1 - position])
        pairs = dict(zip(own, others, strict=True))
        return tuple(pairs.get(axis) for axis in range(len(equation.inputs[position].shape)))


@dataclasses.dataclass(frozen=True)
class Convolution(Contraction):
    """`conv_general_dilated`, of which it is known which axis is which."""

    name: str = "convolution"

    def unread(self, operation, position, arriving):
        return None

    def layout(self, operation, active):
        params = operation.last.params
        if not active[0] or params["batch_group_count"] != 1:
            return None  # What is explained is the kernel, or no images.
        batch, channels, *_ = params["dimension_numbers"].lhs_spec
        return batch, channels

    def carried(self, equation, position):
        numbers = equation.params["dimension_numbers"]
        kernel = position == 1 and equation.params["batch_group_count"] == 1
        return self._one_axis(equation, position, 0, numbers.out_spec[1] if kernel else None)

    def contracted(self, equation, position):
        numbers = equation.params["dimension_numbers"]
        kernel = position == 1 and equation.params["batch_group_count"] == 1
        return self._one_axis(equation, position, 1, numbers.lhs_spec[1] if kernel else None)

    def with_scaled_input(self, equation, position, weight, scale):
        groups = equation.params["feature_group_count"]
        if groups == 1:
            return super().with_scaled_input(equation, position, weight, scale)
        # The outputs of each group see its own part of the channels.
        numbers = equation.params["dimension_numbers"]
        of, to = numbers.rhs_spec[1], numbers.rhs_spec[0]
        channels = jnp.moveaxis(scale, numbers.lhs_spec[1], -1)[(0,) * (scale.ndim - 1)]
        each = jnp.repeat(channels.reshape(groups, -1), weight.shape[to] // groups, axis=0)
        shape = [n if axis in (of, to) else 1 for axis, n in enumerate(weight.shape)]
        return weight * (each if to < of else each.T).reshape(shape)

    @staticmethod
    def _one_axis(equation: Equation, position: int, which: int, axis: int | None) -> Axes:
        axes: list[int | None] = [None] * len(equation.inputs[position].shape)
        axes[equation.params["dimension_numbers"].rhs_spec[which]] = axis
        return tuple(axes)


def _aligned(scale: Array, axes: Axes) -> Array:
    """A scale that varies along some axes only, as it broadcasts to what has them in this order."""
    kept = [axis for axis in axes if axis is not None]
    few = scale[tuple(slice(None) if axis in kept else 0 for axis in range(scale.ndim))]
    order = sorted(kept)
    few = few.transpose([order.index(axis) for axis in kept])
    return few.reshape([1 if axis is None else scale.shape[axis] for axis in axes])
