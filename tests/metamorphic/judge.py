"""Whether two ways of writing a network get the same relevance."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

import relprop

from ..uncompiled import evaluated, unchecked
from .explainers import ATTRIBUTION, EXPLAINERS, RULES, attribution
from .grammar import PIECES
from .inherent import DIFFERENCES, REFUSALS, Row
from .networks import Network
from .subject import Subject
from .unsettled import is_unsettled

VALUES, RELEVANCE = 1e-8, 1e-6


@dataclasses.dataclass(frozen=True)
class Refused:
    """An error in the place of relevance."""

    error: str
    message: str
    deliberate: bool

    def __str__(self) -> str:
        return f"{self.error}: {self.message}"


Outcome = np.ndarray | Refused


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How one way of writing a network compares with the reference.

    Attributes:
        network: the way of writing it.
        explainer: name of what was compared.
        size: largest difference relative to the largest entry of both; infinite for NaN, for other
            shapes and for crashes.
        refused: the error, if there was one in place of relevance.
        row: what is said about it in `inherent`, if anything is.
    """

    network: Network
    explainer: str
    size: float
    refused: Refused | None
    row: Row | None

    @property
    def equal(self) -> bool:
        return self.size <= RELEVANCE and self.refused is None

    @property
    def fails(self) -> bool:
        return not self.equal and self.row is None and not self.unsettled

    @property
    def unsettled(self) -> bool:
        return is_unsettled(self.network.piece, self.network.spelling, self.explainer)

    def __str__(self) -> str:
        what = str(self.refused) if self.refused else f"{self.size:.2g}"
        return f"{self.explainer:24} {what[:110]:12}  {self.network}"


class Judge:
    """Compares networks with their references, each of which is explained once."""

    def __init__(self, explainers: Sequence[str] = EXPLAINERS):
        self.explainers = tuple(explainers)
        self.references: dict[Network, tuple[float, dict[str, Outcome]]] = {}

    def __call__(self, network: Network) -> list[Verdict]:
        """A verdict for each explainer.

        Raises:
            AssertionError: the network has not the value of its reference: not a mistake of
                relprop but of whoever wrote the spelling.
        """
        attention = PIECES[network.piece].attention
        names = [name for name in self.explainers if attention or name != ATTRIBUTION]
        reference = network.reference
        if reference not in self.references:
            self.references[reference] = outcome(reference, names)
        (wanted, outcomes), (got, found) = self.references[reference], outcome(network, names)
        assert abs(got - wanted) <= VALUES * max(1.0, abs(wanted)), (
            f"{network} has the value {got!r}, not {wanted!r}: it is another function."
        )
        return [compared(network, name, found[name], outcomes[name]) for name in names]

    def all(self, networks: Iterable[Network]) -> Iterator[Verdict]:
        """The verdicts of all networks."""
        for network in networks:
            yield from self(network)


def outcome(network: Network, explainers: Sequence[str]) -> tuple[float, dict[str, Outcome]]:
    """The score, and under each explainer the relevance or the error in its place."""
    with quiet():
        f, args = network.function(), network.arguments
        subject = Subject(f, args)
        score, outcomes = subject.score(f, args), {}
        for name in explainers:
            try:
                if name == ATTRIBUTION:
                    found = evaluated(attribution(f), args)
                else:
                    found = subject.relevance(RULES[name])
                outcomes[name] = np.asarray(found)
            except Exception as error:
                first = next(iter(str(error).strip().splitlines()), "")
                deliberate = isinstance(error, relprop.RelpropError)
                outcomes[name] = Refused(type(error).__name__, first, deliberate)
        return score, outcomes


def compared(network: Network, explainer: str, got: Outcome, wanted: Outcome) -> Verdict:
    """The verdict about one network under one explainer, given the outcome of its reference."""
    size, refused = 0.0, None
    if isinstance(got, Refused) and isinstance(wanted, Refused):
        alike = got.error == wanted.error and got.deliberate
        size, refused = (0.0, None) if alike else (np.inf, got)
    elif isinstance(got, Refused):
        size, refused = np.inf, got
    elif isinstance(wanted, Refused):
        size = np.inf
        refused = dataclasses.replace(wanted, message=f"(the reference) {wanted.message}")
    else:
        size = distance(got, wanted)
    table = REFUSALS if refused else DIFFERENCES
    row = next((row for row in table if row.matches(network, explainer)), None)
    return Verdict(network, explainer, size, refused, row)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest entry of both."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.inf
    largest = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    return float(np.abs(a - b).max(initial=0) / largest) if largest else 0.0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Double precision, and not a word.

    The tracer-leak checker would turn off JAX's caches.
    """
    with (
        warnings.catch_warnings(),
        jax.enable_x64(True),
        jax.check_tracer_leaks(False),
        unchecked(),
    ):
        warnings.simplefilter("ignore")
        yield


def table(verdicts: Iterable[Verdict], limit: int = 40) -> str:
    """The failing ones, the largest difference first; refusals after them."""
    failing = [v for v in verdicts if v.fails]
    refused = [v for v in failing if v.refused]
    differing = sorted((v for v in failing if not v.refused), key=lambda v: -v.size)
    lines = [f"{len(differing)} differ, {len(refused)} are refused:"]
    lines += [str(v) for v in [*differing, *refused][:limit]]
    if len(failing) > limit:
        lines.append(f"... and {len(failing) - limit} more")
    return "\n".join(lines)
