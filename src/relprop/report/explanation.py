"""What is shown: one image with its relevance under several rules, and where relevance went.

Beside relevance there may be maps that are no parts of the score: how much each place counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from relprop._errors import InputError
from relprop.plots import Flow


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """One image, explained by one model under several rules.

    Attributes:
        model: name of the model; images of the same model are shown together.
        name: name of the image.
        image: what the model saw, scaled to [0, 1].
        label: the class that the model predicts.
        target: the class that is explained.
        score: what the model gives the target.
        rules: name of the rules -> relevance of the image's pixels, and its sums: ``"handed out"``
            (the relevance of the score) and ``"explained"`` (the sum over all pixels).
        maps: name of a method -> how much each pixel counts, which is not relevance: only the
            differences within one map have a meaning.

    Raises:
        InputError: the image has other values.

    >>> r = np.array([[1.0, 2.0]])
    >>> e = Explanation("m", "a.png", r / 2, "cat", "cat", 4.0,
    ...                 {"flat": (r, {"handed out": 4.0, "explained": 3.0})})
    >>> e.share("flat")
    0.75
    """

    model: str
    name: str
    image: Float[np.ndarray, "h w *c"]
    label: str
    target: str
    score: float
    rules: Mapping[str, tuple[Float[np.ndarray, "h w *c"], Mapping[str, float]]]
    maps: Mapping[str, Float[np.ndarray, "h w"]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        least, most = np.min(self.image), np.max(self.image)
        # Scaling rounds, and numbers beyond would all be shown as black or white.
        if not -1e-3 <= least <= most <= 1.001:
            raise InputError(
                f"The image of {self.name} must have values in [0, 1]; they go from {least:.4g} to "
                f"{most:.4g}."
            )

    def share(self, rules: str) -> float | None:
        """The part of the relevance that arrived at the pixels; None where it is no number."""
        sums = self.rules[rules][1]
        return ratio(sums["explained"], sums["handed out"])


@dataclasses.dataclass(frozen=True)
class Balance:
    """Where the relevance of several images went under one set of rules.

    Attributes:
        handed_out: relevance of the scores, summed over the images.
        explained: what arrived at the pixels.
        bias: absorbed by biases and other constants that are added.
        epsilon: absorbed by stabilisers.
        stopped: ended by rules that stop relevance.
        fault: where a number turned into NaN or infinity; empty if none did.
        flow: the same layer by layer, if it is known.

    >>> Balance(10.0, 6.0, 3.0, 0.0, 0.0).gap
    1.0
    """

    handed_out: float
    explained: float
    bias: float
    epsilon: float
    stopped: float
    fault: str = ""
    flow: Flow | None = None

    @property
    def gap(self) -> float:
        """What rules made or lost that do not conserve relevance, and rounding."""
        return self.handed_out - self.explained - self.bias - self.epsilon - self.stopped

    @property
    def unrest(self) -> float:
        """How much biases, stabilisers and rules took and gave, in units of what was handed out.

        What was stopped is left out: rules that stop relevance are asked to.
        """
        if self.fault or not self.handed_out:
            return math.inf
        kept = (self.bias, self.epsilon, self.gap)
        return sum(map(abs, kept)) / abs(self.handed_out)

    def sentence(self, rules: str) -> str:
        """What there is to know of it, for those who read one line.

        >>> Balance(53.3, -5.1, 58.4, 0.0, 0.0).sentence("epsilon")
        'epsilon explains -5.1 of 53.3; biases hold 58.4: this rule is noisy on this network.'
        """
        if self.fault:
            return f"{rules} made NaN or infinity: its heatmaps say nothing. {self.fault}"
        if not self.handed_out:
            return f"{rules}: the scores sum up to 0, so that nothing was handed out."
        named = {"biases hold": self.bias, "stabilisers hold": self.epsilon}
        named |= {"stopped": self.stopped, "made or lost by rules": self.gap}
        large = 0.05 * abs(self.handed_out)
        kept = "".join(f"; {name} {part:.3g}" for name, part in named.items() if abs(part) > large)
        if self.unrest + abs(self.stopped / self.handed_out) <= 0.2:
            verdict = "nearly all of the score is on the pixels"
        elif self.unrest < 1:
            verdict = "a part of the score is not on the pixels"
        else:
            verdict = "this rule is noisy on this network"
        return f"{rules} explains {self.explained:.3g} of {self.handed_out:.3g}{kept}: {verdict}."

    def parts(self) -> dict[str, float]:
        """What the relevance was split into: the parts sum up to what was handed out."""
        names = ("explained", "bias", "epsilon", "stopped", "gap")
        return {name: getattr(self, name) for name in names}


#: Model and rules -> the balance of all images.
Balances = Mapping[tuple[str, str], Balance]


def by_model(explanations: Iterable[Explanation]) -> dict[str, list[Explanation]]:
    """The explanations of each model, in the order given."""
    groups: dict[str, list[Explanation]] = {}
    for explanation in explanations:
        groups.setdefault(explanation.model, []).append(explanation)
    return groups


def rules_of(explanations: Sequence[Explanation]) -> list[str]:
    """The names of all rules, in the order in which they appear."""
    return list(dict.fromkeys(name for e in explanations for name in e.rules))


def maps_of(explanations: Sequence[Explanation]) -> list[str]:
    """The names of all methods that give maps, in the order in which they appear."""
    return list(dict.fromkeys(name for e in explanations for name in e.maps))


def strongest(values: Float[np.ndarray, "h w"]) -> str:
    """The row and column of the largest value, from 1, as text.

    >>> strongest(np.array([[0.0, 1.0], [0.0, 0.0]])), strongest(np.array([[np.nan]]))
    ('1, 2', 'n/a')
    """
    if not np.isfinite(values).all():
        return "n/a"
    row, column = np.unravel_index(np.argmax(values), values.shape)
    return f"{row + 1}, {column + 1}"


def ratio(part: float, whole: float) -> float | None:
    """A quotient, or None where it is no finite number."""
    value = part / whole if whole else math.nan
    return value if math.isfinite(value) else None


def percent(share: float | None) -> str:
    """A share as text.

    >>> percent(0.446), percent(None)
    ('45 %', 'n/a')
    """
    # The sum with 0 turns -0 into 0.
    return "n/a" if share is None else f"{round(100 * share) + 0} %"
