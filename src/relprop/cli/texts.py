"""Files of texts, explained by jobs into stores, and what reads those."""

from __future__ import annotations

import collections
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import typer

from relprop import jobs, tokens
from relprop._characters import visible
from relprop._errors import InputError
from relprop.cli.quiet import quiet
from relprop.jobs._source import Source, source_of
from relprop.jobs._texts import is_of_texts
from relprop.tokens._result import page_of
from relprop.tokens._text import load_tokenizer

#: What files of texts end with, and what is a text in them.
KINDS = {".txt": "a line", ".jsonl": '"text" of a line', ".parquet": "a row of the column `text`"}


def source(files: Sequence[Path]) -> Source:
    """The texts of files, each read when it is asked for; lines without any text are left out.

    Raises:
        InputError: a file is not there, of another kind, or there are no texts.
    """
    wrong = [str(file) for file in files if not file.is_file() or file.suffix not in KINDS]
    if wrong:
        kinds = ", ".join(f"{suffix} ({what} each)" for suffix, what in KINDS.items())
        raise InputError(f"For a store name files of texts: {kinds}. Not so: {', '.join(wrong)}.")
    tables = [file for file in files if file.suffix == ".parquet"]
    if tables:
        if len(files) > 1:
            raise InputError("Name one parquet file by itself, or files of lines.")
        rows = source_of(tables[0])
        return Source(rows.length, lambda start: map(_of_row, rows.items(start)))
    alike = collections.Counter(file.name for file in files)
    shown = [file.name if alike[file.name] == 1 else file.as_posix() for file in files]
    starts = [_starts(file) for file in files]
    ends = np.cumsum([len(each) for each in starts])
    if not ends[-1]:
        raise InputError(f"There are no texts in {', '.join(map(str, files))}.")

    def place(number: int) -> tuple[int, np.ndarray]:
        of = int(np.searchsorted(ends, number, side="right"))
        return of, starts[of][number - ends[of]]

    def get(number: int) -> str:
        of, (begin, _) = place(number)
        with open(files[of], "rb") as opened:
            opened.seek(begin)
            line = _line(opened.readline(), begin)
        return _text(json.loads(line)) if files[of].suffix == ".jsonl" else line

    def name(number: int) -> str:
        of, (_, line) = place(number)
        return f"{shown[of]}:{line}"

    def items(start: int) -> Iterator[Any]:
        return (lambda n=number: get(n) for number in range(start, int(ends[-1])))

    return Source(int(ends[-1]), items, name)


def explain_files(
    model: tokens.LanguageModel,
    folder: Path,
    files: Sequence[Path],
    out: Path,
    *,
    command: str,
    quiet: bool,
    **options: Any,
) -> jobs.Explained:
    """Explains the texts of files into a store."""
    about = {"command": command, "model": str(folder), "tokenizer": str(folder.resolve())}
    texts = source(files)
    return jobs.explain_texts(model, texts, out, description=about, progress=not quiet, **options)


def show(found: jobs.Explained, number: int) -> None:
    """Prints what a store holds of one text, by each method."""
    tokenizer = _tokenizer(found)
    console = rich.console.Console(highlight=False)
    for method in found.methods:
        if number in found.errors:
            typer.echo(visible(f"{method}: {found.errors[number]}"))
            continue
        result = jobs.text_of(found[method], number, tokenizer)
        typer.echo(visible(f"{method}: {result.line()}"))
        if console.is_terminal:
            console.print(result)
        else:  # colours would be lost
            typer.echo(str(result))


def page(found: jobs.Explained, numbers: Sequence[int], title: str) -> str:
    """An HTML page of texts of a store; those that could not be explained are named with why."""
    tokenizer = _tokenizer(found)
    results, details = {}, dict(_details(found))
    for number in numbers:
        name = str(found.ids[number])
        if number in found.errors:
            details[name] = f"left out: {found.errors[number]}"
            continue
        for method in found.methods:
            called = name if len(found.methods) == 1 else f"{name}, {method}"
            results[called] = jobs.text_of(found[method], number, tokenizer)
    return page_of(results, title, details)


def of_texts(found: jobs.Explained) -> bool:
    """Whether a store is of texts."""
    return is_of_texts(found)


def _details(found: jobs.Explained) -> Mapping[str, str]:
    told = found.header["description"]
    known = {name: str(told[name]) for name in ("model", "command") if name in told}
    return known | {f"rules: {name}": text for name, text in found.header["methods"].items()}


def _tokenizer(found: jobs.Explained) -> Any:
    """That of the model; None where it is not there any more, and tokens are numbers."""
    folder = found.header["description"].get("tokenizer")
    if folder is not None:
        with contextlib.suppress(InputError, ImportError), quiet():
            return load_tokenizer(folder)
    return None


def _starts(file: Path) -> np.ndarray:
    """Where each line with a text begins, and its number from 1."""
    found, begin = [], 0
    with open(file, "rb") as opened:
        for number, line in enumerate(opened, 1):
            with contextlib.suppress(UnicodeDecodeError):  # an error of the text, when it is read
                if not _line(line, begin):
                    begin += len(line)
                    continue
            found.append((begin, number))
            begin += len(line)
    return np.array(found, np.int64).reshape(-1, 2)


def _line(data: bytes, begin: int) -> str:
    """What a line says that begins there; at the begin of a file may be a mark of its encoding."""
    return data.decode("utf-8" if begin else "utf-8-sig").strip()


def _of_row(item: Any) -> Any:
    return lambda: _text(item())


def _text(row: Any) -> str:
    text = row.get("text") if isinstance(row, Mapping) else None
    if not isinstance(text, str) or not text:
        raise InputError('has no "text" that is a string')
    return text
