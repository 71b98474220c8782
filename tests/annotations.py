"""What jaxtyping's import hook checks the annotations of relprop with: see conftest."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

# An integer may be a float, and numbers of NumPy are numbers.
CONF = BeartypeConf(
    is_pep484_tower=True,
    hint_overrides=FrozenDict({int: int | np.integer}),
)


def checked(signature: Callable[..., Any]) -> Callable[..., Any]:
    """Checks arguments together with the result, once a function has returned.

    jaxtyping calls two functions that stand for one of relprop: before it, one that has its
    arguments, and after it, one that has the result as well. With the latter alone, what is
    refused by an error of relprop's own needs not be what the annotations say: tests ask for that.
    """
    parameters = inspect.signature(signature).parameters.values()
    has_result = any(p.name.startswith("ret") and p.kind is p.KEYWORD_ONLY for p in parameters)
    return beartype(conf=CONF)(signature) if has_result else signature


# What annotations call that which has a shape, or holds what has one.
SHAPED = ("Array", "PyTree", "Relevance", "Arriving", "Leaving", "LinearMap")


def leave_out_graphs(packages: Sequence[str]) -> None:
    """Functions without arrays in their annotations are not checked, in what has been imported.

    Most of them have no annotations to be checked. The others look at graphs, which takes less time
    than a check, and pyright has seen their types. What users give to rules is checked.
    """
    for name, module in list(sys.modules.items()):
        if any(name == package or name.startswith(f"{package}.") for package in packages):
            for function in _functions(module):
                names = " ".join(map(str, function.__annotations__.values()))
                shaped = any(word in names for word in SHAPED)
                if not shaped and function.__name__ != "__init__":
                    typing.no_type_check(function)


def _functions(module: Any) -> Iterator[Any]:
    """Those of a module and of its classes."""
    for value in vars(module).values():
        if getattr(value, "__module__", None) == module.__name__:
            members = vars(value).values() if inspect.isclass(value) else [value]
            yield from filter(inspect.isfunction, map(_function, members))


def _function(member: Any) -> Any:
    """What a member of a class was made of."""
    for made_of in ("__func__", "func", "fget"):
        member = getattr(member, made_of, member)
    return member
