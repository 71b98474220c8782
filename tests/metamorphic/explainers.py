"""What two ways of writing a network must agree under."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import relprop
from relprop import presets
from relprop.rules import AlphaBeta, Epsilon, Gamma, WSquare, Zero, ZPlus

# The stabilisers of rules are large, so that it shows what they are applied to; those of presets
# that stabilise every sum are small, as a sum in two steps is stabilised twice.
RULES: dict[str, Any] = {
    "zero": Zero(),
    "epsilon": Epsilon(0.1),
    "gamma": Gamma(0.25, 0.1),
    "alpha_beta": AlphaBeta(2.0, 1.0),
    "z_plus": ZPlus(0.1),
    "w_square": relprop.Composite(name="w_square")
    .at(structure="layer", first=True, optional=True)
    .use(WSquare()),
    "epsilon_plus": presets.epsilon_plus(1e-12),
    "epsilon_plus_flat": presets.epsilon_plus_flat(1e-12),
    "epsilon_gamma_box": presets.epsilon_gamma_box(-3.0, 3.0, 1e-12),
    "attn_lrp": presets.attn_lrp(),
    "cp_lrp": presets.cp_lrp(),
    "relp": presets.relp(),
    "gamma_vit": presets.gamma_vit(),
    "chefer": presets.chefer(),
    "lstm": presets.lstm(epsilon=0.1),
}
# Needs attention, and is asked only about pieces that are.
ATTRIBUTION = "transformer_attribution"
EXPLAINERS = (*RULES, ATTRIBUTION)


def attribution(f: Callable[..., Any]) -> Callable[..., Any]:
    """Transformer attribution of the first argument of a function that returns its score first."""
    return relprop.transformer_attribution(lambda *args: f(*args)[0])
