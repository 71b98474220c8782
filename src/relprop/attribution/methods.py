"""From attention maps to one map of tokens: the methods, as formulas."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop.attribution.maps import Layer
from relprop.chefer.aggregate import min_max, positive_mean, rollout

Maps = Sequence[Layer]
Joint = Float[Array, "n t t"]


@dataclasses.dataclass(frozen=True)
class Method:
    """A method for tokens of one stream.

    Attributes:
        joint: from the maps of the layers that count, how much each token counts for each.
        by_rules: whether it takes the relevance of the maps.
    """

    joint: Callable[[Maps], Joint]
    by_rules: bool = False


def weighted(layer: Layer) -> Float[Array, "n q k"]:
    r"""The map of one layer weighted by its gradient, :math:`\mathbb{E}_h[(\nabla A \odot A)^+]`.

    Source: Chefer et al. 2021 (ICCV), eq. 5.
    """
    return positive_mean(layer.gradient * layer.attention)


def _transformer_attribution(maps: Maps) -> Joint:
    maps_ = [positive_mean(layer.gradient * _relevance(layer)) for layer in maps]
    return rollout(maps_, 0, normalise=False)


def _rollout(maps: Maps) -> Joint:
    return rollout([jnp.mean(layer.attention, axis=1) for layer in maps], 0, normalise=True)


def _attention(maps: Maps) -> Joint:
    return jnp.mean(maps[-1].attention, axis=1)


def _gradcam(maps: Maps) -> Joint:
    weights = jnp.mean(maps[-1].gradient, axis=(2, 3), keepdims=True)
    return min_max(jnp.maximum(jnp.mean(weights * maps[-1].attention, axis=1), 0), 0.0)


def _partial_lrp(maps: Maps) -> Joint:
    return positive_mean(_relevance(maps[-1]))


def _relevance(layer: Layer) -> Array:
    assert layer.relevance is not None
    return layer.relevance


#: Methods for one stream of tokens.
UNIMODAL = {
    "transformer_attribution": Method(_transformer_attribution, by_rules=True),
    "rollout": Method(_rollout),
    "attention": Method(_attention),
    "gradcam": Method(_gradcam),
    "partial_lrp": Method(_partial_lrp, by_rules=True),
}
#: The method for any number of streams (`relprop.attribution.bimodal`).
GENERIC = "generic"
#: Those that count 1 for the token of the query itself, beforehand.
WITH_IDENTITY = ("transformer_attribution", GENERIC)
#: The method that looks at no map, but at the relevance of the tokens (`relprop.attribution.full`).
FULL = "full_lrp"


def methods() -> tuple[str, ...]:
    """The names of all methods of `relprop.transformer_attribution`."""
    first, *others = UNIMODAL
    return (first, GENERIC, *others, FULL)


def methods_by_rules() -> tuple[str, ...]:
    """The names of those for which the rules matter; the others go by attention and gradients."""
    return (*(name for name, method in UNIMODAL.items() if method.by_rules), FULL)
