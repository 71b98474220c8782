"""The evaluation: every method explains every sample, and every metric looks at it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop import metrics as measures
from relprop._errors import InputError, RelpropError
from relprop._transform import ledger
from relprop.evaluation._data import Model, Samples, filled, models_of, samples_of
from relprop.evaluation._methods import Method, methods_of
from relprop.evaluation._metrics import SHARED, Metric, metrics_of
from relprop.evaluation._rows import Row
from relprop.evaluation._table import Evaluation

_PICTURES = 6


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """All that metrics may ask about one sample, by the names that they know it by."""

    x: Any
    target: Any
    mask: Any
    R: Any
    params: Any
    classes: int
    model: Model
    make: Callable[..., Any] | None = None

    def f(self, x: Any) -> Any:
        return self.model.score(self.params, x, self.target)

    def scores(self, x: Any) -> Any:
        return self.model.function(self.params, x)

    def explain(self, x: Any) -> Any:
        return self.explain_with(self.params, x)

    def explain_with(self, params: Any, x: Any) -> Any:
        assert self.make is not None
        return self.make(lambda x: self.model.score(params, x, self.target))(x)

    def explain_class(self, x: Any, target: Any) -> Any:
        assert self.make is not None
        return self.make(lambda x: self.model.score(self.params, x, target))(x)


def evaluate(
    models: Any,
    methods: Any,
    data: Any,
    metrics: Any = ("abpc",),
    *,
    curves: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    r"""Measures explanations: a table with a row per method and a column per metric.

    Args:
        models: a function from one sample to the scores of all classes, or to one score;
            ``(fn, params)`` with ``fn(params, samples)``, as `relprop.zoo.load` returns it; or a
            dict of those by name.
        methods: a list, or a dict by name, of rules, composites, names of presets, of
            `relprop.baselines` or of the controls ``"random"`` and ``"edges"``, and functions from
            a score to what explains it: ``lambda f: relprop.baselines.occlusion(f, window=3)``.
        data: samples ``[n, ...]``; or a dict, or an object with attributes, of ``x``, ``target``
            (the classes to be explained; by default those that the model predicts) and ``mask``
            (like x: where the evidence is).
        metrics: a list, or a dict by name, of names, of functions of `relprop.metrics`, with
            options by `functools.partial`, or of `relprop.evaluation.Metric`.
        curves: options of `relprop.metrics.perturbation_curve`, such as ``{"steps": 16}``: then
            curves are computed too, for `Evaluation.figure`.
        batch_size: how many samples are explained and measured at a time, which bounds memory.
        resamples: how many times samples are drawn anew for the 95 % bootstrap interval of a mean.
        seed: of that.

    Returns:
        The table; `Evaluation.to_dict`, `Evaluation.write_csv`, `Evaluation.write_json`,
        `Evaluation.figure` and `Evaluation.write_html` hand it on.

    Raises:
        InputError: a metric needs masks and there are none; a mask is empty; relevance has another
            shape than x, or NaN in it (then `relprop.ledger` is asked where it came from); what
            else `relprop.metrics` refuses.
        UnknownNameError: a method or metric is not known; names the near matches.

    >>> import relprop
    >>> f = lambda x: jnp.stack([x @ jnp.array([1.0, 2.0, 3.0]), 0.0 * x.sum()])
    >>> x = jnp.array([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0]])
    >>> table = evaluate(f, ["epsilon", "random"], x, ["abpc"])
    >>> bool(table["epsilon", "abpc"].mean() > table["random", "abpc"].mean())
    True
    """
    if batch_size < 1:
        raise InputError(f"`batch_size` must be at least 1, got {batch_size!r}.")
    chosen, explained, found = metrics_of(metrics), methods_of(methods), models_of(models)
    rows, notes, x = [], [], None
    for name, model in found.items():
        samples = samples_of(model, data)
        x = samples.x[:_PICTURES]
        check_masks(chosen, samples)
        if samples.others:
            notes.append(
                f"{name}: {samples.others} of {len(samples)} samples are explained for a class "
                "that the model does not predict."
            )
        shared = _shared(model, samples, chosen, curves)
        for method_name, method in explained.items():
            try:
                row = _row(model, method, samples, chosen, shared, batch_size)
            except RelpropError as error:
                raise type(error)(f"{method_name} of {name}: {error}") from error
            notes += [f"{method_name} of {name}: {note}" for note in row.notes]
            rows.append(dataclasses.replace(row, model=name, method=method_name))
    better = {name: metric.better for name, metric in chosen.items()}
    return Evaluation(rows, better, notes, resamples=resamples, seed=seed, x=x)


def check_masks(chosen: Mapping[str, Metric], samples: Samples) -> None:
    """Refuses metrics that ask for what the data and the model do not have.

    Raises:
        InputError: lists them.
    """
    needing = [name for name, metric in chosen.items() if metric.needs == "mask"]
    if needing and samples.mask is None:
        raise InputError(
            f"The metrics {', '.join(needing)} need masks, and the data has none: give "
            "{'x': ..., 'mask': ...}, or leave them out."
        )
    wanting = [name for name, metric in chosen.items() if metric.needs in ("target", "classes")]
    if wanting and samples.classes < 2:
        raise InputError(f"The metrics {', '.join(wanting)} need a model with several classes.")


def _shared(model: Model, samples: Samples, chosen: Mapping[str, Metric], curves: Any) -> Any:
    """What measures relevance, compiled once for all methods."""

    def of_sample(params, x, target, mask, R):
        case = Case(x, target, mask, R, params, samples.classes, model)
        found = {n: _number(m(case)) for n, m in chosen.items() if m.needs in SHARED}
        drawn = {}
        if curves is not None:
            for order in ("most", "least"):
                drawn[order] = measures.perturbation_curve(case.f, x, R, order=order, **curves)
        return found, drawn

    return jax.jit(jax.vmap(of_sample, (None, 0, 0, 0, 0)))


def _own(model: Model, method: Method, samples: Samples, chosen: Mapping[str, Metric]) -> Any:
    """What explains again, compiled for each method; None where no metric asks for that."""
    asked = {name: metric for name, metric in chosen.items() if metric.needs not in SHARED}
    if not asked:
        return None

    def of_sample(params, x, target):
        case = Case(x, target, None, None, params, samples.classes, model, method.make)
        return {name: _number(metric(case)) for name, metric in asked.items()}

    return jax.jit(jax.vmap(of_sample, (None, 0, 0)))


def _row(
    model: Model,
    method: Method,
    samples: Samples,
    chosen: Mapping[str, Metric],
    shared: Any,
    batch_size: int,
) -> Row:
    size = min(batch_size, len(samples))
    R, seconds, memory = _explained(model, method, samples, size)
    _check_relevance(model, method, samples, R)
    own = _own(model, method, samples, chosen)
    values, curves = [], []
    parts = [samples.x, samples.target, samples.mask if samples.mask is not None else R, R]
    for start in range(0, len(samples), size):
        count = len(samples.x[start : start + size])
        x, target, mask, given = (filled(a[start : start + size], size) for a in parts)
        found, drawn = shared(model.params, x, target, mask, given)
        again = own(model.params, x, target) if own else {}
        values.append({name: np.asarray(v)[:count] for name, v in (found | again).items()})
        curves.append({order: np.asarray(c)[:count] for order, c in drawn.items()})
    joined = {name: np.concatenate([v[name] for v in values]) for name in chosen}
    drawn = {order: np.concatenate([c[order] for c in curves]) for order in curves[0]}
    flat = int((np.ptp(R.reshape(len(R), -1), axis=1) == 0).sum())
    notes = (
        [f"relevance is the same everywhere in {flat} of {len(R)} samples: its order is by chance."]
        if flat
        else []
    )
    return Row("", "", method.control, joined, seconds, memory, drawn, R[:_PICTURES], notes)


def _explained(
    model: Model, method: Method, samples: Samples, size: int
) -> tuple[np.ndarray, float, float | None]:
    """Relevance of all samples; seconds and bytes for one of them."""

    def of_sample(params, x, target):
        return method.make(lambda x: model.score(params, x, target))(x)

    explain = jax.jit(jax.vmap(of_sample, (None, 0, 0)))
    first = samples.x[:size], samples.target[:size]
    compiled = explain.lower(model.params, *first).compile()
    found, seconds = [], 0.0
    for start in range(0, len(samples), size):
        x, target = samples.x[start : start + size], samples.target[start : start + size]
        count = len(x)
        x, target = filled(x, size), filled(target, size)
        begin = time.perf_counter()
        R = jax.block_until_ready(compiled(model.params, x, target))
        seconds += time.perf_counter() - begin
        found.append(np.asarray(R)[:count])
    analysis = compiled.memory_analysis()
    memory = None if analysis is None else analysis.temp_size_in_bytes / size
    rounds = -(-len(samples) // size)
    return np.concatenate(found), seconds / (rounds * size), memory


def _check_relevance(model: Model, method: Method, samples: Samples, R: np.ndarray) -> None:
    if R.shape != samples.x.shape:
        raise InputError(
            f"Relevance must have the shape of the samples, {list(samples.x.shape[1:])}, but has "
            f"{list(R.shape[1:])}. Bring a map to it, for example with `jax.image.resize`."
        )
    bad = np.flatnonzero(~np.isfinite(R).reshape(len(R), -1).all(axis=1))
    if not len(bad):
        return
    fault = ""
    if method.rules is not None:
        x, target = samples.x[bad[0]], samples.target[bad[0]]
        found = ledger(lambda x: model.score(model.params, x, target), method.rules)(x).fault
        fault = f" {found}" if found else ""
    raise InputError(
        f"Relevance of {len(bad)} of {len(R)} samples is NaN or infinite, the first is sample "
        f"{bad[0]}.{fault}"
    )


def _number(value: Any) -> Any:
    return jnp.mean(value)
