"""Presets for recurrent networks and state-space models."""

from __future__ import annotations

import dataclasses
from typing import Literal

from relprop._core.plan import Step
from relprop._globs import glob
from relprop.composites import LAYERS, Composite
from relprop.rules import Constant, Epsilon, Proportional, Rule, SignalTakesAll, Uniform, Zero
from relprop.rules.parameters import Number

_GATES: dict[str, Rule] = {
    "all": SignalTakesAll(),
    "half": Uniform(),
    "proportional": Proportional(),
    "absolute": Proportional(absolute=True),
}


def lstm(
    gates: Literal["all", "half", "proportional", "absolute"] = "all", epsilon: Number = 1e-3
) -> Composite:
    """LRP for gated recurrent networks: LSTM, GRU and their relatives.

    Args:
        gates: who gets the relevance of gate times signal: the signal ``"all"`` of it, each
            ``"half"``, or each in proportion to its value or ``"absolute"`` value.
        epsilon: stabiliser of linear layers, in units of the outputs.

    >>> import jax, relprop
    >>> f = lambda gate, signal: jax.nn.sigmoid(gate) * signal
    >>> explain = relprop.relevance(f, lstm(), argnums=(0, 1))
    >>> [float(r) for r in explain(0.0, 4.0)]
    [0.0, 2.0]

    Source: Arras et al. 2017, section 3; Arras et al. 2019, section 11.2.2 for the variants.
    """
    if gates not in _GATES:
        raise ValueError(f"gates must be one of {', '.join(_GATES)}, got {gates!r}.")
    composite = Composite(name="lstm", references=("arras2017", "arras2019"), canonizers=())
    composite = composite.at(structure="gate", optional=True).use(_GATES[gates])
    return composite.at(structure=LAYERS, optional=True).use(Epsilon(epsilon))


def mamba_lrp(selection: str = "*x_proj*", rule: Rule = Zero()) -> Composite:  # noqa: B008
    """MambaLRP: what is selected is a constant, so that the state space is linear in its signal.

    The step sizes and the matrices A, B and C of a selective state space depend on the input.
    Taking the projection that they are from as a constant makes constants of them all. Gates are
    shared in halves, SiLU passes, the statistic of RMSNorm is a constant; those are the defaults.

    Args:
        selection: glob on the parameter path or the scope of the layers that compute step sizes,
            B and C: ``x_proj`` in the models of the authors, of transformers and of bonsai.
        rule: rule of all other linear layers.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x, params: (x @ params["x_proj"])[0] * x[1]
    >>> params = {"x_proj": jnp.array([[1.0], [0.5]])}
    >>> relprop.relevance(f, mamba_lrp())(jnp.array([2.0, 4.0]), params).tolist()
    [0.0, 16.0]

    Source: Jafari et al. 2024, MambaLRP, section 4.
    """
    composite = Composite(name="mamba_lrp", references=("jafari2024",), canonizers=())
    composite = composite.at(structure="dense", predicate=_Named(selection)).use(Constant())
    return composite.at(structure=LAYERS, optional=True).use(rule)


@dataclasses.dataclass(frozen=True)
class _Named:
    """Whether the parameter path or the scope of an operation matches a glob."""

    pattern: str

    def __call__(self, step: Step) -> bool:
        return any(glob(name, self.pattern) for name in (step.path, step.scope))
