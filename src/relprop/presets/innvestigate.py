"""The variants of LRP and deep Taylor decomposition that iNNvestigate made known.

Batch norms are not merged in its LRP: they are a shift, a scale and a shift, each by LRP-0. Sums
and average poolings are LRP-0 as well, activations pass.

Those called ``lrp_`` are one rule on all layers. They stay beside the bare rules since they are the
names that results are published under, have other defaults, and leave batch norms as they are.
"""

from __future__ import annotations

from typing import Any

from relprop.composites import CANONIZERS, LAYERS, Composite
from relprop.rules import AlphaBeta, Epsilon, Flat, Rule, WSquare, ZBox, Zero, ZPlus
from relprop.rules.base import Bias
from relprop.rules.parameters import Number

_LRP = ("bach2015", "alber2019")


def lrp_z(bias: Bias = "absorb") -> Composite:
    """LRP-0 on all layers: ``lrp.z``, and ``lrp.z_IB`` with ``bias="ignore"``.

    Args:
        bias: whether biases of layers take relevance.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0])
    >>> relprop.relevance(f, lrp_z())(jnp.ones(3)).round(4).tolist()
    [1.0, 3.0, -2.0]

    Source: Bach et al. 2015, eq. 56; Alber et al. 2019 (iNNvestigate).
    """
    return _one_rule("lrp_z", Zero(bias))


def lrp_epsilon(epsilon: Number = 1e-7, bias: Bias = "absorb") -> Composite:
    """The epsilon rule on all layers: ``lrp.epsilon``, ``lrp.epsilon_IB``.

    Args:
        epsilon: stabiliser, in units of the outputs.
        bias: whether biases of layers take relevance.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0])
    >>> relprop.relevance(f, lrp_epsilon(epsilon=2.0))(jnp.ones(3)).round(4).tolist()
    [0.5, 1.5, -1.0]

    Source: Bach et al. 2015, eq. 58; Alber et al. 2019 (iNNvestigate).
    """
    return _one_rule("lrp_epsilon", Epsilon(epsilon, bias))


def lrp_w_square() -> Composite:
    """The w-square rule on all layers, biases left out: ``lrp.w_square``.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 1.0, 1.0])
    >>> relprop.relevance(f, lrp_w_square())(jnp.ones(5)).round(4).tolist()
    [0.25, 2.25, 1.0, 0.25, 0.25]

    Source: Montavon et al. 2017, eq. 5; Alber et al. 2019 (iNNvestigate).
    """
    return _one_rule("lrp_w_square", WSquare(0.0, bias="ignore"), "montavon2017")


def lrp_flat() -> Composite:
    """The flat rule on all layers: ``lrp.flat``.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 2.0])
    >>> relprop.relevance(f, lrp_flat())(jnp.ones(4)).round(4).tolist()
    [1.0, 1.0, 1.0, 1.0]

    Source: Lapuschkin et al. 2019; Alber et al. 2019 (iNNvestigate).
    """
    return _one_rule("lrp_flat", Flat(0.0), "lapuschkin2019")


def lrp_alpha_beta(alpha: Number = 2.0, beta: Number = 1.0, bias: Bias = "absorb") -> Composite:
    """The alpha-beta rule on all layers: ``lrp.alpha_beta``.

    Args:
        alpha: weight of what speaks for an output.
        beta: weight of what speaks against it; alpha - beta = 1 conserves relevance.
        bias: whether biases of layers take relevance.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -3.0])
    >>> relprop.relevance(f, lrp_alpha_beta(alpha=3.0, beta=2.0))(jnp.ones(3)).round(4).tolist()
    [0.75, 2.25, -2.0]

    Source: Bach et al. 2015, eq. 60; Alber et al. 2019 (iNNvestigate).
    """
    return _one_rule("lrp_alpha_beta", AlphaBeta(alpha, beta, 0.0, bias))


def lrp_alpha2_beta1(bias: Bias = "absorb") -> Composite:
    """Alpha-beta (2, 1) on all layers: ``lrp.alpha_2_beta_1``, ``lrp.alpha_2_beta_1_IB``.

    Args:
        bias: whether biases of layers take relevance.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -3.0])
    >>> relprop.relevance(f, lrp_alpha2_beta1())(jnp.ones(3)).round(4).tolist()
    [0.5, 1.5, -1.0]

    Source: Bach et al. 2015, eq. 60; Alber et al. 2019 (iNNvestigate).
    """
    return _one_rule("lrp_alpha2_beta1", AlphaBeta(2.0, 1.0, 0.0, bias))


def lrp_alpha1_beta0(bias: Bias = "absorb") -> Composite:
    """Alpha-beta (1, 0) on all layers: ``lrp.alpha_1_beta_0``; without biases ``lrp.z_plus``.

    Args:
        bias: whether biases of layers take relevance.

    >>> print(lrp_alpha1_beta0(bias="ignore"))
    lrp_alpha1_beta0
    operations                                    rule
    --------------------------------------------  ---------------------------------
    dense, convolution                            ZPlus(epsilon=0.0, bias='ignore')
    linear, sum, average, scale, offset, softmax  Zero(bias='absorb')
    activation                                    Pass()
    maximum, structural                           Route()
    logsumexp                                     Gradient()
    product, gate, homogeneous, quotient          Uniform()
    normaliser                                    Constant()
    calls, branches, loops                        by the rules inside

    Source: Bach et al. 2015, eq. 60; Alber et al. 2019 (iNNvestigate).
    """
    return _one_rule("lrp_alpha1_beta0", ZPlus(0.0, bias))


def sequential_a(epsilon: Number = 0.1) -> Composite:
    """Epsilon rule on dense layers, alpha-beta (1, 0) on convolutions.

    Args:
        epsilon: stabiliser of the dense layers, in units of the outputs.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.convolve(x, jnp.array([-2.0, 2.0]), "valid")[0]  # 2 x_0 - 2 x_1
    >>> relprop.relevance(f, sequential_a())(jnp.array([3.0, 1.0])).round(4).tolist()
    [4.0, 0.0]

    Source: Alber et al. 2019 (iNNvestigate), ``lrp.sequential_preset_a``; Kohlbrenner et al. 2020.
    """
    return _sequential("sequential_a", ZPlus(0.0), epsilon)


def sequential_a_flat(epsilon: Number = 0.1) -> Composite:
    """`sequential_a` with the flat rule on the first layer.

    Args:
        epsilon: stabiliser of the dense layers, in units of the outputs.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.convolve(x, jnp.array([-2.0, 2.0]), "valid")[0]  # 2 x_0 - 2 x_1
    >>> relprop.relevance(f, sequential_a_flat())(jnp.array([3.0, 1.0])).round(4).tolist()
    [2.0, 2.0]

    Source: Alber et al. 2019 (iNNvestigate), ``lrp.sequential_preset_a_flat``.
    """
    return _sequential("sequential_a_flat", ZPlus(0.0), epsilon, first=Flat(0.0))


def sequential_b(epsilon: Number = 0.1) -> Composite:
    """Epsilon rule on dense layers, alpha-beta (2, 1) on convolutions.

    Args:
        epsilon: stabiliser of the dense layers, in units of the outputs.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.convolve(x, jnp.array([-2.0, 2.0]), "valid")[0]  # 2 x_0 - 2 x_1
    >>> relprop.relevance(f, sequential_b())(jnp.array([3.0, 1.0])).round(4).tolist()
    [8.0, -4.0]

    Source: Alber et al. 2019 (iNNvestigate), ``lrp.sequential_preset_b``; Kohlbrenner et al. 2020.
    """
    return _sequential("sequential_b", AlphaBeta(2.0, 1.0, 0.0), epsilon)


def sequential_b_flat(epsilon: Number = 0.1) -> Composite:
    """`sequential_b` with the flat rule on the first layer.

    Args:
        epsilon: stabiliser of the dense layers, in units of the outputs.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.convolve(x, jnp.array([-2.0, 2.0]), "valid")[0]  # 2 x_0 - 2 x_1
    >>> relprop.relevance(f, sequential_b_flat())(jnp.array([3.0, 1.0])).round(4).tolist()
    [2.0, 2.0]

    Source: Alber et al. 2019 (iNNvestigate), ``lrp.sequential_preset_b_flat``.
    """
    return _sequential("sequential_b_flat", AlphaBeta(2.0, 1.0, 0.0), epsilon, first=Flat(0.0))


def deep_taylor(low: Any = None, high: Any = None, epsilon: Number = 1e-9) -> Composite:
    """Deep Taylor decomposition of a ReLU network: z+ on all layers but the first.

    The first has the w-square rule, for inputs without bounds, or between bounds the z-box rule.
    Biases take no relevance. The output should be positive. A batch norm is merged into the layer
    beside it, so that a layer and its ReLU are the neurons of the paper.

    Args:
        low: smallest value of the inputs, a number or something that broadcasts to them.
        high: largest value of the inputs.
        epsilon: stabiliser, in units of the outputs.

    Raises:
        ValueError: only one of the bounds is given.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0, 1.0, 1.0])
    >>> relprop.relevance(f, deep_taylor())(jnp.ones(5)).round(4).tolist()
    [0.25, 2.25, 1.0, 0.25, 0.25]

    Source: Montavon et al. 2017, eq. 5 to 7; ``deep_taylor`` and ``deep_taylor.bounded`` of
    iNNvestigate.
    """
    if (low is None) is not (high is None):
        raise ValueError(f"deep_taylor needs both bounds or none, got low={low}, high={high}.")
    first = WSquare(epsilon, bias="ignore") if low is None else ZBox(low, high, epsilon)
    others = ZPlus(epsilon, bias="ignore")
    composite = Composite(
        name="deep_taylor", references=("montavon2017", "alber2019"), canonizers=CANONIZERS
    )
    composite = composite.at(structure=LAYERS, first=True, optional=True).use(first)
    return composite.at(structure=(*LAYERS, "sum", "average"), optional=True).use(others)


def _one_rule(name: str, rule: Rule, *references: str) -> Composite:
    composite = Composite(name=name, references=(*_LRP, *references), canonizers=())
    return composite.at(structure=LAYERS, optional=True).use(rule)


def _sequential(
    name: str, convolution: Rule, epsilon: Number, first: Rule | None = None
) -> Composite:
    references = (*_LRP, "kohlbrenner2020") + (("lapuschkin2019",) if first else ())
    composite = Composite(name=name, references=references, canonizers=())
    if first is not None:
        composite = composite.at(structure=LAYERS, first=True, optional=True).use(first)
    composite = composite.at(structure="convolution", optional=True).use(convolution)
    return composite.at(structure="dense", optional=True).use(Epsilon(epsilon))
