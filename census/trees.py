"""Parameters as trees."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def perturbed(tree: Any, seed: int = 0) -> Any:
    """A tree with noise on what is not random yet, so that no bias is zero and no scale is one."""
    rng = np.random.default_rng(seed)

    def noisy(leaf: Any) -> Any:
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            return leaf
        if leaf.size > 1 and bool(leaf.std() > 0):
            return leaf
        noise = 0.1 * rng.normal(size=leaf.shape)
        positive = bool((leaf == 1).all())  # Scales and variances stay positive.
        return leaf + jnp.asarray(np.abs(noise) if positive else noise, leaf.dtype)

    return jax.tree.map(noisy, tree)


def features(*shape: int) -> jax.Array:
    """An input of a shape."""
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
