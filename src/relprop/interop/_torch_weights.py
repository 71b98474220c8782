"""Weights of a PyTorch module that JAX takes over, so that they are in memory once."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]


def taken_over(
    module: torch.nn.Module,
    tensors: Iterable[tuple[str, torch.Tensor]],
    copied: Callable[[torch.Tensor], jax.Array],
) -> dict[str, jax.Array]:
    """The tensors of a module as arrays; the module is left with their shapes on the meta device.

    Memory is shared where JAX can use it as PyTorch has it, and else copied and freed one by one,
    so that at no time more than one tensor is there twice.

    Args:
        module: the module, which is emptied.
        tensors: its tensors by their names, tied ones once.
        copied: makes an array of a tensor.
    """
    places = _places(module)
    params = {}
    waiting = collections.deque(tensors)
    while waiting:  # which lets go of each tensor in its turn
        name, tensor = waiting.popleft()
        array = _shared(tensor) if _is_shareable(tensor) else copied(tensor)
        # JAX copies later, and all copies together would be a second model.
        params[name] = jax.block_until_ready(array)
        empty = _empty(tensor)
        for held, key in places.get(id(tensor), ()):
            held[key] = empty
    return params


def _places(module: torch.nn.Module) -> dict[int, list[tuple[dict[str, Any], str]]]:
    """By the identity of each tensor, the dictionaries of submodules that hold it, and its keys."""
    import torch  # pyright: ignore[reportMissingImports]

    found: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for submodule in module.modules():
        own = vars(submodule)
        for held in (own["_parameters"], own["_buffers"], own):
            for key, value in held.items():
                if isinstance(value, torch.Tensor):
                    found.setdefault(id(value), []).append((held, key))
    return found


def _shared(tensor: torch.Tensor) -> jax.Array:
    """An array in the memory of a tensor, or a copy where it does not lie as JAX needs it."""
    return jax.dlpack.from_dlpack(tensor.detach())


def _is_shareable(tensor: torch.Tensor) -> bool:
    """Whether JAX has the dtype as it is, and the memory is on a device of its own.

    Whole numbers of 64 bits would come without what makes them 32.
    """
    import torch  # pyright: ignore[reportMissingImports]

    kinds = (torch.float32, torch.bfloat16, torch.float16)
    on_cpu = tensor.device.type == "cpu" and jax.default_backend() == "cpu"
    return on_cpu and tensor.dtype in kinds and tensor.is_contiguous() and tensor.numel() > 0


def _empty(tensor: torch.Tensor) -> torch.Tensor:
    import torch  # pyright: ignore[reportMissingImports]

    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty
