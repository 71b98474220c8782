"""Which differences are no mistake, and why.

A row says that some spellings of a piece are another network to their author than the reference
is, under some rules. `test_sample` fails where a row is not needed: where all the pairs that it
names are equal under one of its rules.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .networks import Network


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of difference.

    Attributes:
        piece: name of the piece, or a glob.
        spelling: name of the spelling, or a glob; several are separated by a bar.
        explainers: the rules and presets under which it makes a difference.
        reason: why the two are not one network there.
    """

    piece: str
    spelling: str
    explainers: tuple[str, ...]
    reason: str

    @property
    def id(self) -> str:
        return f"{self.piece}: {self.spelling}"

    def matches(self, network: Network, explainer: str) -> bool:
        """Whether the row is about a network under an explainer."""
        return (
            explainer in self.explainers
            and _any(network.piece, self.piece)
            and _any(network.spelling, self.spelling)
        )


def _any(name: str, patterns: str) -> bool:
    return any(_glob(name, pattern.strip()) for pattern in patterns.split(" | "))


def _glob(name: str, pattern: str) -> bool:
    # Names hold brackets that mean themselves.
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


DIFFERENCES: tuple[Row, ...] = ()
REFUSALS: tuple[Row, ...] = ()
