"""What a job has found, read from its store when it is asked for."""

from __future__ import annotations

import functools
import html
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from relprop._errors import InputError, unknown_name
from relprop._readable import read_back
from relprop.jobs import _arrays
from relprop.jobs._disk import Disk, disk_of
from relprop.jobs._manifest import (
    Manifest,
    array_folder,
    described_shapes,
    read_header,
    read_manifest,
)
from relprop.jobs._parts import MOST_BATCHES
from relprop.jobs._reductions import KINDS, Reduction, joined


class Lazy(Sequence[Any]):
    """One array per sample, read when it is asked for, in the order of the source.

    Indexed by a number it is the array of that sample; by a slice, a list of numbers or a mask,
    the stacked arrays of those, or a list where their shapes differ. `numpy.asarray` reads all.
    """

    def __init__(self, store: Explained, name: str, padded: bool = False):
        self._store, self._name, self._padded = store, name, padded

    def __len__(self) -> int:
        return len(self._store)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all together.

        Raises:
            InputError: there are samples of several shapes.
        """
        shapes = self._store._shapes_of(self._name)
        if len(shapes) > 1 or self._padded:
            raise InputError("The samples have several shapes: index them one by one.")
        return (len(self), *(shapes[0] if shapes else ()))

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers."""
        return self._store._dtype(self._name)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._several(range(len(self))[index])
        if isinstance(index, (list, tuple, np.ndarray)) and np.ndim(index) == 1:
            chosen = np.asarray(index)
            if chosen.dtype == bool:
                if len(chosen) != len(self):
                    raise IndexError(f"The mask has {len(chosen)} entries for {len(self)} samples.")
                chosen = np.flatnonzero(chosen)
            return self._several([self._checked(i) for i in chosen])
        return self._store._read(self._name, self._checked(index), self._padded)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self[:]
        if isinstance(found, list):
            raise InputError("The samples have several shapes: there is no array of all of them.")
        return np.asarray(found, dtype)

    def __repr__(self) -> str:
        shapes = self._store._shapes_of(self._name)
        shown = " or ".join(str(list(shape)) for shape in shapes) or "nothing"
        return f"{len(self)} x {self.dtype}{shown}, read when asked for"

    def _several(self, numbers: Sequence[int]) -> Any:
        parts = [self._store._read(self._name, n, self._padded) for n in numbers]
        if len({part.shape for part in parts}) > 1:
            return parts
        if not parts:
            return np.zeros((0, *self.shape[1:]), self.dtype)
        return np.stack(parts)

    def _checked(self, index: Any) -> int:
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"There are {len(self)} samples, so there is no number {number}.")
        return number % len(self)


class Explained:
    """What `relprop.jobs.explain` has found; `relprop.load` opens it.

    A store can be read while it is written: it has then what was committed when it was opened.

    Attributes:
        relevance: of each sample, in the order of the source; NaN where there is an error. A dict
            of them by path where a sample consists of several arrays.
        score: of each sample.
        explained: the sum of its relevance.
        absorbed: the score less that: what biases, stabilisers and rules have kept.
        places: name -> relevance of that place.
        aux: what else the score has returned: one, a dict by path, or None.
        errors: number of a sample -> why it has no relevance.
        ids: what the samples are called: paths in a folder, or their numbers.
        reductions: what was summed up, by name.
        methods: the names of the methods; ``explained["name"]`` is that of one of them.
        header: the job: rules, hash of the parameters, settings.
        is_complete: whether all samples of the source are there.
    """

    def __init__(self, place: str | Path, method: str | None = None):
        self.place = place
        self._disk: Disk = disk_of(place)
        header = read_header(self._disk)
        if header is None:
            raise InputError(f"There is no store of relprop.jobs in {place}.")
        self.header: dict[str, Any] = header
        self.methods: tuple[str, ...] = tuple(header["methods"])
        self._method = method or self.methods[0]
        if self._method not in self.methods:
            raise unknown_name("method", self._method, self.methods)
        self._manifest: Manifest = read_manifest(self._disk)
        self._batches = list(self._manifest.batches.values())
        self._described = described_shapes(self._disk, self._batches)
        self._chunk = functools.lru_cache(maxsize=8)(self._read_chunk)

    def __getitem__(self, method: str) -> Explained:
        """The same for another method."""
        return Explained(self.place, method)

    def __len__(self) -> int:
        known = (self._manifest.count, self.header["length"])
        told = next((n for n in known if n is not None), None)
        return len(self._where[0]) if told is None else told

    @property
    def is_complete(self) -> bool:
        return self._manifest.count is not None and bool((self._where[0] >= 0).all())

    @property
    def done(self) -> np.ndarray:
        """Whether each sample was committed."""
        return self._where[0] >= 0

    @property
    def relevance(self) -> Any:
        return self._tree("relevance")

    @property
    def aux(self) -> Any:
        return self._tree("aux")

    @property
    def score(self) -> Lazy:
        return Lazy(self, f"{self._method}/score")

    @property
    def explained(self) -> Lazy:
        return Lazy(self, f"{self._method}/explained")

    @property
    def absorbed(self) -> np.ndarray:
        return self._seed(np.asarray(self.score)) - np.asarray(self.explained)

    def _seed(self, score: Any) -> Any:
        """What is handed out for scores."""
        return np.ones_like(score) if self.header["seeds"][self._method] == "one" else score

    @property
    def places(self) -> dict[str, Lazy]:
        prefix = f"{self._method}/places/"
        return {unquote(n.removeprefix(prefix)): Lazy(self, n) for n in self._names(prefix)}

    @functools.cached_property
    def errors(self) -> Mapping[int, str]:
        found = {n: text for batch in self._batches for n, text in batch.errors.items()}
        return dict(sorted(found.items()))

    @functools.cached_property
    def ids(self) -> Sequence[Any]:
        if not any(batch.names for batch in self._batches):
            return range(len(self))
        found: list[Any] = [None] * len(self)
        for batch in self._batches:
            for number, name in zip(batch.numbers, batch.names, strict=False):
                found[number] = name
        return found

    @functools.cached_property
    def reductions(self) -> dict[str, Any]:
        reductions: dict[str, Reduction] = {
            name: read_back(text, KINDS) for name, text in self.header["reductions"].items()
        }
        return joined(reductions, self._disk, self._batches)

    def line(self, number: int) -> str:
        """The sum of one sample in a line: what is explained, and what is absorbed."""
        if number in self.errors:
            return f"{self.ids[number]}: {self.errors[number]}"
        score, explained = float(self.score[number]), float(self.explained[number])
        seed = float(self._seed(score))
        return (
            f"{self.ids[number]}: score {score:.4g}; explained {explained:.4g} + absorbed "
            f"{seed - explained:.4g} = {seed:.4g}"
        )

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self._summary().items())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
            for name, text in self._summary().items()
        )
        return f"<table>{rows}</table>"

    def _summary(self) -> dict[str, str]:
        done = int(self.done.sum())
        found = {
            "store": str(self.place),
            "method": self._method,
            "samples": f"{done} of {len(self)}" + ("" if self.is_complete else ", not complete"),
        }
        if self._described:
            found["relevance"] = repr(self.relevance)
        if done and self._described:
            there = np.flatnonzero(self.done)
            score, explained = self.score[there], self.explained[there]
            good = np.isfinite(score) & np.isfinite(explained)
            if good.any():
                found["mean score"] = f"{score[good].mean():.6g}"
                found["mean explained"] = f"{explained[good].mean():.6g}"
                found["mean absorbed"] = f"{(self._seed(score) - explained)[good].mean():.6g}"
        if self.errors:
            first = next(iter(self.errors.items()))
            found["errors"] = f"{len(self.errors)}, the first of {first[0]}: {first[1]}"
        return found

    @functools.cached_property
    def _where(self) -> tuple[np.ndarray, np.ndarray]:
        """Shape and row of each sample; -1 where it was not committed."""
        most = max((batch.numbers[-1] + 1 for batch in self._batches), default=0)
        known = (self._manifest.count, self.header["length"])
        count = next((n for n in known if n is not None), most)
        shapes, rows = np.full(count, -1, np.int32), np.zeros(count, np.int64)
        for batch in self._batches:
            numbers = np.asarray(batch.numbers)
            shapes[numbers] = batch.shape
            rows[numbers] = batch.chunk * self._rows(batch.shape) + np.arange(len(numbers))
        return shapes, rows

    def _rows(self, shape: int) -> int:
        """How many samples a chunk has."""
        told = self._described.get(shape, {}).get("batches") or self.header["batches_per_chunk"]
        return self.header["batch_size"] * (told or MOST_BATCHES)

    def _names(self, prefix: str) -> list[str]:
        found = (n for each in self._described.values() for n in each["outputs"])
        return sorted({n for n in found if n.startswith(prefix)})

    def _tree(self, kind: str) -> Any:
        prefix = f"{self._method}/{kind}"
        names = [n for n in self._names(prefix) if n == prefix or n.startswith(prefix + "/")]
        padded = kind == "relevance" and any(
            "length" in d["outputs"] for d in self._described.values()
        )
        if not names:
            return Lazy(self, prefix) if kind == "relevance" else None
        if names == [prefix]:
            return Lazy(self, prefix, padded)
        return {unquote(n.removeprefix(prefix + "/")): Lazy(self, n, padded) for n in names}

    @property
    def _is_padded(self) -> bool:
        return any("length" in each["outputs"] for each in self._described.values())

    def _shapes_of(self, name: str) -> list[tuple[int, ...]]:
        found = (d["outputs"].get(name) for d in self._described.values())
        return [*dict.fromkeys(tuple(each[0]) for each in found if each is not None)]

    def _dtype(self, name: str) -> np.dtype:
        for each in self._described.values():
            if name in each["outputs"]:
                return np.dtype(each["outputs"][name][1])
        return np.dtype(np.float32)

    def _read(self, name: str, number: int, padded: bool) -> np.ndarray:
        shape, row = int(self._where[0][number]), int(self._where[1][number])
        if shape < 0:
            raise InputError(f"Sample {number} is not explained yet: the job has not come so far.")
        chunk, inside = divmod(row, self._rows(shape))
        found = self._chunk(name, shape, chunk)
        if found is None:
            dims = self._shapes_of(name)
            return _arrays.filled(dims[0] if dims else (), self._dtype(name))
        values = found[inside]
        if padded and values.ndim and number not in self.errors:
            lengths = self._chunk("length", shape, chunk)
            values = values if lengths is None else values[: int(lengths[inside])]
        return values

    def _read_chunk(self, name: str, shape: int, chunk: int) -> np.ndarray | None:
        """A chunk of an array; None where none of its samples could be explained."""
        batch = self._manifest.batches[shape, chunk]
        if name not in batch.sizes:
            return None
        dims, dtype = self._described[shape]["outputs"][name]
        file = f"{array_folder(shape, name)}/{_arrays.chunk_name(chunk, 1 + len(dims))}"
        data = self._disk.read(file)
        try:
            if data is None:
                raise ValueError("it is not there")
            return _arrays.unpacked(data, (self._rows(shape), *dims), np.dtype(dtype))
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"The file {file} of {self.place} is damaged: {error}. Run the job again, which "
                "computes what is missing, after having removed the file."
            ) from error


def load(place: str | Path) -> Explained:
    """Opens a store of `explain`.

    Args:
        place: the folder or URL.

    Raises:
        InputError: there is no store, or one of another major version.
    """
    return Explained(place)
