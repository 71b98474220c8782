"""The tables of papers, on data that you have: what `relprop.evaluate` measures for them.

`perturbation` and `segmentation` are metrics for images, from `relprop.truth.imagenet`;
`rationales` is for texts, from `relprop.truth.eraser` and `relprop.truth.squad`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from relprop import metrics
from relprop._errors import InputError
from relprop.evaluation._metrics import Metric
from relprop.evaluation._rows import bootstrap
from relprop.metrics import features

__all__ = ["Agreement", "Text", "per_word", "perturbation", "rationales", "segmentation"]


def perturbation(*, steps: int = 10, fill: Any = 0.0, channel_axis: int = -1) -> dict[str, Metric]:
    r"""Positive and negative perturbation: is the class still the first while pixels go?

    .. math:: \frac{1}{0.9} \int_0^{0.9} [\arg\max_c f_c(x_{S_q \to \text{fill}}) = t] \, dq

    with the most relevant pixels :math:`S_q` first (``"positive"``, lower is better), or the least
    relevant (``"negative"``, higher is better). Means are the areas under accuracies.

    Args:
        steps: into which pixels are split; the last, without any pixel, is left out.
        fill: what pixels are filled with, as for `relprop.metrics.perturbation_curve`: 0 is the
            mean of images that are normalised.
        channel_axis: of an image; channels of a pixel go together.

    Returns:
        Metrics for `relprop.evaluate`. With ``target`` in the data they are explained and counted
        for that class; without, for the class that the model predicts.

    Raises:
        InputError: there are less than two steps.

    >>> list(perturbation())
    ['positive', 'negative']

    Source: Chefer et al. 2021, table 1, where areas are not divided by their width: compare rows of
    a table, not numbers of two papers.
    """
    if steps < 2:
        raise InputError(f"`steps` must be at least 2, got {steps!r}: one removes all pixels.")

    def kept(order: Any) -> Callable[..., Float[Array, ""]]:
        def of(scores: Callable[[Any], Any], x: Any, R: Any, target: Any) -> Float[Array, ""]:
            def first(x: Any) -> Any:
                return (jnp.argmax(scores(x)) == target).astype(R.dtype)

            pixels = features.pixels(R.shape, channel_axis)
            curve = metrics.perturbation_curve(
                first, x, R, order=order, steps=steps, features=pixels, fill=fill
            )
            return metrics.area(curve[:-1])

        return of

    return {
        "positive": Metric(kept("most"), better="lower", needs="classes"),
        "negative": Metric(kept("least"), better="higher", needs="classes"),
    }


def segmentation(*, channel_axis: int = -1) -> dict[str, Metric]:
    """Does relevance cover the object: `pixel_accuracy`, `mean_iou` and `average_precision`.

    The relevance of a pixel is the sum over its channels; what is above the mean is found.

    Args:
        channel_axis: of an image.

    Returns:
        Metrics for `relprop.evaluate`, which need masks. They are means over images: those of the
        paper count the pixels of all images together, but in `average_precision`.

    >>> list(segmentation())
    ['pixel_accuracy', 'mean_iou', 'average_precision']

    Source: Chefer et al. 2021, table 2.
    """

    def of_pixels(metric: Callable[..., Any]) -> Metric:
        def of(R: Any, mask: Any) -> Any:
            return metric(jnp.sum(R, axis=channel_axis), jnp.any(mask, axis=channel_axis))

        return Metric(of, better="higher", needs="mask")

    chosen = (metrics.pixel_accuracy, metrics.mean_iou, metrics.average_precision)
    return {metric.__name__: of_pixels(metric) for metric in chosen}


class Text(Protocol):
    """What is asked of a text: `relprop.truth.Rationale` has it.

    Attributes:
        name: of the text.
        words: of the text.
        evidence: per word, whether it is part of the reason.
    """

    @property
    def name(self) -> str: ...
    @property
    def words(self) -> Sequence[str]: ...
    @property
    def evidence(self) -> Bool[np.ndarray, " words"]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
    """How well relevance of words agrees with rationales, text by text.

    Attributes:
        values: ``"top-1"``, whether the most relevant word is evidence; ``"IoU"`` and ``"F1"`` of
            the evidence and as many most relevant words; ``"AUC"``. Words that tie for the last
            places count in part.
        names: of the texts.

    >>> from relprop.truth import Rationale
    >>> one = Rationale("a", ("a", "fine", "film"), np.array([False, True, False]), "praise")
    >>> print(rationales([one], lambda rationale: [0.0, 2.0, 1.0]))
    top-1 1.000, IoU 1.000, F1 1.000, AUC 1.000 (1 text)
    """

    values: Mapping[str, Float[np.ndarray, " n"]]
    names: Sequence[str]

    def mean(self, metric: str) -> tuple[float, float, float]:
        """The mean over texts and its 95 % bootstrap interval."""
        values = self.values[metric]
        return float(np.mean(values)), *bootstrap(values)

    def __str__(self) -> str:
        shown = []
        for metric in self.values:
            mean, low, high = self.mean(metric)
            interval = f" [{low:.3f}, {high:.3f}]" if low == low else ""
            shown.append(f"{metric} {mean:.3f}{interval}")
        count = len(self.names)
        return f"{', '.join(shown)} ({count} text{'s' * (count > 1)})"


def rationales(texts: Iterable[Text], explain: Callable[[Any], Any]) -> Agreement:
    """Does relevance lie on the words that people marked, or on those of the answer?

    Args:
        texts: from `relprop.truth.eraser` or `relprop.truth.squad`.
        explain: from a text to the relevance of its words; `per_word` sums that of tokens.

    Returns:
        Numbers of each text. Texts without evidence, or with nothing else, are left out.

    Raises:
        InputError: there is another number of relevances than of words, or NaN among them; or no
            text is left.

    >>> from relprop.truth import Rationale
    >>> cats = Rationale("q", ("two", "cats", "sat"), np.array([True, True, False]), "two cats")
    >>> found = rationales([cats], lambda text: [3.0, 0.0, 1.0])
    >>> {name: round(float(value[0]), 2) for name, value in found.values.items()}
    {'top-1': 1.0, 'IoU': 0.33, 'F1': 0.5, 'AUC': 0.5}

    Source: DeYoung et al. 2020 (IoU and F1, there of spans and tokens that a model marks).
    """
    names, rows = [], []
    for text in texts:
        if text.evidence.all() or not text.evidence.any():
            continue
        R = np.asarray(explain(text), np.float64)
        if R.shape != text.evidence.shape:
            raise InputError(
                f"{text.name} has {len(text.words)} words, and relevance of the shape "
                f"{list(R.shape)}: sum that of tokens with `per_word`."
            )
        # Hits among as many most relevant words; of two sets of one size, the rest follows.
        hits = float(metrics.relevance_rank(R, text.evidence))
        first = float(metrics.pointing_game(R, text.evidence))
        rows.append((first, hits / (2 - hits), hits, float(metrics.auc(R, text.evidence))))
        names.append(text.name)
    if not rows:
        raise InputError("No text has evidence and other words, so that nothing can be told.")
    return Agreement(dict(zip(("top-1", "IoU", "F1", "AUC"), np.array(rows).T, strict=True)), names)


def per_word(
    words: Sequence[str], tokens: Sequence[str], R: Float[np.ndarray, " tokens"]
) -> Float[np.ndarray, " words"]:
    """Relevance of words, from that of the tokens which spell them.

    A token that spells parts of two words is divided among them by characters.

    Args:
        words: of the text.
        tokens: the text in parts, as `relprop.tokens.TokenRelevance` has them; of those that spell
            nothing but white space, relevance is left out.
        R: relevance of the tokens.

    Raises:
        InputError: the tokens do not spell the words; shows where.

    >>> per_word(["two", "cats"], ["tw", "o cat", "s"], np.array([1.0, 4.0, 2.0])).tolist()
    [2.0, 5.0]
    """
    spelled = "".join(words).casefold()
    letters = [n for n, word in enumerate(words) for _ in word.casefold()]
    found, at = np.zeros(len(words)), 0
    for token, amount in zip(tokens, np.asarray(R), strict=True):
        letters_of_token = "".join(token.split()).casefold()
        if spelled[at : at + len(letters_of_token)] != letters_of_token:
            raise InputError(
                f"The tokens do not spell the words: {token!r} stands where the text has "
                f"{spelled[at : at + 20]!r}. Leave out special tokens and those of the query."
            )
        for place in range(at, at + len(letters_of_token)):
            found[letters[place]] += amount / len(letters_of_token)
        at += len(letters_of_token)
    if at < len(spelled):
        raise InputError(
            f"The tokens do not spell the words: they end before {spelled[at : at + 20]!r}. Was "
            "the text too long for the model?"
        )
    return found
