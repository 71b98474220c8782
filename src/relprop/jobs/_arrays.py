"""Arrays as Zarr keeps them: a description, and chunks of compressed bytes.

The bytes are made here and not by `zarr`, which neither syncs files nor commits those of several
arrays together; it reads them as its own.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

LEVEL = 1  # of compression: floating point numbers shrink little, whatever the level
_CRC = 4


def described(shape: tuple[int, ...], chunk: int, dtype: np.dtype) -> bytes:
    """The ``zarr.json`` of an array that is cut along its first axis.

    Args:
        shape: of the array.
        chunk: how many rows a chunk has.
        dtype: of its numbers.
    """
    chunks = (chunk, *(max(1, size) for size in shape[1:]))
    return _json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": _stored_fill(dtype),
            "codecs": [
                {
                    "name": "bytes",
                    **({"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}),
                },
                {"name": "zstd", "configuration": {"level": LEVEL, "checksum": False}},
                {"name": "crc32c"},
            ],
            "attributes": {},
        }
    )


def group(attributes: dict[str, Any]) -> bytes:
    """The ``zarr.json`` of a group."""
    return _json({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def chunk_name(number: int, axes: int) -> str:
    """The file of a chunk."""
    return ".".join(["c", str(number), *["0"] * (axes - 1)])


def packed(array: np.ndarray) -> bytes:
    """A chunk as a file: little endian, compressed, with a checksum."""
    import google_crc32c
    from numcodecs.zstd import Zstd

    plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    data = bytes(Zstd(level=LEVEL).encode(plain))
    return data + google_crc32c.value(data).to_bytes(_CRC, "little")


def unpacked(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The chunk of a file.

    Raises:
        ValueError: it is not whole.
    """
    import google_crc32c
    from numcodecs.zstd import Zstd

    body, told = data[:-_CRC], int.from_bytes(data[-_CRC:], "little")
    if len(data) <= _CRC or google_crc32c.value(body) != told:
        raise ValueError("its checksum is wrong")
    plain = np.frombuffer(Zstd().decode(body), dtype.newbyteorder("<"))
    return plain.reshape(shape).astype(dtype, copy=False)


def filled(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Rows for samples that have none: NaN; of integers -1 or 0."""
    return np.full(shape, _fill(dtype), dtype)


def _fill(dtype: np.dtype) -> Any:
    if dtype.kind in "fc":
        return np.nan
    return -1 if dtype.kind == "i" else 0


def _stored_fill(dtype: np.dtype) -> Any:
    if dtype.kind == "b":
        return False
    return {"f": "NaN", "c": ["NaN", "NaN"]}.get(dtype.kind, _fill(dtype))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
