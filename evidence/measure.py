"""One task measured: every method by every metric, as plain numbers.

Each explanation is compiled once. `relprop.evaluate` would compile it again within MPRT and
sensitivity, which here call the same program with other parameters and other inputs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from evidence.methods import CONTROLS, methods
from relprop import metrics, truth
from relprop.evaluation._methods import methods_of
from relprop.evaluation._rows import bootstrap

SEED, RADIUS, DRAWS = 0, 0.02, 2
#: Columns, and which direction is better.
BETTER = {
    "auc": "higher",
    "mass": "higher",
    "rank": "higher",
    "abpc": "higher",
    "comprehensiveness": "higher",
    "sufficiency": "lower",
    "mprt": "lower",
    "sensitivity": "lower",
}


def measured(name: str, samples: int) -> dict[str, Any]:
    """The numbers of a task: per method, the mean and its 95 % interval for each of `BETTER`."""
    begin = time.process_time()
    task = truth.load(name)
    data = task.data(samples, SEED)
    look = jax.jit(jax.vmap(measures(task, data)))
    rows = []
    for method, found in methods_of(methods(task, data)).items():
        values, curves, seconds = of_method(task, data, found.make, look)
        numbers = {}
        for metric in BETTER:
            low, high = bootstrap(values[metric], seed=SEED)
            defined = values[metric][~np.isnan(values[metric])]
            mean = float(defined.mean()) if len(defined) else float("nan")
            numbers[metric] = {"mean": mean, "low": low, "high": high}
        means = {order: np.mean(c, axis=0).tolist() for order, c in curves.items()}
        row = {"method": method, "control": method in CONTROLS, "milliseconds": 1000 * seconds}
        rows.append({**row, "metrics": numbers, "curves": means})
    return {
        "task": name,
        "kind": task.kind,
        "what": task.what,
        "samples": samples,
        "seed": SEED,
        "features": int(data.features.max()) + 1,
        "planted": float(data.mask.mean()),
        "cpu_seconds": time.process_time() - begin,
        "rows": rows,
    }


def of_method(
    task: truth.Task, data: truth.Planted, make: Callable[..., Any], look: Callable[..., Any]
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """The metrics of all samples, the curves, and CPU seconds for one explanation."""
    x, target = jnp.asarray(data.x), jnp.asarray(data.target)

    def one(params: Any, x: Any, target: Any) -> Any:
        return make(lambda x: task.fn(params, x[None])[0][target])(x)

    program = jax.jit(jax.vmap(one, (None, 0, 0)))
    explain = program.lower(task.params, x, target).compile()

    start = time.process_time()
    R = np.asarray(explain(task.params, x, target))
    seconds = (time.process_time() - start) / len(R)
    values, curves = jax.tree.map(np.asarray, look(x, target, data.mask, R))
    other = np.asarray(explain(shuffled(task.params), x, target))
    correlate = jax.vmap(metrics.spearman)
    values["mprt"] = np.asarray(correlate(jnp.asarray(R), jnp.asarray(other)))
    change = [np.asarray(explain(task.params, x + noise(x, n), target)) - R for n in range(DRAWS)]
    sizes = np.linalg.norm(np.stack(change).reshape(DRAWS, len(R), -1), axis=-1)
    values["sensitivity"] = sizes.max(axis=0) / np.linalg.norm(R.reshape(len(R), -1), axis=-1)
    return values, curves, seconds


def measures(task: truth.Task, data: truth.Planted) -> Callable[..., Any]:
    """From a sample and its relevance to the metrics that need nothing else, and the curves.

    Localisation sums relevance within features: pixels, patches or tokens.
    """
    removed: dict[str, Any] = {"features": data.features, "fill": data.fill}
    count = int(data.features.max()) + 1
    curve = functools.partial(metrics.perturbation_curve, steps=min(16, count), **removed)
    labels = jnp.asarray(data.features).ravel()

    def of(x: Any, target: Any, mask: Any, R: Any) -> Any:
        def f(x: Any) -> Any:
            return task.fn(task.params, x[None])[0][target]

        inside = jnp.zeros(count, bool).at[labels].max(mask.ravel())
        summed = jnp.zeros(count).at[labels].add(R.ravel())
        curves = {order: curve(f, x, R, order=order) for order in ("most", "least")}
        return {
            "auc": metrics.auc(summed, inside),
            "mass": metrics.relevance_mass(summed, inside),
            "rank": metrics.relevance_rank(summed, inside),
            "abpc": metrics.area(curves["least"]) - metrics.area(curves["most"]),
            "comprehensiveness": metrics.comprehensiveness(f, x, R, **removed),
            "sufficiency": metrics.sufficiency(f, x, R, **removed),
        }, curves

    return of


def shuffled(params: Any) -> Any:
    """All parameters in another order, leaf by leaf; as the last step of a cascading MPRT."""
    rng = np.random.default_rng(SEED)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.permutation(np.ravel(a))).reshape(a.shape), params
    )


def noise(x: Any, draw: int) -> Any:
    """Uniform, of at most `RADIUS` of the range of x."""
    rng = np.random.default_rng([SEED, draw])
    return jnp.asarray(rng.uniform(-1, 1, x.shape) * RADIUS * np.ptp(x), x.dtype)
