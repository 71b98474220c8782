"""Samples in batches that can share a program, always the same for the same source."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from relprop._errors import InputError, JobError
from relprop.jobs._source import Source

#: How many shapes are compiled for at most; samples of still others are recorded as errors.
MOST_SHAPES = 32
_END = object()


@dataclasses.dataclass(eq=False)
class Batch:
    """Samples of one shape.

    Attributes:
        shape: the number of the shape, in the order in which they came up.
        chunk: the number of the batch among those of its shape.
        numbers: of the samples in the source.
        samples: the samples; None for those that cannot be explained.
        errors: number of a sample -> why it cannot.
        names: what the samples are called, if they have names.
    """

    shape: int
    chunk: int
    numbers: list[int] = dataclasses.field(default_factory=list)
    samples: list[Any] = dataclasses.field(default_factory=list)
    errors: dict[int, str] = dataclasses.field(default_factory=dict)
    names: list[str] = dataclasses.field(default_factory=list)

    @property
    def good(self) -> list[Any]:
        """The samples that can be explained."""
        return [sample for sample in self.samples if sample is not None]

    @property
    def is_slice(self) -> bool:
        """Whether the samples follow each other in the source."""
        first = self.numbers[0]
        return self.numbers == [*range(first, first + len(self.numbers))]


class Reader:
    """Reads a source in batches.

    A sample goes to the batch that is being filled for its shape; one that cannot be read to that
    of the sample before. So samples of one shape keep the places that they have in the source.

    Args:
        source: the samples.
        size: how many make a batch.
        key: of a sample what samples share a program by; raises what is wrong with it.
        needless: whether a batch of the first shape need not even be read: its chunk, and the
            number of its first sample.
        uniform: whether samples of another shape than the first are errors, as they must be where
            processes leave out batches of which they do not know the shapes.
    """

    def __init__(
        self,
        source: Source,
        size: int,
        key: Callable[[Any], Hashable],
        needless: Callable[[int, int], bool],
        uniform: bool = False,
    ):
        self.source = source
        self.size = size
        self.key = key
        self.needless = needless
        self.uniform = uniform
        self.count = 0
        self._keys: dict[Hashable, int] = {}
        self._filling: dict[int, Batch] = {}
        self._begun: dict[int, int] = {}
        self._last = 0

    def batches(self) -> Iterator[Batch]:
        """All batches but those that need not be read.

        Raises:
            JobError: the source has failed as a whole.
        """
        items = self.source.items(0)
        while True:
            if skipped := self._skipped():
                self.count += skipped
                self._begun[0] += 1
                items = self.source.items(self.count)
                continue
            try:
                item = next(items, _END)
            except Exception as error:  # an iterator that has raised cannot go on
                raise JobError(
                    f"The source has failed after {self.count} samples: {described(error)}"
                ) from error
            if item is _END:
                break
            full = self._take(item)
            self.count += 1
            if full is not None:
                yield full
        yield from self._filling.values()

    def _skipped(self) -> int:
        """How many samples need not be read."""
        if self.source.length is None or len(self._keys) != 1 or self._filling:
            return 0
        chunk, left = self._begun[0], self.source.length - self.count
        if not left or self.count != chunk * self.size or not self.needless(chunk, self.count):
            return 0
        return min(self.size, left)

    def _take(self, item: Any) -> Batch | None:
        """Adds a sample; the batch that is full by that."""
        sample, shape, wrong = None, self._last, ""
        try:
            sample = item()
            shape = self._shape(self.key(sample))
        except Exception as error:  # of the user's own code, and of files from anywhere
            self.source.check()
            if isinstance(error, (MemoryError, JobError)):
                raise
            sample, wrong = None, described(error)
        self._last = shape
        batch = self._filling.get(shape)
        if batch is None:
            batch = self._filling[shape] = Batch(shape, self._begun.get(shape, 0))
            self._begun[shape] = batch.chunk + 1
        batch.numbers.append(self.count)
        batch.samples.append(sample)
        if wrong:
            batch.errors[self.count] = wrong
        if self.source.name is not None:
            batch.names.append(self.source.name(self.count))
        return self._filling.pop(shape) if len(batch.numbers) == self.size else None

    def _shape(self, key: Hashable) -> int:
        if key in self._keys:
            return self._keys[key]
        if self._keys and self.uniform:
            raise InputError(
                f"is {key}; with several processes all must be as the first, {[*self._keys][0]}"
            )
        if len(self._keys) == MOST_SHAPES:
            raise InputError(
                f"is {key}, the shape number {MOST_SHAPES + 1}, and each is compiled for by "
                "itself: make samples of few shapes, or give the score a `mask` argument"
            )
        self._keys[key] = len(self._keys)
        return self._keys[key]


def described(error: BaseException) -> str:
    """What is wrong with a sample, in one line."""
    text = " ".join(str(error).split())[:500]
    kind = type(error).__name__
    return text if isinstance(error, InputError) and text else f"{kind}: {text}".rstrip(": ")
