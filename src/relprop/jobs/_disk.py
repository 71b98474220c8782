"""Where a store lies: a folder, in which nothing is ever half written, or another place."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from relprop._errors import InputError, JobError

MANIFEST = "manifest"


class Disk(Protocol):
    """A place for files with names such as ``a/b/c``."""

    def read(self, name: str) -> bytes | None:
        """A file; None if there is none."""
        ...

    def size(self, name: str) -> int:
        """Of a file, in bytes; -1 if there is none."""
        ...

    def names(self, folder: str) -> list[str]:
        """The files in a folder."""
        ...

    def begin(self) -> None:
        """Makes the place."""
        ...

    def clean(self) -> None:
        """Removes what a killed process has left half written."""
        ...

    def make(self, folder: str) -> None:
        """Makes a folder in it."""
        ...

    def write(self, files: Mapping[str, bytes]) -> None:
        """Files that each are whole or not there, whatever happens."""
        ...

    def append(self, name: str, lines: Sequence[bytes]) -> None:
        """Lines at the end of a list of lines, each whole or not there."""
        ...

    def lines(self) -> Iterator[bytes]:
        """All lines of all lists."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file that may not be there."""
        ...

    def locked(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Refuses another process that holds the same lock."""
        ...


def disk_of(place: str | Path, process: int = 0) -> Disk:
    """A folder, or anything that fsspec knows, such as ``s3://bucket/name``."""
    if isinstance(place, str) and "://" in place:
        return Remote(place)
    return Folder(Path(place), process)


class Folder:
    """A folder of this machine: files are written beside their place, synced and renamed."""

    def __init__(self, root: Path, process: int = 0):
        self.root = root
        self._part = f".{process}{_UNFINISHED}"

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self, name: str) -> int:
        try:
            return (self.root / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return -1

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def begin(self) -> None:
        with self._said():
            (self.root / MANIFEST).mkdir(parents=True, exist_ok=True)

    def clean(self) -> None:
        for path in self.root.rglob(f".*{self._part}"):
            path.unlink(missing_ok=True)

    def make(self, folder: str) -> None:
        # One after the other: with its parents, a store that was removed would come back, empty.
        path = self.root
        with self._said():
            for part in Path(folder).parts:
                path = path / part
                path.mkdir(exist_ok=True)

    def write(self, files: Mapping[str, bytes]) -> None:
        # Each is renamed only when all of them are on the disk: renaming is what costs little.
        paths = {self.root / name: data for name, data in files.items()}
        parts = {path: path.with_name(f".{path.name}{self._part}") for path in paths}
        with self._said():
            try:
                for path, data in paths.items():
                    _write(parts[path], data)
                # One after the other is on the disk by the time that the first is.
                for part in parts.values():
                    _sync(part, os.O_RDWR)
                for path, part in parts.items():
                    part.replace(path)
            except BaseException:
                for part in parts.values():
                    with contextlib.suppress(OSError):
                        part.unlink(missing_ok=True)
                raise
            for folder in {path.parent for path in paths}:
                _sync(folder)

    def append(self, name: str, lines: Sequence[bytes]) -> None:
        path = self.root / MANIFEST / name
        with self._said(), open(path, "r+b" if path.exists() else "xb") as file:
            file.seek(_whole(path))
            file.truncate()  # what a killed process has written of a line
            before = file.tell()
            try:
                file.write(b"".join(line + b"\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise

    def lines(self) -> Iterator[bytes]:
        for name in _lists(self.names(MANIFEST)):
            data = self.read(f"{MANIFEST}/{name}") or b""
            yield from data[: data.rfind(b"\n") + 1].splitlines()

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.root / name).unlink()

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows: whoever is second writes the same bytes
            yield
            return
        with self._said():
            handle = os.open(self.root / MANIFEST / f".lock-{name}", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise JobError(
                    f"Another process is writing to {self.root}. Wait for its end, or give this "
                    "job another `out`."
                ) from error
            yield
        finally:
            os.close(handle)  # which unlocks it, as the end of the process does

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """What goes wrong with the folder, as an error that says how to go on."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                what = f"There is no space left for {self.root}: free some, and"
            elif error.errno == errno.ENOENT or not self.root.is_dir():
                what = f"The folder {self.root} is gone, or cannot be made: put it back, and"
            else:
                what = f"Cannot write to {self.root} ({error.strerror or error}): mend that, and"
            raise JobError(f"{what} run the same again to go on.") from error


class Remote:
    """A place of fsspec, such as an object store, whose objects are whole or not there."""

    def __init__(self, url: str):
        try:
            import fsspec
        except ImportError as error:
            raise ImportError(
                f"{url} needs fsspec and the package for its protocol: pip install fsspec"
            ) from error
        self.url = url
        self.fs, self.root = fsspec.core.url_to_fs(url)

    def __str__(self) -> str:
        return self.url

    def read(self, name: str) -> bytes | None:
        try:
            return self.fs.cat_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int:
        try:
            return int(self.fs.info(f"{self.root}/{name}")["size"])
        except FileNotFoundError:
            return -1

    def names(self, folder: str) -> list[str]:
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(f"{self.root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def begin(self) -> None:
        pass

    def clean(self) -> None:
        pass

    def make(self, folder: str) -> None:
        pass

    def write(self, files: Mapping[str, bytes]) -> None:
        with self._said():
            for name, data in files.items():
                self.fs.pipe_file(f"{self.root}/{name}", data)

    def append(self, name: str, lines: Sequence[bytes]) -> None:
        # Objects have no end to write at: each line is one, named so that they sort as written.
        stem = name.partition(".")[0]
        found = (name.split(".") for name in _lists(self.names(MANIFEST)))
        # Not how many there are: one that was taken out must not make another be overwritten.
        numbers = [int(parts[1]) for parts in found if parts[0] == stem and parts[1].isdigit()]
        text = b"".join(line + b"\n" for line in lines)
        self.write({f"{MANIFEST}/{stem}.{max(numbers, default=-1) + 1:012d}.jsonl": text})

    def lines(self) -> Iterator[bytes]:
        for name in _lists(self.names(MANIFEST)):
            yield from (self.read(f"{MANIFEST}/{name}") or b"").splitlines()

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{name}")

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        yield  # whoever else writes there writes the same bytes

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JobError(
                f"Cannot write to {self.url} ({error}): mend that, and run the same again to go on."
            ) from error


#: How the name of a file ends that is being written.
_UNFINISHED = ".part"


def _lists(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".jsonl")]


def check_place(disk: Disk, header: str) -> None:
    """Whether a place is empty, or holds a store.

    Raises:
        InputError: it holds something else.
    """
    # Another process may be about to write the header.
    held = [n for n in disk.names("") if n != MANIFEST and not n.endswith(_UNFINISHED)]
    if held and header not in held:
        raise InputError(
            f"{disk} holds something else than a store of relprop ({', '.join(held[:5])}): name a "
            "folder that is new or empty."
        )


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _sync(path: Path, flags: int = os.O_RDONLY) -> None:
    """Makes sure of what a file holds, or of names in a folder, after a crash of the machine."""
    if os.name != "posix" and flags == os.O_RDONLY:
        return  # folders cannot be opened there
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _whole(path: Path, step: int = 4096) -> int:
    """Where the last whole line of a file ends."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - step)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0
