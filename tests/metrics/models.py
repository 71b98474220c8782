"""A small function and arrays that the tests of metrics share, in NumPy and in JAX."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(0)
W1, W2 = RNG.normal(size=(12, 7)), RNG.normal(size=7)
X, R = RNG.normal(size=(2, 3, 4))
FILL = RNG.normal(size=4)


def score(x):
    return jnp.tanh(x.ravel() @ jnp.asarray(W1)) @ jnp.asarray(W2)


def naive_score(x):
    return float(np.tanh(x.ravel() @ W1) @ W2)


def naive_curve(f, x, R, labels, groups, fill):
    """The scores while groups of features are filled, by the definition."""
    x, scores = x.copy(), [f(x)]
    for group in groups:
        for feature in group:
            x[labels == feature] = np.broadcast_to(fill, x.shape)[labels == feature]
        scores.append(f(x))
    return np.array(scores)


def summed(R, labels):
    return np.array([R[labels == k].sum() for k in range(labels.max() + 1)])
