"""Trains the networks of ``relprop.truth`` on their planted tasks.

    pip install -e '.[train]'
    python scripts/train_truth.py [--out DIR] [--only NAME ...]

Writes ``weights/*.safetensors`` below DIR, by default into the package, and the held-out digits;
takes some ten minutes on two cores. Every step draws new samples, with seeds that no test uses.
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from relprop import truth
from relprop._weights import write_weights
from relprop.truth import _models as models
from relprop.truth import _text
from relprop.truth._tasks import RECIPES, WEIGHTS, Recipe

SEED = 0
FIRST_SEED = 1_000_000  # of training; those of tests and tables are small
BATCH, CHUNK = 128, 64


class Plan(NamedTuple):
    """How long a network is trained, how fast, and how often it must then be right."""

    steps: int
    rate: float
    least: float


PLANS = {
    "clutter": Plan(1500, 3e-3, 0.85),
    "key-value": Plan(3000, 2e-3, 0.95),
    "negation": Plan(2000, 2e-3, 0.97),
    "evidence-spans": Plan(1000, 2e-3, 0.97),
    "interactions": Plan(4000, 3e-3, 0.9),
    "motif-lstm": Plan(1500, 5e-3, 0.95),
    "motif-state-space": Plan(800, 5e-3, 0.95),
    **{f"tetrominoes-{kind}-8": Plan(1500, 2e-3, 0.8) for kind in ("linear", "rigid", "xor")},
    "tetrominoes-rigid-vit": Plan(800, 2e-3, 0.8),
    "tetrominoes-multiplicative-8": Plan(1500, 2e-3, 0.8),
    "multi-hop": Plan(9000, 2e-3, 0.95),
    **{
        f"tetrominoes-{kind}-64": Plan(500, 3e-3, 0.85)
        for kind in ("linear", "multiplicative", "rigid", "xor")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--only", nargs="*", choices=sorted(PLANS), default=sorted(PLANS))
    given = parser.parse_args()
    for name in given.only:
        start = time.process_time()
        params, accuracy = fit(name, RECIPES[name], PLANS[name])
        seconds = time.process_time() - start
        print(f"{name}: test accuracy {accuracy:.4f}, {seconds:.0f} CPU seconds", flush=True)
        if accuracy < PLANS[name].least:
            print(f"{name}: nothing written, it has to be {PLANS[name].least}", flush=True)
            continue
        path = given.out / RECIPES[name].weights.name
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"task": name, "seed": str(SEED), "test_accuracy": f"{accuracy:.4f}"}
        metadata |= {package: version(package) for package in ("jax", "optax")}
        write_weights(path, params, metadata)


def fit(name: str, recipe: Recipe, plan: Plan) -> tuple[Any, float]:
    """Trained parameters, and how often they are right on new samples."""
    assert recipe.init is not None
    params = recipe.init(jax.random.key(SEED))
    if name == "multi-hop":  # see `easier`
        more = len(_text.PLACES) + len(_text.PEOPLE)
        params["head"] = models.dense(jax.random.key(SEED), len(params["norm"]["scale"]), more)
    rate = optax.warmup_cosine_decay_schedule(0.0, plan.rate, plan.steps // 20, plan.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01))
    text = name in _text.VOCABULARIES

    @jax.jit
    def step(params, state, x, target, gone):
        def loss(params):
            seen = x
            if text:  # x are ids; some words are masked, so that a masked one is nothing new
                seen = params["embedding"][jnp.where(gone, 0, x)]
            logits = recipe.apply(params, seen)
            return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    rng = np.random.default_rng(SEED)
    losses = []
    batch = BATCH // 2 if text else BATCH
    for number in range(plan.steps):
        if number % CHUNK == 0:
            x, target, other = samples(name, recipe, CHUNK * batch, FIRST_SEED + number)
        part = slice((number % CHUNK) * batch, (number % CHUNK + 1) * batch)
        gone = masked(rng, other[part], number / plan.steps) if text else False
        params, state, value = step(params, state, x[part], target[part], gone)
        losses.append(value)
        if number % 500 == 499:
            print(f"{name}: step {number + 1}, loss {np.mean(losses[-100:]):.4f}", flush=True)
    if name == "multi-hop":
        cut = {leaf: value[..., : len(_text.PLACES)] for leaf, value in params["head"].items()}
        params["head"] = cut
    # Scores that sum to 0 over the classes have the same probabilities, and no part that all share.
    head = params["head"] if "head" in params else params[max(params)]
    for leaf, value in head.items():
        head[leaf] = value - jnp.mean(value, axis=-1, keepdims=True)
    test = recipe.draw(params, 1000, SEED)
    right = np.asarray(recipe.apply(params, jnp.asarray(test.x))).argmax(-1) == test.target
    return params, float(right.mean())


def masked(rng: np.random.Generator, other: np.ndarray, progress: float) -> np.ndarray:
    """Which words are masked: at first most that are no evidence, later few of any kind.

    Without that start the decoders do not find out where to look.
    """
    early = np.clip(1.2 - 3 * progress, 0, 0.95)
    rare = rng.random(other.shape) < 0.1 * rng.random((len(other), 1))
    return rare | other & (rng.random(other.shape) < early)


def samples(name: str, recipe: Recipe, count: int, seed: int) -> tuple[Any, Any, Any]:
    """Samples for training; of texts, the ids; of digits, those of the training part."""
    if name in _text.VOCABULARIES:
        drawn = truth.texts(name, count, seed)
        marks = np.isin(
            drawn.ids,
            [drawn.vocabulary.index(w) for w in (_text.START, _text.ASK) if w in drawn.vocabulary],
        )
        rng = np.random.default_rng(seed)
        target = easier(drawn, rng) if name == "multi-hop" else drawn.target
        return drawn.ids, target, ~drawn.evidence & ~marks
    if name == "clutter":
        data = truth.clutter(count, seed, of=_training_digits())
    else:
        data = recipe.draw(None, count, seed)
    return data.x, data.target, data.mask


def easier(drawn: truth.Texts, rng: np.random.Generator) -> np.ndarray:
    """Of half of the questions one hop: where is a person, or who has a thing; and the answers.

    Both hops are learnt before they are joined. Who has a thing is asked with another mark, and the
    answer is a class after those of places, which the network loses when it is trained.
    """
    every, kind = np.arange(len(drawn.ids)), rng.random(len(drawn.ids))
    people = drawn.ids[every, drawn.evidence.argmax(axis=1)]  # of both facts the first word
    where, who = kind < 0.25, kind > 0.75
    drawn.ids[where, -1] = people[where]
    drawn.ids[who, -2] = drawn.vocabulary.index(_text.START)
    answers = drawn.classes + people - drawn.vocabulary.index(_text.PEOPLE[0])
    return np.where(who, answers, drawn.target)


def _training_digits() -> tuple[Any, Any]:
    data = load_digits()
    train, _ = train_test_split(
        np.arange(len(data.target)), test_size=0.25, random_state=0, stratify=data.target
    )
    return (data.images[train] / 16).astype(np.float32), data.target[train].astype(np.int64)


if __name__ == "__main__":
    main()
