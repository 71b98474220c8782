"""Values as JSON with arrays beside it, and back: known kinds only, so that nothing is run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop._core.graph import Value
from relprop._errors import InputError
from relprop.saving import _kinds

#: Dtypes that safetensors writes for numpy; others are kept as their bytes.
_PLAIN = frozenset(
    "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64".split()
)
_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_SEQUENCES: Mapping[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}


@dataclasses.dataclass(frozen=True)
class Printed:
    """Something that can be shown and no more: a function or a rule of somebody's own, as text."""

    text: str

    def __repr__(self) -> str:
        return self.text


class Encoder:
    """Takes values apart, and gathers their arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._unknown: list[str] = []

    def encode(self, value: Any) -> Any:
        """A value as JSON.

        Raises:
            InputError: parts of it are of kinds that cannot be saved; lists all of them.
        """
        found = self._of(value, "result")
        if self._unknown:
            raise InputError(
                f"{len(self._unknown)} part(s) cannot be saved:\n  "
                + "\n  ".join(self._unknown)
                + "\nArrays, numbers, texts, dicts, lists and tuples of them can, and the results "
                "of relprop: make dicts of other containers first."
            )
        return found

    def _of(self, value: Any, where: str) -> Any:
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            return self._array(value, where)
        if type(value) is list:
            return [self._of(part, f"{where}[{i}]") for i, part in enumerate(value)]
        if type(value) in (tuple, set, frozenset):
            parts = value if isinstance(value, tuple) else sorted(value, key=repr)
            entries = [self._of(part, f"{where}[{i}]") for i, part in enumerate(parts)]
            return {type(value).__name__: entries}
        if type(value) is dict or type(value).__name__ == "mappingproxy":
            pairs = [[self._of(k, where), self._of(v, f"{where}[{k!r}]")] for k, v in value.items()]
            return {"dict": pairs}
        if value is ...:
            return {"printed": "Ellipsis"}
        return self._object(value, where)

    def _object(self, value: Any, where: str) -> Any:
        if isinstance(value, Value):  # of the traced function, which is not saved
            return None
        name = _kinds.name_of(value)
        if name is not None:
            fields = _kinds.state(value)
            return {"kind": name, "fields": {k: self._of(v, f"{where}.{k}") for k, v in fields}}
        if isinstance(value, Printed) or callable(value) or _kinds.is_rule(value):
            return {"printed": repr(value)}
        self._unknown.append(f"{where}: {type(value).__module__}.{type(value).__qualname__}")
        return None

    def _array(self, value: Any, where: str) -> Any:
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended):
            self._unknown.append(f"{where}: random keys (take jax.random.key_data)")
            return None
        array = np.asarray(value)
        if array.dtype.kind in "OSUMm":
            self._unknown.append(f"{where}: an array of {array.dtype}")
            return None
        name = f"{len(self.arrays)}:{where}"
        found: dict[str, Any] = {"array": name}
        if array.dtype.name not in _PLAIN:
            found |= {"dtype": array.dtype.name, "shape": list(array.shape)}
            array = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self.arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
        return found


def decode(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The value that was taken apart.

    Raises:
        InputError: it is damaged, or of a kind that this relprop does not know.
    """
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, list):
        return [decode(part, arrays) for part in tree]
    kind = next(iter(tree), "")
    if kind == "float":
        return _FLOATS[tree["float"]]
    if kind == "array":
        return _array(tree, arrays)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](decode(part, arrays) for part in tree[kind])
    if kind == "dict":
        return {decode(key, arrays): decode(value, arrays) for key, value in tree["dict"]}
    if kind == "printed":
        return ... if tree["printed"] == "Ellipsis" else Printed(str(tree["printed"]))
    if kind == "kind":
        fields = {str(name): decode(part, arrays) for name, part in tree["fields"].items()}
        return _kinds.made(tree["kind"], fields)
    raise InputError(f"there is no kind of value {kind!r}")


def _array(tree: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    array = arrays[tree["array"]]
    if "dtype" not in tree:
        return array
    dtype = np.dtype(getattr(jnp, tree["dtype"]))  # also those that numpy does not know
    return np.frombuffer(array.tobytes(), dtype).reshape(tree["shape"])
