"""Weights in files, each of which is read when it is asked for, into memory of its own.

transformers maps files into memory instead. There the weights lie as JAX cannot use them, and stay
until the last of them is gone: beside the copies that JAX makes, the whole model a second time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Stored:
    """A tensor in a safetensors file, for those who take tensors and index them by ``[...]``.

    Args:
        file: where it is.
        begin: its first byte.
        shape: its shape.
        dtype: its dtype, of torch.
    """

    def __init__(self, file: Path, begin: int, shape: Iterable[int], dtype: Any) -> None:
        self._file, self._begin = file, begin
        self._shape, self.dtype = tuple(shape), dtype

    def __getitem__(self, index: Any) -> Any:
        import torch  # pyright: ignore[reportMissingImports]

        whole = torch.empty(self._shape, dtype=self.dtype)
        if whole.numel():
            numbers: Any = whole.reshape(-1).view(torch.uint8).numpy()
            with self._file.open("rb") as opened:
                opened.seek(self._begin)
                count = opened.readinto(numbers)
            if count != numbers.nbytes:
                raise OSError(f"{self._file} ends in the middle of a tensor.")
        return whole[index]

    def is_floating_point(self) -> bool:
        """As torch's own."""
        return self.dtype.is_floating_point


def stored(files: Iterable[Path]) -> dict[str, Stored]:
    """The tensors in some safetensors files by their names; those of later files win."""
    import safetensors

    found = {}
    for file in files:
        begin, header = _header(file)
        with safetensors.safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dictionary
                # Files are mapped here, and nothing is read.
                mapped = opened.get_tensor(name)
                first, _ = header[name]["data_offsets"]
                found[name] = Stored(file, begin + first, mapped.shape, mapped.dtype)
    return found


def _header(file: Path) -> tuple[int, Mapping[str, Any]]:
    """Where the numbers in a file begin, and what it says of its tensors."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        return 8 + size, json.loads(opened.read(size))
