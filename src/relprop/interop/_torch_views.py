"""Tensors of torchax whose views are views, as in PyTorch: what is written to one is in all.

torchax copies, except where a tensor is indexed, so that ``y.view(-1).add_(1)`` leaves y as it was.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.utils._mode_utils as mode_utils  # pyright: ignore[reportMissingImports]

from relprop.interop._torchax_names import restore_names

restore_names()  # Before torchax is imported.

import torchax.tensor  # noqa: E402  # pyright: ignore[reportMissingImports]
from torchax.view import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    NarrowInfo,
    View,
)


class Layout(NamedTuple):
    """Where the entries of a tensor are among those of the one that it is a view of."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Layout:
        return cls(tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    @property
    def places(self) -> np.ndarray:
        """One number for each entry."""
        places = np.full(self.shape, self.offset)
        for axis, (count, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            steps = stride * np.arange(count)
            places = places + steps.reshape([-1 if at == axis else 1 for at in range(places.ndim)])
        return places


class Shared:
    """The entries of a tensor and its views.

    A write is only noted. Who is read afterwards, and was not the writer, reads them.
    """

    def __init__(self, array: jax.Array):
        self.size = array.size
        self._array = array.reshape(-1)
        self._noted: list[tuple[Layout, jax.Array]] = []
        self._written: list[Layout] = []

    @property
    def writes(self) -> int:
        """How many there have been."""
        return len(self._written)

    def touched(self, layout: Layout, since: int) -> bool:
        """Whether one of the writes after the first so many is to entries of a view."""
        places = layout.places
        return any(np.isin(written.places, places).any() for written in self._written[since:])

    def write(self, layout: Layout, array: jax.Array) -> None:
        if array.size > self.size or len(np.unique(layout.places)) < array.size:
            raise NotImplementedError(
                f"A view of shape {layout.shape} is written to that has some entries of its tensor "
                "more than once (unfold, expand). Write to the tensor itself, or to a clone."
            )
        self._noted.append((layout, array))
        self._written.append(layout)

    def read(self, layout: Layout) -> jax.Array:
        for written, array in self._noted:
            values = array.astype(self._array.dtype)
            if array.size == self.size and written.places.ravel().tolist() == [*range(self.size)]:
                self._array = values.reshape(-1)
            else:
                self._array = self._array.at[written.places].set(values)
        self._noted = []
        return self._array[layout.places]


class Tensor(torchax.tensor.Tensor):
    """A tensor of torchax that knows what it shares its entries with, if it does."""

    _shared: Shared | None = None
    _layout: Layout | None = None
    _seen = 0
    _own: jax.Array

    @property
    def _elem(self) -> jax.Array:
        shared = self._shared
        if shared is not None and self._seen < shared.writes:
            assert self._layout is not None
            if shared.touched(self._layout, self._seen):
                self._own = shared.read(self._layout)
            self._seen = shared.writes
        return self._own

    @_elem.setter
    def _elem(self, array: jax.Array) -> None:
        self._own = array
        shared = self._shared
        if shared is None:
            return
        assert self._layout is not None
        if array.shape == self._layout.shape:
            shared.write(self._layout, array)
            self._seen = shared.writes
        else:
            self._shared = self._layout = None  # squeeze_ and its like make another tensor of it.

    def share(self) -> tuple[Shared, Layout]:
        """What it shares, from now on."""
        if self._shared is None:
            array = self._elem
            self._shared, self._seen = Shared(array), 0
            self._layout = Layout.of(torch.empty(array.shape, device="meta"))
        assert self._layout is not None
        return self._shared, self._layout

    def become(self, shared: Shared, layout: Layout) -> None:
        """From now on it is a view."""
        self._shared, self._layout, self._seen = shared, layout, shared.writes

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Any:
        """As PyTorch's, by way of the environment; torchax's own copies."""
        operator = torch.ops.aten.flatten.using_ints
        return self._env.dispatch(operator, (), (self, start_dim, end_dim), {})

    def contiguous(self, memory_format: Any = torch.contiguous_format) -> Any:
        """Itself, or a copy if its entries are not one after the other."""
        if self._shared is None or self._layout is None:
            return self
        whole = _shadow(self._shared, self._layout).is_contiguous()
        return self if whole else self._env.j2t_iso(self._elem)


def views_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Makes the results of an operator that only looks at its first argument views of that."""
    found = result if isinstance(result, (tuple, list)) else [result]
    if not args or not all(type(one) is Tensor for one in found):
        return
    source = _source(args[0])
    if source is None or any(one is source[0] for one in found):
        return
    origin, steps = source
    with mode_utils.no_dispatch(), torch._C.DisableTorchFunction():
        try:
            shared, layout = origin.share()
            shadow = _shadow(shared, layout)
            for step in steps:
                shadow = shadow[step]
            shadows = func(shadow, *args[1:], **kwargs)
        except Exception:
            return  # PyTorch would have copied: what is asked for is not a view of such a tensor.
        shadows = shadows if isinstance(shadows, (tuple, list)) else [shadows]
        for one, seen in zip(found, shadows, strict=True):
            same = seen.untyped_storage()._cdata == shadow.untyped_storage()._cdata
            if same and tuple(one.shape) == tuple(seen.shape):
                one.become(shared, Layout.of(seen))


def _source(tensor: Any) -> tuple[Tensor, list[Any]] | None:
    """The tensor that one is a view of by indices, and these."""
    steps: list[Any] = []
    while isinstance(tensor, View):
        if not isinstance(tensor.view_info, NarrowInfo):
            return None
        steps.insert(0, tensor.view_info.slices)
        tensor = tensor.parent
    return (tensor, steps) if type(tensor) is Tensor else None


def _shadow(shared: Shared, layout: Layout) -> torch.Tensor:
    """A tensor without entries, laid out the same."""
    return torch.empty(shared.size, device="meta").as_strided(*layout)


def is_view(func: Any) -> bool:
    """Whether an operator gives a view, by what PyTorch says of it."""
    if not isinstance(func, torch._ops.OpOverload) or func._schema.is_mutable:
        return False
    aliases = [value.alias_info for value in func._schema.returns]
    return bool(aliases) and all(alias is not None for alias in aliases)
