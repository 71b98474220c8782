"""What of a store is there for good: the job it belongs to, its shapes, its committed chunks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from relprop._errors import InputError, JobError
from relprop.jobs._disk import MANIFEST, Disk

HEADER = "zarr.json"
FORMAT = "relprop-jobs"
VERSION = (1, 0)

#: What is said of an entry of the header that is not as it was.
_DIFFERS = {
    "methods": "the rules",
    "params": "the parameters of the model",
    "score": "the score function",
    "settings": "places or policies",
    "batch_size": "batch_size, which decides what is rounded together",
    "batches_per_chunk": "batches_per_chunk, which decides what is in a file",
    "length": "the length of the source",
    "has_aux": "has_aux",
    "reductions": "the reductions",
    "processes": "the number of processes, with reductions",
}


@dataclasses.dataclass(frozen=True)
class Committed:
    """A chunk that is in the store: some batches of one shape.

    Attributes:
        shape: the number of its shape.
        chunk: its number among the chunks of that.
        numbers: of its samples in the source.
        errors: number of a sample -> why it has no relevance.
        sizes: name of an array -> bytes of its file.
        names: of the samples, if they have some.
        state: of the reductions, with this chunk in them; "" if there are none.
    """

    shape: int
    chunk: int
    numbers: Sequence[int]
    errors: Mapping[int, str] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    names: Sequence[str] = ()
    state: str = ""

    def line(self) -> bytes:
        """As a line of the manifest."""
        found: dict[str, Any] = {"shape": self.shape, "chunk": self.chunk}
        numbers, first = list(self.numbers), self.numbers[0]
        if numbers == [*range(first, first + len(numbers))]:
            found |= {"first": first, "rows": len(numbers)}
        else:
            found["numbers"] = numbers
        for name in ("errors", "sizes", "names", "state"):
            if value := getattr(self, name):
                found[name] = value
        return json.dumps(found, separators=(",", ":")).encode()

    @classmethod
    def parsed(cls, found: Mapping[str, Any]) -> Committed:
        """From a line of the manifest."""
        first = found.get("first")
        numbers = found["numbers"] if first is None else range(first, first + found["rows"])
        errors = {int(number): text for number, text in found.get("errors", {}).items()}
        rest = {name: found[name] for name in ("sizes", "names", "state") if name in found}
        return cls(found["shape"], found["chunk"], numbers, errors, **rest)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All that is known of what was committed.

    Attributes:
        batches: the chunks, by the number of their shape and their own.
        count: of the samples in the source; None while that is not known.
        state: the file of the reductions of each list of lines, the latest.
    """

    batches: Mapping[tuple[int, int], Committed]
    count: int | None


def read_manifest(disk: Disk) -> Manifest:
    """The committed batches of a store.

    Raises:
        InputError: a line of the manifest is damaged.
    """
    batches, count = {}, None
    for line in disk.lines():
        try:
            found = json.loads(line)
            if "count" in found:
                count = int(found["count"])
            else:
                batch = Committed.parsed(found)
                batches[batch.shape, batch.chunk] = batch
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"The manifest of {disk} has a damaged line, {line[:80]!r}: take it out to have "
                "its chunk computed again."
            ) from error
    return Manifest(batches, count)


def read_header(disk: Disk) -> dict[str, Any] | None:
    """What job a store belongs to; None if there is none.

    Raises:
        InputError: what is there is no store of jobs, or one of another major version.
    """
    data = disk.read(HEADER)
    if data is None:
        return None
    try:
        found = json.loads(data)["attributes"][FORMAT]
        version = [int(part) for part in found["version"]]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{disk} is no store of relprop.jobs.") from error
    if version[0] != VERSION[0]:
        raise InputError(
            f"{disk} is of version {version[0]}.{version[1]} of the stores of relprop.jobs; this "
            f"relprop reads version {VERSION[0]}."
        )
    return found


def check_same_job(disk: Disk, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Whether a store belongs to a job.

    Raises:
        JobError: it belongs to another one; lists all that differs.
    """
    plain = json.loads(json.dumps(wanted))
    differing = [
        f"  {what}: {_short(there.get(name))}, now {_short(plain.get(name))}"
        for name, what in _DIFFERS.items()
        if there.get(name) != plain.get(name)
    ]
    if differing:
        raise JobError(
            f"The store {disk} belongs to another job. These differ:\n"
            + "\n".join(differing)
            + "\nGive this job another `out`, or call it as it was called."
        )


def shape_file(shape: int) -> str:
    """The file that describes a shape."""
    return f"{MANIFEST}/shape-{shape}.json"


def described_shapes(disk: Disk, batches: Iterable[Committed]) -> dict[int, dict[str, Any]]:
    """The descriptions of all shapes of which something was committed."""
    found = {}
    for shape in sorted({batch.shape for batch in batches if batch.sizes}):
        data = disk.read(shape_file(shape))
        if data is None:
            raise InputError(f"{disk} has no {shape_file(shape)}: run the job again to mend it.")
        found[shape] = json.loads(data)
    return found


def array_folder(shape: int, name: str) -> str:
    """Where an array of samples of a shape is; those of the first shape at the top."""
    return name if shape == 0 else f"shape-{shape}/{name}"


def rows_of(batches: Iterable[Committed]) -> dict[int, int]:
    """The number of samples of each shape."""
    found: dict[int, int] = {}
    for batch in batches:
        found[batch.shape] = found.get(batch.shape, 0) + len(batch.numbers)
    return found


def numbers_of(batches: Iterable[Committed]) -> np.ndarray:
    """The numbers of all committed samples."""
    parts = [np.asarray(batch.numbers, np.int64) for batch in batches]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _short(value: Any, most: int = 160) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 1] + "…"
