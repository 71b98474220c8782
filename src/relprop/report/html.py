"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from relprop import plots
from relprop._characters import visible
from relprop._files import write_text
from relprop._inspect import PlannedOperation
from relprop._table import amount
from relprop.plots._figure import template
from relprop.plots._flow import PARTS
from relprop.plots._gallery import tile_side
from relprop.plots._pixels import (
    data_uri,
    map_picture,
    map_scale,
    normalised,
    picture,
    plain,
    scale,
)
from relprop.report.explanation import (
    Balance,
    Balances,
    Explanation,
    by_model,
    maps_of,
    percent,
    ratio,
    rules_of,
    strongest,
)

_NONE: Mapping = {}
#: Model -> the name of rules, and the plan of its computation by them.
Plans = Mapping[str, tuple[str, Sequence[PlannedOperation]]]


def write_html(
    explanations: Iterable[Explanation],
    path: Path,
    title: str = "Explanations",
    *,
    balances: Balances = _NONE,
    rules: Mapping[str, str] = _NONE,
    left_out: Mapping[str, str] = _NONE,
    plans: Plans = _NONE,
    command: str = "",
    versions: Mapping[str, str] = _NONE,
    style: str = "plain",
) -> None:
    """Writes the page that `html` makes; the file is whole or as it was."""
    write_text(
        path,
        html_text(
            explanations,
            title,
            balances=balances,
            rules=rules,
            left_out=left_out,
            plans=plans,
            command=command,
            versions=versions,
            style=style,
        ),
    )


def html_text(
    explanations: Iterable[Explanation],
    title: str = "Explanations",
    *,
    balances: Balances = _NONE,
    rules: Mapping[str, str] = _NONE,
    left_out: Mapping[str, str] = _NONE,
    plans: Plans = _NONE,
    command: str = "",
    versions: Mapping[str, str] = _NONE,
    style: str = "plain",
) -> str:
    """A report with one row per image and one column per set of rules and per method.

    All images are inside of the file, and nothing in it depends on the time.

    Args:
        explanations: the rows; those of each model have a section of their own.
        title: of the page.
        balances: where the relevance of all images went; shown as bars where given.
        rules: name of the rules -> the rules in full.
        left_out: name of an image that could not be explained -> the reason.
        plans: model -> the name of rules, and what `relprop.inspect` says of them; drawn as a
            picture of the computation.
        command: what makes the report again.
        versions: of the packages that made it.
        style: how relevance is drawn, as in `relprop.plots.gallery`: by default the heatmap alone,
            beside the image.

    Raises:
        UnknownNameError: there is no such style.
    """
    sections = [
        _section(model, group, balances, plans, style)
        for model, group in by_model(explanations).items()
    ]
    page = template("report.html.jinja", Path(__file__).parent, percent=percent, amount=amount)
    return page.render(
        title=visible(title),
        sections=sections,
        rules=rules,
        left_out={visible(name): visible(reason) for name, reason in left_out.items()},
        command=visible(command),
        versions=versions,
        parts=PARTS,
        scale=scale(style),
        style=style,
        map_scale=map_scale(),
    )


@dataclasses.dataclass(frozen=True)
class _Cell:
    share: float | None
    shared: bool  # whether the score is, so that there is a share
    uri: str
    alt: str


@dataclasses.dataclass(frozen=True)
class _Bar:
    """A balance, drawn: positive parts to the right of 0, negative ones to the left."""

    rules: str
    balance: Balance
    segments: list[tuple[str, float, float]]  # name, start and width as parts of the whole


def _section(
    model: str, group: list[Explanation], balances: Balances, plans: Plans, style: str
) -> dict:
    names, methods = rules_of(group), maps_of(group)
    bars = [_bar(n, balances[model, n]) for n in names if (model, n) in balances]
    ends = [end for bar in bars for _, x, width in bar.segments for end in (x, x + width)]
    return {
        "model": model,
        "rules": names,
        "methods": methods,
        "tile": _tile(group, 1 + len(names) + len(methods)),
        "pixelated": max(group[0].image.shape[:2]) <= 104,
        "rows": [
            (
                e,
                data_uri(plain(e.image)),
                [
                    *(_cell(e, name, style) for name in names),
                    *(_map_cell(e, name) for name in methods),
                ],
            )
            for e in group
        ],
        "bars": bars,
        "flow": _flow_figure(model, names, balances),
        "plan": _plan_figure(*plans[model]) if model in plans else None,
        "least": min([0.0, *ends]),
        "most": max([1.0, *ends]),
    }


def _tile(group: list[Explanation], columns: int) -> int:
    """The pixels of a picture in the page, whose text is beside them."""
    fewest = 176 if max(group[0].image.shape[:2]) > 104 else 104
    return max(fewest, min(tile_side(len(group) * columns), 1000 // columns))


def _flow_figure(model: str, names: Sequence[str], balances: Balances) -> Markup | None:
    """One small plot for each set of rules whose flow is known."""
    flows = {n: balances[model, n].flow for n in names if (model, n) in balances}
    known = {n: f for n, f in flows.items() if f is not None and f.is_finite}
    if not known:
        return None
    columns = min(3, len(known))
    rows = -(-len(known) // columns)
    figure = plots.Plot(3.4 * columns, 2.7 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, (name, flow) in zip(grid.flat, known.items(), strict=False):
        plots.flow(flow, name=name, axes=axes, legend=False)
        axes.set_xlabel("")
        if axes not in grid[:, 0]:
            axes.set_ylabel("")
    for axes in grid.flat[len(known) :]:
        axes.set_axis_off()
    return Markup(figure.html())


def _plan_figure(rules: str, plan: Sequence[PlannedOperation]) -> tuple[str, Markup]:
    figure = plots.computation(plan)
    assert isinstance(figure, plots.Plot)
    return rules, Markup(figure.html())


def _cell(explanation: Explanation, rules: str, style: str) -> _Cell | None:
    if rules not in explanation.rules:
        return None
    relevance, _ = explanation.rules[rules]
    share = explanation.share(rules)
    row, column = np.unravel_index(np.argmax(normalised(relevance)), relevance.shape[:2])
    alt = (
        f"Heatmap of {explanation.name} for class {explanation.target} by {rules}: "
        f"{percent(share)} of the score explained, strongest evidence at row {row + 1}, "
        f"column {column + 1}."
    )
    return _Cell(share, True, data_uri(picture(explanation.image, relevance, style)), alt)


def _map_cell(explanation: Explanation, method: str) -> _Cell | None:
    if method not in explanation.maps:
        return None
    values = explanation.maps[method]
    alt = (
        f"Map of {explanation.name} for class {explanation.target} by {method}: strongest at row, "
        f"column {strongest(values)}."
    )
    return _Cell(None, False, data_uri(map_picture(explanation.image, values)), alt)


def _bar(rules: str, balance: Balance) -> _Bar:
    shares = {n: ratio(part, balance.handed_out) or 0.0 for n, part in balance.parts().items()}
    right, left, segments = 0.0, 0.0, []
    for name, share in shares.items():
        if share >= 0:
            segments.append((name, right, share))
            right += share
        else:
            left += share
            segments.append((name, left, -share))
    return _Bar(rules, balance, segments)
