"""Datasets explained by `relprop.jobs`, relative to a bare loop that stores nothing."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import relprop
from benchmarks.results import Options, Result
from relprop import zoo
from relprop.rules import Epsilon

COLUMNS = ("wall", "processors")
MODELS = ("digits-cnn", "digits-vit")
#: The bare loop has nine tenths of the throughput of a job at least.
BOUND = 1 / 0.9
BATCH, SAMPLES = 64, 20_000
#: Batches after which everything is compiled: time is taken from there on.
WARM = 16


@dataclasses.dataclass
class Clock:
    """Images that take the time when the first one that counts is asked for."""

    images: np.ndarray
    begun: tuple[float, float] = (0.0, 0.0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        if index == WARM * BATCH:
            self.begun = time.perf_counter(), time.process_time()
        return self.images[index]

    def taken(self) -> dict[str, float]:
        """Seconds since then, by the clock and of the processors."""
        clock, used = self.begun
        return {"wall": time.perf_counter() - clock, "processors": time.process_time() - used}


def bare(model: str, images: Clock) -> Callable[[pathlib.Path], None]:
    """The loop that somebody writes who wants to see numbers and no more."""
    score, params = _score(model)
    explain = relprop.value_and_relevance(score, Epsilon(1e-6), argnums=1)
    batched = jax.jit(jax.vmap(explain, in_axes=(None, 0)))

    def loop(out: pathlib.Path) -> None:
        for begin in range(0, len(images), BATCH):
            rows = range(begin, min(begin + BATCH, len(images)))
            jax.block_until_ready(batched(params, np.stack([images[row] for row in rows])))

    return loop


def stored(model: str, images: Clock) -> Callable[[pathlib.Path], None]:
    """The same by a job, into a store on disk."""
    score, params = _score(model)

    def job(out: pathlib.Path) -> None:
        relprop.jobs.explain(
            score, Epsilon(1e-6), images, out, BATCH, params=params, progress=False
        )

    return job


def results(options: Options) -> Iterator[Result]:
    """Seconds of a job relative to those of a bare loop; a file of 16 MiB or 64 batches at a time.

    Both in turn, so that whatever else goes on here hits both; the least of all turns counts.
    """
    if not options.runs:
        return  # there is nothing to be counted without running
    count = SAMPLES // 8 if options.quick else SAMPLES
    for model in MODELS:
        case = f"{model}, {count} images"
        if options.wants(case):
            yield from _compared(model, case, count, options.runs)


def _compared(model: str, case: str, count: int, turns: int) -> Iterator[Result]:
    pixels = np.random.default_rng(0).uniform(size=(count, 8, 8, 1)).astype(np.float32)
    images = Clock(pixels)
    tasks = {"bare loop": bare(model, images), "job": stored(model, images)}
    best: dict[str, dict[str, float]] = {}
    for turn in range(turns + 1):
        for name, task in tasks.items():
            with tempfile.TemporaryDirectory() as folder:
                task(pathlib.Path(folder) / "store")
                now = images.taken()
            if turn:  # the first one is for caches of everything
                best[name] = {key: min(x, best.get(name, now)[key]) for key, x in now.items()}
    base = best["bare loop"]
    for name, amounts in best.items():
        ratios = {key: x / base[key] for key, x in amounts.items()}
        rate = f"{(count - WARM * BATCH) / amounts['wall']:,.0f} images/s"
        yield Result("jobs", case, name, amounts, ratios, {"wall": BOUND}, rate)


def _score(model: str) -> tuple[Callable[[Any, Any], Any], Any]:
    fn, params, _ = zoo.load(model)

    def score(params: Any, image: Any) -> Any:
        return jnp.max(fn(params, image[None]))

    return score, params
