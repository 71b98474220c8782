"""Assignments to be followed through: a question, reasoning that restates them, and the answer.

    [start] d g ; a d ; c 4 ; g 7 ; ...  ? a : a d ; d g ; g 7 ;  ! 7

A small decoder writes what follows the colon. Which statements it needs is known: those that the
reasoning restates. As the variable tracking of RULER (Hsieh et al. 2024), with reasoning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from relprop._weights import read_weights
from relprop.tokens import LanguageModel

START, END, ASK, THINK, ANSWER = range(5)
DIGITS, VARIABLES = 10, 40
VOCABULARY = 5 + DIGITS + VARIABLES
CHAINS, DEPTH = 8, 3
WIDTH, HEADS, LAYERS, HIDDEN = 64, 4, 2, 128
#: Models that were trained alike, from different starts: scripts/train_chains.py.
SEEDS = (0,)
WEIGHTS = Path(__file__).parent / "weights"


@dataclasses.dataclass(frozen=True, eq=False)
class Chains:
    """Texts of one length, and where their parts are.

    Attributes:
        ids: of tokens.
        needed: tokens of the statements that the answer follows from.
        source: tokens of all statements.
        reasoning: the first position of the reasoning, and that after its last.
        answer: likewise.
    """

    ids: Int[np.ndarray, "n tokens"]
    needed: Bool[np.ndarray, "n tokens"]
    source: Bool[np.ndarray, " tokens"]
    reasoning: tuple[int, int]
    answer: tuple[int, int]


def chains(count: int, seed: int, depth: int = DEPTH) -> Chains:
    """Draws texts: chains of assignments, in any order.

    Args:
        count: how many.
        seed: of all that is drawn.
        depth: how many statements the answer follows from: a name that far from a number is asked.
    """
    rng = np.random.default_rng([seed, depth])
    drawn = [_text(rng, CHAINS, [depth]) for _ in range(count)]
    ids = np.array([text for text, _ in drawn], np.int32)
    end = 1 + 3 * CHAINS * DEPTH
    needed = np.zeros(ids.shape, bool)
    for row, (_, statements) in zip(needed, drawn, strict=True):
        for statement in statements:
            row[1 + 3 * statement : 3 + 3 * statement] = True
    source = np.zeros(ids.shape[1], bool)
    source[1:end] = True
    reasoning = (end + 3, end + 3 + 3 * depth)
    return Chains(ids, needed, source, reasoning, (reasoning[1] + 1, reasoning[1] + 2))


def for_training(count: int, seed: int, number: int, depths: Sequence[int]) -> np.ndarray:
    """Texts with questions of these depths in any order: there is much to learn from each."""
    rng = np.random.default_rng([seed, 8])
    alike = len(set(depths)) == 1
    each = (depths if alike else rng.permutation(depths).tolist() for _ in range(count))
    return np.array([_text(rng, number, of)[0] for of in each], np.int32)


def _text(
    rng: np.random.Generator, number: int, depths: Sequence[int]
) -> tuple[list[int], list[int]]:
    """A text with questions, and the numbers of the statements that the last one needs."""
    names = 5 + DIGITS + rng.permutation(VARIABLES)[: number * DEPTH].reshape(number, DEPTH)
    values = 5 + rng.integers(0, DIGITS, number)
    right = np.concatenate([names[:, 1:], values[:, None]], axis=1)
    pairs = np.stack([names, right], axis=-1).reshape(-1, 2)
    order = rng.permutation(len(pairs))
    text = [START]
    for left, of in pairs[order].tolist():
        text += [left, of, END]
    place = np.argsort(order)
    steps: list[int] = []
    asked = rng.permutation(number)[: len(depths)].tolist()
    for chain, depth in zip(asked, depths, strict=True):
        steps = list(range((chain + 1) * DEPTH - depth, (chain + 1) * DEPTH))
        text += [ASK, int(names[chain, DEPTH - depth]), THINK]
        for left, of in pairs[steps].tolist():
            text += [left, of, END]
        text += [ANSWER, int(values[chain])]
    return text, place[steps].tolist()


def init(key: Any) -> dict[str, Any]:
    """The decoder before training."""
    keys = iter(jax.random.split(key, 2 + 7 * LAYERS))

    def matrix(inputs: int, outputs: int) -> Any:
        return jax.random.normal(next(keys), (inputs, outputs)) / inputs**0.5

    params: dict[str, Any] = {"table": jax.random.normal(next(keys), (VOCABULARY, WIDTH))}
    for layer in range(LAYERS):
        block = {name: matrix(WIDTH, WIDTH) for name in ("query", "key", "value", "out")}
        block |= {"gate": matrix(WIDTH, HIDDEN), "up": matrix(WIDTH, HIDDEN)}
        block |= {"down": matrix(HIDDEN, WIDTH), "norm1": jnp.ones(WIDTH), "norm2": jnp.ones(WIDTH)}
        params[f"block{layer}"] = block
    return params | {"norm": jnp.ones(WIDTH), "head": matrix(WIDTH, VOCABULARY)}


def logits(params: Any, x: Float[Array, "b t width"]) -> Float[Array, "b t vocabulary"]:
    """A decoder as those of today: RMS norms, rotary positions, gated hidden units."""
    for layer in range(LAYERS):
        block = params[f"block{layer}"]
        maps, values = attention(block, normed(block["norm1"], x))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", maps, values)
        x = x + mixed.reshape(x.shape) @ block["out"]
        x = x + hidden(block, normed(block["norm2"], x))
    return normed(params["norm"], x) @ params["head"]


def normed(scale: Any, x: Any) -> Any:
    """An RMS norm."""
    size = lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    return x * size * scale.reshape((1,) * (x.ndim - 1) + scale.shape)


def hidden(block: Any, x: Any) -> Any:
    """The gated hidden units of a block."""
    return (jax.nn.silu(x @ block["gate"]) * (x @ block["up"])) @ block["down"]


def attention(block: Any, x: Any) -> tuple[Any, Any]:
    """The maps of all heads, ``[b, heads, t, t]``, and their values ``[b, t, heads, d]``."""
    batch, length, width = x.shape
    q, k, v = ((x @ block[n]).reshape(batch, length, HEADS, -1) for n in ("query", "key", "value"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", _rotated(q), _rotated(k)) / (width // HEADS) ** 0.5
    past = jnp.tril(jnp.ones((length, length), bool))[None, None]
    return jax.nn.softmax(jnp.where(past, scores, -1e30), axis=-1), v


def _rotated(x: Any) -> Any:
    """Pairs of features turned by angles that grow with the position."""
    half = x.shape[-1] // 2
    speed = 100.0 ** -(np.arange(half) / half)
    angle = np.outer(np.arange(x.shape[1]), speed).astype(np.float32)[None, :, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], axis=-1
    )


def load(seed: int) -> dict[str, Any]:
    """The parameters of a trained decoder."""
    return read(WEIGHTS / f"chains_{seed}.safetensors")


def read(path: Path) -> dict[str, Any]:
    """Parameters from a file, where they are in half precision."""
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float16),
        jax.eval_shape(init, jax.random.key(0)),
    )
    stored = read_weights(path, like, "scripts/train_chains.py")
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), stored)


def language_model(params: Any) -> LanguageModel:
    """The decoder for `relprop.tokens`."""
    return LanguageModel(
        embed=lambda params, ids: jnp.take(params["table"], ids, axis=0, mode="clip"),
        logits=lambda params, embeds, ids, mask: logits(params, embeds),
        params=params,
        vocabulary=VOCABULARY,
    )
