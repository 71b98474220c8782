"""Perturbation metrics of ours and of Quantus on the bundled models: CPU milliseconds per sample.

Quantus is run as it is, in an environment of its own, which the variable QUANTUS_PYTHON names:

    python -m venv quantus && quantus/bin/pip install quantus==0.6.0 torch==2.13.0
    QUANTUS_PYTHON=quantus/bin/python python -m benchmarks faithfulness

Both sides get the same weights, images and relevance, one after the other in one run, and count the
CPU seconds of their process. Ours are compiled first; the column "first call" has that in it.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import Options, Result
from relprop import metrics, truth, zoo
from relprop.metrics import features

COLUMNS = ("speed", "speed, first call")
SAMPLES, RUNS = 16, 3
#: The least ratio that is accepted.
LEAST = 10.0
_PATCHES = features.patches((8, 8, 1), 2)
#: Name in Quantus -> the same of ours. Equal numbers are a matter of tests, not of this.
METRICS: Mapping[str, Callable[..., Any]] = {
    "PixelFlipping": metrics.pixel_flipping,
    "RegionPerturbation": functools.partial(metrics.region_perturbation, features=_PATCHES),
    "Selectivity": functools.partial(metrics.selectivity, features=_PATCHES),
    "FaithfulnessEstimate": metrics.faithfulness_estimate,
    "FaithfulnessCorrelation": functools.partial(
        metrics.faithfulness_correlation, size=8, samples=100
    ),
    "Monotonicity": metrics.monotonicity,
    "MonotonicityCorrelation": functools.partial(metrics.monotonicity_correlation, samples=10),
    # Two sets of each size, not a hundred as its paper: Quantus makes nine evaluations as well.
    "SensitivityN": functools.partial(metrics.sensitivity_n, sizes=(8, 16, 24, 32), samples=2),
    "ROAD": functools.partial(metrics.road, percentages=(10, 30, 50)),
}


def results(options: Options) -> Iterator[Result]:
    """Per model and metric, how many times less CPU a sample takes here."""
    python = os.environ.get("QUANTUS_PYTHON")
    for name in zoo.names():
        if not options.wants(name):
            continue
        if python is None:
            yield Result("faithfulness", name, "Quantus", {}, note="left out: no QUANTUS_PYTHON")
            continue
        yield from _of_model(name, python, 4 if options.quick else SAMPLES)


def _of_model(name: str, python: str, samples: int) -> Iterator[Result]:
    fn, params, _ = zoo.load(name)
    images, labels = truth.digits()
    x, target = images[:samples, ..., None], labels[:samples]
    R = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    theirs = _theirs(name, python, params, x, target, R)
    for metric, ours in METRICS.items():
        if isinstance(theirs[metric], str):
            yield Result("faithfulness", name, metric, {}, note=theirs[metric])
            continue
        first, later = _ours(fn, params, x, target, R, ours)
        amounts = {"Quantus": theirs[metric], "relprop": later, "relprop, first call": first}
        ratios = {"speed": theirs[metric] / later, "speed, first call": theirs[metric] / first}
        note = "" if ratios["speed"] >= LEAST else f"below {LEAST:g}"
        yield Result("faithfulness", name, metric, amounts, ratios, note=note)


def _ours(
    fn: Any, params: Any, x: Any, target: Any, R: Any, metric: Callable[..., Any]
) -> tuple[float, float]:
    """CPU seconds per sample, with compilation and without."""

    def one(x: Any, target: Any, R: Any) -> Any:
        return metric(lambda x: fn(params, x[None])[0][target], x, R)

    many = jax.jit(jax.vmap(one))
    given = jnp.asarray(x), jnp.asarray(target), jnp.asarray(R)
    seconds = []
    for _ in range(1 + RUNS):
        start = time.process_time()
        jax.block_until_ready(many(*given))
        seconds.append((time.process_time() - start) / len(x))
    return seconds[0], min(seconds[1:])


def _theirs(
    name: str, python: str, params: Any, x: Any, target: Any, R: Any
) -> dict[str, float | str]:
    """CPU seconds per sample of each metric, or why there are none."""
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    script = Path(__file__).with_name("quantus_side.py")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given.npz"
        np.savez(file, x=x, target=target, R=R, **flat)
        asked = [python, str(script), name, str(file), str(RUNS), *METRICS]
        done = subprocess.run(asked, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return dict.fromkeys(METRICS, f"fails: {reason[:120]}")
    return json.loads(done.stdout.splitlines()[-1])
