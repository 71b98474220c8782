"""What a module asks for that a JAX function cannot do, told with its place and its remedy."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import jax

from relprop._errors import InputError

_LIBRARIES = ("torch", "torchax", "jax", "relprop")
_TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@contextlib.contextmanager
def failures_named(module: Any) -> Iterator[None]:
    """Errors of torchax and JAX in between say which line of the module they are from.

    Raises:
        InputError: an operator has no lowering, or shapes or branches depend on what is traced.
    """
    from torchax.tensor import OperatorNotFound  # pyright: ignore[reportMissingImports]

    kind = type(module).__name__
    try:
        yield
    except OperatorNotFound as error:
        raise InputError(
            f"{kind} uses an operator that torchax has no lowering for, {error}\n"
            f"      at {_line(error)}\n"
            "Write that line with other operators, replace the submodule by one that does, or "
            "explain what goes into it; tell the maintainers of relprop, too."
        ) from error
    except _TRACED as error:
        raise InputError(
            f"{kind} has shapes or branches that depend on numbers which are not known while JAX "
            "traces: what is chosen by a mask, `.item()`, `.tolist()`, `if` on a tensor, "
            "`repeat_interleave`, `nonzero`.\n"
            f"      at {_line(error)}\n"
            "Multiply by the mask or use `torch.where` instead of choosing by it; compute what is "
            "no function of the explained input outside and hand it over; or call the function "
            "with the numbers themselves, without `jax.jit` around it."
        ) from error


def _line(error: BaseException) -> str:
    """The innermost line that is in none of the libraries."""
    frames = traceback.extract_tb(error.__traceback__)
    files = (getattr(sys.modules.get(name), "__file__", None) for name in _LIBRARIES)
    inside = tuple(os.path.dirname(file) + os.sep for file in files if file)
    outside = [f for f in frames if not f.filename.startswith(inside)]
    frame = (outside or frames)[-1]
    return f"{frame.filename}:{frame.lineno} ({frame.name})"
