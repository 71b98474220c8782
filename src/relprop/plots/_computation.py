"""A picture of the computation: operations with the rules that take relevance through them."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from relprop._errors import InputError
from relprop._inspect import PlannedOperation
from relprop.plots._figure import describe, drawing, title
from relprop.plots._layers import Repeat, common, layer_of, repeats, signature
from relprop.plots._layout import Layout, layered
from relprop.plots._places import starred
from relprop.rules import parameters

_COLUMN, _ROW = 2.0, 0.5  # inches
_BOX = (0.9, 0.68)  # part of these that a box takes
_INPUT = -1
_MOVE = "structural"

#: Kinds of structures -> their colour, and the structures of that kind.
KINDS: Mapping[str, tuple[str, Sequence[str]]] = {
    "with weights": ("#cfe3f5", ("dense", "convolution")),
    "products": ("#fbdcb5", ("product", "softmax", "gate")),
    "normalisations": ("#d5ecd2", ("norm", "scale", "offset", "average", "quotient", "normaliser")),
    "nonlinear": ("#e8d8ef", ("activation", "maximum", "logsumexp")),
    "sums": ("#e9e9e9", ("sum",)),
}
_OTHER = "#ffffff"
_POLICY = "on_missing"
_CHOSEN_BY_POLICY = "#c0392b"  # the border of what `on_missing` gave a rule


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What of a plan is drawn.

    Attributes:
        operations: number -> operation; of parts that repeat only the first turn.
        reads: number -> numbers of the drawn operations that it reads; -1 is the input.
        repeats: the numbers of a part that repeats, with how often.
        loops: the numbers inside of a loop, branch or call, with its structure.
    """

    operations: Mapping[int, PlannedOperation]
    reads: Mapping[int, Sequence[int]]
    repeats: Sequence[tuple[Sequence[int], int]]
    loops: Sequence[tuple[Sequence[int], str]]


def computation(
    inspection: Sequence[PlannedOperation],
    *,
    moves: bool = False,
    least: int = 12,
    name: str = "",
    axes: Axes | None = None,
) -> Figure:
    """Operations as boxes with their structure, parameter, rule and shape; data flows down.

    Relevance takes the same edges upwards. A part that repeats, such as the layers of a
    transformer, is drawn once in a frame that says how often; so is what is inside of a loop.

    Args:
        inspection: the value of ``relprop.inspect(f, rules)(*args)``.
        moves: whether to draw what only moves numbers of one value, such as reshapes and
            transpositions; what rules made constants of is never drawn.
        least: a part that repeats is drawn once where that saves as many boxes.
        name: the title; by default none.
        axes: to be drawn on, by default those of a new figure as large as the graph needs.

    Returns:
        The figure. Colours group structures, whose names stand in the boxes; a red border marks
        rules chosen by `on_missing`.

    Raises:
        InputError: there are no operations.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x, w: jnp.tanh(x @ w).sum()
    >>> plan = relprop.inspect(f, relprop.rules.Gamma())(jnp.ones(2), jnp.ones((2, 3)))
    >>> computation(plan).alt
    'Computation of 3 operations: dense by Gamma, activation by Pass, sum by Zero.'
    """
    if not len(inspection):
        raise InputError("There is nothing to be drawn: the plan has no operations.")
    drawn = chosen(inspection, moves, least)
    bands = [part[0] for part, _ in drawn.repeats]
    order = list(drawn.operations)
    behind = [order.index(part[-1]) + 1 for part, _ in drawn.repeats]
    bands += [order[i] for i in behind if i < len(order)]
    layout = layered({_INPUT: (), **drawn.reads}, bands)
    columns = [x for x, _ in layout.places.values()]
    columns += [x for bend in layout.bends.values() for x, _ in bend]
    middle, wide = (min(columns) + max(columns)) / 2, max(2.2, max(columns) - min(columns) + 1.5)
    rows = 1 + max(row for _, row in layout.places.values())
    by_policy = any(op.note == _POLICY for op in drawn.operations.values())
    height = rows + 0.5 * by_policy
    figure, axes = drawing(axes, wide * _COLUMN, height * _ROW + 0.4 + 0.25 * bool(name))
    axes.set_xlim(middle - wide / 2, middle + wide / 2)
    axes.set_ylim(height, -0.5)
    axes.set_axis_off()
    frames = [*drawn.loops]
    frames += [
        (part, _repeat_name([drawn.operations[n] for n in part], count))
        for part, count in drawn.repeats
    ]
    for part, text in frames:
        inside = [layout.places[n] for n in part]
        _draw_frame(axes, inside, [*_passing(layout, part)], text)
    for (source, node), bend in layout.bends.items():
        _draw_edge(axes, [layout.places[source], *bend, layout.places[node]])
    _draw_box(axes, layout.places[_INPUT], "input", "", _OTHER, "0.45")
    for n, operation in drawn.operations.items():
        head, rule = _texts(operation)
        border = _CHOSEN_BY_POLICY if operation.note == _POLICY else "0.45"
        _draw_box(axes, layout.places[n], head, rule, _colour(operation.structure), border)
    if by_policy:
        note = "red border: there was no rule, and on_missing chose this one"
        place = (middle - wide / 2, rows + 0.1)
        axes.text(*place, note, fontsize=7.5, color=_CHOSEN_BY_POLICY, va="center")
    title(axes, name)
    _describe(figure, inspection, drawn)
    return figure


def chosen(inspection: Sequence[PlannedOperation], moves: bool, least: int) -> Drawn:
    """Which operations are drawn, and which of those they read, around what is not drawn."""
    nested = [op.number for op in inspection if op.rule is None]
    bodies = {op.number: _inside(inspection, i) for i, op in enumerate(inspection)}
    kept = [op for op in inspection if _is_drawn(op, moves, bodies)]
    sources = _sources(inspection, {op.number for op in kept}, bodies)
    index = {op.number: i for i, op in enumerate(kept)}
    reads_at = [[index.get(source, -1) for source in sources[op.number]] for op in kept]
    found = repeats([signature(op) for op in kept], reads_at, least)
    first = _first_turns(kept, found)
    shown = {n: op for op in kept if first[n := op.number] == n}
    position = {n: i for i, n in enumerate(shown)}
    reads = {}
    for n in shown:
        near = dict.fromkeys(first.get(source, source) for source in sources[n])
        # From one turn to the next an edge would go up.
        reads[n] = tuple(s for s in near if position.get(s, -1) < position[n])
    loops = [([n for n in bodies[loop] if n in shown], _loop(inspection, loop)) for loop in nested]
    return Drawn(
        shown,
        reads,
        [([kept[i].number for i in next(r.turns())], r.count) for r in found],
        [(part, kind) for part, kind in loops if part],
    )


def _is_drawn(
    operation: PlannedOperation, moves: bool, bodies: Mapping[int, Sequence[int]]
) -> bool:
    if operation.rule is None:
        return not bodies[operation.number]
    if operation.rule.detaches:
        return False
    return moves or operation.structure != _MOVE or len(operation.reads) > 1


def _inside(inspection: Sequence[PlannedOperation], i: int) -> list[int]:
    """The numbers of what follows at a greater depth."""
    out = []
    for operation in inspection[i + 1 :]:
        if operation.depth <= inspection[i].depth:
            break
        out.append(operation.number)
    return out


def _loop(inspection: Sequence[PlannedOperation], wanted: int) -> str:
    return next(op.structure for op in inspection if op.number == wanted)


def _sources(
    inspection: Sequence[PlannedOperation], kept: set[int], bodies: Mapping[int, Sequence[int]]
) -> dict[int, tuple[int, ...]]:
    """Number -> what it reads of the kept ones; through the others one sees what they read."""
    seen: dict[int, tuple[int, ...]] = {_INPUT: (_INPUT,)}
    out: dict[int, tuple[int, ...]] = {}
    for operation in inspection:
        n = operation.number
        # A loop that is read from within carries what it read itself from turn to turn.
        near = dict.fromkeys(s for r in operation.reads for s in seen.get(r, ()))
        out[n] = tuple(near)
        constant = operation.rule is not None and operation.rule.detaches
        seen[n] = (n,) if n in kept else () if constant else tuple(near)
        for loop, body in bodies.items():
            if body and body[-1] == n:  # The results of a loop are those of its last operation.
                seen[loop] = seen[n]
    return out


def _first_turns(kept: Sequence[PlannedOperation], found: Iterable[Repeat]) -> dict[int, int]:
    """Number -> that of the same operation in the first turn of what repeats."""
    first = {op.number: op.number for op in kept}
    for repeat in found:
        for turn in repeat.turns():
            for i, j in zip(turn, next(repeat.turns()), strict=True):
                first[kept[i].number] = kept[j].number
    return first


def _texts(operation: PlannedOperation) -> tuple[str, str]:
    """The two lines in a box."""
    parts = layer_of(operation.path).split("/")
    path = "/".join(part for part in parts[-2:] if not part.isdecimal())
    head = (operation.region or operation.structure) + (f": {path}" if path else "")
    shape = "x".join(map(str, operation.shapes_out[0])) if operation.shapes_out else ""
    rule = short(operation.rule) if operation.rule is not None else operation.rule_name
    return _cut(head, 28), f"{_cut(rule, 22)}   {_cut(shape or 'scalar', 16)}"


def short(rule: Any) -> str:
    """A rule with those arguments that are not the default.

    >>> from relprop.rules import Gamma, Pass
    >>> short(Gamma(0.5)), short(Pass())
    ('Gamma(0.5)', 'Pass')
    """
    if not dataclasses.is_dataclass(rule):
        return type(rule).__name__
    given = []
    for field in dataclasses.fields(rule):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        value = getattr(rule, field.name)
        if not _same(value, default):
            array = parameters.is_array(value)
            shown = parameters.text(value) if array else str(value)
            given.append(f"{value:.3g}" if isinstance(value, float) else shown)
    return type(rule).__name__ + (f"({', '.join(given)})" if given else "")


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _repeat_name(operations: Sequence[PlannedOperation], count: int) -> str:
    found = common([op.scope for op in operations if op.scope])
    found = found or common([layer_of(op.path) for op in operations if op.path])
    return f"{starred(found)}  {count} times".strip()


def _colour(structure: str) -> str:
    return next((colour for colour, names in KINDS.values() if structure in names), _OTHER)


def _passing(layout: Layout, part: Sequence[int]) -> Iterator[float]:
    """The columns of edges that end in a part, as far as they run beside it."""
    rows = [layout.places[n][1] for n in part]
    for (_, node), bend in layout.bends.items():
        if node in part:
            yield from (x for x, row in bend if min(rows) <= row <= max(rows))


def _draw_frame(
    axes: Axes, places: Sequence[tuple[float, int]], passing: Sequence[float], text: str
) -> None:
    left = min([x - 0.54 for x, _ in places] + [x - 0.1 for x in passing])
    right = max([x + 0.54 for x, _ in places] + [x + 0.1 for x in passing])
    top, bottom = min(y for _, y in places) - 0.46, max(y for _, y in places) + 0.46
    frame = FancyBboxPatch(
        (left, top),
        right - left,
        bottom - top,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor="0.97",
        edgecolor="0.55",
        linestyle="--",
        zorder=0,
    )
    axes.add_patch(frame)
    style: dict[str, Any] = {"rotation": 90, "ha": "right", "va": "top", "parse_math": False}
    axes.text(left - 0.02, top, text, fontsize=7.5, fontweight="bold", **style)


def _draw_edge(axes: Axes, points: Sequence[tuple[float, int]]) -> None:
    half = _BOX[1] / 2
    line = [(x, float(y)) for x, y in points]
    line[0] = (line[0][0], line[0][1] + half)
    line[-1] = (line[-1][0], line[-1][1] - half)
    vertices, codes = [line[0]], [Path.MOVETO]
    for (x, y), (to_x, to_y) in zip(line, line[1:], strict=False):
        middle = (y + to_y) / 2
        vertices += [(x, middle), (to_x, middle), (to_x, to_y)]
        codes += [Path.CURVE4] * 3
    path = PathPatch(
        Path(vertices, codes), facecolor="none", edgecolor="0.45", linewidth=1.0, zorder=1
    )
    axes.add_patch(path)


def _draw_box(
    axes: Axes, place: tuple[float, int], head: str, rule: str, colour: str, border: str
) -> None:
    (x, y), (width, height) = place, _BOX
    box = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.05",
        facecolor=colour,
        edgecolor=border,
        linewidth=0.8,
        zorder=2,
    )
    axes.add_patch(box)
    style: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 3, "parse_math": False}
    axes.text(x, y - 0.15 * bool(rule), head, fontsize=7, fontweight="bold", **style)
    axes.text(x, y + 0.17, rule, fontsize=6.5, color="0.25", **style)


def _describe(figure: Figure, inspection: Sequence[PlannedOperation], drawn: Drawn) -> None:
    rules = collections.Counter(
        f"{op.structure} by {type(op.rule).__name__}" if op.rule is not None else op.structure
        for op in drawn.operations.values()
    )
    what = ", ".join(f"{n} x {text}" if n > 1 else text for text, n in rules.items())
    again = "".join(f" {len(part)} of them stand for {n} turns." for part, n in drawn.repeats)
    alt = f"Computation of {len(inspection)} operations: {what}.{again}"
    rows = [
        [
            str(n),
            op.structure,
            op.path,
            str(op.rule) if op.rule is not None else op.rule_name,
            ", ".join("input" if s == _INPUT else str(s) for s in drawn.reads[n]),
        ]
        for n, op in drawn.operations.items()
    ]
    describe(figure, alt, ("operation", "structure", "parameter", "rule", "reads"), rows)
