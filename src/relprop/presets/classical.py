"""Presets for any function, and those for convolutional networks."""

from __future__ import annotations

import dataclasses
from typing import Any

from relprop.composites import LAYERS, Composite, composite_of
from relprop.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Gradient,
    Norm,
    Rule,
    ZBox,
    Zero,
    ZPlus,
)
from relprop.rules.base import Bias
from relprop.rules.parameters import Number


def gradient() -> Composite:
    r"""The plain gradient, through every operation: ``relevance(f, gradient())`` is `jax.grad`.

    >>> import jax.numpy as jnp, relprop
    >>> float(relprop.relevance(jnp.sin, gradient())(0.0))
    1.0

    Source: Simonyan et al. 2014.
    """
    return dataclasses.replace(
        composite_of(Gradient()), name="gradient", references=("simonyan2014",)
    )


def gradient_times_input() -> Composite:
    r""":math:`x \odot \nabla f(x)`: LRP-0 through every operation, non-linear ones included.

    >>> import jax.numpy as jnp, relprop
    >>> float(relprop.relevance(lambda x: x**3, gradient_times_input())(2.0))
    24.0

    Source: Shrikumar et al. 2017, section 2.
    """
    everything = Composite(
        name="gradient_times_input", references=("shrikumar2017",), canonizers=()
    )
    everything = everything.at(structure="custom_derivative", optional=True).use(Zero())
    return everything.at(optional=True).use(Zero())


def uniform(rule: Rule) -> Composite:
    """One rule on every linear layer with weights, as when the bare rule is given.

    Args:
        rule: any rule for linear operations.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0])
    >>> relprop.relevance(f, uniform(relprop.rules.Epsilon(2.0)))(jnp.ones(3)).round(4).tolist()
    [0.5, 1.5, -1.0]
    """
    return composite_of(rule)


def epsilon_plus(epsilon: Number = 1e-6, bias: Bias = "absorb") -> Composite:
    """z+ rule on convolutions, epsilon rule on dense layers, normalised sums and averages.

    Batch norms are merged into the layers beside them, as with a canonizer of zennit.

    Args:
        epsilon: stabiliser of all of them, in units of the outputs.
        bias: whether the biases of layers take relevance; ``"ignore"`` is ``zero_params="bias"``.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.convolve(x, jnp.array([-2.0, 2.0]), "valid")[0]  # 2 x_0 - 2 x_1
    >>> relprop.relevance(f, epsilon_plus())(jnp.array([3.0, 1.0])).round(4).tolist()
    [4.0, 0.0]

    Source: Kohlbrenner et al. 2020 (LRP-CMP); ``EpsilonPlus`` of zennit.
    """
    return _layers("epsilon_plus", ZPlus(epsilon, bias), epsilon, bias)


def epsilon_alpha2_beta1(epsilon: Number = 1e-6, bias: Bias = "absorb") -> Composite:
    """Alpha-beta rule (2, 1) on convolutions, epsilon rule on dense layers.

    Batch norms are merged into the layers beside them, as with a canonizer of zennit.

    Args:
        epsilon: stabiliser, in units of the outputs.
        bias: whether the biases of layers take relevance.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.convolve(x, jnp.array([-2.0, 2.0]), "valid")[0]  # 2 x_0 - 2 x_1
    >>> relprop.relevance(f, epsilon_alpha2_beta1())(jnp.array([3.0, 1.0])).round(4).tolist()
    [8.0, -4.0]

    Source: Kohlbrenner et al. 2020 (LRP-CMP); ``EpsilonAlpha2Beta1`` of zennit.
    """
    return _layers("epsilon_alpha2_beta1", AlphaBeta(2.0, 1.0, epsilon, bias), epsilon, bias)


def epsilon_plus_flat(epsilon: Number = 1e-6, bias: Bias = "absorb") -> Composite:
    """`epsilon_plus` with the flat rule on the first layer.

    Args:
        epsilon: stabiliser, in units of the outputs.
        bias: whether the biases of layers take relevance.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.convolve(x, jnp.array([-2.0, 2.0]), "valid")[0]  # 2 x_0 - 2 x_1
    >>> relprop.relevance(f, epsilon_plus_flat())(jnp.array([3.0, 1.0])).round(4).tolist()
    [2.0, 2.0]

    Source: Kohlbrenner et al. 2020; ``EpsilonPlusFlat`` of zennit.
    """
    rule = ZPlus(epsilon, bias)
    return _layers("epsilon_plus_flat", rule, epsilon, bias, first=Flat(epsilon))


def epsilon_alpha2_beta1_flat(epsilon: Number = 1e-6, bias: Bias = "absorb") -> Composite:
    """`epsilon_alpha2_beta1` with the flat rule on the first layer.

    Args:
        epsilon: stabiliser, in units of the outputs.
        bias: whether the biases of layers take relevance.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.convolve(x, jnp.array([-2.0, 2.0]), "valid")[0]  # 2 x_0 - 2 x_1
    >>> relprop.relevance(f, epsilon_alpha2_beta1_flat())(jnp.array([3.0, 1.0])).round(4).tolist()
    [2.0, 2.0]

    Source: Kohlbrenner et al. 2020; ``EpsilonAlpha2Beta1Flat`` of zennit.
    """
    rule = AlphaBeta(2.0, 1.0, epsilon, bias)
    return _layers("epsilon_alpha2_beta1_flat", rule, epsilon, bias, first=Flat(epsilon))


def epsilon_gamma_box(
    low: Any = 0.0,
    high: Any = 1.0,
    epsilon: Number = 1e-6,
    gamma: Number = 0.25,
    bias: Bias = "absorb",
) -> Composite:
    """z-box rule on the first convolution, gamma on the others, epsilon on dense layers.

    Batch norms are merged into the layers beside them, as with a canonizer of zennit. The bounds
    are those of what the first convolution then reads: if the function itself normalises each
    channel of an image before it, that is merged as well, and the bounds are those of the image.

    Args:
        low: smallest value of the inputs, a number or something that broadcasts to them.
        high: largest value of the inputs.
        epsilon: stabiliser, in units of the outputs.
        gamma: strength of the gamma rule.
        bias: whether the biases of layers take relevance.

    >>> print(epsilon_gamma_box(low=-1.0, high=1.0))
    epsilon_gamma_box
    operations                            rule
    ------------------------------------  -----------------------------------------------
    convolution, first=True               ZBox(low=-1.0, high=1.0, epsilon=1e-06)
    convolution                           Gamma(gamma=0.25, epsilon=1e-06, bias='absorb')
    dense                                 Epsilon(epsilon=1e-06, bias='absorb')
    sum, average                          Norm(epsilon=1e-06, bias='absorb')
    linear, scale, offset, softmax        Zero(bias='absorb')
    activation                            Pass()
    maximum, structural                   Route()
    logsumexp                             Gradient()
    product, gate, homogeneous, quotient  Uniform()
    normaliser                            Constant()
    calls, branches, loops                by the rules inside
    batch norms                           merged into layers

    Source: Montavon et al. 2019, section 10.3; ``EpsilonGammaBox`` of zennit.
    """
    composite = Composite(name="epsilon_gamma_box", references=("bach2015", "montavon2019"))
    composite = composite.at(structure="convolution", first=True, optional=True).use(
        ZBox(low, high, epsilon)
    )
    return _rest(composite, Gamma(gamma, epsilon, bias), epsilon, bias)


def _layers(
    name: str, rule: Rule, epsilon: Number, bias: Bias, first: Rule | None = None
) -> Composite:
    references = ("bach2015", "kohlbrenner2020") + (("lapuschkin2019",) if first else ())
    composite = Composite(name=name, references=references)
    if first is not None:
        composite = composite.at(structure=LAYERS, first=True, optional=True).use(first)
    return _rest(composite, rule, epsilon, bias)


def _rest(composite: Composite, convolution: Rule, epsilon: Number, bias: Bias) -> Composite:
    composite = composite.at(structure="convolution", optional=True).use(convolution)
    composite = composite.at(structure="dense", optional=True).use(Epsilon(epsilon, bias))
    return composite.at(structure=("sum", "average"), optional=True).use(Norm(epsilon))
