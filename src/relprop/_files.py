"""Files that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` once all of it is written.

    It is written beside `path` under another name. If the process is killed, the disk is full or
    the body raises, what was at `path` before is still there, or nothing.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with replacing(path) as file:
    ...     _ = file.write(b"whole")
    >>> path.read_text(), [found.name for found in path.parent.iterdir()]
    ('whole', ['a.txt'])
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a device or a pipe, as /dev/stdout
        with path.open("wb") as file:
            yield file
        return
    refuse_links([path])
    beside = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.part")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a crash of the machine could leave an empty file
        if path.exists():
            beside.chmod(stat.S_IMODE(path.stat().st_mode))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def refuse_links(paths: Iterable[Path]) -> None:
    """Whether files can be written without a link leading to what nobody has named.

    Raises:
        FileExistsError: there are links; names all of them.
    """
    links = [str(path) for path in paths if path.is_symlink()]
    if links:
        raise FileExistsError(
            f"{', '.join(links)}: a link, which is not followed. Name the file that is meant, or "
            "take the link away."
        )


def replacing_all(files: Mapping[Path, bytes]) -> None:
    """Writes files that belong together: all of them are whole before the first takes its place.

    Raises:
        FileExistsError: at one of the places there is a link.
    """
    refuse_links(files)
    parts = {path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.part"): path for path in files}
    try:
        for part, path in parts.items():
            with part.open("xb") as file:
                file.write(files[path])
                file.flush()
                os.fsync(file.fileno())
        for part, path in parts.items():
            part.replace(path)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text in UTF-8; the file is whole or not there."""
    data = text.encode("utf-8")
    with replacing(path) as file:
        file.write(data)
