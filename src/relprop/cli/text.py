"""The command that explains text with a model of Hugging Face on disk."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import rich.console
import typer

import relprop
from relprop import presets, tokens
from relprop._characters import visible
from relprop._errors import InputError
from relprop.cli import texts
from relprop.cli.dataset import STORE, tell
from relprop.cli.inputs import writable
from relprop.cli.quiet import quiet
from relprop.cli.said import saying_what_is_replaced

_MODEL = typer.Option(
    metavar="FOLDER",
    help="A model of Hugging Face on disk: config.json, model.safetensors, tokenizer.json.",
)
_NEXT = typer.Option(
    "--next", metavar="TOKEN", help="Explain this next token; by default the predicted one."
)
_CLASS = typer.Option(
    "--class", metavar="CLASS", help="Explain this class, by number or name, of a classifier."
)
_GENERATE = typer.Option(
    metavar="N", min=1, help="Explain each of N tokens that the model goes on with."
)
_OTHER = typer.Option(
    metavar="TOKEN|CLASS", help="Why not this one? Its logit is subtracted from the explained one."
)
_RULES = typer.Option(
    help="A name that `relprop rules` lists. The default is for models with attention; for state "
    "spaces, such as Mamba, take mamba_lrp."
)
_SKIP_SPECIAL = typer.Option("--skip-special", help="Leave out tokens such as [CLS].")
_SKIP_FIRST = typer.Option(metavar="N", min=0, help="Leave out the first N tokens, often a sink.")
_OUT = typer.Option(
    metavar="FILE", help="An HTML page to be written as well; or NAME.zarr, a store."
)
_OVERWRITE = typer.Option("--overwrite", help="Replace files of an earlier run without a word.")
_TEXTS_AT_ONCE = 16
_BATCH_SIZE = typer.Option(min=1, help="Texts at once, for a store.")
_QUIET = typer.Option("--quiet", help="No bar, for a store.")


def explain_text(
    ctx: typer.Context,
    text: Annotated[list[str], typer.Argument(metavar="TEXT...")],
    model: Annotated[Path, _MODEL],
    next: Annotated[str | None, _NEXT] = None,
    class_: Annotated[str | None, _CLASS] = None,
    generate: Annotated[int | None, _GENERATE] = None,
    rather_than: Annotated[str | None, _OTHER] = None,
    rules: Annotated[str, _RULES] = "attn_lrp",
    skip_special: Annotated[bool, _SKIP_SPECIAL] = False,
    skip_first: Annotated[int, _SKIP_FIRST] = 0,
    out: Annotated[Path | None, _OUT] = None,
    overwrite: Annotated[bool, _OVERWRITE] = False,
    batch_size: Annotated[int, _BATCH_SIZE] = _TEXTS_AT_ONCE,
    quiet: Annotated[bool, _QUIET] = False,
) -> None:
    """Explain texts with a language model: coloured text, and an HTML page if asked for.

    With --out NAME.zarr, each TEXT is a file of any number of texts (.txt with one in each line,
    .jsonl and .parquet with "text"), which are explained into a store that `relprop report` and
    `relprop show` read; the same command goes on where it was ended.
    """
    composite = presets.by_name(rules)
    target = _target(next, class_, generate)
    if out is not None and out.suffix == STORE:
        if generate is not None or skip_special or skip_first:
            raise InputError(
                "A store has one score per text and all of its tokens, without --generate, "
                "--skip-special and --skip-first."
            )
        named = {"--next": next, "--class": class_, "--rather-than": rather_than, "--rules": rules}
        named["--batch-size"] = None if batch_size == _TEXTS_AT_ONCE else str(batch_size)
        options = {"target": target, "contrast": rather_than, "rules": composite}
        _into_store(text, model, out, named, quiet=quiet, batch_size=batch_size, **options)
        return
    page = None if out is None else writable(out.parent, [out.name]) / out.name
    loaded = _loaded(model)
    result = tokens.explain(
        loaded,
        text,
        target,
        contrast=rather_than,
        rules=composite,
        skip_special=skip_special,
        skip_first=skip_first,
    )
    if page is not None:
        with saying_what_is_replaced([page], overwrite):
            result.html(page, details=_details(model, rules))
    console = rich.console.Console(highlight=False)
    if console.is_terminal:
        console.print(result)
    else:  # colours would be lost
        typer.echo(str(result))
    if page is not None:
        typer.echo(visible(str(page)))


def _into_store(
    text: Sequence[str],
    model: Path,
    out: Path,
    named: Mapping[str, str | None],
    **options: Any,
) -> None:
    """Explains files of texts; `named` are options of the command that belong to the store."""
    files = [Path(each) for each in text]
    texts.source(files)  # what is wrong with them need not wait for the model
    again = [part for pair in named.items() if pair[1] is not None for part in pair]
    command = ["explain-text", "--model", str(model), *again, "--out", str(out), "--", *text]
    found = texts.explain_files(
        _loaded(model), model, files, out, command=shlex.join(["relprop", *command]), **options
    )
    tell(found, out)


def _loaded(folder: Path) -> tokens.LanguageModel:
    """The model of a folder, which has to have a tokenizer."""
    with quiet():
        loaded = tokens.from_pretrained(folder)
    if loaded.tokenizer is None:
        raise InputError(f"There is no tokenizer.json in {folder}, which the text needs.")
    return loaded


def _details(model: Path, rules: str) -> dict[str, str]:
    """What a page tells beside the text."""
    told = {"model": str(model), "rules": rules, "date": datetime.date.today().isoformat()}
    return told | {"relprop": relprop.__version__}


def _target(next: str | None, class_: str | None, generate: int | None) -> tokens.Target | None:
    if sum(option is not None for option in (next, class_, generate)) > 1:
        raise InputError("--next, --class and --generate exclude one another.")
    if generate is not None:
        return tokens.Continuation(length=generate)
    if class_ is not None:
        return tokens.ClassTarget(class_)
    return None if next is None else tokens.NextToken(next)
