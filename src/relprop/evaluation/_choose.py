"""The choice of rules by measurement: searched on one part of the data, reported on the other."""

from __future__ import annotations

import dataclasses
import itertools
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop._errors import InputError
from relprop._table import Table
from relprop._transform import relevance
from relprop.composites import Composite, composite_of
from relprop.evaluation._data import Model, Samples, filled, models_of, samples_of
from relprop.evaluation._evaluate import Case, check_masks
from relprop.evaluation._metrics import Metric, metrics_of
from relprop.evaluation._rows import bootstrap
from relprop.rules import Rule

Setting = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Composites that differ in parameters.

    Args:
        make: from the parameters, by name, to a rule or composite.
        grid: parameter -> the values that are tried, in all combinations. Numbers are traced: all
            of them are one compiled program. Other values, such as ``bias="ignore"``, have one
            each.
        default: what a choice must beat: a rule or a composite.

    Raises:
        InputError: a parameter has no values.

    >>> from relprop.rules import Epsilon, Gamma
    >>> family = Family(lambda gamma: Gamma(gamma), {"gamma": [0.0, 0.25, 1.0]}, Epsilon(1e-6))
    >>> len(family.settings())
    3
    """

    make: Callable[..., Rule | Composite]
    grid: Mapping[str, Sequence[Any]]
    default: Rule | Composite

    def __post_init__(self):
        empty = [name for name, values in self.grid.items() if not len(values)]
        if empty or not self.grid:
            raise InputError(f"The grid has no values to try{' for ' if empty else ''}{empty}.")

    def settings(self) -> list[dict[str, Any]]:
        """All combinations."""
        return [
            dict(zip(self.grid, v, strict=True)) for v in itertools.product(*self.grid.values())
        ]

    @property
    def traced(self) -> tuple[str, ...]:
        """The parameters that are numbers."""
        return tuple(
            name
            for name, values in self.grid.items()
            if all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values)
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Finalist:
    """A setting that was among the best in the search.

    Attributes:
        setting: the parameters; None for the default.
        searched: mean of the metric over the samples of the search.
        reported: the metric of each sample of the report.
        gain: 95 % interval of how much better than the default it is, pair by pair.
        lag: likewise, how much better the best setting is than it.
    """

    setting: Setting | None
    searched: float
    reported: np.ndarray
    gain: tuple[float, float]
    lag: tuple[float, float]


class Choice(Table, Sequence[Finalist]):
    """What was chosen, and the table that says why; the finalists are its rows.

    Attributes:
        composite: the setting that was best in the search where it is better than the default
            outside of the interval on the other samples, and else the default.
        setting: its parameters; None for the default.
        winner: the parameters of the best setting if no other finalist's interval reaches it, and
            else None: then `verdict` says which cannot be told apart.
        verdict: that in words.
        metric: by which it was chosen.
    """

    def __init__(self, finalists: Sequence[Finalist], family: Family, metric: str, samples: int):
        self._rows, self.metric, self._samples = tuple(finalists), metric, samples
        best, *others = (row for row in finalists if row.setting is not None)
        self.setting = best.setting if best.gain[0] > 0 else None
        self.composite = composite_of(
            family.default if self.setting is None else family.make(**self.setting)
        )
        rivals = [row for row in others if not row.lag[0] > 0]
        clear = self.setting is not None and not rivals
        self.winner = self.setting if clear else None
        self.verdict = _verdict(best, rivals, self.setting is not None)

    def __getitem__(self, key):
        return self._rows[key]

    def __len__(self) -> int:
        return len(self._rows)

    def title(self) -> str:
        return f"{self.metric}, searched on some samples and reported on {self._samples} others"

    def columns(self) -> list[str]:
        return ["setting", "search", "report [95 %]", "better than default by [95 %]"]

    def cells(self) -> list[list[str]]:
        rows = []
        for row in self._rows:
            low, high = bootstrap(row.reported)
            gain = "" if row.setting is None else "[{:.3g}, {:.3g}]".format(*row.gain)
            mean = f"{np.nanmean(row.reported):.3g} [{low:.3g}, {high:.3g}]"
            rows.append([_named(row.setting), f"{row.searched:.3g}", mean, gain])
        return rows

    def footer(self) -> str:
        return self.verdict


def choose(
    f: Any,
    data: Any,
    family: Family,
    metric: Any = "abpc",
    *,
    search: float = 0.5,
    finalists: int = 8,
    at_a_time: int = 8,
    batch_size: int = 32,
    seed: int = 0,
) -> Choice:
    r"""Searches the parameters of rules for a model and its data, and says how sure the choice is.

    Every setting of the family is measured on one part of the samples; the best are measured again
    on the other, where they are compared with the default and with each other, sample by sample.

    Args:
        f: a model, as for `relprop.evaluate`.
        data: samples, as for `relprop.evaluate`.
        family: of composites, with its grid of parameters.
        metric: one metric, as for `relprop.evaluate`.
        search: the part of the samples that is searched on.
        finalists: how many of the best settings are reported.
        at_a_time: how many settings are computed in one call, which bounds memory.
        batch_size: how many samples are.
        seed: of the split and of the bootstrap.

    Returns:
        The choice: a composite and a table.

    Raises:
        InputError: there are fewer than two samples for the search or for the report; a setting
            gives NaN for every sample; what else `relprop.evaluate` refuses.

    >>> from relprop.rules import Epsilon, Gamma
    >>> f = lambda x: jnp.stack([jnp.sum(jax.nn.relu(x)), 0.0 * jnp.sum(x)])
    >>> x = jax.random.normal(jax.random.key(0), (4, 3))
    >>> family = Family(Epsilon, {"epsilon": [1e-6, 1e-3]}, Epsilon(1e-6))
    >>> choose(f, x, family).winner is None
    True
    """
    (name, measure), (model,) = _one_metric(metric), models_of(f).values()
    if not 0 < search < 1:
        raise InputError(f"`search` must be between 0 and 1, got {search!r}.")
    for option, value in (("finalists", finalists), ("at_a_time", at_a_time)):
        if value < 1:
            raise InputError(f"`{option}` must be at least 1, got {value!r}.")
    samples = samples_of(model, data)
    check_masks({name: measure}, samples)
    order = np.random.default_rng(seed).permutation(len(samples))
    count = round(search * len(samples))
    if min(count, len(samples) - count) < 2:
        raise InputError(
            f"{len(samples)} samples are split into {count} to search on and "
            f"{len(samples) - count} to report: both need at least 2."
        )
    searched, reported = samples.part(order[:count]), samples.part(order[count:])
    run = _Runs(model, family, measure, at_a_time, batch_size)
    settings = family.settings()
    sign = 1.0 if measure.better == "higher" else -1.0
    means = _means(run(settings, searched))
    if not np.isfinite(means).any():
        raise InputError(f"{name} is not defined for any setting: all its values are NaN.")
    ranked = np.argsort(np.where(np.isnan(means), np.inf, -sign * means), kind="stable")
    top = [int(i) for i in ranked[:finalists] if np.isfinite(means[i])]
    again = run([settings[i] for i in top], reported)
    default = run([None], reported)[0]
    rows = [
        Finalist(
            settings[i],
            float(means[i]),
            values,
            bootstrap(sign * (values - default), seed=seed),
            bootstrap(sign * (again[0] - values), seed=seed),
        )
        for i, values in zip(top, again, strict=True)
    ]
    nothing = float("nan"), float("nan")
    before = float(_means(run([None], searched))[0])
    rows.append(Finalist(None, before, default, nothing, nothing))
    return Choice(rows, family, name, len(reported))


class _Runs:
    """The metric of settings on samples, each program compiled once."""

    def __init__(self, model: Model, family: Family, metric: Metric, at_a_time: int, size: int):
        self._model, self._family, self._metric = model, family, metric
        self._at_a_time, self._size = at_a_time, size
        self._compiled: dict[Any, Any] = {}

    def __call__(self, settings: Sequence[Setting | None], samples: Samples) -> np.ndarray:
        """Per setting, the metric of every sample."""
        out = np.full((len(settings), len(samples)), np.nan)
        for kind, places in self._kinds(settings).items():
            step = 1 if kind is None else self._at_a_time
            for start in range(0, len(places), step):
                chosen = places[start : start + step]
                given = [settings[i] for i in chosen]
                out[chosen] = self._values(kind, given, samples, step)[: len(chosen)]
        return out

    def _kinds(self, settings: Sequence[Setting | None]) -> dict[Any, list[int]]:
        """Settings that are one program: those that differ in numbers alone."""
        groups: dict[Any, list[int]] = {}
        for i, setting in enumerate(settings):
            fixed = None
            if setting is not None:
                rest = [name for name in setting if name not in self._family.traced]
                fixed = tuple((name, _Same(setting[name])) for name in rest)
            groups.setdefault(fixed, []).append(i)
        return groups

    def _values(self, kind: Any, settings: Any, samples: Samples, step: int) -> np.ndarray:
        if kind not in self._compiled:
            self._compiled[kind] = self._program(kind, samples.classes)
        names = () if kind is None else self._family.traced
        table = np.array([[float(s[name]) for name in names] for s in settings])
        table = filled(table.reshape(len(settings), len(names)), step)
        size = min(self._size, len(samples))
        found = []
        mask = samples.x if samples.mask is None else samples.mask
        for start in range(0, len(samples), size):
            parts = (a[start : start + size] for a in (samples.x, samples.target, mask))
            count = len(samples.x[start : start + size])
            program, params = self._compiled[kind], self._model.params
            values = program(params, *(filled(a, size) for a in parts), jnp.asarray(table))
            found.append(np.asarray(values)[:, :count])
        return np.concatenate(found, axis=1)

    def _program(self, kind: Any, classes: int) -> Any:
        family, model = self._family, self._model

        def of_sample(params, x, target, mask, row):
            if kind is None:
                rules = family.default
            else:
                fixed = {name: same.value for name, same in kind}
                rules = family.make(**fixed, **dict(zip(family.traced, row, strict=True)))
            make = lambda f: relevance(f, rules)  # noqa: E731
            score = lambda x: model.score(params, x, target)  # noqa: E731
            R = make(score)(x)
            case = Case(x, target, mask, R, params, classes, model, make)
            return jnp.mean(self._metric(case))

        over_samples = jax.vmap(of_sample, (None, 0, 0, 0, None))
        return jax.jit(jax.vmap(over_samples, (None, None, None, None, 0)))


@dataclasses.dataclass(frozen=True)
class _Same:
    """A value by its text, so that what cannot be hashed is compared as well."""

    value: Any = dataclasses.field(compare=False)
    text: str = ""

    def __post_init__(self):
        object.__setattr__(self, "text", repr(self.value))


def _one_metric(metric: Any) -> tuple[str, Metric]:
    given = metric if isinstance(metric, (str, Mapping)) else [metric]
    found = metrics_of(given)
    if len(found) != 1:
        raise InputError(f"A choice is by one metric, got {', '.join(found)}.")
    return next(iter(found.items()))


def _means(values: np.ndarray) -> np.ndarray:
    """Means over what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    total = np.where(defined, values, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _named(setting: Setting | None) -> str:
    if setting is None:
        return "default"
    shown = {k: f"{v:.4g}" if isinstance(v, numbers.Real) else repr(v) for k, v in setting.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _verdict(best: Finalist, rivals: Sequence[Finalist], better: bool) -> str:
    name = _named(best.setting)
    if not better:
        return (
            f"No winner: {name} was best in the search, but the 95 % interval of what it gains on "
            f"the default on other samples, [{best.gain[0]:.3g}, {best.gain[1]:.3g}], reaches 0. "
            "The default stays."
        )
    gain = f"better than the default by [{best.gain[0]:.3g}, {best.gain[1]:.3g}]"
    if rivals:
        others = "; ".join(_named(row.setting) for row in rivals)
        return f"No single winner: {name} is {gain}, but cannot be told from {others}."
    return f"Winner: {name}, {gain}, and no other finalist reaches it."
