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
        _check_length(self.length)


@dataclasses.dataclass(frozen=True)
class Span(Target):
    r"""A span of tokens as one: the sum of their logits, given all that is before each.

    .. math:: \sum_k w_k z_{p_k - 1, v_k}

    for tokens :math:`v_k` at positions :math:`p_k`, in one pass, however many there are.

    Args:
        tokens: a continuation of the text, as in `Continuation`.
        length: instead of that, how many tokens the model is to generate.
        within: instead of that, a part of the text itself: its first position and that after its
            last, for all samples of a batch.
        of: ``"logit"``, or ``"log_probability"``, whose sum is that of the span.
        weights: of the tokens, one each, or such a row per sample; by default 1.
    """

    tokens: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]] | None = None
    length: int | None = None
    within: tuple[int, int] | None = None
    of: str = "logit"
    weights: Sequence[float] | Sequence[Sequence[float]] | None = None

    def __post_init__(self):
        if sum(x is not None for x in (self.tokens, self.length, self.within)) != 1:
            raise ValueError("A span has either `tokens`, a `length` or is `within` the text.")
        _check_length(self.length)
        if self.within is not None and not self.within[0] < self.within[1]:
            raise ValueError(f"`within` must have a token or more, got {self.within}.")
        if self.of not in ("logit", "log_probability"):
            raise ValueError(f'`of` must be "logit" or "log_probability", got {self.of!r}.')


def _check_length(length: int | None) -> None:
    if length is not None and length < 1:
        raise ValueError(f"`length` must be at least 1, got {length}.")
