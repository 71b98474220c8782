"""What is suspicious about an explanation is told: by a warning, by an error, or not at all.

Suspicious is where the way from the inputs ends, and what reminds of a structure and was not
recognised as one. All that one function has is told at once, when it is traced.
"""

from __future__ import annotations

import collections
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import jax

from relprop._assign import CUT_REMEDY
from relprop._core.cuts import CHOICE, SUMMAND, Grade, Ways
from relprop._core.graph import Equation
from relprop._core.plan import Plan
from relprop._core.trace import Trace
from relprop._errors import InputError, SuspicionError, SuspicionWarning
from relprop.anatomy.suspicion import REMEDIES, suspicions
from relprop.anatomy.wiring import Wiring

_LOST = "what is added has its relevance lost here; `relprop.ledger` says how much"
_SCALES = "it counts as a constant: what it is combined with gets all the relevance"
_RETURNED = "an output that is explained is computed by way of it alone: relevance of it is lost"
_REACHED = "the score does not depend on the explained inputs: their relevance is 0"


class _Place(NamedTuple):
    """One suspicious place, in words."""

    what: str
    source: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"  {self.what}\n      at {self.source}\n      {self.why}."


def check_policy(on_suspicion: str) -> None:
    """Refuses what is no policy."""
    if on_suspicion not in ("warn", "error", "ignore"):
        raise InputError(f"on_suspicion must be 'warn', 'error' or 'ignore', got {on_suspicion!r}.")


def tell(trace: Trace, plan: Plan, outputs: Sequence[bool], on_suspicion: str) -> None:
    """Warns about all that is suspicious in a plan, or refuses it.

    Args:
        trace: the function.
        plan: its plan.
        outputs: per output of the graph, whether it is explained.
        on_suspicion: ``"warn"``, ``"error"`` or ``"ignore"``.

    Raises:
        SuspicionError: something is suspicious, and that is to be an error.
    """
    if on_suspicion == "ignore":
        return
    places = collections.Counter([*_outputs(trace, plan, outputs), *_cuts(plan), *_unknown(plan)])
    if not places:
        return
    lines = [f"{place}" + (f" ({n} times)" if n > 1 else "") for place, n in places.items()]
    remedies = dict.fromkeys(place.remedy for place in places)
    message = (
        f"{len(places)} place(s) may not mean to relevance what they mean to their author:\n"
        + "\n".join(lines)
        + "\nWhat to do: "
        + "; ".join(remedies)
        + '. If all is meant so, `on_suspicion="ignore"` or a filter of warnings keeps quiet.'
    )
    if on_suspicion == "error":
        raise SuspicionError(message)
    _warn(message, next(iter(places)).source)


def _cuts(plan: Plan) -> Iterator[_Place]:
    for body in plan.nested():
        for step in body.steps:
            if step.cut and step.note != CHOICE:
                why = _LOST if step.note == SUMMAND else _SCALES
                yield _cut(step.operation.last, why)


def _cut(equation: Equation, why: str) -> _Place:
    scope = f" in {equation.scope}" if equation.scope else ""
    return _Place(f"cut: {equation.name}{scope}", equation.source, why, f"at a cut, {CUT_REMEDY}")


def _outputs(trace: Trace, plan: Plan, outputs: Sequence[bool]) -> Iterator[_Place]:
    """Outputs that should be explained and cannot be."""
    pairs = zip(plan.graph.outputs, outputs, strict=True)
    explained = [out for out, on in pairs if on and out.inexact]
    constant = [out for out in explained if out not in plan.active]
    if not constant:
        return
    ways = Ways.of(plan, trace.explained_values)
    known = [ways.severed[out] for out in constant if out in ways.severed]
    for equation in dict.fromkeys(e for k in known if k.grade > Grade.CHOSEN for e in k.cuts):
        yield _cut(equation, _RETURNED)
    if constant == explained and not known and not any(out in ways.dependent for out in constant):
        names = ", ".join(trace.names[i] for group in trace.explained for i in group)
        yield _Place("no way", "its arguments", _REACHED, f"check what is made of {names}")


def _unknown(plan: Plan) -> Iterator[_Place]:
    for body in plan.nested():
        for block in suspicions(Wiring(body)):
            yield _Place(block.kind, block.source, block.reason, REMEDIES[block.kind])


def _warn(message: str, source: str) -> None:
    """Warns at a line of the function, once in each module that explains it."""
    frame = _caller()
    where = re.match(r"(.+?):(\d+)", source)
    file, line = where.groups() if where else (frame.f_code.co_filename, frame.f_lineno)
    # What Python itself keeps, so that its filters decide how often a warning is shown.
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    module = frame.f_globals.get("__name__", "<unknown>")
    warnings.warn_explicit(message, SuspicionWarning, file, int(line), module, registry)


_INSIDE = tuple(f"{Path(str(m)).parent}{os.sep}" for m in (__file__, jax.__file__))


def _caller() -> FrameType:
    """The innermost frame that belongs to neither relprop nor JAX."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame = frame.f_back
    return frame
