"""The relevance of each head of each layer of attention: one number per head."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop import presets
from relprop._errors import InputError
from relprop._transform import inspect, relevance
from relprop.attribution.maps import layers_of, listed
from relprop.composites import composite_of
from relprop.places import AttentionMaps


def head_relevance(
    f: Callable[..., Any], rules: Any, argnums: int | Sequence[int] = 0
) -> Callable[..., dict[str, Float[Array, "*n"]]]:
    r"""A function that computes the relevance that passes through each head.

    That of a head is the sum over its attention map, :math:`R_h = \sum_{qk} R(A_{hqk})`. Layers are
    counted in order of evaluation, heads as the function has them; those that were computed one by
    one, or in chunks of the queries, are put together.

    Args:
        f: a function with attention in it that returns the score, as for `relprop.relevance`.
        rules: those of the relevance. With rules for which a map counts as a constant
            (`relprop.presets.cp_lrp`) nothing passes through it.
        argnums: the arguments that are explained.

    Returns:
        A function with the arguments of f. Its result has ``"layer 3 head 5"`` for names, and a
        number for each, or ``(n,)`` of them where the maps are of n > 1 samples.

    Raises:
        InputError: there is no attention, or a map of it that cannot be told.

    >>> import jax, jax.numpy as jnp, relprop
    >>> w = jax.random.normal(jax.random.key(0), (3, 2, 4, 4))
    >>> def score(x):
    ...     q, k, v = jnp.einsum("td,jhde->jhte", x, w)
    ...     return jnp.sum(jax.nn.softmax(q @ k.swapaxes(1, 2), axis=-1) @ v)
    >>> found = head_relevance(score, relprop.presets.attn_lrp())(jnp.eye(4))
    >>> {name: R.shape for name, R in found.items()}
    {'layer 0 head 0': (), 'layer 0 head 1': ()}

    Source: heads by the relevance of their maps: Voita et al. 2019.
    """
    composite = composite_of(rules)

    @functools.wraps(f)
    def heads_of(*args: Any, **kwargs: Any) -> dict[str, Array]:
        flow = inspect(f, presets.gradient(), argnums)(*args, **kwargs).flow
        hidden = [a for a in flow.applications.values() if a.obstacle or a.windows]
        if hidden or not flow.applications:
            raise InputError(
                "There is no attention on the way from the explained arguments to the score."
                if not hidden
                else f"There are maps of parts of the tokens, which are no heads:\n{listed(hidden)}"
            )
        explain = relevance(f, composite, argnums, places=(AttentionMaps(),))
        _, inside = explain(*args, **kwargs)
        found = {}
        for number, layer in enumerate(layers_of(flow, inside, inside).values()):
            assert layer.relevance is not None
            sums = jnp.sum(layer.relevance, axis=(2, 3))
            for head in range(sums.shape[1]):
                one = sums[:, head]
                found[f"layer {number} head {head}"] = one[0] if len(one) == 1 else one
        return found

    return heads_of
