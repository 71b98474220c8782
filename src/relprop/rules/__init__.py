"""Rules: how one operation hands the relevance of its outputs to its inputs.

Every rule is a frozen value with its parameters; give one to `relprop.relevance`, or put several
into a `relprop.Composite`.
"""

from typing import Any as _Any

from relprop._core.relevance import Relevance as Relevance
from relprop._core.site import LinearMap as LinearMap
from relprop._core.site import Site as Site
from relprop._errors import unknown_name as _unknown_name
from relprop.rules.activation import BetaSmooth as BetaSmooth
from relprop.rules.activation import Deconvnet as Deconvnet
from relprop.rules.activation import GuidedBackprop as GuidedBackprop
from relprop.rules.alpha_beta import AlphaBeta as AlphaBeta
from relprop.rules.alpha_beta import ZPlus as ZPlus
from relprop.rules.base import Rule as Rule
from relprop.rules.base import Stabilizer as Stabilizer
from relprop.rules.box import ZBox as ZBox
from relprop.rules.difference import DifferenceRule as DifferenceRule
from relprop.rules.difference import MeanGradient as MeanGradient
from relprop.rules.difference import Rescale as Rescale
from relprop.rules.difference import RescaleMaximum as RescaleMaximum
from relprop.rules.difference import RescaleSoftmax as RescaleSoftmax
from relprop.rules.difference import RevealCancel as RevealCancel
from relprop.rules.general import Constant as Constant
from relprop.rules.general import Gradient as Gradient
from relprop.rules.general import Linearised as Linearised
from relprop.rules.general import Pass as Pass
from relprop.rules.general import Proportional as Proportional
from relprop.rules.general import Route as Route
from relprop.rules.general import SignalTakesAll as SignalTakesAll
from relprop.rules.general import Stop as Stop
from relprop.rules.general import Uniform as Uniform
from relprop.rules.linear import Epsilon as Epsilon
from relprop.rules.linear import Flat as Flat
from relprop.rules.linear import Gamma as Gamma
from relprop.rules.linear import Norm as Norm
from relprop.rules.linear import Reweighted as Reweighted
from relprop.rules.linear import WSquare as WSquare
from relprop.rules.linear import Zero as Zero
from relprop.rules.linear_rule import Contributions as Contributions
from relprop.rules.linear_rule import LinearRule as LinearRule
from relprop.rules.linear_rule import Term as Term
from relprop.rules.parts import negative as negative
from relprop.rules.parts import positive as positive
from relprop.rules.parts import whole as whole

__all__ = [
    "AlphaBeta",
    "BetaSmooth",
    "Constant",
    "Contributions",
    "Deconvnet",
    "DifferenceRule",
    "Epsilon",
    "Flat",
    "Gamma",
    "Gradient",
    "GuidedBackprop",
    "LinearMap",
    "LinearRule",
    "Linearised",
    "MeanGradient",
    "Norm",
    "Pass",
    "Proportional",
    "Relevance",
    "Rescale",
    "RescaleMaximum",
    "RescaleSoftmax",
    "RevealCancel",
    "Reweighted",
    "Route",
    "Rule",
    "SignalTakesAll",
    "Site",
    "Stabilizer",
    "Stop",
    "Term",
    "Uniform",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
    "by_name",
    "negative",
    "positive",
    "whole",
]

_NAMES = {
    "zero": Zero,
    "epsilon": Epsilon,
    "gamma": Gamma,
    "alpha_beta": AlphaBeta,
    "z_plus": ZPlus,
    "z_box": ZBox,
    "w_square": WSquare,
    "flat": Flat,
    "norm": Norm,
    "gradient": Gradient,
    "pass": Pass,
    "stop": Stop,
    "route": Route,
    "uniform": Uniform,
    "constant": Constant,
    "signal_takes_all": SignalTakesAll,
    "proportional": Proportional,
    "linearised": Linearised,
    "reweighted": Reweighted,
    "guided_backprop": GuidedBackprop,
    "deconvnet": Deconvnet,
    "beta_smooth": BetaSmooth,
}


def by_name(name: str, **parameters: _Any) -> Rule:
    """The rule of a name, such as ``"epsilon"``.

    Args:
        name: the name; ``-`` and ``_`` are the same.
        **parameters: of the rule, such as ``epsilon``; those by default for the rest.

    Raises:
        UnknownNameError: with the near matches.

    >>> by_name("gamma", gamma=0.5)
    Gamma(gamma=0.5, epsilon=1e-06, bias='absorb')
    """
    key = name.lower().replace("-", "_")
    if key not in _NAMES:
        raise _unknown_name("rule", name, _NAMES)
    return _NAMES[key](**parameters)
