r"""The layer rules of the reference implementation, as functions of arrays.

Each takes the relevance R of a layer's output and what went into the layer, and returns the
relevance of its inputs. Denominators are made anew without biases, which take no part. All of it is
linear in R. There are two sets of rules: ``"ours"``, of the paper, and ``"orig"``, LRP as the
authors compare with it; they differ in `linear` and `add`.

Arrays are laid out as in PyTorch. A layer that does not mix entries (ReLU, GELU, tanh, softmax,
dropout, layer normalisation) hands R on as it is, and has no function here.

`relprop.presets.chefer` uses the same functions as rules of the transform.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from relprop._core.relevance import alike, nothing_of_nan, scaled, summed_to
from relprop.chefer import functional
from relprop.chefer.functional import Pair
from relprop.rules.parameters import is_zero
from relprop.rules.parts import negative, positive
from relprop.rules.signs import sum_of_sign

Variant = Literal["ours", "orig"]
Arrays = Sequence[Array]
# Linear in a list of arrays for a fixed weight, and in the weight for fixed arrays.
Apply = Callable[[Arrays, Array], Array]

__all__ = [
    "add",
    "add_eye",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "cat",
    "clone",
    "conv2d",
    "einsum",
    "finite",
    "index_select",
    "linear",
    "matmul",
    "max_pool2d",
    "mul",
    "safe_divide",
]


def safe_divide(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Division as the reference does it.

    .. math:: \frac{a}{b + 10^{-9}} \cdot [b \neq 0]

    The stabiliser is not aware of the sign of b: just below zero it makes the denominator smaller,
    and at -1e-9, where it would make it zero, the denominator becomes 1e-9. Where b is exactly
    zero the result is zero, and of nothing no part is NaN.

    Args:
        a: numerator.
        b: denominator, of the same shape.

    >>> import jax.numpy as jnp
    >>> print(safe_divide(jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0])))
    [0.5 0. ]

    Source: ``modules/layers_ours.py`` of the reference implementation.
    """
    a, b = alike(a, b)
    b = nothing_of_nan(a, b)
    zeros, least = lax.full_like(b, 0), lax.full_like(b, 1e-9)
    denominator = lax.add(lax.max(b, least), lax.min(b, least))
    denominator = lax.select(lax.eq(denominator, zeros), least, denominator)
    return lax.mul(lax.div(a, denominator), lax.ne(b, zeros).astype(b.dtype))


def finite(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Infinite numbers as the largest that there are.

    A mask adds minus infinity to what is not to be attended to, or the least number, and relevance
    in proportion to either is nothing times infinity, which is not a number. With the largest
    number in its place it is the limit of larger and larger masks: what is masked takes no
    relevance, and the mask what would arrive there. The reference has no masks in its graph.

    >>> import jax.numpy as jnp
    >>> bool(finite(jnp.asarray(-jnp.inf, "float32")) == jnp.finfo("float32").min)
    True
    """
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return lax.complex(finite(jnp.real(x)), finite(jnp.imag(x)))
    least, most = jnp.finfo(x.dtype).min, jnp.finfo(x.dtype).max
    return lax.min(lax.max(x, jnp.asarray(least, x.dtype)), jnp.asarray(most, x.dtype))


def linear(
    R: Float[Array, "*batch out"],
    x: Float[Array, "*batch in"],
    weight: Float[Array, "out in"],
    alpha: float = 1.0,
    variant: Variant = "ours",
) -> Float[Array, "*batch in"]:
    r"""A linear layer, by the alpha-beta rule with :math:`\beta = \alpha - 1`.

    With :math:`x^\pm, w^\pm` the positive and the negative parts, in the set ``"ours"``

    .. math::
        R_i = \alpha \sum_j \frac{x_i^+ w_{ji}^+ + x_i^- w_{ji}^-}
                                 {\sum_k x_k^+ w_{jk}^+ + x_k^- w_{jk}^-} R_j
            - \beta \sum_j \frac{x_i^+ w_{ji}^- + x_i^- w_{ji}^+}
                                {\sum_k x_k^+ w_{jk}^- + x_k^- w_{jk}^+} R_j

    In the set ``"orig"`` each of the two products in a numerator has a denominator of its own, so
    that an output with both hands on its relevance twice.

    Source: ``Linear.relprop`` in ``modules/layers_ours.py`` and ``layers_lrp.py``; eq. 3 of the
    paper.
    """
    (out,) = alpha_beta(
        R, [x], weight, lambda xs, w: functional.product(xs[0], w), alpha, variant == "ours"
    )
    return out


def conv2d(
    R: Float[Array, "n out h2 w2"],
    x: Float[Array, "n c h w"],
    weight: Float[Array, "out c kh kw"],
    stride: Pair = 1,
    padding: Pair = 0,
    alpha: float = 1.0,
) -> Float[Array, "n c h w"]:
    r"""A convolution: the rule for pixels where there are three channels, else alpha-beta.

    Three channels are taken for an image, in whatever layer: `box`, and alpha has no effect.
    Other convolutions have the alpha-beta rule with a denominator for each product, as `linear`
    has it in the set ``"orig"``.

    Source: ``Conv2d.relprop`` in ``modules/layers_ours.py`` and ``layers_lrp.py``.
    """

    def apply(xs: Arrays, w: Array) -> Array:
        return functional.convolution(xs[0], w, stride, padding)

    (out,) = convolution(R, [x], weight, apply, alpha)
    return out


def batch_norm(
    R: Float[Array, "n c h w"],
    x: Float[Array, "n c h w"],
    weight: Float[Array, " c"],
    variance: Float[Array, " c"],
    eps: float = 1e-5,
) -> Float[Array, "n c h w"]:
    r"""A batch normalisation in inference.

    .. math:: R_i = x_i v \frac{R}{x_i v + 10^{-9}}, \qquad
              v = \frac{w}{\sqrt{\sigma^4 + \epsilon}}

    The reference squares the variance; the factor all but cancels.

    Source: ``BatchNorm2d.relprop`` in ``modules/layers_ours.py``.
    """
    factor = functional.along(weight / jnp.sqrt(variance**2 + eps), 1, 4)
    return x * (R / (x * factor + 1e-9) * factor)


def in_proportion(
    R: Float[Array, "*out"], f: Callable[..., Array], *xs: Float[Array, "..."]
) -> tuple[Float[Array, "..."], ...]:
    r"""Any layer, each operand in proportion to its contributions.

    .. math:: R_i = x_i \sum_j \frac{\partial z_j}{\partial x_i} \frac{R_j}{z_j}

    Of a product with several operands each gets all of R.

    Source: ``RelPropSimple.relprop`` in ``modules/layers_ours.py``.
    """
    xs = tuple(finite(x) for x in xs)
    z, pull = jax.vjp(f, *xs)
    return tuple(x * c for x, c in zip(xs, pull(safe_divide(R, finite(z))), strict=True))


def max_pool2d(
    R: Float[Array, "n c h2 w2"],
    x: Float[Array, "n c h w"],
    size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
) -> Float[Array, "n c h w"]:
    """A maximum pooling: relevance to the winner of each window, `in_proportion`."""
    return in_proportion(R, lambda x: functional.max_pool2d(x, size, stride, padding), x)[0]


def avg_pool2d(
    R: Float[Array, "n c h2 w2"],
    x: Float[Array, "n c h w"],
    size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    count_include_pad: bool = True,
) -> Float[Array, "n c h w"]:
    """An average pooling, `in_proportion`. Means near zero make it badly conditioned."""

    def pool(x: Array) -> Array:
        return functional.avg_pool2d(x, size, stride, padding, count_include_pad)

    return in_proportion(R, pool, x)[0]


def adaptive_avg_pool2d(
    R: Float[Array, "n c h2 w2"], x: Float[Array, "n c h w"], size: Pair
) -> Float[Array, "n c h w"]:
    """An average pooling to a given size, `in_proportion`."""
    return in_proportion(R, lambda x: functional.adaptive_avg_pool2d(x, size), x)[0]


def einsum(
    R: Float[Array, "..."], equation: str, a: Float[Array, "..."], b: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """A product of two arrays, `in_proportion`: each gets all of R.

    The models of the reference divide the results by two.

    Source: ``einsum`` in ``modules/layers_ours.py``.
    """
    left, right = in_proportion(R, lambda a, b: functional.einsum(equation, a, b), a, b)
    return left, right


def matmul(
    R: Float[Array, "*batch m n"], a: Float[Array, "*batch m k"], b: Float[Array, "*batch k n"]
) -> tuple[Float[Array, "*batch m k"], Float[Array, "*batch k n"]]:
    """A product of matrices, `in_proportion`: each gets all of R, as in `einsum`."""
    left, right = in_proportion(R, jnp.matmul, a, b)
    return left, right


def mul(
    R: Float[Array, "..."], a: Float[Array, "..."], b: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """A product entry by entry, `in_proportion`: each gets all of R."""
    left, right = in_proportion(R, jnp.multiply, a, b)
    return left, right


def add_eye(R: Float[Array, "n h t t"], x: Float[Array, "n h t t"]) -> Float[Array, "n h t t"]:
    """The addition of the unit matrix, `in_proportion`."""
    eye = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)
    return in_proportion(R, lambda x: x + eye, x)[0]


def index_select(
    R: Float[Array, "..."], x: Float[Array, "..."], axis: int, indices: int | Sequence[int]
) -> Float[Array, "..."]:
    """The choice of some entries along an axis, `in_proportion`: the others get nothing."""
    chosen = jnp.atleast_1d(jnp.asarray(indices))
    return in_proportion(R, lambda x: jnp.take(x, chosen, axis=axis), x)[0]


def cat(R: Float[Array, "..."], xs: Arrays, axis: int) -> tuple[Float[Array, "..."], ...]:
    """The concatenation of arrays, `in_proportion`."""
    return in_proportion(R, lambda *xs: jnp.concatenate(xs, axis), *xs)


def clone(Rs: Sequence[Float[Array, "*s"]], x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    r"""The copies of a value, one for each of its readers.

    .. math:: R = x \sum_i \frac{R_i}{x}

    The sum of what the readers hand back where x is not zero, and nothing where it is.

    Source: ``Clone.relprop`` in ``modules/layers_ours.py``.
    """
    coefficients = [safe_divide(R, x) for R in Rs]
    return x * sum(coefficients[1:], coefficients[0])


def add(
    R: Float[Array, "..."],
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    variant: Variant = "ours",
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""A sum of two arrays.

    .. math:: R_a = a \frac{R}{a + b}, \qquad R_b = b \frac{R}{a + b}

    In the set ``"ours"`` both are then scaled to conserve relevance, with sums over everything,
    batch included:

    .. math:: R_a \leftarrow R_a \frac{|A|}{|A| + |B|} \frac{\sum R}{A}, \qquad
              A = \sum R_a, \quad B = \sum R_b

    and likewise for b. That changes nothing where A and B have one sign. Where they differ, the one
    whose sign is not that of the sum of R changes the sign of all its entries.

    Source: ``Add.relprop`` in ``modules/layers_ours.py`` and ``layers_lrp.py``; eq. 9 and 10 of
    the paper.
    """
    part = safe_divide(R, finite(a + b))
    # A broadcast operand sums its part first, then multiplies.
    left, right = (finite(x) * summed_to(x.shape, part) for x in (a, b))
    return normalised(R, left, right) if variant == "ours" else (left, right)


def normalised(R: Array, left: Array, right: Array) -> tuple[Array, Array]:
    """Two relevances scaled so that together they are as much as R: see `add`."""
    A, B, total = jnp.sum(left), jnp.sum(right), jnp.sum(R)
    whole = jnp.abs(A) + jnp.abs(B)

    def share(part: Array, own: Array) -> Array:
        return part * safe_divide(safe_divide(jnp.abs(own), whole) * total, own)

    return share(left, A), share(right, B)


def alpha_beta(
    R: Array, xs: Arrays, weight: Array, apply: Apply, alpha: float, joint: bool
) -> list[Array]:
    """The alpha-beta rule of any linear layer; see `linear` for what `joint` says."""
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
