"""Presets: composites that the literature has names for. Each is a function that returns a value.

What a preset doesn't mention gets the rule in `relprop.DEFAULTS`. A preset prints as a table of all
its rules, and `Composite.bibtex` cites the papers that it is from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from relprop._errors import unknown_name
from relprop.chefer.preset import chefer
from relprop.composites import Composite, composite_of
from relprop.presets.backpropagation import (
    beta_smooth,
    deconvnet,
    excitation_backprop,
    guided_backprop,
)
from relprop.presets.captum import captum
from relprop.presets.classical import (
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
    gradient,
    gradient_times_input,
    uniform,
)
from relprop.presets.innvestigate import (
    deep_taylor,
    lrp_alpha1_beta0,
    lrp_alpha2_beta1,
    lrp_alpha_beta,
    lrp_epsilon,
    lrp_flat,
    lrp_w_square,
    lrp_z,
    sequential_a,
    sequential_a_flat,
    sequential_b,
    sequential_b_flat,
)
from relprop.presets.sequences import lstm, mamba_lrp
from relprop.presets.transformers import attn_lrp, cp_lrp, gamma_vit, pa_lrp, relp
from relprop.rules import by_name as rule_by_name

__all__ = [
    "attn_lrp",
    "beta_smooth",
    "by_name",
    "captum",
    "chefer",
    "cp_lrp",
    "deconvnet",
    "deep_taylor",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "excitation_backprop",
    "gamma_vit",
    "gradient",
    "gradient_times_input",
    "guided_backprop",
    "lrp_alpha1_beta0",
    "lrp_alpha2_beta1",
    "lrp_alpha_beta",
    "lrp_epsilon",
    "lrp_flat",
    "lrp_w_square",
    "lrp_z",
    "lstm",
    "mamba_lrp",
    "names",
    "pa_lrp",
    "relp",
    "sequential_a",
    "sequential_a_flat",
    "sequential_b",
    "sequential_b_flat",
    "uniform",
]

_PRESETS: dict[str, Callable[..., Composite]] = {
    preset.__name__: preset
    for preset in (
        gradient,
        gradient_times_input,
        epsilon_plus,
        epsilon_plus_flat,
        epsilon_alpha2_beta1,
        epsilon_alpha2_beta1_flat,
        epsilon_gamma_box,
        excitation_backprop,
        guided_backprop,
        deconvnet,
        beta_smooth,
        deep_taylor,
        lrp_z,
        lrp_epsilon,
        lrp_w_square,
        lrp_flat,
        lrp_alpha_beta,
        lrp_alpha2_beta1,
        lrp_alpha1_beta0,
        sequential_a,
        sequential_a_flat,
        sequential_b,
        sequential_b_flat,
        captum,
        attn_lrp,
        cp_lrp,
        relp,
        pa_lrp,
        gamma_vit,
        chefer,
        lstm,
        mamba_lrp,
    )
}
_RULES = ("zero", "epsilon", "gamma", "alpha_beta", "z_plus", "w_square", "flat")


def names() -> tuple[str, ...]:
    """All names that `by_name` knows."""
    return (*_PRESETS, *_RULES)


def by_name(name: str, **parameters: Any) -> Composite:
    """The preset of a name, or the composite of a bare rule of that name.

    Args:
        name: one of `names()`; ``-`` and ``_`` are the same.
        **parameters: of the preset or the rule, such as ``low`` and ``high``.

    Raises:
        UnknownNameError: with the near matches.

    >>> by_name("epsilon-plus") == epsilon_plus()
    True
    """
    key = name.lower().replace("-", "_")
    if key in _PRESETS:
        return _PRESETS[key](**parameters)
    if key in _RULES:
        return dataclasses.replace(composite_of(rule_by_name(key, **parameters)), name=key)
    raise unknown_name("preset", name, names())
