"""What an attribution graph costs: next to as many backward passes, in batches of the same size."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import relprop
from benchmarks.architectures import ARCHITECTURES, Transformer
from benchmarks.results import Options, Result
from relprop.graphs import attribution_graph
from relprop.places import Branches

COLUMNS = ("wall",)
BATCH, BOUND = 32, 2.0


def results(options: Options) -> Iterator[Result]:
    """Graphs relative to `jax.vjp` mapped over as many outputs; both with their compilation."""
    gpt2 = ARCHITECTURES["GPT-2 small"]
    assert isinstance(gpt2, Transformer)
    small: dict[str, Any] = {"width": 192, "hidden": 768, "heads": 6, "groups": 6, "depth": 4}
    count, tokens = 1000, 32
    if options.quick:
        small |= {"width": 24, "hidden": 48, "heads": 2, "groups": 2, "depth": 1}
        count, tokens = 20, 6
    architecture = dataclasses.replace(gpt2, tokens=tokens, classes=10, **small)
    model = architecture.model(1)
    name = f"GPT-2, {architecture.depth} layers, {tokens} tokens, {count} neurons"
    if not options.wants(name) or not options.runs:
        return
    x, weights = model.initialised()

    def graph() -> Any:
        return attribution_graph(
            model.score, (x, weights), relprop.presets.relp(), places=Branches("mlp"),
            max_features=count, batch_size=BATCH, on_suspicion="ignore",
        )  # fmt: skip

    def passes() -> Any:
        def run(x: jax.Array, weights: Any, seeds: jax.Array) -> jax.Array:
            _, back = jax.vjp(lambda x: model.score(x, weights), x)
            return lax.map(lambda seed: back(seed)[0], seeds, batch_size=BATCH)

        return jax.jit(run)(x, weights, jnp.ones(count + 1))

    times = {"batched vjp": _seconds(passes, options.runs), "graph": _seconds(graph, options.runs)}
    base = times["batched vjp"]
    yield Result("graphs", name, "batched vjp", {"wall": base}, note=f"{base:.2f} s")
    ratio = {"wall": times["graph"] / base}
    yield Result("graphs", name, "RelP", {"wall": times["graph"]}, ratio, {"wall": BOUND})


def _seconds(run: Callable[[], Any], runs: int) -> float:
    """The quickest of several calls, in each of which everything is compiled again."""
    found = []
    for _ in range(runs):
        jax.clear_caches()
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return min(found)
