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

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop._core.relevance import summed_to
from relprop.chefer import functional
from relprop.chefer.contractions import Arrays, alpha_beta, convolution
from relprop.chefer.division import finite as finite
from relprop.chefer.division import safe_divide as safe_divide
from relprop.chefer.functional import Pair

Variant = Literal["ours", "orig"]

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
    "in_proportion",
    "index_select",
    "linear",
    "matmul",
    "max_pool2d",
    "mul",
    "safe_divide",
]


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

    Args:
        R: relevance of the output.
        x: what went into the layer.
        weight: of the layer; its bias takes no part.
        alpha: weight of the contributions that speak for the output, from 1 on.
        variant: the set of rules.

    Returns:
        The relevance of x.

    >>> import jax.numpy as jnp
    >>> x, weight = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 0.5], [1.0, -1.0]])
    >>> print(linear(jnp.array([[4.0, 1.0]]), x, weight))  # 3/4 of 4 and all of 1; 1/4 of 4
    [[4. 1.]]

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

    Args:
        R: relevance of the output.
        x: images.
        weight: the kernel.
        stride: steps in pixels, one number or one for each axis.
        padding: zeros on either side of the image, likewise.
        alpha: as in `linear`.

    Returns:
        The relevance of x.

    >>> import jax.numpy as jnp
    >>> x, weight = jnp.array([[[[1.0, 2.0]]]]), jnp.array([[[[2.0, 1.0]]]])
    >>> print(conv2d(jnp.array([[[[4.0]]]]), x, weight))  # both contribute 2
    [[[[2. 2.]]]]

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

    Args:
        R: relevance of the output.
        x: what went into the layer.
        weight: the factors that are learnt, w.
        variance: of the training data, :math:`\sigma^2`.
        eps: :math:`\epsilon`.

    Returns:
        The relevance of x: R, but where x is nearly zero.

    >>> import jax.numpy as jnp
    >>> R, x = jnp.array([[[[3.0, 1.0]]]]), jnp.array([[[[1.0, 0.0]]]])
    >>> print(batch_norm(R, x, jnp.array([2.0]), jnp.array([1.0])))
    [[[[3. 0.]]]]

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

    Args:
        R: relevance of the output.
        f: the layer, as a function of arrays.
        *xs: what went into it.

    Returns:
        The relevance of each of `xs`.

    >>> import jax.numpy as jnp
    >>> print(*in_proportion(jnp.array(4.0), jnp.sum, jnp.array([1.0, 3.0])))
    [1. 3.]

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
    """A maximum pooling: relevance to the winner of each window, `in_proportion`.

    Args:
        R: relevance of the output.
        x: what was pooled.
        size: of a window, one number or one for each axis.
        stride: steps of the window; None for its size.
        padding: entries on either side, which never win.

    Returns:
        The relevance of x.

    >>> import jax.numpy as jnp
    >>> print(max_pool2d(jnp.array([[[[4.0]]]]), jnp.array([[[[1.0, 3.0]]]]), (1, 2)))
    [[[[0. 4.]]]]

    Source: ``MaxPool2d`` in ``modules/layers_ours.py``.
    """
    return in_proportion(R, lambda x: functional.max_pool2d(x, size, stride, padding), x)[0]


def avg_pool2d(
    R: Float[Array, "n c h2 w2"],
    x: Float[Array, "n c h w"],
    size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    count_include_pad: bool = True,
) -> Float[Array, "n c h w"]:
    """An average pooling, `in_proportion`. Means near zero make it badly conditioned.

    Args:
        R: relevance of the output.
        x: what was pooled.
        size: of a window, one number or one for each axis.
        stride: steps of the window; None for its size.
        padding: zeros on either side.
        count_include_pad: whether the zeros of the padding are counted.

    Returns:
        The relevance of x.

    >>> import jax.numpy as jnp
    >>> print(avg_pool2d(jnp.array([[[[4.0]]]]), jnp.array([[[[1.0, 3.0]]]]), (1, 2)))
    [[[[1. 3.]]]]

    Source: ``AvgPool2d`` in ``modules/layers_ours.py``.
    """

    def pool(x: Array) -> Array:
        return functional.avg_pool2d(x, size, stride, padding, count_include_pad)

    return in_proportion(R, pool, x)[0]


def adaptive_avg_pool2d(
    R: Float[Array, "n c h2 w2"], x: Float[Array, "n c h w"], size: Pair
) -> Float[Array, "n c h w"]:
    """An average pooling to a given size, `in_proportion`.

    Args:
        R: relevance of the output.
        x: what was pooled.
        size: of the output, one number or one for each axis.

    Returns:
        The relevance of x.

    >>> import jax.numpy as jnp
    >>> print(adaptive_avg_pool2d(jnp.array([[[[4.0]]]]), jnp.array([[[[1.0, 3.0]]]]), 1))
    [[[[1. 3.]]]]

    Source: ``AdaptiveAvgPool2d`` in ``modules/layers_ours.py``.
    """
    return in_proportion(R, lambda x: functional.adaptive_avg_pool2d(x, size), x)[0]


def einsum(
    R: Float[Array, "..."], equation: str, a: Float[Array, "..."], b: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """A product of two arrays, `in_proportion`: each gets all of R.

    The models of the reference divide the results by two.

    Args:
        R: relevance of the output.
        equation: as in `jax.numpy.einsum`.
        a: the first operand.
        b: the second operand.

    Returns:
        The relevance of a and of b.

    >>> import jax.numpy as jnp
    >>> left, right = einsum(jnp.array(4.0), "i,i->", jnp.array([1.0, 3.0]), jnp.ones(2))
    >>> print(left, right)
    [1. 3.] [1. 3.]

    Source: ``einsum`` in ``modules/layers_ours.py``.
    """
    left, right = in_proportion(R, lambda a, b: functional.einsum(equation, a, b), a, b)
    return left, right


def matmul(
    R: Float[Array, "*batch m n"], a: Float[Array, "*batch m k"], b: Float[Array, "*batch k n"]
) -> tuple[Float[Array, "*batch m k"], Float[Array, "*batch k n"]]:
    """A product of matrices, `in_proportion`: each gets all of R, as in `einsum`.

    Args:
        R: relevance of the output.
        a: the first matrix.
        b: the second matrix.

    Returns:
        The relevance of a and of b.

    >>> import jax.numpy as jnp
    >>> left, right = matmul(jnp.array([[4.0]]), jnp.array([[1.0, 3.0]]), jnp.ones((2, 1)))
    >>> print(left, right.T)
    [[1. 3.]] [[1. 3.]]

    Source: ``MatMul`` in ``modules/layers_ours.py``.
    """
    left, right = in_proportion(R, jnp.matmul, a, b)
    return left, right


def mul(
    R: Float[Array, "..."], a: Float[Array, "..."], b: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """A product entry by entry, `in_proportion`: each gets all of R.

    Args:
        R: relevance of the output.
        a: the first factor.
        b: the second factor.

    Returns:
        The relevance of a and of b.

    >>> import jax.numpy as jnp
    >>> left, right = mul(jnp.array([4.0, 1.0]), jnp.array([1.0, 3.0]), jnp.array([2.0, 0.0]))
    >>> print(left, right)  # of a product that is zero nothing is handed on
    [4. 0.] [4. 0.]

    Source: ``Mul`` in ``modules/layers_ours.py``.
    """
    left, right = in_proportion(R, jnp.multiply, a, b)
    return left, right


def add_eye(R: Float[Array, "n h t t"], x: Float[Array, "n h t t"]) -> Float[Array, "n h t t"]:
    """The addition of the unit matrix, `in_proportion`.

    Args:
        R: relevance of the sum.
        x: the maps that it was added to.

    Returns:
        The relevance of x; the rest stays at the unit matrix.

    >>> import jax.numpy as jnp
    >>> R, x = jnp.array([[[[4.0, 1.0], [1.0, 4.0]]]]), jnp.array([[[[1.0, 3.0], [3.0, 1.0]]]])
    >>> print(add_eye(R, x)[0, 0])
    [[2. 1.]
     [1. 2.]]

    Source: ``AddEye`` in ``modules/layers_ours.py``.
    """
    eye = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)
    return in_proportion(R, lambda x: x + eye, x)[0]


def index_select(
    R: Float[Array, "..."], x: Float[Array, "..."], axis: int, indices: int | Sequence[int]
) -> Float[Array, "..."]:
    """The choice of some entries along an axis, `in_proportion`: the others get nothing.

    Args:
        R: relevance of what was chosen.
        x: what it was chosen from.
        axis: along which.
        indices: which, one or several.

    Returns:
        The relevance of x.

    >>> import jax.numpy as jnp
    >>> print(index_select(jnp.array([[4.0]]), jnp.array([[1.0, 3.0]]), 1, 0))
    [[4. 0.]]

    Source: ``IndexSelect.relprop`` in ``modules/layers_ours.py``.
    """
    chosen = jnp.atleast_1d(jnp.asarray(indices))
    return in_proportion(R, lambda x: jnp.take(x, chosen, axis=axis), x)[0]


def cat(R: Float[Array, "..."], xs: Arrays, axis: int) -> tuple[Float[Array, "..."], ...]:
    """The concatenation of arrays, `in_proportion`.

    Args:
        R: relevance of the whole.
        xs: its parts.
        axis: along which they lie one after the other.

    Returns:
        The relevance of each part.

    >>> import jax.numpy as jnp
    >>> left, right = cat(jnp.array([4.0, 1.0]), [jnp.array([1.0]), jnp.array([3.0])], 0)
    >>> print(left, right)
    [4.] [1.]

    Source: ``Cat.relprop`` in ``modules/layers_ours.py``.
    """
    return in_proportion(R, lambda *xs: jnp.concatenate(xs, axis), *xs)


def clone(Rs: Sequence[Float[Array, "*s"]], x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    r"""The copies of a value, one for each of its readers.

    .. math:: R = x \sum_i \frac{R_i}{x}

    The sum of what the readers hand back where x is not zero, and nothing where it is.

    Args:
        Rs: what each reader hands back.
        x: the value.

    Returns:
        The relevance of x.

    >>> import jax.numpy as jnp
    >>> print(clone([jnp.array([4.0, 1.0]), jnp.array([1.0, 1.0])], jnp.array([2.0, 0.0])))
    [5. 0.]

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

    Args:
        R: relevance of the sum.
        a: the first summand.
        b: the second summand.
        variant: the set of rules.

    Returns:
        The relevance of a and of b.

    >>> import jax.numpy as jnp
    >>> left, right = add(jnp.array([4.0, 2.0]), jnp.array([1.0, 1.0]), jnp.array([3.0, 0.0]))
    >>> print(left, right)
    [1. 2.] [3. 0.]

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
