"""Presets: composites that the literature has names for. Each is a function that returns a value.

What a preset doesn't mention gets the rule in `relprop.DEFAULTS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from relprop._errors import unknown_name
from relprop.composites import LAYERS, Composite, composite_of
from relprop.rules import (
    AlphaBeta,
    Constant,
    Epsilon,
    Flat,
    Gamma,
    Gradient,
    Norm,
    Rule,
    SignalTakesAll,
    ZBox,
    Zero,
    ZPlus,
)
from relprop.rules import (
    by_name as rule_by_name,
)

__all__ = [
    "attn_lrp",
    "by_name",
    "cp_lrp",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "gradient",
    "gradient_times_input",
    "names",
    "uniform",
]

_ACHTIBAT = "Achtibat et al. 2024, AttnLRP: attention-aware layer-wise relevance propagation"
_ALI = "Ali et al. 2022, XAI for transformers: better explanations through conservative propagation"
_BACH = "Bach et al. 2015, On pixel-wise explanations"
_MONTAVON = "Montavon et al. 2019, Layer-wise relevance propagation: an overview"
_KOHLBRENNER = (
    "Kohlbrenner et al. 2020, Towards best practice in explaining neural networks with LRP"
)
_LAPUSCHKIN = "Lapuschkin et al. 2019, Unmasking Clever Hans predictors"


def gradient() -> Composite:
    r"""The plain gradient, through every operation: ``relevance(f, gradient())`` is `jax.grad`.

    >>> import jax.numpy as jnp, relprop
    >>> float(relprop.relevance(jnp.sin, gradient())(0.0))
    1.0

    Source: Simonyan et al. 2014.
    """
    return dataclasses.replace(composite_of(Gradient()), name="gradient")


def gradient_times_input() -> Composite:
    r""":math:`x \odot \nabla f(x)`: LRP-0 through every operation, non-linear ones included.

    >>> import jax.numpy as jnp, relprop
    >>> float(relprop.relevance(lambda x: x**3, gradient_times_input())(2.0))
    24.0

    Source: Shrikumar et al. 2017, section 2.
    """
    everything = Composite(name="gradient_times_input")
    everything = everything.at(structure="custom_derivative", optional=True).use(Zero())
    return everything.at(optional=True).use(Zero())


def uniform(rule: Rule) -> Composite:
    """One rule on every linear layer with weights, as when the bare rule is given.

    Args:
        rule: any rule for linear operations.
    """
    return composite_of(rule)


def epsilon_plus(epsilon: float = 1e-6) -> Composite:
    """z+ rule on convolutions, epsilon rule on dense layers, normalised sums and averages.

    Args:
        epsilon: stabiliser of all of them, in units of the outputs.

    Source: Kohlbrenner et al. 2020 (LRP-CMP); ``EpsilonPlus`` of zennit.
    """
    return _layers("epsilon_plus", ZPlus(epsilon), epsilon)


def epsilon_alpha2_beta1(epsilon: float = 1e-6) -> Composite:
    """Alpha-beta rule (2, 1) on convolutions, epsilon rule on dense layers.

    Args:
        epsilon: stabiliser, in units of the outputs.

    Source: Kohlbrenner et al. 2020 (LRP-CMP); ``EpsilonAlpha2Beta1`` of zennit.
    """
    return _layers("epsilon_alpha2_beta1", AlphaBeta(2.0, 1.0, epsilon), epsilon)


def epsilon_plus_flat(epsilon: float = 1e-6) -> Composite:
    """`epsilon_plus` with the flat rule on the first layer.

    Args:
        epsilon: stabiliser, in units of the outputs.

    Source: Kohlbrenner et al. 2020; ``EpsilonPlusFlat`` of zennit.
    """
    return _layers("epsilon_plus_flat", ZPlus(epsilon), epsilon, first=Flat(epsilon))


def epsilon_alpha2_beta1_flat(epsilon: float = 1e-6) -> Composite:
    """`epsilon_alpha2_beta1` with the flat rule on the first layer.

    Args:
        epsilon: stabiliser, in units of the outputs.

    Source: Kohlbrenner et al. 2020; ``EpsilonAlpha2Beta1Flat`` of zennit.
    """
    rule = AlphaBeta(2.0, 1.0, epsilon)
    return _layers("epsilon_alpha2_beta1_flat", rule, epsilon, first=Flat(epsilon))


def epsilon_gamma_box(
    low: Any = 0.0, high: Any = 1.0, epsilon: float = 1e-6, gamma: float = 0.25
) -> Composite:
    """z-box rule on the first convolution, gamma on the others, epsilon on dense layers.

    Args:
        low: smallest value of the inputs, a number or something that broadcasts to them.
        high: largest value of the inputs.
        epsilon: stabiliser, in units of the outputs.
        gamma: strength of the gamma rule.

    >>> print(epsilon_gamma_box(low=-1.0, high=1.0))
    structure='convolution', position=0 -> ZBox(low=-1.0, high=1.0, epsilon=1e-06)
    structure='convolution' -> Gamma(gamma=0.25, epsilon=1e-06, bias='absorb')
    structure='dense' -> Epsilon(epsilon=1e-06, bias='absorb')
    structure=('sum', 'average') -> Norm(epsilon=1e-06, bias='absorb')
    everything else -> the defaults of its structure

    Source: Montavon et al. 2019, section 10.3; ``EpsilonGammaBox`` of zennit.
    """
    composite = Composite(name="epsilon_gamma_box", references=(_BACH, _MONTAVON))
    composite = composite.at(structure="convolution", position=0, optional=True).use(
        ZBox(low, high, epsilon)
    )
    return _rest(composite, Gamma(gamma, epsilon), epsilon)


def attn_lrp(rule: Rule = Zero()) -> Composite:  # noqa: B008 - rules are frozen values
    """AttnLRP: products are shared in halves, softmax is differentiated, norms are linear.

    Those are the defaults of relprop; what is left to choose is the rule of the linear layers.

    Args:
        rule: rule of all linear layers; `Zero` is that of the efficient form of the authors.

    >>> print(attn_lrp())
    structure=('dense', 'convolution') -> Zero(bias='absorb')
    everything else -> the defaults of its structure

    Source: Achtibat et al. 2024, AttnLRP, section 3.
    """
    composite = Composite(name="attn_lrp", references=(_ACHTIBAT,))
    return composite.at(structure=LAYERS, optional=True).use(rule)


def cp_lrp(rule: Rule = Zero()) -> Composite:  # noqa: B008 - rules are frozen values
    """Conservative propagation: attention maps and gates are constants, norms are linear.

    Relevance goes through the values and the signals only, and is conserved but for biases.

    Args:
        rule: rule of all linear layers.

    >>> print(cp_lrp())
    structure='softmax' -> Constant()
    structure='gate' -> SignalTakesAll()
    structure=('dense', 'convolution') -> Zero(bias='absorb')
    everything else -> the defaults of its structure

    Source: Ali et al. 2022, eq. 7 and 8; gates as in Arras et al. 2017.
    """
    composite = Composite(name="cp_lrp", references=(_ALI,))
    composite = composite.at(structure="softmax", optional=True).use(Constant())
    composite = composite.at(structure="gate", optional=True).use(SignalTakesAll())
    return composite.at(structure=LAYERS, optional=True).use(rule)


def _layers(name: str, rule: Rule, epsilon: float, first: Rule | None = None) -> Composite:
    references = (_BACH, _KOHLBRENNER) + ((_LAPUSCHKIN,) if first else ())
    composite = Composite(name=name, references=references)
    if first is not None:
        composite = composite.at(structure=LAYERS, position=0, optional=True).use(first)
    return _rest(composite, rule, epsilon)


def _rest(composite: Composite, convolution: Rule, epsilon: float) -> Composite:
    composite = composite.at(structure="convolution", optional=True).use(convolution)
    composite = composite.at(structure="dense", optional=True).use(Epsilon(epsilon))
    return composite.at(structure=("sum", "average"), optional=True).use(Norm(epsilon))


_PRESETS: dict[str, Callable[..., Composite]] = {
    "gradient": gradient,
    "gradient_times_input": gradient_times_input,
    "epsilon_plus": epsilon_plus,
    "epsilon_plus_flat": epsilon_plus_flat,
    "epsilon_alpha2_beta1": epsilon_alpha2_beta1,
    "epsilon_alpha2_beta1_flat": epsilon_alpha2_beta1_flat,
    "epsilon_gamma_box": epsilon_gamma_box,
    "attn_lrp": attn_lrp,
    "cp_lrp": cp_lrp,
}
_RULES = ("zero", "epsilon", "gamma", "alpha_beta", "z_plus", "w_square", "flat")


def names() -> tuple[str, ...]:
    """All names that `by_name` knows."""
    return (*_PRESETS, *_RULES)


def by_name(name: str, **parameters: Any) -> Composite:
    """The preset of a name, or the composite of a bare rule of that name.

    Args:
        name: one of `names()`; ``-`` and ``_`` are the same.
        **parameters: of the preset, such as ``low`` and ``high``.

    Raises:
        UnknownNameError: with the near matches.

    >>> by_name("epsilon-plus") == epsilon_plus()
    True
    """
    key = name.lower().replace("-", "_")
    if key in _PRESETS:
        return _PRESETS[key](**parameters)
    if key in _RULES:
        return dataclasses.replace(composite_of(rule_by_name(key)), name=key)
    raise unknown_name("preset", name, names())
