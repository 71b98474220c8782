"""What a rule has returned: the relevance of each operand, of its shape, or an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from relprop._core.graph import Atom
from relprop._core.plan import Step
from relprop._core.relevance import Relevance
from relprop._errors import RuleError


def checked(
    step: Step, method: str, mask: Sequence[bool], returned: Any
) -> Sequence[Relevance | None]:
    """What a rule has returned for the operands that a mask selects.

    A wrong shape might broadcast later on and become a wrong number that nobody notices. Shapes are
    known while tracing, so that looking at them costs nothing afterwards.

    Raises:
        RuleError: it is not one `Relevance` (or None) per operand, of the shape of that.
    """
    operands = [a for a, on in zip(step.operation.inputs, mask, strict=True) if on]
    problems = [*_problems(operands, returned)]
    if problems:
        expected = ", ".join(f"{a.dtype}{list(a.shape)}" for a in operands)
        raise RuleError(
            f"{step.rule} returned by `{method}` what is no relevance of the operands of "
            f"{step.structure or 'an operation'} ({step.primitive})\n      at {step.source}:\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + f"\nExpected is a sequence with one `relprop.rules.Relevance`, or None, for each of "
            f"{len(operands)} operand(s), whose parts have its shape: {expected}."
        )
    return returned


def _problems(operands: Sequence[Atom], returned: Any) -> Iterator[str]:
    """What is wrong, in words."""
    if not isinstance(returned, Sequence):
        yield f"found {_named(returned)} instead of a sequence"
        return
    if len(returned) != len(operands):
        yield f"found {len(returned)} item(s) for {len(operands)} operand(s)"
        return
    for number, (atom, relevance) in enumerate(zip(operands, returned, strict=True)):
        if relevance is None:
            continue
        if not isinstance(relevance, Relevance):
            yield f"operand {number}: found {_named(relevance)} instead of a Relevance"
            continue
        for name in ("share", "multiplier"):
            part = getattr(relevance, name)
            if part is not None and not _fits(part, atom):
                yield (
                    f"operand {number}: expected a {name} of shape {tuple(atom.shape)} and of real "
                    f"numbers, found {_named(part)}"
                )


def _fits(part: Any, atom: Atom) -> bool:
    """Whether it is an array of real numbers, or complex ones for such, of the shape of a value."""
    if np.shape(part) != tuple(atom.shape):
        return False
    try:
        dtype = jnp.result_type(part)
    except TypeError:
        return False
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    return jnp.issubdtype(dtype, jnp.inexact) and (
        not is_complex or jnp.issubdtype(atom.dtype, jnp.complexfloating)
    )


def _named(value: Any) -> str:
    """An array by its type and shape, anything else by its type."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return f"{type(value).__name__}"
