"""The tables of papers, on data that you have: what `relprop.evaluate` measures for them.

`perturbation` and `segmentation` are metrics for images, from `relprop.truth.imagenet`;
`rationales` is for texts, from `relprop.truth.eraser` and `relprop.truth.squad`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from relprop import metrics
from relprop._errors import InputError
from relprop.evaluation._metrics import Metric
from relprop.evaluation._rows import bootstrap
from relprop.evaluation._words import per_word as per_word
from relprop.metrics import features
from relprop.metrics._checks import at_least_one, choice

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
        InputError: there are less than two steps, or no number of them.

    >>> list(perturbation())
    ['positive', 'negative']

    Source: Chefer et al. 2021, table 1, where areas are not divided by their width: compare rows of
    a table, not numbers of two papers.
    """
    at_least_one("steps", steps)
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
        paper count the pixels of all images together, but in `average_precision`. Of images whose
        mask covers everything, `mean_iou` is not defined; they are left out, and the table says so.

    >>> list(segmentation())
    ['pixel_accuracy', 'mean_iou', 'average_precision']

    Source: Chefer et al. 2021, table 2.
    """

    def of_pixels(metric: Callable[..., Any]) -> Metric:
        def of(R: Any, mask: Any) -> Any:
            axis = features.axis_of(R.shape, channel_axis)
            return metric(jnp.sum(R, axis=axis), jnp.any(mask, axis=axis))

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
        skipped: by the name of each text that was skipped, why.

    >>> from relprop.truth import Rationale
    >>> one = Rationale("a", ("a", "fine", "film"), np.array([False, True, False]), "praise")
    >>> print(rationales([one], lambda rationale: [0.0, 2.0, 1.0]))
    top-1 1.000, IoU 1.000, F1 1.000, AUC 1.000 (1 text)
    """

    values: Mapping[str, Float[np.ndarray, " n"]]
    names: Sequence[str]
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)

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
        count, gone = len(self.names), len(self.skipped)
        told = f"{count} text{'s' * (count > 1)}" + f", {gone} skipped" * bool(gone)
        return f"{', '.join(shown)} ({told})"


def rationales(
    texts: Iterable[Text],
    explain: Callable[[Any], Any],
    *,
    on_refused: Literal["error", "skip"] = "error",
) -> Agreement:
    """Does relevance lie on the words that people marked, or on those of the answer?

    Args:
        texts: from `relprop.truth.eraser` or `relprop.truth.squad`.
        explain: from a text to the relevance of its words; `per_word` sums that of tokens.
        on_refused: what to do with a text that `explain` refuses by an `InputError`, such as one
            that is too long or whose tokens `per_word` cannot find, or of whose relevance some is
            NaN: ``"error"``, or ``"skip"``, which counts it in `Agreement.skipped`.

    Returns:
        Numbers of each text. Texts without evidence, or with nothing else, are left out.

    Raises:
        InputError: names the text that is refused; the evidence is not one boolean per word; or no
            text is left.

    >>> from relprop.truth import Rationale
    >>> cats = Rationale("q", ("two", "cats", "sat"), np.array([True, True, False]), "two cats")
    >>> found = rationales([cats], lambda text: [3.0, 0.0, 1.0])
    >>> {name: round(float(value[0]), 2) for name, value in found.values.items()}
    {'top-1': 1.0, 'IoU': 0.33, 'F1': 0.5, 'AUC': 0.5}

    Source: DeYoung et al. 2020 (IoU and F1, there of spans and tokens that a model marks).
    """
    choice("on_refused", on_refused, ("error", "skip"))
    names, rows, skipped = [], [], {}
    for text in texts:
        evidence = _evidence(text)
        if evidence.all() or not evidence.any():
            continue
        try:
            order = _order(text, explain(text))
        except InputError as error:
            if on_refused == "error":
                raise InputError(f"The text {text.name}: {error}") from error
            skipped[text.name] = str(error)
            continue
        # Hits among as many most relevant words; of two sets of one size, the rest follows.
        hits = float(metrics.relevance_rank(order, evidence))
        first = float(metrics.pointing_game(order, evidence))
        rows.append((first, hits / (2 - hits), hits, float(metrics.auc(order, evidence))))
        names.append(text.name)
    if not rows:
        why = "".join(f" {name} was skipped: {reason}" for name, reason in [*skipped.items()][:1])
        raise InputError(f"No text is left that has evidence and other words.{why}")
    columns = np.array(rows).T
    return Agreement(dict(zip(("top-1", "IoU", "F1", "AUC"), columns, strict=True)), names, skipped)


def _evidence(text: Text) -> Bool[np.ndarray, " words"]:
    evidence = np.asarray(text.evidence)
    if evidence.shape != (len(text.words),) or not np.isin(evidence, (0, 1)).all():
        raise InputError(
            f"The text {text.name} has {len(text.words)} words, and evidence of the shape "
            f"{list(evidence.shape)}: give True or False for each word."
        )
    return evidence.astype(bool)


def _order(text: Text, R: Any) -> Float[np.ndarray, " words"]:
    """Ranks of the relevance of words: all that is measured is of their order.

    Single precision, in which metrics count, would make some of them alike, and others infinite.
    """
    try:
        found = np.asarray(R, np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"`explain` must return a number for each word, got {type(R).__name__}."
        ) from None
    if found.shape != (len(text.words),):
        raise InputError(
            f"there are {len(text.words)} words, and relevance of the shape "
            f"{list(found.shape)}: sum that of tokens with `per_word`."
        )
    wrong = int((~np.isfinite(found)).sum())
    if wrong:
        raise InputError(f"relevance of {wrong} of {len(found)} words is NaN or infinite.")
    return np.unique(found, return_inverse=True)[1].astype(np.float32)
