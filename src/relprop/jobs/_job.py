"""A dataset, explained: read, computed and written at the same time, and nothing lost."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import jax
import numpy as np

from relprop._errors import InputError, JobError
from relprop._hash import hashed
from relprop.jobs._batches import Batch, Reader, described
from relprop.jobs._disk import check_place, disk_of
from relprop.jobs._explained import Explained, load
from relprop.jobs._manifest import HEADER, VERSION
from relprop.jobs._program import Program, Task, methods_of
from relprop.jobs._progress import Bar, interruptible
from relprop.jobs._reductions import Reducing, Reduction
from relprop.jobs._source import source_of
from relprop.jobs._store import Store
from relprop.places.kinds import places_of

T = TypeVar("T")
#: How many batches are read before they are needed, and how many at most wait for being written.
AHEAD, BEHIND = 2, 8
#: Batches whose chunk is not full are kept by themselves after so many seconds, and at the end.
KEPT_AFTER = 10.0


def explain(
    score: Callable[..., Any],
    rules: Any,
    source: Any,
    out: str | Path,
    batch_size: int = 64,
    places: Any = (),
    progress: bool = True,
    *,
    params: Any = None,
    has_aux: bool = False,
    prepare: Callable[[Any], Any] | None = None,
    reductions: Mapping[str, Reduction] | None = None,
    on_missing: Any = "error",
    on_suspicion: str = "warn",
    description: Mapping[str, Any] | None = None,
    batches_per_chunk: int | None = None,
    embed: Callable[..., Any] | None = None,
    keep: Callable[[Any], Any] | None = None,
    lengths: Sequence[int] | None = None,
    check: Callable[[Any], None] | None = None,
) -> Explained:
    r"""Explains each sample of a dataset, and keeps what it finds in a store on disk.

    .. math:: R^{(n)}, \qquad \sum_i R_i^{(n)} + \text{absorbed}^{(n)} = f(x^{(n)})

    Called again in the same way after whatever has ended it, it goes on where it was, and the store
    comes out as it would have without interruption, bit for bit. A sample that cannot be read or
    explained is recorded with its error and does not end the job.

    Args:
        score: a function of one sample that returns a real scalar; of `params` and one sample if
            there are some. A sample is any pytree of arrays: those of floating point numbers are
            explained. Samples of each shape are compiled for by themselves, unless the score has an
            argument named ``mask``: then they are padded with zeros along their first axis to a few
            lengths, and the mask says where the sample is.
        rules: as for `relprop.relevance`; a mapping of names to rules for several methods at once.
        source: an array, whose first axis is that of the samples; a mapping of names to such
            arrays; anything with a length and an index (lists, datasets of Hugging Face, data
            sources of Grain); an iterable, which must give the same samples each time; a folder of
            images (from 0 to 1, if `prepare` does nothing else); a parquet file or a folder of
            those.
        out: a folder that is new, empty or holds the store of this job; or a URL of fsspec.
        batch_size: how many samples are explained at once.
        places: as for `relprop.relevance`; what is found there is kept, too. Parameters are called
            ``params``.
        progress: whether to show a bar.
        params: the first argument of the score.
        has_aux: whether the score returns a pair of itself and anything else, which is kept.
        prepare: what is made of each thing that the source gives, such as the array of an image.
        reductions: name -> `Reduction`: what is summed up on the way.
        on_missing: as for `relprop.relevance`.
        on_suspicion: as for `relprop.relevance`.
        description: anything that JSON can say, kept with the store.
        batches_per_chunk: how many batches make a file of the store, and are committed together;
            by default as many as have 16 MiB, and at most 64. Those of a chunk that is not full
            are kept every ten seconds, and where a job ends before its end.
        embed: what is made of a sample (of `params` and a sample) before the score, where that has
            no floating point numbers, such as the embeddings of token ids. The score gets its
            result, which is explained.
        keep: what is kept of the relevance of a sample, such as its sum over channels: a function
            of it that returns an array or a tree of them. Scores and sums are of all relevance.
        lengths: what samples are padded to, ascending, if the score has a mask; longer ones are
            recorded as errors.
        check: is given what the score of each sample has returned besides, an array or a dict of
            them by path, by the first method; what it raises is recorded as the error of the
            sample.

    Returns:
        What `relprop.load` returns for the store.

    Raises:
        InputError: the source, the score or the folder are not what they should be.
        JobError: the store belongs to a job of other rules, parameters or functions; another
            process writes to it; the disk is full or the folder gone; the source has failed.
        KeyboardInterrupt: after Ctrl-C, when the batch at hand is kept.

    >>> import tempfile, numpy as np, jax.numpy as jnp, relprop
    >>> images = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    >>> images[2, 0] = np.nan
    >>> w = jnp.array([1.0, -1.0, 2.0])
    >>> out = tempfile.mkdtemp()
    >>> found = explain(
    ...     lambda x: jnp.dot(x, w), relprop.rules.Zero(), images, out, progress=False
    ... )
    >>> found.relevance[1].tolist(), float(found.score[1]), dict(found.errors)
    ([3.0, -4.0, 10.0], 9.0, {2: 'NaN or infinity in the score or the relevance'})
    """
    with interruptible() as asked:
        job = _Job.prepare(
            Task(
                score,
                methods_of(rules),
                params,
                has_aux,
                {
                    "places": places_of(places),
                    "on_missing": on_missing,
                    "on_suspicion": on_suspicion,
                },
                embed,
                keep,
                lengths,
                check,
            ),
            source_of(source, prepare),
            out,
            batch_size,
            dict(reductions or {}),
            dict(description or {}),
            batches_per_chunk,
        )
        job.run(asked, progress)
    return load(out)


@dataclasses.dataclass(eq=False)
class _Job:
    task: Task
    source: Any
    out: str | Path
    size: int
    reductions: Mapping[str, Reduction]
    header: Mapping[str, Any]
    process: int
    processes: int

    @classmethod
    def prepare(
        cls,
        task: Task,
        source: Any,
        out: str | Path,
        size: int,
        reductions: Mapping[str, Reduction],
        description: Mapping[str, Any],
        per_chunk: int | None,
    ) -> _Job:
        """Checks what can be checked before anything is read or written."""
        for name, number in (("batch_size", size), ("batches_per_chunk", per_chunk)):
            whole = isinstance(number, int) and not isinstance(number, bool) and number > 0
            if not whole and not (number is None and name == "batches_per_chunk"):
                raise InputError(f"`{name}` must be a number from 1, got {number!r}.")
        process, processes = jax.process_index(), jax.process_count()
        if processes > 1 and source.length is None:
            raise InputError("With several processes the source must have a length.")
        header = {
            "version": VERSION,
            "methods": {name: repr(rules) for name, rules in task.methods.items()},
            "seeds": {name: rules.seed for name, rules in task.methods.items()},
            "score": getattr(task.score, "__qualname__", type(task.score).__name__),
            "params": hashed(task.params),
            "settings": repr(sorted(task.settings.items())),
            "has_aux": task.has_aux,
            "batch_size": size,
            "batches_per_chunk": per_chunk,
            "length": source.length,
            "reductions": {name: repr(each) for name, each in reductions.items()},
            "processes": processes if reductions else None,
            "description": dict(description),
        }
        return cls(task, source, out, size, reductions, header, process, processes)

    def run(self, asked: threading.Event, progress: bool) -> None:
        """Explains what has not been explained yet."""
        disk = disk_of(self.out, self.process)
        check_place(disk, HEADER)  # before anything is made or removed there
        disk.begin()
        with disk.locked(str(self.process)):
            method = next(iter(self.task.methods))
            reducing = Reducing(self.reductions, self.process, method)
            store = Store(disk, self.header, self.process, self.processes, reducing)
            reader = Reader(
                self.source, self.size, self.task.shape, store.needless, self.processes > 1
            )
            bar = Bar(progress, self.source.length, store.samples, method)
            try:
                whole = self._run(reader, store, bar, asked)
            except BaseException:
                with contextlib.suppress(JobError):  # the disk may be what has failed
                    store.keep()
                raise
            finally:
                bar.close()
            if not whole:
                store.keep()
                raise KeyboardInterrupt(self._interrupted(store))
            store.finish(reader.count)

    def _run(self, reader: Reader, store: Store, bar: Bar, asked: threading.Event) -> bool:
        """Whether all of it was done, and not only what was begun before somebody asked."""
        programs: dict[int, Program | str] = {}
        failed, kept = 0, time.monotonic()

        def write(done: tuple[Batch, Any]) -> None:
            nonlocal failed, kept
            batch, outputs = done
            if self.task.check is not None and outputs is not None:
                batch.errors |= _unfit(self.task, batch, outputs)
            failed += store.add(batch, outputs)
            bar.advance(len(batch.numbers), failed)
            if time.monotonic() - kept > KEPT_AFTER:
                store.keep()
                kept = time.monotonic()

        with _ahead(reader.batches(), asked) as batches, _behind(write) as put:
            for batch in batches:
                program = self._program(batch, programs, store)
                if not store.needs(batch.shape, batch.chunk):
                    continue
                if isinstance(program, str):
                    batch.errors |= dict.fromkeys(
                        (n for n in batch.numbers if n not in batch.errors), program
                    )
                    batch.samples = [None] * len(batch.samples)
                outputs = None
                if isinstance(program, Program) and batch.good:
                    outputs = program(batch.samples)
                put((batch, outputs))
                if asked.is_set():
                    break
        return not asked.is_set()

    def _program(
        self, batch: Batch, programs: dict[int, Program | str], store: Store
    ) -> Program | str | None:
        """The program for the shape of a batch, or why there is none."""
        if batch.shape not in programs and batch.good:
            try:
                program = Program(self.task, self.task.shape(batch.good[0]), self.size)
            except Exception as error:
                if not any(isinstance(known, Program) for known in programs.values()):
                    raise
                programs[batch.shape] = described(error)
            else:
                store.open(batch.shape, program)
                programs[batch.shape] = program
        return programs.get(batch.shape)

    def _interrupted(self, store: Store) -> str:
        return (
            f"Interrupted. {store.batches} batches of {self.size} are kept in {self.out}: "
            "run the same again to go on."
        )


def _unfit(task: Task, batch: Batch, outputs: Mapping[str, Any]) -> dict[int, str]:
    """Number of a sample -> what is wrong with what its score has returned besides."""
    assert task.check is not None
    name = f"{next(iter(task.methods))}/aux"
    parts = {n: np.asarray(x) for n, x in outputs.items() if n == name or n.startswith(f"{name}/")}
    found = {}
    for row, number in enumerate(batch.numbers):
        if batch.samples[row] is not None:
            aux = {unquote(n.removeprefix(f"{name}/")): x[row] for n, x in parts.items()}
            try:
                task.check(parts[name][row] if name in parts else aux)
            except Exception as error:  # of the user's own code
                found[number] = described(error)
    return found


@contextlib.contextmanager
def _ahead(items: Iterator[T], asked: threading.Event) -> Iterator[Iterator[T]]:
    """The same items, which another thread prepares before they are needed."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(AHEAD)
    over = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((kind, value), timeout=0.05)
                return

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if over.is_set():
                    return
            put("end", None)
        except BaseException as error:  # raised again where it is waited for
            put("error", error)

    def taken() -> Iterator[T]:
        while not asked.is_set():
            try:
                kind, value = ready.get(timeout=0.05)
            except queue.Empty:
                continue
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value

    thread = threading.Thread(target=work, name="relprop-read", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _behind(work: Callable[[T], None]) -> Iterator[Callable[[T], None]]:
    """A function that hands on items to another thread, which is done with all of them at the end.

    What has failed is raised at the next item, or at the end.
    """
    waiting: queue.Queue[T | None] = queue.Queue(BEHIND)
    failed: list[BaseException] = []

    def loop() -> None:
        while (item := waiting.get()) is not None:
            if not failed:
                try:
                    work(item)
                except BaseException as error:
                    failed.append(error)

    def put(item: T) -> None:
        if failed:
            raise failed[0]
        waiting.put(item)

    thread = threading.Thread(target=loop, name="relprop-write", daemon=True)
    thread.start()
    try:
        yield put
    finally:
        waiting.put(None)
        thread.join()
    if failed:
        raise failed[0]
