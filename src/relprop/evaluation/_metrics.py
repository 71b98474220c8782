"""Metrics by name: what each is called with, and which direction is better."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from relprop import metrics
from relprop._errors import InputError, unknown_name

Needs = Literal["score", "classes", "mask", "relevance", "explain", "params", "target"]
#: What is known of a sample -> what a metric of some need is called with.
_CALLS: Mapping[str, Callable[[Any, Any], Any]] = {
    "score": lambda metric, case: metric(case.f, case.x, case.R),
    "classes": lambda metric, case: metric(case.scores, case.x, case.R, case.target),
    "mask": lambda metric, case: metric(case.R, case.mask),
    "relevance": lambda metric, case: metric(case.R),
    "explain": lambda metric, case: metric(case.explain, case.x),
    "params": lambda metric, case: metric(case.explain_with, case.params, case.x),
    "target": lambda metric, case: metric(
        case.explain_class, case.x, case.target, classes=case.classes
    ),
}
#: Those that look at nothing but a sample and its relevance: one compilation serves all methods.
SHARED = ("score", "classes", "mask", "relevance")


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of one's own for `relprop.evaluate`.

    Args:
        function: gives a number, or an array that counts by its mean.
        better: ``"higher"`` or ``"lower"``.
        needs: what it is called with: ``"score"``, ``(f, x, R)``; ``"classes"``, ``(scores, x,
            R, target)`` where ``scores(x)`` is of all classes; ``"mask"``, ``(R, mask)``;
            ``"relevance"``, ``(R)``; ``"explain"``, ``(explain, x)``; ``"params"``,
            ``(explain(params, x), params, x)``; ``"target"``, ``(explain(x, target), x, target,
            classes=)``.

    Raises:
        InputError: `better` or `needs` is none of those.

    >>> import jax.numpy as jnp
    >>> Metric(lambda R: jnp.max(R), better="higher", needs="relevance").needs
    'relevance'
    """

    function: Callable[..., Any]
    better: str
    needs: str = "score"

    def __post_init__(self):
        if self.better not in ("higher", "lower"):
            raise InputError(f"`better` must be 'higher' or 'lower', got {self.better!r}.")
        if self.needs not in _CALLS:
            raise InputError(f"`needs` must be one of {[*_CALLS]}, got {self.needs!r}.")

    def __call__(self, case: Any) -> Any:
        """The metric of one sample."""
        return _CALLS[self.needs](self.function, case)


_KNOWN: Mapping[str, Metric] = {
    **{
        name: Metric(getattr(metrics, name), better, needs)
        for needs, better, group in (
            ("score", "lower", "deletion sufficiency pixel_flipping selectivity road infidelity"),
            ("score", "higher", "insertion abpc aopc comprehensiveness region_perturbation irof"),
            ("score", "higher", "faithfulness_correlation faithfulness_estimate monotonicity"),
            ("score", "higher", "monotonicity_correlation sensitivity_n f_fidelity"),
            ("score", "lower", "completeness non_sensitivity"),
            ("mask", "higher", "pointing_game relevance_mass relevance_rank top_k_intersection"),
            ("mask", "higher", "auc attribution_localisation focus"),
            ("mask", "higher", "pixel_accuracy mean_iou average_precision"),
            ("relevance", "higher", "sparseness"),
            ("relevance", "lower", "entropy effective_complexity"),
            ("explain", "lower", "max_sensitivity avg_sensitivity local_lipschitz continuity"),
            ("explain", "lower", "relative_input_stability relative_output_stability"),
            ("explain", "lower", "relative_representation_stability"),
            ("params", "lower", "mprt smooth_mprt"),
            ("params", "higher", "efficient_mprt"),
            ("target", "lower", "random_logit"),
        )
        for name in group.split()
    }
}


def names() -> tuple[str, ...]:
    """The metrics that `relprop.evaluate` knows by name.

    >>> "abpc" in names()
    True
    """
    return tuple(_KNOWN)


def metrics_of(given: str | Iterable[Any] | Mapping[str, Any]) -> dict[str, Metric]:
    """Names and metrics, from names, functions of `relprop.metrics`, partials of them, or `Metric`.

    Raises:
        UnknownNameError: a name is not known; names the near matches.
        InputError: of a function it is not known what it is called with; or there is no metric.
    """
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Mapping):
        given = {one if isinstance(one, str) else _name(one): one for one in given}
    if not given:
        raise InputError("There is no metric to evaluate.")
    return {name: _metric(name, one) for name, one in given.items()}


def _name(one: Any) -> str:
    function = one.function if isinstance(one, Metric) else one
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", repr(function))


def _metric(name: str, given: Any) -> Metric:
    if isinstance(given, Metric):
        return given
    if isinstance(given, str):
        if given not in _KNOWN:
            raise unknown_name("metric", given, _KNOWN)
        return _KNOWN[given]
    known = _KNOWN.get(_name(given))
    inner = given
    while isinstance(inner, functools.partial):
        inner = inner.func
    if known is None or known.function is not inner:
        raise InputError(
            f"Of the metric {name!r} it is not known what it is called with and which direction is "
            "better: say so with relprop.evaluation.Metric(function, better=..., needs=...)."
        )
    return dataclasses.replace(known, function=given)
