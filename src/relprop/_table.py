"""Tables that print themselves, as plain text and, where rich is installed, in colour."""

from __future__ import annotations

import html
import shutil
from collections.abc import Sequence
from typing import Any

from relprop._characters import visible


class Table:
    """Base of results that are lists of rows: printed, indexed, iterated, or shown by rich."""

    def columns(self) -> Sequence[str]:
        """The names of the columns."""
        raise NotImplementedError

    def cells(self) -> Sequence[Sequence[str]]:
        """The rows as text."""
        raise NotImplementedError

    def title(self) -> str:
        """One line above the table."""
        return ""

    def footer(self) -> str:
        """Lines below the table."""
        return ""

    def __str__(self) -> str:
        rows = [[visible(cell) for cell in row] for row in (self.columns(), *self.cells())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        rows.insert(1, ["-" * width for width in widths])
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(part for part in (self.title(), *lines, self.footer()) if part)

    def _repr_html_(self) -> str:
        """The table for notebooks."""
        head = "".join(f"<th>{_html(name)}</th>" for name in self.columns())
        rows = (
            f"<tr>{''.join(f'<td style=white-space:pre>{_html(cell)}</td>' for cell in row)}</tr>"
            for row in self.cells()
        )
        title, footer = (
            "".join(f"<div>{_html(line)}</div>" for line in text.splitlines())
            for text in (self.title(), self.footer())
        )
        return f"{title}<table><tr>{head}</tr>{''.join(rows)}</table>{footer}"

    def __rich__(self) -> Any:
        import rich.console
        import rich.table
        import rich.text

        table = rich.table.Table(title=self.title() or None, box=None, pad_edge=False)
        wide = shutil.get_terminal_size((120, 40)).columns >= 100
        for column in self.columns():
            table.add_column(column, overflow="fold", no_wrap=not wide)
        for row in self.cells():
            table.add_row(*(rich.text.Text(visible(cell)) for cell in row))
        return rich.console.Group(table, self.footer()) if self.footer() else table


def _html(text: str) -> str:
    return html.escape(visible(text))


def amount(value: float, whole: float) -> str:
    """Relevance as text; less than a 100000th of the whole is rounding, and shown as 0.

    >>> amount(42.4722, 47.8), amount(8.4e-6, 47.8)
    ('42.47', '0')
    """
    return "0" if abs(value) < 1e-5 * abs(whole) else f"{value:.4g}"
