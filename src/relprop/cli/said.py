"""What is told on stderr, without characters that a terminal would obey."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

from relprop._characters import visible


def said(text: str) -> None:
    """Prints lines to stderr."""
    typer.echo("\n".join(map(visible, text.splitlines())), err=True)


@contextlib.contextmanager
def saying_what_is_replaced(files: Iterable[Path], quiet: bool) -> Iterator[None]:
    """Around the writing of files: says afterwards which of them were there before."""
    there = [str(file) for file in files if file.exists()]
    yield
    if there and not quiet:
        said(f"Replaced {' and '.join(there)}, as --overwrite would without saying so.")


def unexpected(error: Exception) -> str:
    """What to say of an error that nobody has foreseen."""
    text = str(error).strip().partition("\n")[0][:500]
    return (
        f"{type(error).__name__}: {text}. Nobody has foreseen this error: it may be due to a "
        "damaged file, or to a mistake in relprop. --traceback shows where it arose."
    )
