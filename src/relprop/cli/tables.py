"""What the command line prints."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.measure
import rich.progress
import rich.table
import rich.text

from relprop import presets
from relprop import rules as rules_module
from relprop._characters import visible
from relprop._table import amount
from relprop.report import Balance, Balances, Explanation
from relprop.report.explanation import by_model, maps_of, percent, rules_of, strongest

_TEX = {r"\odot": "*", r"\nabla": "grad"}


def show(*what: Any) -> None:
    """Prints tables to stdout."""
    console = _console()
    for part in what:
        part = part.__rich__() if hasattr(part, "__rich__") else part
        parts: Any = part.renderables if isinstance(part, rich.console.Group) else [part]
        for each in parts:
            console.print(_narrow(each, console.width) if _is_cut(each, console) else each)


def _is_cut(part: Any, console: rich.console.Console) -> bool:
    """Whether a table is too wide for words and numbers to stay whole."""
    if not isinstance(part, rich.table.Table):
        return False
    unbounded = console.options.update(max_width=10**6)
    return rich.measure.Measurement.get(console, unbounded, part).minimum > console.width


def _narrow(table: rich.table.Table, width: int) -> rich.console.Group:
    """A table with a line for each cell, or two where that is too long."""
    lines = [str(table.title)] if table.title else []
    names = [_flat(column.header) for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for name, cell in zip(names, row, strict=True):
            line = f"{name}: {_flat(cell)}"
            lines += [line] if len(line) <= width else [f"{name}:", f"  {_flat(cell)}"]
        lines.append("")
    return rich.console.Group(*map(rich.text.Text, lines))


def _flat(cell: Any) -> str:
    return str(cell).replace("_\n", "_")


def progress() -> rich.progress.Progress:
    """A bar on stderr, so that stdout holds results only."""
    return rich.progress.Progress(
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("{task.description}", markup=False),
        console=_console(stderr=True),
    )


@contextlib.contextmanager
def step(
    bar: rich.progress.Progress, task: rich.progress.TaskID, model: str, what: str
) -> Iterator[None]:
    """One step of a task: its name while it lasts, the advance at its end."""
    bar.update(task, description=f"{model}: {what}")
    yield
    bar.update(task, advance=1, description=model)


def results(
    explanations: Sequence[Explanation], balances: Balances
) -> Iterator[rich.table.Table | rich.text.Text]:
    """Per model, a table of its images and one of its rules, and what went wrong."""
    for model, group in by_model(explanations).items():
        of_model = {rules: balances[model, rules] for rules in rules_of(group)}
        parts = ["the part of them that is explained"] * bool(of_model)
        parts += ["row and column where maps are strongest"] * bool(maps_of(group))
        yield _title(f"{model}: scores, and {'; '.join(parts)}")
        yield _scores(group)
        if not of_model:
            continue
        yield _title(f"{model}: where the relevance of all images went, in units of the score")
        yield _balances(of_model)
        for rules, balance in of_model.items():
            if balance.fault:
                yield _plain(f"{rules}: {balance.fault}")


def _scores(group: Sequence[Explanation]) -> rich.table.Table:
    names, methods = rules_of(group), maps_of(group)
    table = _table()
    table.add_column("image", overflow="fold")
    for column in ("predicted", "class", "score", *map(_broken, [*names, *methods])):
        table.add_column(column, justify="right")
    for e in group:
        shares = [percent(e.share(name)) for name in names]
        places = [strongest(e.maps[method]) for method in methods]
        label, target = _plain(e.label), _plain(e.target)
        table.add_row(_plain(e.name), label, target, f"{e.score:.3f}", *shares, *places)
    return table


def _balances(found: Mapping[str, Balance]) -> rich.table.Table:
    table = _table()
    table.add_column("rules", no_wrap=True)
    for column in ("handed out", "explained", "bias", "epsilon", "stopped", "gap"):
        table.add_column(column, justify="right")
    for rules, balance in found.items():
        whole = balance.handed_out
        parts = [amount(part, whole) for part in balance.parts().values()]
        table.add_row(rules, f"{whole:.4g}", *parts)
    return table


def rules() -> rich.table.Table:
    """All names of presets and rules, with the first line of what they are."""
    table = _table()
    table.add_column("name", no_wrap=True)
    table.add_column("kind")
    table.add_column("what it does")
    for name in presets.names():
        preset = getattr(presets, name, None)
        what = preset if preset is not None else type(rules_module.by_name(name))
        kind = "rule" if preset is None else "preset"
        table.add_row(name, kind, _plain(summary(what)))
    return table


def summary(documented: Any) -> str:
    """The first line of a docstring, without its markup."""
    line = (inspect.getdoc(documented) or "").partition("\n")[0]
    for tex, text in _TEX.items():
        line = line.replace(tex, text)
    return re.sub(r":\w+:(?=`)", "", line).replace("`", "")


def _table() -> rich.table.Table:
    return rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)


def _title(text: str) -> rich.text.Text:
    # Not the title of the table, which is folded to the width of the columns.
    return rich.text.Text(visible(text), style="bold")


def _plain(text: str) -> rich.text.Text:
    return rich.text.Text(visible(text))  # brackets in it are no markup


def _broken(name: str) -> str:
    return name.replace("_", "_\n")


def _console(stderr: bool = False) -> rich.console.Console:
    console = rich.console.Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 240)  # a pipe has no width, and 80 would fold tables
    return console
