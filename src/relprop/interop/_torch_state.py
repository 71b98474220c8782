"""What a PyTorch module remembers between calls, which a function must not."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]


_CACHE = type(functools.lru_cache(len))


@contextlib.contextmanager
def forgetful(module: torch.nn.Module) -> Iterator[None]:
    """What is written to the module and its submodules in between is gone afterwards.

    Modules that keep what they have computed (`self.cache["bias"] = ...`) would return it for other
    parameters, too, and what was computed while JAX traced is of no use afterwards. Attributes, and
    what is in dictionaries, lists and sets that are attributes, are as they were.

    What `functools.lru_cache` keeps for functions of its code is dropped, before and afterwards.
    """
    kept = list(_caches(module))
    for cache in kept:
        cache.cache_clear()
    before = [(m, dict(vars(m)), _contents(m)) for m in module.modules()]
    try:
        yield
    finally:
        for submodule, attributes, contents in before:
            own = vars(submodule)
            if own.keys() != attributes.keys() or any(own[k] is not attributes[k] for k in own):
                own.clear()
                own.update(attributes)
            for container, held in contents:
                if not _same(container, held):
                    _refill(container, held)
        for cache in kept:
            cache.cache_clear()


def _caches(module: torch.nn.Module) -> Iterator[Any]:
    """What `functools.lru_cache` has made where the classes of a module are from.

    Decorators of one's own may have it inside.
    """
    classes = {cls for m in module.modules() for cls in type(m).__mro__}
    files = {cls.__module__ for cls in classes if not cls.__module__.startswith("torch.")}
    for namespace in (*classes, *(sys.modules[name] for name in files if name in sys.modules)):
        for value in list(vars(namespace).values()):
            function = isinstance(value, types.FunctionType)
            inside = (value.__closure__ or ()) if function else ()
            yield from (c for c in (value, *map(_content, inside)) if isinstance(c, _CACHE))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # Not there yet.
        return None


def _contents(module: torch.nn.Module) -> list[tuple[Any, Any]]:
    """Its containers, those of torch (parameters, hooks) among them, and copies of them."""
    kinds = (dict, list, set)
    return [(v, v.copy()) for v in vars(module).values() if isinstance(v, kinds)]


def _same(container: Any, held: Any) -> bool:
    """Whether the very same things are in it."""
    if isinstance(container, dict):
        return container.keys() == held.keys() and all(container[k] is held[k] for k in held)
    if isinstance(container, list):
        return len(container) == len(held) and all(map(lambda a, b: a is b, container, held))
    return container == held


def _refill(container: Any, held: Any) -> None:
    container.clear()
    (container.extend if isinstance(container, list) else container.update)(held)
