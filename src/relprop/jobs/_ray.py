"""Explanations where Ray runs a cluster: it reads, schedules, restarts and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from relprop._errors import InputError
from relprop.jobs._batches import described
from relprop.jobs._parts import not_finite
from relprop.jobs._program import Program, Task, methods_of
from relprop.places.kinds import places_of


class RayExplainer:
    """A callable class for ``ray.data.Dataset.map_batches``, one actor of which has one device.

    It takes batches of rows as dicts of arrays and adds columns: ``relevance`` (or
    ``relevance/PATH`` for each array of a sample that has several), ``score``, ``explained`` and
    ``error``, which is empty where nothing is wrong. An actor that dies is started again by Ray,
    and its batch is computed again: a batch depends on nothing but its rows.

    Args:
        score: as for `explain`.
        rules: as for `explain`; with a mapping of names to rules, columns are ``NAME/relevance``
            and so on.
        column: the column that is explained; None for the whole row as a dict, without ``ignored``.
        params: as for `explain`; or a function without arguments that returns them, which each
            actor calls for itself, so that they need not be sent.
        places: as for `explain`.
        has_aux: as for `explain`.
        batch_size: to which batches are filled up, so that one shape is compiled; those of
            ``map_batches`` must not be larger.
        prepare: as for `explain`.
        ignored: columns that are handed on and are no part of a sample.

    ::

        found = ray.data.read_images("s3://photos").map_batches(
            RayExplainer,
            fn_constructor_kwargs={"score": score, "rules": Epsilon(), "column": "image"},
            batch_size=64, concurrency=8, num_gpus=1,
        )
        found.write_parquet("s3://relevance")

    >>> from relprop.rules import Zero
    >>> explainer = RayExplainer(lambda x: (2 * x).sum(), Zero(), column="x", batch_size=4)
    >>> out = explainer({"x": np.ones((3, 2), np.float32), "id": np.arange(3)})
    >>> out["relevance"].tolist(), out["error"].tolist(), sorted(out)
    ([[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]], ['', '', ''], ['error', 'explained', 'id', 'relevance', \
'score', 'x'])
    """

    def __init__(
        self,
        score: Callable[..., Any],
        rules: Any,
        *,
        column: str | None = None,
        params: Any = None,
        places: Any = (),
        has_aux: bool = False,
        batch_size: int = 64,
        prepare: Callable[[Any], Any] | None = None,
        ignored: tuple[str, ...] = (),
    ):
        settings = {"places": places_of(places), "on_missing": "error", "on_suspicion": "warn"}
        params = params() if callable(params) else params
        methods = methods_of(rules)
        self._prefix = "" if isinstance(rules, Mapping) else f"{next(iter(methods))}/"
        self._task = Task(score, methods, params, has_aux, settings)
        self._column, self._size = column, batch_size
        self._prepare, self._ignored = prepare, ignored
        self._programs: dict[Any, Program] = {}

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with the columns added.

        Raises:
            InputError: it has no such column, or more rows than were said.
        """
        count = len(next(iter(batch.values()))) if batch else 0
        if count > self._size:
            raise InputError(f"A batch has {count} rows, and batch_size is {self._size}.")
        if self._column is not None and self._column not in batch:
            raise InputError(f"There is no column {self._column!r} in {', '.join(batch)}.")
        samples, errors = self._samples(batch, count)
        shapes = [None if s is None else self._task.shape(s) for s in samples]
        columns: dict[str, Any] = {}
        for shape in dict.fromkeys(s for s in shapes if s is not None):
            own = [s if of == shape else None for s, of in zip(samples, shapes, strict=True)]
            if shape not in self._programs:
                self._programs[shape] = Program(self._task, shape, self._size)
            outputs = {n: np.asarray(x) for n, x in self._programs[shape](own).items()}
            finite = {n: outputs.pop(n) for n in [*outputs] if n.endswith("/finite")}
            errors |= not_finite(range(count), own, finite)
            for name, array in outputs.items():
                column = columns.setdefault(name.removeprefix(self._prefix), [None] * count)
                for row, sample in enumerate(own):
                    if sample is not None:
                        column[row] = array[row]
        found = {name: _column(rows) for name, rows in columns.items()}
        told = np.array([errors.get(row, "") for row in range(count)], dtype=object)
        return {**batch, **found, "error": told}

    def _samples(self, batch: Mapping[str, Any], count: int) -> tuple[list[Any], dict[int, str]]:
        samples: list[Any] = [None] * count
        errors: dict[int, str] = {}
        for row in range(count):
            try:
                if self._column is not None:
                    sample = batch[self._column][row]
                else:
                    sample = {n: c[row] for n, c in batch.items() if n not in self._ignored}
                sample = self._prepare(sample) if self._prepare else sample
                self._task.shape(sample)
                samples[row] = sample
            except Exception as error:  # of the user's own code, as in `explain`
                errors[row] = described(error)
        return samples, errors


def _column(rows: list[Any]) -> Any:
    """Rows as one array where they have one shape; NaN where there is none."""
    known = [row for row in rows if row is not None]
    if len({row.shape for row in known}) == 1:
        empty = np.full(known[0].shape, np.nan if known[0].dtype.kind == "f" else 0)
        return np.stack([empty.astype(known[0].dtype) if r is None else r for r in rows])
    out = np.empty(len(rows), object)
    out[:] = rows
    return out
