"""Where in a small network a piece stands.

A position takes the piece, a function of tokens, and the parameters of the network around it; it
returns tokens. `networks` makes a score of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .grammar import D, Function, normal

Position = Callable[[Function, dict[str, Any], jax.Array], jax.Array]
POSITIONS: dict[str, Position] = {}
# Positions where a piece may return another shape than it was given.
LAST = ("alone", "behind_a_layer", "behind_a_norm", "first_and_activated")
DRAWINGS = {
    "w0": normal(D, D), "b0": normal(D), "w1": normal(D, D), "b1": normal(D), "w2": normal(D, D),
}  # fmt: skip


def position(place: Position) -> Position:
    """Adds a position under its own name."""
    POSITIONS[place.__name__] = place
    return place


@position
def alone(f, p, x):
    return f(x)


@position
def behind_a_layer(f, p, x):
    return f(jax.nn.relu(x @ p["w0"] + p["b0"]) + 0.1 * x)


@position
def first_and_activated(f, p, x):
    return jax.nn.relu(f(x))


@position
def behind_a_norm(f, p, x):
    centred = x - x.mean(-1, keepdims=True)
    return f(centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5))


@position
def before_a_layer(f, p, x):
    return jax.nn.relu(f(x) @ p["w1"] + p["b1"]) @ p["w2"]


@position
def between_sums(f, p, x):
    t = x + jax.nn.relu(x @ p["w0"] + p["b0"])
    t = t + f(t)
    return t + jnp.tanh(t @ p["w1"])


@position
def twice(f, p, x):
    """The same parameters, used again."""
    return f(jnp.tanh(f(x)))


@position
def two_readers(f, p, x):
    h = f(x)
    return jax.nn.relu(h) @ p["w1"] + jnp.tanh(h) @ p["w2"]
