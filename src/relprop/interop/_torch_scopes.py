"""Named scopes for the submodules of a PyTorch module, by its own hooks."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]


@contextlib.contextmanager
def module_scopes(module: torch.nn.Module) -> Iterator[None]:
    """While this is open, what a submodule computes is in the scope of its path.

    The path is that of the attributes: ``encoder/layer/0/output``. A scope is used once: where a
    module is called again in the same place, the calls are ``name``, ``name#1``, ``name#2``. The
    hooks are gone afterwards.
    """
    calls = _OpenCalls()
    with contextlib.ExitStack() as hooks:
        hooks.callback(calls.close)
        for path, submodule in module.named_modules():
            if not path:
                continue  # What the module itself computes needs no name.
            enter = submodule.register_forward_pre_hook(calls.enter(path), prepend=True)
            leave = submodule.register_forward_hook(calls.leave, always_call=True)
            hooks.callback(enter.remove)
            hooks.callback(leave.remove)
        yield


class _OpenCalls:
    """The calls of submodules that have not returned, from the outermost to the innermost."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str, Any]] = []
        self._count: collections.Counter[str] = collections.Counter()

    def enter(self, path: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: Any) -> None:
            above, prefix, _ = self._open[-1] if self._open else ("", "", None)
            # Lists of modules are never called: their part of the path comes with their members'.
            # A module that is called from elsewhere than its owner keeps its whole path.
            name = path.removeprefix(f"{above}.").replace(".", "/")
            scope = f"{prefix}/{name}"
            repeats = self._count[scope]
            self._count[scope] += 1
            if repeats:
                name, scope = f"{name}#{repeats}", f"{scope}#{repeats}"
            context = jax.named_scope(name)
            context.__enter__()
            self._open.append((path, scope, context))

        return hook

    def leave(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        _, _, context = self._open.pop()
        context.__exit__(None, None, None)

    def close(self) -> None:
        """Leaves what an interrupted run has left open."""
        while self._open:
            self.leave(None, None, None)  # type: ignore[arg-type]
