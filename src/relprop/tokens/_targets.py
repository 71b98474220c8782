"""What of a text's prediction is explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

#: A token by its id or, with a tokenizer, as text.
Token: TypeAlias = int | str


@dataclasses.dataclass(frozen=True)
class Target:
    """What all targets have in common: see `NextToken`, `AtPosition` and the others."""


@dataclasses.dataclass(frozen=True)
class NextToken(Target):
    """The logit of the token that follows.

    Args:
        token: id or text; None for what the model predicts. A sequence has one per sample.
        position: the token after this one; negative positions count from the end of the text.
            Padding does not count. A sequence has one per sample.
    """

    token: Token | Sequence[Token] | None = None
    position: int | Sequence[int] = -1


@dataclasses.dataclass(frozen=True)
class AtPosition(Target):
    """A logit at a position itself: of a masked word, or of a classifier of tokens.

    Args:
        position: as in `NextToken`.
        index: token or class, None for what the model predicts; a sequence has one per sample.
    """

    position: int | Sequence[int]
    index: Token | Sequence[Token] | None = None


@dataclasses.dataclass(frozen=True)
class ClassTarget(Target):
    """The score of a class, of a model that classifies texts.

    Args:
        index: of the class, from 0, or its name; None for the predicted one. A sequence has one
            per sample.
    """

    index: int | str | Sequence[int | str] | None = None


@dataclasses.dataclass(frozen=True)
class Continuation(Target):
    """The logit of each token of a continuation, given all that is before it.

    Args:
        tokens: the continuation as text or ids. A sequence of texts, or of sequences of ids, has
            one per sample, all of the same number of tokens.
        length: instead of that, how many tokens the model is to generate, the most likely one
            each time.
    """

    tokens: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]] | None = None
    length: int | None = None

    def __post_init__(self):
        if (self.tokens is None) == (self.length is None):
            raise ValueError("A continuation has either `tokens` or a `length`.")
        if self.length is not None and self.length < 1:
            raise ValueError(f"`length` must be at least 1, got {self.length}.")
