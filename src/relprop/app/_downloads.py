"""Files for one visitor, in a folder that goes when the visitor does."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Downloads:
    """A folder of files to be downloaded; each visitor of the page has one.

    A copy, which Gradio makes for each visitor, is a new and empty folder.

    >>> files = Downloads()
    >>> files.write("page.html", b"<p>").read_bytes()
    b'<p>'
    >>> files.remove()
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __deepcopy__(self, memo: Any) -> Downloads:
        return Downloads()

    def write(self, name: str, data: bytes) -> Path:
        """A file of that name, in place of an earlier one."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="relprop-app-")
        path = Path(self._folder.name) / name
        path.write_bytes(data)
        return path

    def arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
        """A file of arrays by name, as `numpy.load` reads it."""
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **dict(arrays))
        return self.write(name, file.getvalue())

    def remove(self) -> None:
        """Removes the folder."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
