"""The command that explains text with a model of Hugging Face on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import rich.console
import typer

from relprop import presets, tokens
from relprop._errors import InputError
from relprop.cli.inputs import writable

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


def explain_text(
    ctx: typer.Context,
    text: Annotated[list[str], typer.Argument(metavar="TEXT...")],
    model: Annotated[Path, _MODEL],
    next: Annotated[str | None, _NEXT] = None,
    class_: Annotated[str | None, _CLASS] = None,
    generate: Annotated[int | None, _GENERATE] = None,
    rather_than: Annotated[str | None, _OTHER] = None,
    rules: Annotated[str, typer.Option(help="A name that `relprop rules` lists.")] = "attn_lrp",
    skip_special: Annotated[
        bool, typer.Option("--skip-special", help="Leave out tokens such as [CLS].")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An HTML page to be written as well.")
    ] = None,
) -> None:
    """Explain texts with a language model: coloured text, and an HTML page if asked for."""
    composite = presets.by_name(rules)
    target = _target(next, class_, generate)
    page = None if out is None else writable(out.parent) / out.name
    loaded = tokens.from_pretrained(model)
    if loaded.tokenizer is None:
        raise InputError(f"There is no tokenizer.json in {model}, which the text needs.")
    result = tokens.explain(
        loaded,
        text,
        target,
        contrast=rather_than,
        rules=composite,
        skip_special=skip_special,
    )
    console = rich.console.Console(highlight=False)
    if console.is_terminal:
        console.print(result)
    else:  # colours would be lost
        typer.echo(str(result))
    if page is not None:
        result.html(page)
        typer.echo(str(page))


def _target(next: str | None, class_: str | None, generate: int | None) -> tokens.Target | None:
    if sum(option is not None for option in (next, class_, generate)) > 1:
        raise InputError("--next, --class and --generate exclude one another.")
    if generate is not None:
        return tokens.Continuation(length=generate)
    if class_ is not None:
        return tokens.ClassTarget(class_)
    return None if next is None else tokens.NextToken(next)
