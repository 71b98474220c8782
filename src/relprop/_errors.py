"""Every error relprop raises on purpose.

They share one base class, so that ``except relprop.RelpropError`` catches what the library
refuses and nothing else. Each message says which invariant was broken, what was found and what
to do about it. What is only warned about has a category of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RelpropError(Exception):
    """Base class of all errors raised by relprop."""


class InputError(RelpropError, TypeError, ValueError):
    """The function, its arguments or the seed cannot be explained as they are."""


class ForwardError(RelpropError, ValueError):
    """A model of another framework computes something else as a JAX function."""


class MissingRuleError(RelpropError, NotImplementedError):
    """Operations on the path from the inputs to the score have no rule; lists all of them."""


class RuleError(RelpropError, ValueError):
    """A rule cannot be applied where the composite puts it; lists all such places."""


class NothingMatchedError(RelpropError, ValueError):
    """A selection of a composite matched no operation of the function."""


class SuspicionError(RelpropError, ValueError):
    """Places of the function are suspicious, and `on_suspicion="error"`; lists all of them."""


class SuspicionWarning(UserWarning):
    """Places of the function may not mean to relevance what their author meant; lists all."""


class JobError(RelpropError, RuntimeError):
    """A job over a dataset cannot go on; what it has committed is kept, and it can be resumed."""


class UnknownNameError(RelpropError, KeyError, ValueError):
    """A rule, preset, structure or model name is not known; names the near matches."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr of the message.


class ConservationWarning(UserWarning):
    """A rule was made with numbers that do not conserve relevance, as it otherwise would."""


class GrowthWarning(UserWarning):
    """Relevance is far above the score that it is relevance of, so that it means nothing."""


class ClosedOverWarning(UserWarning):
    """A function that is compiled closes over large arrays, which become a part of the program."""


class TiesWarning(UserWarning):
    """Relevance is the same everywhere, so that an order of it is one by chance."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not among the known ones, with the nearest of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return UnknownNameError(f"Unknown {kind} {name!r}. {hint}Known: {', '.join(known)}.")


for _error in (
    RelpropError,
    InputError,
    ForwardError,
    MissingRuleError,
    RuleError,
    NothingMatchedError,
    SuspicionError,
    SuspicionWarning,
    JobError,
    UnknownNameError,
    ConservationWarning,
    GrowthWarning,
    ClosedOverWarning,
    TiesWarning,
):
    _error.__module__ = "relprop"  # tracebacks then show the public name
