"""Writing a store: chunks of some batches are committed one by one, and never half."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from relprop._errors import JobError
from relprop.jobs import _arrays
from relprop.jobs._batches import Batch
from relprop.jobs._disk import MANIFEST, Disk
from relprop.jobs._manifest import (
    FORMAT,
    HEADER,
    Committed,
    array_folder,
    check_same_job,
    read_header,
    read_manifest,
    shape_file,
)
from relprop.jobs._parts import (
    MOST_BATCHES,
    Part,
    batches_per_chunk,
    packed,
    together,
    unpacked,
)
from relprop.jobs._program import Program
from relprop.jobs._reductions import Reducing

#: How files begin that keep batches whose chunk is not full.
_REST = "rest-"


class Store:
    """A store that batches are written to.

    Each array of the result is an array of Zarr, with some batches to a chunk. A chunk is committed
    by its line in the manifest: what has no line is not there, and is computed again. Batches whose
    chunk is not full yet can be kept in a file by themselves (`keep`), so that they are not lost;
    when the job is done, nothing tells whether they ever were.

    Args:
        disk: where it lies.
        header: which job it belongs to.
        process: the number of this process among those that write to it.
        processes: how many those are; each commits every n-th chunk.
        reducing: what is summed up on the way.

    Raises:
        JobError: it belongs to another job, or cannot be written to.
        InputError: what is there is no store.
    """

    def __init__(
        self,
        disk: Disk,
        header: Mapping[str, Any],
        process: int,
        processes: int,
        reducing: Reducing,
    ):
        self._disk, self._list = disk, f"{process:05d}.jsonl"
        self._rest = f"{MANIFEST}/{_REST}{process:05d}.npz"
        self._process, self._processes = process, processes
        self._reducing = reducing
        self._length, self._size = header["length"], header["batch_size"]
        self._asked: int | None = header["batches_per_chunk"]
        disk.clean()
        there = read_header(disk)
        if there is not None:
            check_same_job(disk, there, header)
        else:
            disk.write({HEADER: _arrays.group({FORMAT: dict(header)})})
        if disk.read(f"{MANIFEST}/{HEADER}") is None:
            disk.write({f"{MANIFEST}/{HEADER}": _arrays.group({})})
        self.manifest = read_manifest(disk)
        reducing.resume(disk, self.manifest.batches.values())
        self._described = self._descriptions_there()
        #: Committed, but not as it was: computed again.
        self._damaged = self._lacking()
        #: Shape and number of each batch that is committed or kept -> the first of its samples if
        #: they follow each other.
        self._done: dict[tuple[int, int], int | None] = {}
        #: How many samples those are.
        self.samples = 0
        self._outputs: dict[int, dict[str, Any]] = {}
        self._rows: dict[int, int] = {}
        #: Shape and number of each chunk that is not full -> its batches.
        self._filling: dict[tuple[int, int], list[Part]] = {}
        #: Batches before the first sample that can be explained, which decides on chunks.
        self._early: list[Part] = []
        self._resume()

    @property
    def batches(self) -> int:
        """How many are committed or kept."""
        return len(self._done)

    def needs(self, shape: int, chunk: int) -> bool:
        """Whether a batch is still to be explained, by this process."""
        known = shape in self._described
        return (shape, chunk) not in self._done and (not known or self._is_own(shape, chunk))

    def needless(self, chunk: int, first: int) -> bool:
        """Whether the batch of the first shape that begins with this sample need not be read."""
        if 0 in self._described and not self._is_own(0, chunk):
            return True
        return self._done.get((0, chunk)) == first

    def open(self, shape: int, program: Program) -> None:
        """Makes the arrays of a shape.

        Raises:
            JobError: those that are there were computed by another function.
        """
        if shape in self._outputs:
            return
        outputs = {n: x for n, x in program.outputs.items() if not n.endswith("/finite")}
        wanted = {
            "samples": str(program.shape),
            "program": program.identity,
            "batches": self._asked or batches_per_chunk(outputs),
            "outputs": {n: [list(x.shape[1:]), x.dtype.name] for n, x in outputs.items()},
        }
        there = self._described.get(shape)
        if there is not None and there != wanted:
            raise JobError(
                f"The store {self._disk} belongs to another job: for samples of {program.shape} "
                "another function was computed. The score function, a constant in it, the order of "
                "the source, or the release of JAX or relprop is another. Give this job another "
                "`out`, or call it as it was called."
            )
        committed = [chunk for of, chunk in self.manifest.batches if of == shape]
        rows = (max(committed, default=-1) + 1) * wanted["batches"] * self._size
        rows = max(rows, (self._length or 0) if shape == 0 else 0)
        for name in self._groups(shape, outputs):
            self._disk.make(name)
        for name in outputs:
            self._disk.make(array_folder(shape, name))
        files = {f"{name}/zarr.json": _arrays.group({}) for name in self._groups(shape, outputs)}
        files |= _descriptions(shape, outputs, rows, wanted["batches"] * self._size)
        if there is None:
            files[shape_file(shape)] = json.dumps(wanted, indent=1).encode()
        self._disk.write(files)
        self._rows[shape], self._outputs[shape] = rows, outputs
        self._described[shape] = wanted  # the last: from here on batches go into chunks

    def add(self, batch: Batch, outputs: Mapping[str, Any] | None) -> int:
        """Takes a batch with its outputs; None for one of which no sample can be explained.

        Commits the chunk that is full by it.

        Returns:
            How many samples have failed.
        """
        part = Part.of(batch, outputs)
        if part.shape == 0 and 0 not in self._described:
            self._early.append(part)
        else:
            if part.shape == 0:
                self._take_early()
            self._take(part)
        self._done[part.shape, part.chunk] = None
        return len(part.errors)

    def keep(self) -> None:
        """Keeps batches whose chunk is not full yet."""
        parts = [part for parts in self._filling.values() for part in parts]
        if parts:
            self._disk.write({self._rest: packed(parts)})

    def finish(self, count: int) -> None:
        """Commits what is left, and says how many samples there are.

        A process that is alone has seen all, and fits the arrays.
        """
        self._take_early()
        for key in sorted(self._filling):
            self._commit(key)
        if self._processes == 1:
            rows: dict[int, int] = {}
            for batch in read_manifest(self._disk).batches.values():
                rows[batch.shape] = rows.get(batch.shape, 0) + len(batch.numbers)
            for shape, number in rows.items():
                if shape in self._outputs and self._rows[shape] != number:
                    chunk = self._per_chunk(shape) * self._size
                    self._disk.write(_descriptions(shape, self._outputs[shape], number, chunk))
        if self.manifest.count != count:
            self._disk.append(self._list, [json.dumps({"count": count}).encode()])
        self._disk.remove(self._rest)
        self._forget_rests(count)

    def _forget_rests(self, count: int) -> None:
        """Removes what earlier runs with more processes have kept, once all is committed."""
        names = [n for n in self._disk.names(MANIFEST) if n.startswith(_REST)]
        if names:
            committed = read_manifest(self._disk).batches.values()
            if sum(len(batch.numbers) for batch in committed) == count:
                for name in names:
                    self._disk.remove(f"{MANIFEST}/{name}")

    def _per_chunk(self, shape: int) -> int:
        told = self._described.get(shape)
        return told["batches"] if told else self._asked or MOST_BATCHES

    def _is_own(self, shape: int, chunk: int) -> bool:
        """Whether a batch is in a chunk of this process."""
        return chunk // self._per_chunk(shape) % self._processes == self._process

    def _take_early(self) -> None:
        early, self._early = self._early, []
        for part in early:
            self._take(part)

    def _take(self, part: Part) -> None:
        if not self._is_own(part.shape, part.chunk):  # of those before chunks were known
            return
        key = part.shape, part.chunk // self._per_chunk(part.shape)
        parts = self._filling.setdefault(key, [])
        parts.append(part)
        if len(parts) == self._per_chunk(part.shape):
            self._commit(key)

    def _commit(self, key: tuple[int, int]) -> None:
        """Writes the batches of a chunk, and its line."""
        parts = self._filling[key]
        shape, chunk = key
        numbers = [number for part in parts for number in part.numbers]
        errors = {number: text for part in parts for number, text in part.errors.items()}
        arrays = together(parts, self._size, self._per_chunk(shape))
        files: dict[str, bytes] = {}
        sizes: dict[str, int] = {}
        for name, array in arrays.items():
            data = _arrays.packed(array)
            files[f"{array_folder(shape, name)}/{_arrays.chunk_name(chunk, array.ndim)}"] = data
            sizes[name] = len(data)
        if arrays:
            files |= self._grown(key, len(numbers))
        state = ""
        # What is repaired is in the reductions already: its line goes on to name their state.
        kept = self.manifest.batches[key].state if key in self._damaged else ""
        if key not in self._damaged and self._reducing:
            state, saved = self._reducing.add(arrays, shape, numbers, errors)
            files[state] = saved
        names = [name for part in parts for name in part.names]
        line = Committed(shape, chunk, numbers, errors, sizes, names, state or kept)
        self._disk.write(files)
        self._disk.append(self._list, [line.line()])
        self._reducing.forget(self._disk, state)
        del self._filling[key]

    def _resume(self) -> None:
        """What is committed or kept already."""
        for (shape, chunk), batch in self.manifest.batches.items():
            if (shape, chunk) not in self._damaged:
                first = chunk * self._per_chunk(shape)
                for begin in range(0, len(batch.numbers), self._size):
                    numbers = batch.numbers[begin : begin + self._size]
                    self._note((shape, first + begin // self._size), numbers)
        data = self._disk.read(self._rest)
        for part in [] if data is None else unpacked(data):
            key = part.shape, part.chunk // self._per_chunk(part.shape)
            # With another number of processes it may belong to another one by now.
            if key not in self.manifest.batches and self._is_own(part.shape, part.chunk):
                self._filling.setdefault(key, []).append(part)
        for key, parts in [*self._filling.items()]:
            if len(parts) == self._per_chunk(key[0]):
                del self._filling[key]  # could not be committed: computed again, in its turn
                continue
            for part in parts:
                self._note((part.shape, part.chunk), part.numbers)

    def _note(self, key: tuple[int, int], numbers: Any) -> None:
        first = numbers[0]
        follow = list(numbers) == [*range(first, first + len(numbers))]
        self._done[key] = first if follow else None
        self.samples += len(numbers)

    def _descriptions_there(self) -> dict[int, dict[str, Any]]:
        found = {}
        for name in self._disk.names(MANIFEST):
            if name.startswith("shape-") and name.endswith(".json"):
                data = self._disk.read(f"{MANIFEST}/{name}")
                if data is not None:
                    found[int(name[len("shape-") : -len(".json")])] = json.loads(data)
        return found

    def _lacking(self) -> set[tuple[int, int]]:
        """Chunks of which a file is not there, or is cut."""
        found = set()
        for (shape, chunk), batch in self.manifest.batches.items():
            known = self._described.get(shape, {}).get("outputs", {})
            for name, size in batch.sizes.items():
                dims = known.get(name, [()])[0]
                file = _arrays.chunk_name(chunk, 1 + len(dims))
                if self._disk.size(f"{array_folder(shape, name)}/{file}") != size:
                    found.add((shape, chunk))
        return found

    def _groups(self, shape: int, outputs: Mapping[str, Any]) -> list[str]:
        """All groups that arrays of a shape are in, outer ones first."""
        found = {}
        for name in outputs:
            parts = array_folder(shape, name).split("/")
            found |= dict.fromkeys("/".join(parts[:n]) for n in range(1, len(parts)))
        return [*found]

    def _grown(self, key: tuple[int, int], rows: int) -> dict[str, bytes]:
        """Descriptions of arrays that have become longer; they double, so that it is seldom."""
        shape, chunk = key
        size = self._per_chunk(shape) * self._size
        needed = chunk * size + rows
        if needed <= self._rows[shape]:
            return {}
        self._rows[shape] = max(needed, 2 * self._rows[shape])
        return _descriptions(shape, self._outputs[shape], self._rows[shape], size)


def _descriptions(
    shape: int, outputs: Mapping[str, Any], rows: int, chunk: int
) -> dict[str, bytes]:
    return {
        f"{array_folder(shape, name)}/zarr.json": _arrays.described(
            (rows, *x.shape[1:]), chunk, np.dtype(x.dtype)
        )
        for name, x in outputs.items()
    }
