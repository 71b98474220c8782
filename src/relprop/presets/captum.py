"""The LRP of Captum."""

from __future__ import annotations

from relprop.composites import LAYERS, Composite
from relprop.rules import Epsilon, Linearised, Rule


def captum(rule: Rule = Epsilon(1e-9)) -> Composite:  # noqa: B008 - rules are frozen values
    """LRP as in Captum: a rule on linear layers, its epsilon rule on poolings and batch norms.

    ====================  ===========================================
    rule of Captum        here
    ====================  ===========================================
    EpsilonRule(e)        ``Epsilon(e)``
    GammaRule(g)          ``Reweighted(1 + g)``
    Alpha1_Beta0_Rule()   ``Reweighted(1, 0)``
    IdentityRule()        ``Pass()``
    set_bias_to_zero      ``bias="ignore"``
    ====================  ===========================================

    A batch norm is one operation of its own and is not merged. Sums of two values, which Captum
    does not support, have the epsilon rule.

    Args:
        rule: rule of all dense layers and convolutions.

    >>> print(captum())
    captum
    operations                               rule
    ---------------------------------------  -------------------------------------
    dense, convolution                       Epsilon(epsilon=1e-09, bias='absorb')
    batch_norm, sum, average, scale, offset  Epsilon(epsilon=1e-09, bias='absorb')
    maximum                                  Linearised(epsilon=1e-09)
    linear, softmax                          Zero(bias='absorb')
    activation                               Pass()
    logsumexp                                Gradient()
    structural                               Route()
    product, gate, homogeneous, quotient     Uniform()
    normaliser                               Constant()
    calls, branches, loops                   by the rules inside

    Source: Kokhlikyan et al. 2020 (Captum 0.9), ``captum.attr.LRP``.
    """
    composite = Composite(
        name="captum", references=("kokhlikyan2020", "bach2015", "montavon2019"), canonizers=()
    )
    without_weights = ("batch_norm", "sum", "average", "scale", "offset")
    composite = composite.at(structure=LAYERS, optional=True).use(rule)
    composite = composite.at(structure=without_weights, optional=True).use(Epsilon(1e-9))
    return composite.at(structure="maximum", optional=True).use(Linearised(1e-9))
