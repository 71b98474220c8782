"""The numbers that rules are made with: checked, compared by value, and leaves of a pytree."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from relprop import _compat

#: A parameter as it may be given: one number, an array of them, or one that is being traced.
Number = float | Array | np.ndarray | np.number

#: Arrays of so few entries print as they are written.
SHORT = 8


class Parameters:
    """Base of frozen dataclasses whose fields may be numbers, arrays, or not known yet.

    Comparison, hash and text are those of a dataclass, but that arrays are compared by their
    content, and print as what they are in short; one that is being traced equals itself alone.

    Registered with `jax.tree_util.register_pytree_with_keys_class`, such a class is a pytree whose
    leaves are the fields annotated as a `Number`, ``float`` or an array; all others are part of its
    structure.
    ``metadata={"static": True}`` keeps a field from being a leaf.
    """

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        # `dataclass` leaves alone what a class has got already.
        for name in ("__eq__", "__hash__", "__repr__"):
            if name not in cls.__dict__:
                setattr(cls, name, Parameters.__dict__[name])

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _key(self) == _key(other)

    def __hash__(self) -> int:
        return hash(_key(self))

    def __repr__(self) -> str:
        shown = (f"{f.name}={text(getattr(self, f.name))}" for f in _fields(type(self)) if f.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def tree_flatten(self) -> tuple[list[Any], tuple[Any, ...]]:
        """The leaves, and all that is none."""
        leaves, rest = _split(type(self))
        return [getattr(self, n) for n in leaves], tuple(getattr(self, n) for n in rest)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        """The same, the leaves with their names."""
        leaves, rest = self.tree_flatten()
        names = map(jtu.GetAttrKey, _split(type(self))[0])
        return list(zip(names, leaves, strict=True)), rest

    @classmethod
    def tree_unflatten(cls, rest: Sequence[Any], leaves: Sequence[Any]) -> Any:
        """A value again. JAX puts all kinds of things in place of leaves: nothing is checked."""
        made = object.__new__(cls)
        names = _split(cls)
        for name, value in (*zip(names[0], leaves, strict=True), *zip(names[1], rest, strict=True)):
            object.__setattr__(made, name, value)
        return made


def _fields(kind: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()


@functools.cache
def _split(kind: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the fields that are leaves, and of those that are not."""
    leaves = [f.name for f in _fields(kind) if _is_leaf(f)]
    return tuple(leaves), tuple(f.name for f in _fields(kind) if f.name not in leaves)


def _is_leaf(field: dataclasses.Field) -> bool:
    if not field.init or field.metadata.get("static"):
        return False
    return re.search(r"\b(Number|float|Array|ArrayLike)\b", str(field.type)) is not None


def _key(value: Parameters) -> tuple[Hashable, ...]:
    return tuple(_comparable(getattr(value, f.name)) for f in _fields(type(value)) if f.compare)


def _comparable(value: Any) -> Hashable:
    if not is_array(value):
        return value
    array = known(value)
    if array is None:
        return "traced", id(value)
    return str(array.dtype), array.shape, array.tobytes()


def is_array(value: Any) -> bool:
    """Whether it is an array with a type of its own, which Python's numbers have not."""
    return isinstance(value, (jax.Array, np.ndarray, np.generic))


def known(value: Any) -> np.ndarray | None:
    """A number or array by its value.

    None while a function around is being traced; where not all of it is on this machine; and of
    random keys, which are no numbers.
    """
    if isinstance(value, jax.Array):
        here = not _compat.is_traced(value) and value.is_fully_addressable
        if not here or jnp.issubdtype(value.dtype, jax.dtypes.extended):
            return None
    return np.asarray(value)


def text(value: Any) -> str:
    """A parameter as it prints: long arrays by type, shape and range.

    >>> text(0.5), text(np.array([0.0, 1.0])), text(np.ones((3, 4), np.float32))
    ('0.5', '(0.0, 1.0)', 'float32[3, 4] from 1 to 1')
    """
    if not is_array(value) or _compat.is_traced(value):
        return repr(value)
    array = known(value)
    if array is None:
        return f"{value.dtype}{list(value.shape)}"
    if array.ndim == 0:
        return str(array)
    if array.ndim == 1 and 0 < array.size <= SHORT:
        return repr(tuple(array.tolist()))
    short = f"{array.dtype}{list(array.shape)}"
    if not array.size:
        return short
    return f"{short} from {array.min():.4g} to {array.max():.4g}"


def check_number(name: str, value: Any, least: float = 0.0) -> None:
    """Refuses what is no finite number from `least`, or array of such, as far as it is known.

    Raises:
        ValueError: says what is allowed.
    """
    if isinstance(value, (int, float)) or is_array(value):
        array = known(value)
        if array is None or (_is_real(array) and np.all(np.isfinite(array) & (array >= least))):
            return
    wanted = "a finite number" + (f" from {least:g}" if least > -np.inf else "")
    raise ValueError(f"{name} must be {wanted}, got {text(value)}.")


def _is_real(array: np.ndarray) -> bool:
    kinds = jnp.floating, jnp.integer, jnp.bool
    return any(jnp.issubdtype(array.dtype, kind) for kind in kinds)


def is_zero(value: Any) -> bool:
    """Whether a number is known to be zero."""
    array = known(value)
    return array is not None and bool(np.all(array == 0))


def number(value: Any, like: Array) -> Any:
    """A parameter as it is combined with an array: one that is an array takes its precision."""
    return jnp.asarray(value, jnp.finfo(like.dtype).dtype) if is_array(value) else value
