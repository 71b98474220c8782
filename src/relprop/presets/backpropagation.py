"""Presets that are back-propagation with another rule at some operations.

What they do not mention has its gradient, and the relevance of the score is 1, as for a gradient.
"""

from __future__ import annotations

from relprop.composites import CANONIZERS, LAYERS, Composite
from relprop.recognise.activation import rectifies
from relprop.rules import BetaSmooth, Deconvnet, Gradient, GuidedBackprop, Norm, Rule, ZPlus
from relprop.rules.base import Bias
from relprop.rules.parameters import Number


def guided_backprop() -> Composite:
    """Guided back-propagation: only what is positive passes back through a ReLU.

    Other activations have their gradient. A batch norm has its gradient, which is the same whether
    it is merged into a layer or not.

    >>> print(guided_backprop())
    guided_backprop
    operations                       rule
    -------------------------------  ----------------
    activation, predicate=rectifies  GuidedBackprop()
    custom_derivative                Gradient()
    everything                       Gradient()

    Source: Springenberg et al. 2015; ``GuidedBackprop`` of zennit.
    """
    return _at_relu("guided_backprop", GuidedBackprop(), "springenberg2015")


def deconvnet() -> Composite:
    """Deconvolutional network: a ReLU is applied to what comes back, and not the forward mask.

    Other activations and batch norms have their gradient.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.maximum(x, 0) @ jnp.array([2.0, -3.0])
    >>> relprop.relevance(f, deconvnet())(jnp.array([-1.0, 1.0])).tolist()
    [2.0, 0.0]

    Source: Zeiler and Fergus 2014; ``DeconvNet`` of zennit.
    """
    return _at_relu("deconvnet", Deconvnet(), "zeiler2014")


def beta_smooth(beta: Number = 10.0) -> Composite:
    """The gradient, with the derivative of a softplus in place of that of each ReLU.

    Other activations and batch norms have their gradient.

    Args:
        beta: sharpness of the softplus, in units of 1 / x.

    >>> import jax.numpy as jnp, relprop
    >>> float(relprop.relevance(lambda x: jnp.maximum(x, 0), beta_smooth())(0.0))
    0.5

    Source: Dombrowski et al. 2019; ``BetaSmooth`` of zennit.
    """
    return _at_relu("beta_smooth", BetaSmooth(beta), "dombrowski2019")


def excitation_backprop(epsilon: Number = 1e-6, bias: Bias = "absorb") -> Composite:
    """Excitation back-propagation: the z+ rule on layers, the gradient elsewhere.

    A batch norm is merged into the layer beside it; ``excitation_backprop().canonized()`` leaves it
    to its gradient, as zennit does without a canonizer.

    Args:
        epsilon: stabiliser, in units of the outputs.
        bias: whether positive biases take relevance, as in zennit, or not, as in the paper.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, 3.0, -2.0])
    >>> relprop.relevance(f, excitation_backprop())(jnp.ones(3)).round(4).tolist()
    [0.25, 0.75, 0.0]

    Source: Zhang et al. 2018; ``ExcitationBackprop`` of zennit.
    """
    composite = Composite(
        name="excitation_backprop",
        seed="one",
        references=("zhang2018",),
        canonizers=CANONIZERS,
    )
    composite = composite.at(structure=LAYERS, optional=True).use(ZPlus(epsilon, bias))
    composite = composite.at(structure=("sum", "average"), optional=True).use(Norm(epsilon))
    return _gradient_elsewhere(composite)


def _at_relu(name: str, rule: Rule, reference: str) -> Composite:
    composite = Composite(name=name, seed="one", references=(reference,), canonizers=())
    composite = composite.at(structure="activation", predicate=rectifies, optional=True).use(rule)
    return _gradient_elsewhere(composite)


def _gradient_elsewhere(composite: Composite) -> Composite:
    composite = composite.at(structure="custom_derivative", optional=True).use(Gradient())
    return composite.at(optional=True).use(Gradient())
