"""From attention maps of all layers to one map: the formulas of the paper, on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

Maps = Sequence[Float[Array, "n t t"]]


def positive_mean(maps: Float[Array, "n heads t t"]) -> Float[Array, "n t t"]:
    r"""The mean over heads of the positive parts.

    .. math:: \bar M = \mathbb{E}_h[M^+]

    Args:
        maps: of one layer, one for each head.

    Returns:
        One map for each sample.

    >>> print(positive_mean(jnp.array([[[[2.0]], [[-1.0]]]])))
    [[[1.]]]

    Source: eq. 13 of the paper.
    """
    return jnp.mean(jnp.maximum(maps, 0), axis=1)


def rollout(maps: Maps, start_layer: int, normalise: bool) -> Float[Array, "n t t"]:
    r"""Attention rollout: the product of the layers' maps, the residual streams added.

    .. math:: C = \hat A^{(L)} \cdots \hat A^{(s)}, \qquad \hat A = I + A

    Args:
        maps: one per layer.
        start_layer: s, the first that counts.
        normalise: whether the rows of :math:`\hat A` are divided by their sums.

    Returns:
        C, for each sample.

    >>> print(rollout([jnp.array([[[0.0, 1.0], [1.0, 0.0]]])], 0, normalise=True)[0])
    [[0.5 0.5]
     [0.5 0.5]]

    Source: Abnar and Zuidema 2020; eq. 14 of the paper.
    """
    eye = jnp.eye(maps[0].shape[-1], dtype=maps[0].dtype)[None]
    added = [a + eye for a in maps[start_layer:]]
    if normalise:
        added = [a / jnp.sum(a, axis=-1, keepdims=True) for a in added]
    joint = added[0]
    for a in added[1:]:
        joint = jnp.matmul(a, joint)
    return joint


def min_max(maps: Float[Array, "n ..."], constant: float) -> Float[Array, "n ..."]:
    """Each sample scaled to the range from 0 to 1.

    Args:
        maps: one per sample.
        constant: what a sample becomes all of whose numbers are the same.

    Returns:
        The scaled maps.

    >>> print(min_max(jnp.array([[1.0, 3.0], [2.0, 2.0]]), 0.0))
    [[0. 1.]
     [0. 0.]]
    """
    axes = tuple(range(1, maps.ndim))
    low, high = (f(maps, axis=axes, keepdims=True) for f in (jnp.min, jnp.max))
    same = high == low
    return jnp.where(same, constant, (maps - low) / jnp.where(same, 1, high - low))
