"""PyTorch modules through torchax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from relprop._errors import InputError

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]


def from_torch(module: torch.nn.Module) -> tuple[Callable[..., Any], dict[str, Any]]:
    r"""A PyTorch module as a JAX function and its parameters.

    The module is not changed: torchax runs its own code with JAX underneath.

    Args:
        module: any module that torchax can run, in evaluation mode.

    Returns:
        ``(fn, params)``: `params` maps the names of `module.state_dict()` to JAX arrays, and
        ``fn(params, *args, **kwargs)`` returns what the module returns, with arrays for tensors
        and a dict for the output classes of transformers, as far as it holds tensors.

    Raises:
        InputError: the module is in training mode, so that dropout would be random.
        ImportError: torch or torchax is not installed.

    >>> import jax, torch, relprop  # doctest: +SKIP
    >>> fn, params = relprop.interop.from_torch(torch.nn.Linear(3, 2).eval())  # doctest: +SKIP
    >>> fn(params, jax.numpy.ones((1, 3))).shape  # doctest: +SKIP
    (1, 2)
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("from_torch needs PyTorch: pip install relprop[torch]") from error
    if module.training:
        raise InputError(
            f"{type(module).__name__} is in training mode, where dropout and batch norm depend on "
            "chance and on the batch. Call `module.eval()` first."
        )
    torchax = _torchax()

    class Plain(torch.nn.Module):
        """The module with outputs that are trees of tensors and nothing else."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return _tensors(self.module(*args, **kwargs))

    states, run = torchax.extract_jax(Plain().eval())
    prefix = "module."
    params = {name.removeprefix(prefix): array for name, array in states.items()}

    def fn(params: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return run({prefix + name: array for name, array in params.items()}, args, kwargs)

    return fn, params


def _torchax() -> Any:
    from relprop.interop._torchax_names import restore_names

    try:
        restore_names()
        import torchax  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("from_torch needs torchax: pip install relprop[torch]") from error
    return torchax


def _tensors(output: Any) -> Any:
    """The tensors of an output; caches and other objects in it are left out."""
    import torch  # pyright: ignore[reportMissingImports]

    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        parts = {key: _tensors(value) for key, value in output.items()}
        return {key: value for key, value in parts.items() if value is not None}
    if isinstance(output, (tuple, list)):
        parts = [_tensors(value) for value in output]
        return tuple(value for value in parts if value is not None)
    return None
