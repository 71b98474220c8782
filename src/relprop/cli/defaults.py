"""The rules of a command that names none: by what the model is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import relprop
from relprop._errors import RelpropError
from relprop.anatomy import Attention, Recurrence
from relprop.rules import Epsilon

#: Rules to compare with, whatever the model is.
PLAIN = ("gradient_times_input", "epsilon")
#: What a model has -> the rules for it, of which the first is advised, and why.
ADVICE: Mapping[str, tuple[tuple[str, ...], str]] = {
    "attention": (
        ("attn_lrp", "cp_lrp"),
        "it has attention, whose softmax and products attn_lrp accounts for",
    ),
    "state space": (
        ("mamba_lrp",),
        "it has a state space, whose selection mamba_lrp takes for constant",
    ),
    "recurrence": (
        ("lstm",),
        "it has a recurrence, through whose gates other rules lose the evidence",
    ),
    "convolutions": (
        ("epsilon_gamma_box", "epsilon_plus"),
        "it has convolutions and no attention, where epsilon alone lies less on the evidence",
    ),
    "dense layers": (
        ("gamma", "epsilon_plus"),
        "it has dense layers alone, where gamma lies more on the evidence than epsilon",
    ),
}


@dataclasses.dataclass(frozen=True)
class Default:
    """Rules that were not asked for.

    Attributes:
        kind: a key of `ADVICE`.
        rules: their names, those to compare with first and the one that is advised last.
        reason: in words, for the user.
    """

    kind: str
    rules: Sequence[str]
    reason: str


def default(f: Callable[..., Any], *args: Any, argnums: int = 0) -> Default:
    """The rules for a function, by its plan; nothing is run.

    >>> import jax.numpy as jnp
    >>> default(lambda x: jnp.sum(x @ jnp.ones((3, 2))), jnp.ones((1, 3))).kind
    'dense layers'
    """
    kind = kind_of(f, *args, argnums=argnums)
    rules, why = ADVICE[kind]
    reason = (
        f"No rules were named: {', '.join(rules)} for this model, since {why}. "
        f"{' and '.join(PLAIN)} are there to be compared with. What was measured: "
        '"Which explanation is right" in the documentation.'
    )
    return Default(kind, (*PLAIN, *reversed(rules)), reason)


def kind_of(f: Callable[..., Any], *args: Any, argnums: int = 0) -> str:
    """What decides on the rules, a key of `ADVICE`."""
    try:
        plan = relprop.inspect(f, Epsilon(1e-6), argnums=argnums, on_suspicion="ignore")(*args)
    except RelpropError:  # which names the operation when the rules are used
        return "dense layers"
    if any(isinstance(block, Attention) for block in plan.blocks):
        return "attention"
    recurrences = [block.kind for block in plan.blocks if isinstance(block, Recurrence)]
    if recurrences:
        return "state space" if "state space" in recurrences else "recurrence"
    if any(operation.structure == "convolution" for operation in plan):
        return "convolutions"
    return "dense layers"
