"""Explained batches, several of which make a chunk of the store."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relprop.jobs import _arrays
from relprop.jobs._batches import Batch

#: A chunk has so many batches at most, and so many bytes unless one batch has more: files and syncs
#: take longer than what they hold, and of a chunk all is read where one sample is asked for.
MOST_BATCHES, MOST_BYTES = 64, 2**24

_OF_RELEVANCE = ("relevance", "places")
NOT_FINITE = "NaN or infinity in the score or the relevance"


def batches_per_chunk(outputs: Mapping[str, Any]) -> int:
    """How many batches make a chunk, by what they hold and not by the clock: always the same."""
    size = sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in outputs.values())
    return min(MOST_BATCHES, max(1, MOST_BYTES // max(1, size)))


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A batch as it is stored.

    Attributes:
        shape: the number of its shape.
        chunk: its number among the batches of that.
        numbers: of its samples in the source.
        errors: number of a sample -> why it has no relevance.
        names: of the samples, if they have some.
        arrays: name -> numbers of all rows, nothing where there is an error; empty if there are
            only errors.
    """

    shape: int
    chunk: int
    numbers: Sequence[int]
    errors: Mapping[int, str]
    names: Sequence[str]
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, batch: Batch, outputs: Mapping[str, Any] | None) -> Part:
        """From a batch and what was computed of it, which is waited for."""
        errors, arrays = dict(batch.errors), {}
        if outputs is not None:
            arrays = {name: np.asarray(x) for name, x in outputs.items()}
            finite = {n: arrays.pop(n) for n in [*arrays] if n.endswith("/finite")}
            errors |= not_finite(batch.numbers, batch.samples, finite)
            absent = [row for row, sample in enumerate(batch.samples) if sample is None]
            failed = [row for row, number in enumerate(batch.numbers) if number in errors]
            for name, array in arrays.items():
                # Score and aux of a sample with NaN may tell where it is from.
                bad = failed if name.partition("/")[2].startswith(_OF_RELEVANCE) else absent
                arrays[name] = _without(array, bad, len(batch.numbers))
        return cls(batch.shape, batch.chunk, batch.numbers, errors, batch.names, arrays)


def together(parts: Sequence[Part], size: int, count: int) -> dict[str, np.ndarray]:
    """The arrays of a chunk of so many batches of a size, with nothing where there is no batch."""
    known: dict[str, np.ndarray] = {n: x for part in parts for n, x in part.arrays.items()}
    found = {}
    for name, like in known.items():
        whole = _arrays.filled((count * size, *like.shape[1:]), like.dtype)
        for place, part in enumerate(parts):
            if name in part.arrays:
                whole[place * size : (place + 1) * size] = part.arrays[name]
        found[name] = whole
    return found


def packed(parts: Sequence[Part]) -> bytes:
    """Parts as a file, until the others of their chunks are there."""
    about = [
        {**{f.name: getattr(part, f.name) for f in _FIELDS}, "arrays": [*part.arrays]}
        for part in parts
    ]
    arrays = [array for part in parts for array in part.arrays.values()]
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(file, text, *arrays)
    return file.getvalue()


def unpacked(data: bytes) -> list[Part]:
    """The parts of a file; none of one that is damaged, which are computed again."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            about, found, place = json.loads(file["arr_0"].tobytes()), [], 1
            for each in about:
                names = each["arrays"]
                each["arrays"] = {n: file[f"arr_{place + i}"] for i, n in enumerate(names)}
                each["errors"] = {int(n): text for n, text in each["errors"].items()}
                place += len(names)
                found.append(Part(**each))
            return found
    except (ValueError, LookupError, TypeError, AttributeError, OSError, zipfile.BadZipFile):
        return []


def not_finite(
    numbers: Sequence[int], samples: Sequence[Any], finite: Mapping[str, np.ndarray]
) -> dict[int, str]:
    """Number of a sample -> by which methods it has NaN or infinity, of those that have."""
    found = {}
    for row, number in enumerate(numbers):
        methods = [name.rpartition("/")[0] for name, good in finite.items() if not good[row]]
        if methods and samples[row] is not None:
            by = f" by {', '.join(methods)}" if len(finite) > 1 else ""
            found[number] = NOT_FINITE + by
    return found


_FIELDS = dataclasses.fields(Part)


def _without(array: np.ndarray, bad: list[int], rows: int) -> np.ndarray:
    """A batch with nothing in the rows of samples that were not explained."""
    if not bad and rows == len(array):
        return array
    array = array.copy()
    empty = [*bad, *range(rows, len(array))]
    array[empty] = _arrays.filled(array[empty].shape, array.dtype)
    return array
