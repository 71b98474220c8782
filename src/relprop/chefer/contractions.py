"""The rules of layers with weights, for whatever is linear in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relprop._core.relevance import scaled
from relprop.chefer.division import safe_divide
from relprop.rules.parameters import is_zero
from relprop.rules.parts import negative, positive
from relprop.rules.signs import sum_of_sign

Arrays = Sequence[Array]
# Linear in a list of arrays for a fixed weight, and in the weight for fixed arrays.
Apply = Callable[[Arrays, Array], Array]


def alpha_beta(
    R: Array, xs: Arrays, weight: Array, apply: Apply, alpha: float, joint: bool
) -> list[Array]:
    """The alpha-beta rule of any linear layer; `relprop.chefer.layers.linear` has the formula.

    Args:
        R: relevance of the output.
        xs: what went into the layer.
        weight: of the layer.
        apply: the layer as a function of both.
        alpha: weight of the contributions that speak for the output.
        joint: whether the two products of a numerator have one denominator.

    Returns:
        The relevance of each of `xs`.
    """
    beta = alpha - 1
    pluses, minuses = [positive(x) for x in xs], [negative(x) for x in xs]

    def part(w1: Array, w2: Array) -> list[Array]:
        z1, z2 = apply(pluses, w1), apply(minuses, w2)
        if joint:
            s1 = s2 = safe_divide(R, z1 + z2)
        else:
            s1, s2 = safe_divide(R, z1), safe_divide(R, z2)
        back1, back2 = transposed(apply, xs, w1, s1), transposed(apply, xs, w2, s2)
        return [
            scaled(p, b1) + scaled(m, b2)
            for p, m, b1, b2 in zip(pluses, minuses, back1, back2, strict=True)
        ]

    w_plus, w_minus = positive(weight), negative(weight)
    out = [alpha * active for active in part(w_plus, w_minus)]
    if is_zero(beta):
        return out
    inhibiting = part(w_minus, w_plus)
    return [active - beta * inhibitor for active, inhibitor in zip(out, inhibiting, strict=True)]


def joint_alpha_beta(
    R: Array, xs: Arrays, weight: Array, apply: Apply, alpha: float
) -> list[Array]:
    r"""`alpha_beta` with joint denominators, in three products instead of four or eight.

    With z = xW, which the forward pass has, and a = |x||W| the denominators are (z + a) / 2 and
    (z - a) / 2, term by term, and

    .. math:: R_{in} = \tfrac12 \left[ x \odot (s^+ - s^-) W^\top
                                    + |x| \odot (s^+ + s^-) |W|^\top \right]

    with :math:`s^\pm` the relevance over the denominators, times alpha and beta. What is nearly
    nothing of a is less exact than in `alpha_beta`.
    """
    beta, size = alpha - 1, jnp.abs(weight)
    z, a = apply(xs, weight), apply([jnp.abs(x) for x in xs], size)
    # Of x (.., n), W (m, n) and their product (.., m).
    terms = math.sqrt(sum(x.size for x in xs) * weight.size / max(z.size, 1))
    # Without a contribution a denominator has to be exactly zero, not the rounding of z and a.
    plain = signed = alpha * safe_divide(R, sum_of_sign(z, a, 1, terms))
    if not is_zero(beta):
        inhibiting = beta * safe_divide(R, sum_of_sign(z, a, -1, terms))
        plain, signed = plain - inhibiting, signed + inhibiting
    plains, signeds = transposed(apply, xs, weight, plain), transposed(apply, xs, size, signed)
    return [
        (scaled(x, p) + scaled(jnp.abs(x), s)) / 2
        for x, p, s in zip(xs, plains, signeds, strict=True)
    ]


def convolution(
    R: Array,
    xs: Arrays,
    weight: Array,
    apply: Apply,
    alpha: float,
    layout: tuple[int, int] | None = (0, 1),
) -> list[Array]:
    """The rule of a convolution.

    Args:
        R: relevance of the output.
        xs: the images, as a list of one array.
        weight: the kernel.
        apply: the convolution as a function of images and kernel.
        alpha: weight of the contributions that speak for the output.
        layout: the axes of samples and channels; None where what is convolved has no such axes
            and is no image.
    """
    if layout is not None and all(x.shape[layout[1]] == 3 for x in xs):
        return box(R, xs, weight, apply, layout[0])
    return alpha_beta(R, xs, weight, apply, alpha, joint=False)


def box(R: Array, xs: Arrays, weight: Array, apply: Apply, samples: int = 0) -> list[Array]:
    r"""The z-box rule, in the box that each image itself spans.

    .. math:: R_i = \sum_j \frac{x_i w_{ij} - l w_{ij}^+ - h w_{ij}^-}
                     {\sum_k x_k w_{kj} - l w_{kj}^+ - h w_{kj}^- + 10^{-9}} R_j

    with l and h the least and the largest number of an image, over channels and pixels: all axes
    but the one that counts the samples. The zeros of a padding are no part of the box. There is no
    care for a zero in the denominator: in a constant image it is rounding noise.

    Source: ``Conv2d.relprop`` in ``modules/layers_ours.py``; Montavon et al. 2017, eq. 7.
    """

    def filled(reduce: Callable[..., Array], x: Array) -> Array:
        axes = tuple(axis for axis in range(x.ndim) if axis != samples)
        return jnp.broadcast_to(reduce(x, axis=axes, keepdims=True), x.shape)

    w_plus, w_minus = positive(weight), negative(weight)
    lows, highs = [filled(jnp.min, x) for x in xs], [filled(jnp.max, x) for x in xs]
    z = apply(xs, weight) - apply(lows, w_plus) - apply(highs, w_minus) + 1e-9
    s = R / jnp.where((R == 0) & jnp.isnan(z), jnp.ones_like(z), z)
    backs = (transposed(apply, xs, w, s) for w in (weight, w_plus, w_minus))
    return [
        scaled(x, whole) - scaled(low, up) - scaled(high, down)
        for x, low, high, whole, up, down in zip(xs, lows, highs, *backs, strict=True)
    ]


def transposed(apply: Apply, xs: Arrays, weight: Array, s: Array) -> tuple[Array, ...]:
    r""":math:`w^\top s`, one array for each operand."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in xs]
    (out,) = jax.linear_transpose(lambda xs: apply(xs, weight), shapes)(s)
    return tuple(out)
