"""Where samples come from: arrays, sequences, iterators, folders of images, tables."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from relprop._errors import InputError, JobError

#: The endings of files that are images; nothing else in a folder is opened.
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclasses.dataclass(frozen=True)
class Source:
    """Samples in an order that is the same each time.

    Attributes:
        length: how many there are; None for an iterator, which says so at its end.
        items: from which sample on -> for each sample, a function that reads it, and may fail.
        name: number of a sample -> what it is called; None where the number is all.
        check: raises what ends a job, where the source as a whole is gone.
    """

    length: int | None
    items: Callable[[int], Iterator[Callable[[], Any]]]
    name: Callable[[int], str] | None = None
    check: Callable[[], None] = lambda: None


def source_of(source: Any, prepare: Callable[[Any], Any] | None = None) -> Source:
    """A source from what users have.

    Args:
        source: an array, whose first axis is that of the samples; a mapping of names to such
            arrays; anything with a length and an index, such as a list, a dataset of Hugging Face
            or a data source of Grain; an iterable; a folder of images; a parquet file or a folder
            of those.
        prepare: what is made of a sample before it is explained, such as the array of an image.

    Raises:
        InputError: it is none of them, or empty where that can be seen.
    """
    if isinstance(source, Source):
        found = source
    elif isinstance(source, str | Path):
        found = _of_path(Path(source), prepare)
    elif isinstance(source, Mapping):
        found = _of_columns(source)
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        found = _indexed(len(source), source.__getitem__)
    elif isinstance(source, Iterable):
        found = _streamed(source)
    else:
        raise InputError(
            "`source` must be an array, a sequence, an iterable, a mapping of names to arrays, a "
            f"folder of images or a parquet file, got {type(source).__name__}."
        )
    if prepare is None:
        return found

    def items(start: int) -> Iterator[Callable[[], Any]]:
        return (functools.partial(_prepared, prepare, item) for item in found.items(start))

    return dataclasses.replace(found, items=items)


def _prepared(prepare: Callable[[Any], Any], item: Callable[[], Any]) -> Any:
    return prepare(item())


def _indexed(
    length: int, get: Callable[[int], Any], name: Callable[[int], str] | None = None
) -> Source:
    def items(start: int) -> Iterator[Callable[[], Any]]:
        return (functools.partial(get, i) for i in range(start, length))

    return Source(length, items, name)


def _of_columns(columns: Mapping[str, Any]) -> Source:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"All columns of a source must have one length, got {lengths}.")

    def get(i: int) -> dict[str, Any]:
        return {name: column[i] for name, column in columns.items()}

    return _indexed(next(iter(lengths.values())), get)


def _streamed(source: Iterable[Any]) -> Source:
    """An iterable: it must give the same samples each time that a job is gone on with."""

    def items(start: int) -> Iterator[Callable[[], Any]]:
        for sample in itertools.islice(iter(source), start, None):
            yield functools.partial(_itself, sample)

    return Source(None, items)


def _itself(sample: Any) -> Any:
    return sample


def _of_path(path: Path, prepare: Callable[[Any], Any] | None) -> Source:
    if path.is_file() and path.suffix == ".parquet":
        return _of_tables([path])
    if not path.is_dir():
        raise InputError(f"There is no folder of images and no parquet file {str(path)!r}.")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in (*IMAGES, ".parquet"))
    tables = [file for file in files if file.suffix.lower() == ".parquet"]
    if tables and len(tables) < len(files):
        raise InputError(
            f"{path} holds both parquet files and images: name a folder with one kind of them."
        )
    if tables:
        return _of_tables(tables)
    if not files:
        raise InputError(f"There are no images ({', '.join(IMAGES)}) in {path}.")

    def get(i: int) -> Any:
        image = read_image(files[i])
        return image if prepare is not None else _plain(image)

    def check() -> None:
        if not path.is_dir():
            raise JobError(f"The folder of the images, {path}, is not there any more.")

    named = _indexed(len(files), get, lambda i: files[i].relative_to(path).as_posix())
    return dataclasses.replace(named, check=check)


def read_image(file: Path) -> Any:
    """An image of a format that is opened, whole, as Pillow has it; the first frame of several.

    Raises:
        InputError: it is no regular file, as a pipe, for which one would wait forever; or it is
            damaged or too large.
        OSError: it cannot be read.
    """
    from relprop._images import read

    return read(file)


def _plain(image: Any) -> np.ndarray:
    """Grey or RGB from 0 to 1, for functions that say nothing else."""
    from relprop._images import eight_bit

    pixels = np.asarray(eight_bit(image), np.float32) / 255
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _of_tables(files: Sequence[Path]) -> Source:
    """The rows of parquet files, a group of rows in memory at a time."""
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install pyarrow") from error

    opened = [parquet.ParquetFile(file) for file in files]
    groups = [(of, g) for of in opened for g in range(of.num_row_groups)]
    sizes = [of.metadata.row_group(g).num_rows for of, g in groups]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)

    @functools.lru_cache(maxsize=2)
    def rows(group: int) -> list[dict[str, Any]]:
        of, number = groups[group]
        return of.read_row_group(number).to_pylist()

    def get(i: int) -> Any:
        group = int(np.searchsorted(starts, i, side="right")) - 1
        row = rows(group)[i - starts[group]]
        return jax.tree.map(_column, row, is_leaf=lambda x: not isinstance(x, dict))

    return _indexed(int(starts[-1]), get)


def _column(value: Any) -> Any:
    """Numbers of a table as an array; floats as JAX has them."""
    array = np.asarray(value)
    return value if array.dtype.kind in "OSU" else array
