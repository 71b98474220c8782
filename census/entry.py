"""What the census knows of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Tier = Literal["fast", "all"]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model as a JAX function, with what is known about it beforehand.

    Attributes:
        function: ``function(params, x)`` returns an array of any shape.
        params: its parameters.
        x: what is explained, an array or a tree of arrays.
        reference: what the original framework computes for x; None if that is JAX itself.
        target: index of the entry of the output that is the score; None: a fixed random
            projection of the whole output, for models without a head.
        expected: how many of each structure lie on the way, as its authors would count them: by
            the configuration and the paper, not by what relprop finds.
    """

    function: Callable[[Any, Any], jax.Array]
    params: Any
    x: Any
    reference: np.ndarray | None = None
    target: tuple[int, ...] | None = None
    expected: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def score(self, params: Any, x: Any) -> jax.Array:
        """The number that is explained."""
        output = self.function(params, x)
        if self.target is not None:
            return output[self.target]
        weights = np.random.default_rng(0).normal(size=output.shape) / np.sqrt(output.size)
        return jnp.sum(output * jnp.asarray(weights, output.dtype))


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the census.

    Attributes:
        name: of the model; unique within its family.
        family: the library it is from.
        build: makes the model. It imports what it needs.
        tier: ``"fast"`` for the models that stand for their kind in the test suite.
    """

    name: str
    family: str
    build: Callable[[], Model]
    tier: Tier = "all"

    @property
    def label(self) -> str:
        return f"{self.family}/{self.name}"


def counts(
    attention: int = 0,
    norm: int = 0,
    activation: int = 0,
    gate: int = 0,
    router: int = 0,
    recurrence: int = 0,
) -> dict[str, int]:
    """How many of each structure a model has.

    Args:
        attention: attentions, one per layer and kind, whatever the number of heads.
        norm: normalisations that depend on the input; batch norm in inference is none.
        activation: element-wise non-linear functions, those of gates among them.
        gate: products of an activation and something else, as in SwiGLU, LSTM, squeeze-excitation.
        router: choices of experts.
        recurrence: states carried from step to step.
    """
    return {
        "attention": attention,
        "norm": norm,
        "activation": activation,
        "gate": gate,
        "router": router,
        "recurrence": recurrence,
    }
