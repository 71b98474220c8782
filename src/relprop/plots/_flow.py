"""The flow of relevance from the score to the inputs: what arrives where, and what stays behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relprop._errors import InputError
from relprop._ledger import Ledger, LedgerRow
from relprop._table import amount
from relprop.plots import _places
from relprop.plots._figure import describe, drawing, title
from relprop.plots._layers import Layers, layers
from relprop.plots._scale import checked

#: What relevance can become -> its colour and a pattern, which tells it without the colour.
PARTS: Mapping[str, tuple[str, str]] = {
    "explained": ("#2f8f6b", ""),
    "bias": ("#d99a2b", "///"),
    "epsilon": ("#8a63c9", "..."),
    "stopped": ("#8b9097", "xxx"),
    "gap": ("#c4568b", "\\\\\\"),
}
_ABSORBED = tuple(PARTS)[1:]


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """Where relevance stayed, layer by layer.

    Attributes:
        handed_out: relevance of the score.
        layers: names in order of evaluation.
        absorbed: ``"bias"``, ``"epsilon"``, ``"stopped"`` and ``"gap"`` -> what each layer kept.
            The gap is what rules did not conserve, and rounding.

    Flows of the same layers can be added up, to one of a whole batch.

    >>> flow = Flow(4.0, ("a", "b"), {"bias": np.array([1.0, 0.5])})
    >>> {name: part.tolist() for name, part in (flow + flow).parts().items()}
    {'explained': [5.0, 7.0, 8.0], 'bias': [3.0, 1.0, 0.0]}
    """

    handed_out: float
    layers: Sequence[str]
    absorbed: Mapping[str, Float[np.ndarray, " n"]]

    @classmethod
    def of(cls, ledger: Ledger, named: Layers | None = None) -> Flow:
        """The flow that a ledger tells of.

        Args:
            ledger: the value of `relprop.ledger(f, rules)(*args)`.
            named: the name of the layer that an operation belongs to, as
                ``lambda operation: operation.scope``; by default blocks that repeat are found, and
                elsewhere each product with a weight begins a layer.
        """
        # What is inside of a loop has been counted in the row of the loop.
        rows = [row for row in ledger if row.operation.depth == 0]
        if not rows:
            raise InputError("The ledger has no rows: no operation lies between input and score.")
        groups = layers([row.operation for row in rows], named)
        absorbed = {
            part: np.array([sum(_kept(rows[i], part) for i in g) for g in groups.values()])
            for part in _ABSORBED
        }
        # What constants took that no operation stands for, and what was seeded at places, so that
        # the parts add up.
        seed = float(ledger.seed)
        whole = {part: getattr(ledger, part) for part in ("bias", "epsilon", "stopped")}
        whole["gap"] = seed - ledger.left - sum(whole.values())
        for part, lost in whole.items():
            absorbed[part][0] += lost - absorbed[part].sum()
        return cls(seed, tuple(groups), absorbed)

    def __add__(self, other: Flow) -> Flow:
        if self.layers != other.layers:
            raise InputError(
                f"Only flows of the same layers can be added, got {self.layers} and {other.layers}."
            )
        absorbed = {name: part + other.absorbed[name] for name, part in self.absorbed.items()}
        return Flow(self.handed_out + other.handed_out, self.layers, absorbed)

    @property
    def is_finite(self) -> bool:
        """Whether no part is NaN or infinite."""
        return bool(np.isfinite(list(self.parts().values())).all())

    def parts(self) -> dict[str, Float[np.ndarray, " n+1"]]:
        r"""What the score's relevance has become at the input of each layer.

        .. math:: f(x) = R_l + \sum_{k \ge l} (\text{bias}_k + \epsilon_k + \text{stopped}_k
            + \text{gap}_k)

        Returns:
            ``"explained"``, which is R_l, and what has been absorbed on the way to there; the last
            entry of each is at the score.
        """
        kept = {
            name: np.append(np.cumsum(part[::-1])[::-1], 0.0)
            for name, part in self.absorbed.items()
        }
        explained = self.handed_out - np.sum(list(kept.values()), axis=0)
        return {"explained": explained, **kept}


def _kept(row: LedgerRow, part: str) -> float:
    return getattr(row, part) + (row.not_conserved if part == "gap" else 0.0)


def flow(
    ledger: Ledger | Flow,
    *,
    layers: Layers | None = None,
    name: str = "",
    axes: Axes | None = None,
    legend: bool = True,
) -> Figure:
    """How much relevance reaches each layer, and what biases, stabilisers and rules kept.

    There is one bar at the input of each layer and one at the score. Their parts add up to the
    relevance of the score; negative parts go down from zero.

    Args:
        ledger: the value of ``relprop.ledger(f, rules)(*args)``, or a `Flow`.
        layers: the name of the layer that an operation belongs to; by default they are found.
        name: the title.
        axes: to be drawn on, by default those of a new figure.
        legend: whether to say what the colours and patterns are.

    Returns:
        The figure. Parts differ by pattern as well as by colour.

    >>> import jax.numpy as jnp, relprop
    >>> book = relprop.ledger(lambda x: jnp.sum(2 * x + 1), relprop.rules.Epsilon())(jnp.ones(2))
    >>> flow(book).alt
    'Flow of relevance: of 6 at the score 4 arrive at the input; bias 2, ...'
    """
    found = ledger if isinstance(ledger, Flow) else Flow.of(ledger, layers)
    parts = found.parts()
    checked(np.stack(list(parts.values())), "error")
    count = len(found.layers) + 1
    figure, axes = drawing(axes, 2.6 + max(3.0, 0.42 * count), 3.2 + _label_height(found.layers))
    up, down = np.zeros(count), np.zeros(count)
    for part, values in parts.items():
        colour, pattern = PARTS[part]
        bottom = np.where(values >= 0, up, down)
        axes.bar(
            np.arange(count),
            values,
            0.8,
            bottom,
            color=colour,
            hatch=pattern,
            edgecolor="white",
            linewidth=0.4,
            label=part,
        )
        up, down = up + np.maximum(values, 0), down + np.minimum(values, 0)
    axes.axhline(found.handed_out, color="0.2", linewidth=0.8, linestyle="--")
    axes.axhline(0, color="0.2", linewidth=0.8)
    heads = [*found.layers, "score"]
    _name_bars(axes, heads)
    axes.set_ylabel("relevance, in units of the score")
    axes.set_xlabel("at the input of each layer, from the input to the score")
    title(axes, name)
    if legend:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    kept = ", ".join(f"{n} {amount(parts[n][0], found.handed_out)}" for n in list(parts)[1:])
    describe(
        figure,
        f"Flow of relevance{f' ({name})' if name else ''}: of {found.handed_out:.4g} at the score "
        f"{parts['explained'][0]:.4g} arrive at the input; {kept}.",
        ("at the input of", *parts),
        [[head, *(f"{part[i]:.4g}" for part in parts.values())] for i, head in enumerate(heads)],
    )
    return figure


def layer_sums(
    places: Mapping[str, Any],
    *,
    score: float | None = None,
    name: str = "",
    axes: Axes | None = None,
) -> Figure:
    """The sum of relevance at each place: its positive and its negative part, and the whole.

    Args:
        places: name -> `relprop.places.Inside` or array: the second result of a relevance with
            `places`. Names that differ by numbers only are put in the order of these.
        score: what was explained, drawn as a line.
        name: the title.
        axes: to be drawn on, by default those of a new figure.

    Returns:
        The figure.

    >>> layer_sums({"a": np.array([3.0, -1.0]), "b": np.array([2.0])}).alt
    'Sums of relevance at 2 places, positive, negative and whole: a 3 -1 2, b 2 0 2.'
    """
    found = _places.arrays(places)
    for array in found.values():
        checked(np.atleast_1d(array), "error")
    up = np.array([np.maximum(array, 0).sum() for array in found.values()])
    down = np.array([np.minimum(array, 0).sum() for array in found.values()])
    x = np.arange(len(found))
    figure, axes = drawing(
        axes, 2.6 + max(3.0, 0.42 * len(found)), 3.2 + _label_height(list(found))
    )
    axes.bar(x, up, 0.8, color="#d6604d", label="positive")
    axes.bar(x, down, 0.8, color="#4393c3", hatch="///", edgecolor="white", label="negative")
    axes.plot(x, up + down, "D", color="black", markersize=5, label="whole")
    if score is not None:
        axes.axhline(float(score), color="0.2", linewidth=0.8, linestyle="--", label="score")
    axes.axhline(0, color="0.2", linewidth=0.8)
    _name_bars(axes, list(found))
    axes.set_ylabel("relevance, in units of the score")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    title(axes, name)
    rows = [
        [n, f"{a:.4g}", f"{b:.4g}", f"{a + b:.4g}"]
        for n, a, b in zip(found, up.tolist(), down.tolist(), strict=True)
    ]
    sums = ", ".join(" ".join(row) for row in rows)
    describe(
        figure,
        f"Sums of relevance at {len(found)} places, positive, negative and whole: {sums}.",
        ("place", "positive", "negative", "whole"),
        rows,
    )
    return figure


_LABEL = 30  # characters: longer names would leave no place for the bars


def _label_height(names: Sequence[str]) -> float:
    """Inches that the names below the bars take."""
    return 0.055 * min(_LABEL, max(map(len, names), default=0))


def _name_bars(axes: Axes, names: Sequence[str]) -> None:
    shown = [name if len(name) <= _LABEL else f"…{name[1 - _LABEL :]}" for name in names]
    axes.set_xticks(
        np.arange(len(names)),
        shown,
        rotation=60,
        ha="right",
        rotation_mode="anchor",
        fontsize=8,
        parse_math=False,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.use_sticky_edges = False
    axes.margins(x=0.02, y=0.05)
