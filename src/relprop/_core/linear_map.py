"""An operation as an affine function of its active operands, which rules for layers look at."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from relprop import _compat
from relprop._core.relevance import where_read


@dataclasses.dataclass(frozen=True)
class LinearMap:
    r"""An affine function :math:`y = \mathrm{apply}(x, w) + b` of the active operands.

    Shapes are those of the operation, whatever it is; of a dense layer x is ``[..., in]``, w
    ``[in, out]``, b ``[out]`` and y ``[..., out]``.

    Attributes:
        inputs: x, the active operands, each of its shape; most layers have one.
        output: y, as the forward pass computed it.
        apply: from arrays of the shapes of x and one of that of w to one of the shape of y. Linear
            in the list x for fixed w, and in w for fixed x.
        weight: w; a scalar 1 of shape ``[]`` where an operation has none (sums, poolings).
        bias: b, broadcastable to y, or None.
        diagonal: every output depends on one input only, that of the same position.
        gate: a factor of each weight on the way back, 1 but for who asks what a weight contributes.
        free: an axis of w, and the axis of y that it becomes, along which w can be taken in parts:
            apply of a part gives that part of y. None where there is no such axis.
        unread: of coefficients of y, where x has none but zeros to come from; a weight that is
            infinite or NaN is no matter there. None where weights are finite, as parameters are.
        layout: of a convolution, the axes of x that count the samples and the channels, wherever
            its dimension numbers put them. None where x has no such axes.
        never_negative: whether it is known that no entry of x is below zero.
        pull: the transpose, from arrays of the shapes of w and y, where that is known; where it is
            None, or returns None, JAX derives it from `apply`.
    """

    inputs: tuple[Inexact[Array, "..."], ...]
    output: Inexact[Array, "..."]
    apply: Callable[[Sequence[Array], Array], Array]
    weight: Inexact[Array, "..."]
    bias: Inexact[Array, "..."] | None = None
    diagonal: bool = False
    gate: Float[Array, "..."] | None = None
    free: tuple[int, int] | None = None
    unread: Callable[[Array], Array | None] | None = None
    layout: tuple[int, int] | None = None
    never_negative: bool = False
    pull: Callable[[Array, Array], Sequence[Array] | None] | None = None

    @functools.cached_property
    def product(self) -> Inexact[Array, "..."]:
        """The output without the bias, ``apply(x, w)``.

        With a bias it is computed when asked for; compiled, that is the product of the forward
        pass again and costs nothing.
        """
        return self.output if self.bias is None else self.apply(self.inputs, self.weight)

    def transpose(self, weight: Array, coefficients: Array) -> tuple[Array, ...]:
        r""":math:`w^\top c`: one array per active operand, of its shape.

        Args:
            weight: of the shape of w, and not necessarily w.
            coefficients: c, of the shape of y.
        """
        if self.gate is not None:
            weight = weight * self.gate.astype(weight.dtype)
        given = cotangent(coefficients, self.output)
        out = None if self.pull is None else self.pull(weight, given)
        if out is None:
            types = [_compat.type_of(x) for x in self.inputs]
            (out,) = jax.linear_transpose(lambda xs: self.apply(xs, weight), types)(given)
        if self.unread is None:
            return tuple(out)
        (only,) = out
        return (where_read(only, self.unread(coefficients)),)


def cotangent(given: Array | None, output: Array) -> Any:
    """What JAX takes as a cotangent: of the type of the output, zero where nothing is given."""
    if not jnp.issubdtype(output.dtype, jnp.inexact):
        return jnp.zeros(output.shape, jax.dtypes.float0)
    if given is None:
        return jnp.zeros_like(output)
    return _compat.alike(given.astype(output.dtype), output)
