"""Trains the decoders of ``evidence.chains``, which follow assignments through.

    pip install -e '.[train]'
    python scripts/train_chains.py [--out DIR] [--seeds N ...]

Writes ``chains_N.safetensors`` into DIR, by default evidence/weights, in half precision; some
minutes each on two cores. Every step draws new texts, with seeds that no measurement uses.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).parents[1]))
from evidence import chains  # noqa: E402
from relprop._weights import write_weights  # noqa: E402

FIRST_SEED = 1_000_000
BATCH, CHUNK, LEAST = 32, 50, 0.97


class Stage(NamedTuple):
    """For how many steps, how many chains, and the depths of the questions of a text."""

    steps: int
    chains: int
    depths: tuple[int, ...]


#: Few chains first: where to look is found out sooner among few. Then questions of all depths.
STAGES = (Stage(1200, 3, (3,) * 3), Stage(300, 5, (3,) * 4), Stage(900, chains.CHAINS, (3,) * 4))
MIXED = (Stage(600, chains.CHAINS, (1, 2, 3, 3)),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=chains.WEIGHTS)
    parser.add_argument("--seeds", nargs="*", type=int, default=chains.SEEDS)
    given = parser.parse_args()
    for seed in given.seeds:
        start = time.process_time()
        params = fit(seed, chains.init(jax.random.key(seed)), STAGES, 3e-3)
        params = fit(seed + 100, params, MIXED, 1e-3)
        right = {depth: accuracy(params, depth) for depth in (1, 2, 3)}
        seconds = time.process_time() - start
        print(f"seed {seed}: right {right}, {seconds:.0f} CPU seconds", flush=True)
        if min(right.values()) < LEAST:
            print(f"seed {seed}: nothing written, it has to be {LEAST}", flush=True)
            continue
        half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), params)
        metadata = {"seed": str(seed), "right": str(right)}
        metadata |= {package: version(package) for package in ("jax", "optax")}
        given.out.mkdir(parents=True, exist_ok=True)
        write_weights(given.out / f"chains_{seed}.safetensors", half, metadata)


def fit(seed: int, params: Any, stages: Sequence[Stage], rate: float) -> Any:
    """Trained parameters."""
    steps = sum(stage.steps for stage in stages)
    rates = optax.warmup_cosine_decay_schedule(0.0, rate, min(200, steps // 6), steps, 1e-4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rates, weight_decay=0.01))

    @jax.jit
    def step(params, state, ids):
        def loss(params):
            scores = chains.logits(params, params["table"][ids[:, :-1]])
            each = optax.softmax_cross_entropy_with_integer_labels(scores, ids[:, 1:])
            said = _said(ids)[:, 1:]
            return (each * said).sum() / said.sum()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, number = optimizer.init(params), 0
    drawn, losses = np.zeros(0), []
    for stage in stages:
        for _ in range(stage.steps):
            if number % CHUNK == 0:
                drawn = chains.for_training(
                    CHUNK * BATCH, FIRST_SEED * (seed + 1) + number, stage.chains, stage.depths
                )
            part = drawn[number % CHUNK * BATCH :][:BATCH]
            params, state, value = step(params, state, part)
            losses.append(value)
            number += 1
            if number % 250 == 0:
                print(f"seed {seed}: step {number}, loss {np.mean(losses[-50:]):.4f}", flush=True)
    return params


def _said(ids: Any) -> Any:
    """What the decoder says itself: what follows a colon, up to the next question."""
    asked = jnp.cumsum(ids == chains.ASK, axis=1) > 0
    question = (ids == chains.ASK) | (ids == chains.THINK)
    name = jnp.pad(ids[:, :-1] == chains.ASK, ((0, 0), (1, 0)))
    return (asked & ~question & ~name).astype(jnp.float32)


def accuracy(params: Any, depth: int) -> float:
    """How often all of the reasoning and the answer are what the decoder says."""
    drawn = chains.chains(500, 99, depth)
    begin = drawn.reasoning[0]
    said = chains.logits(params, params["table"][drawn.ids[:, :-1]]).argmax(-1)
    right = np.asarray(said)[:, begin - 1 :] == drawn.ids[:, begin:]
    return float(right.all(axis=1).mean())


if __name__ == "__main__":
    main()
