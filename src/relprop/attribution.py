"""Which tokens a transformer looked at: relevance and gradient of attention maps, aggregated.

Attention maps are found by structure (`relprop.places.AttentionMaps`), in any function: no class of
ours is around the model. All methods of one comparison have one interface here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop import presets
from relprop._errors import InputError, unknown_name
from relprop._transform import inspect, relevance
from relprop.anatomy import Attention
from relprop.chefer.aggregate import min_max, positive_mean, rollout
from relprop.composites import Composite, composite_of
from relprop.places import AttentionMaps
from relprop.rules import Gradient

__all__ = ["Attribution", "methods", "transformer_attribution"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Attribution:
    """Token relevance with all that it was computed from.

    Attributes:
        tokens: how much each token counts for the query.
        joint: the same for every query: from all layers, one map.
        attention: the attention maps, layer by layer.
        relevance: their relevance, by the rules.
        gradient: their gradient.
    """

    tokens: Float[Array, "n t"]
    joint: Float[Array, "n t t"]
    attention: list[Float[Array, "n heads t t"]]
    relevance: list[Float[Array, "n heads t t"]]
    gradient: list[Float[Array, "n heads t t"]]


@dataclasses.dataclass(frozen=True)
class _Maps:
    """Attention maps of some layers, with relevance and gradient."""

    attention: list[Array]
    relevance: list[Array]
    gradient: list[Array]


def transformer_attribution(
    f: Callable[..., Any],
    argnums: int = 0,
    *,
    method: str = "transformer_attribution",
    rules: Any = None,
    query: int | str = 0,
    start_layer: int = 0,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    details: bool = False,
) -> Callable[..., Any]:
    r"""A function that computes how much each token counts for a score, through all layers.

    With attention maps A, their relevance R and their gradient, per layer and over its heads

    .. math:: \bar A = I + \mathbb{E}_h[(\nabla A \odot R)^+], \qquad
              C = \bar A^{(L)} \cdots \bar A^{(s)},

    of which the row of the query is the result.

    Args:
        f: a function with attention in it that returns the score of one sample, as for
            `relprop.relevance`; for a batch use `jax.vmap`. A sum of scores mixes its samples,
            unless the rules are such that treat them apart, which those of the default are not.
        argnums: the argument that the attention depends on: images or embeddings.
        method: one of `methods()`: ``"transformer_attribution"``; ``"generic"``, with attention in
            the place of its relevance; ``"rollout"``, of attention alone; ``"attention"``,
            ``"gradcam"`` and ``"partial_lrp"``, which look at the last layer only.
        rules: rules of the relevance; `relprop.presets.chefer` by default.
        query: the token whose row is taken: that of the class token, or of the position of which
            the score is; ``"mean"`` for models that average over tokens.
        start_layer: the first layer that counts, s.
        layers: the layers that count, by number; all of them by default.
        heads: the heads that count; all of them by default.
        details: whether the result is an `Attribution` with the maps.

    Returns:
        A function with the arguments of f. Its result is an array of tokens, ``(t,)``, or
        ``(n, t)`` where the maps have a first axis of n > 1 samples. The query itself is one of
        the tokens.

    Raises:
        InputError: there is no attention, the maps are not square and of one size, there is
            attention between different tokens (cross-attention), or a layer, head or query is not
            there.
        UnknownNameError: there is no such method.

    >>> import jax, jax.numpy as jnp
    >>> w = jax.random.normal(jax.random.key(0), (3, 4, 4))
    >>> def score(x):
    ...     attention = jax.nn.softmax(x @ w[0] @ (x @ w[1]).T, axis=-1)
    ...     return (attention @ (x @ w[2]))[0, 1]
    >>> transformer_attribution(score)(jnp.eye(4)).shape
    (4,)

    Source: Chefer et al. 2021 (CVPR), section 3.3, eq. 13 and 14; ``"generic"``: Chefer et al.
    2021 (ICCV), eq. 5 and 6; ``"rollout"``: Abnar and Zuidema 2020; ``"partial_lrp"``: Voita et
    al. 2019.
    """
    if method not in _METHODS:
        raise unknown_name("method", method, _METHODS)
    composite = composite_of(presets.chefer() if rules is None else rules)
    slopes = _gradient_beside(composite)

    @functools.wraps(f)
    def tokens_of(*args: Any, **kwargs: Any) -> Any:
        found = inspect(f, presets.gradient(), argnums)(*args, **kwargs).blocks
        blocks = [block for block in found if isinstance(block, Attention)]
        _check(blocks)
        # Two pull-backs of one function; compiled, it is evaluated once.
        _, by_rules = relevance(f, composite, argnums, places=AttentionMaps())(*args, **kwargs)
        _, plain = relevance(f, slopes, argnums, places=AttentionMaps())(*args, **kwargs)
        names = sorted(by_rules)
        ranks = [len(block.shape) for block in blocks]
        maps = _Maps(
            _layers([by_rules[name].value for name in names], ranks),
            _layers([by_rules[name].relevance for name in names], ranks),
            _layers([plain[name].relevance for name in names], ranks),
        )
        chosen = _chosen(maps, layers, heads)
        if not 0 <= start_layer < len(chosen.attention):
            raise InputError(
                f"start_layer is {start_layer}, but there are {len(chosen.attention)} layers."
            )
        joint = _METHODS[method](chosen, start_layer)
        tokens = _row(joint, query)
        single = tokens.shape[0] == 1
        if not details:
            return tokens[0] if single else tokens
        return Attribution(tokens, joint, maps.attention, maps.relevance, maps.gradient)

    return tokens_of


def _gradient_beside(composite: Composite) -> Composite:
    """The gradient, through the same regions as a whole: then the two passes forward are one."""
    gradient = Composite()
    for entry in composite.entries:
        if entry.where.region is not None:
            gradient = gradient.at(region=entry.where.region, optional=True).use(Gradient())
    return gradient.then(presets.gradient())


def methods() -> tuple[str, ...]:
    """The names of all methods of `transformer_attribution`."""
    return tuple(_METHODS)


def _transformer_attribution(maps: _Maps, start: int) -> Array:
    weighted = [g * r for g, r in zip(maps.gradient, maps.relevance, strict=True)]
    return rollout([positive_mean(w) for w in weighted], start, normalise=False)


def _generic(maps: _Maps, start: int) -> Array:
    weighted = [g * a for g, a in zip(maps.gradient, maps.attention, strict=True)]
    return rollout([positive_mean(w) for w in weighted], start, normalise=False)


def _rollout(maps: _Maps, start: int) -> Array:
    return rollout([jnp.mean(a, axis=1) for a in maps.attention], start, normalise=True)


def _attention(maps: _Maps, start: int) -> Array:
    del start
    return jnp.mean(maps.attention[-1], axis=1)


def _gradcam(maps: _Maps, start: int) -> Array:
    del start
    weights = jnp.mean(maps.gradient[-1], axis=(2, 3), keepdims=True)
    return min_max(jnp.maximum(jnp.mean(weights * maps.attention[-1], axis=1), 0), 0.0)


def _partial_lrp(maps: _Maps, start: int) -> Array:
    del start
    return positive_mean(maps.relevance[-1])


_METHODS: dict[str, Callable[[_Maps, int], Array]] = {
    "transformer_attribution": _transformer_attribution,
    "generic": _generic,
    "rollout": _rollout,
    "attention": _attention,
    "gradcam": _gradcam,
    "partial_lrp": _partial_lrp,
}


def _check(blocks: Sequence[Attention]) -> None:
    """Refuses what the formulas make no sense for."""
    if not blocks:
        raise InputError(
            "There is no attention on the way from the explained argument to the score: no product "
            "of values with a softmax. `relprop.inspect(f, rules)(*args).blocks` lists what is."
        )
    if any(block.kind == "cross-attention" for block in blocks):
        raise InputError(
            "There is cross-attention, where the tokens that look are others than those that are "
            "looked at:\n" + _listed(blocks) + "\nOnly self-attention can be aggregated to one map."
        )
    sizes = {block.shape[-2:] for block in blocks}
    if len(sizes) > 1 or any(a != b for a, b in sizes):
        raise InputError(
            "Attention maps can be multiplied only if all of them are square and of one size, "
            "which those of windows and of pooled tokens are not:\n" + _listed(blocks)
        )


def _listed(blocks: Sequence[Attention]) -> str:
    return "\n".join(f"  {block} at {block.source}" for block in blocks)


def _layers(arrays: Sequence[Array], ranks: Sequence[int]) -> list[Array]:
    """One array per layer, with axes for samples and heads; those of a scan are taken apart."""
    out: list[Array] = []
    for array, rank in zip(arrays, ranks, strict=True):
        stacked = array.reshape(-1, *array.shape[array.ndim - rank :])
        out.extend(_samples_and_heads(layer) for layer in stacked)
    return out


def _samples_and_heads(array: Array) -> Array:
    if array.ndim < 4:
        return array.reshape(1, -1, *array.shape[-2:])
    return array.reshape(array.shape[0], -1, *array.shape[-2:])


def _chosen(maps: _Maps, layers: Sequence[int] | None, heads: Sequence[int] | None) -> _Maps:
    depth, count = len(maps.attention), maps.attention[0].shape[1]
    _check_numbers("layers", layers, depth)
    _check_numbers("heads", heads, count)
    numbers = range(depth) if layers is None else [n % depth for n in layers]

    def pick(arrays: list[Array]) -> list[Array]:
        picked = [arrays[n] for n in sorted(numbers)]
        return picked if heads is None else [a[:, jnp.asarray(heads)] for a in picked]

    return _Maps(pick(maps.attention), pick(maps.relevance), pick(maps.gradient))


def _check_numbers(what: str, numbers: Sequence[int] | None, count: int) -> None:
    wrong = [n for n in numbers or () if not -count <= n < count]
    if wrong or (numbers is not None and not len(numbers)):
        raise InputError(f"`{what}` is {list(numbers or ())}, but there are {count} {what}.")


def _row(joint: Float[Array, "n t t"], query: int | str) -> Float[Array, "n t"]:
    if query == "mean":
        return jnp.mean(joint, axis=1)
    length = joint.shape[1]
    if isinstance(query, str) or not -length <= query < length:
        raise InputError(f"query is {query!r}, but there are {length} tokens (or 'mean').")
    return joint[:, query]
