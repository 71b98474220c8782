"""The command that shows a page in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relprop import jobs, zoo
from relprop._characters import visible
from relprop._errors import InputError
from relprop.cli.inputs import load_model
from relprop.cli.said import said

#: Texts of planted tasks, whose models are bundled, to begin with.
EXAMPLES = {
    "negation": "the film was not great and long with that music by a plot",
    "evidence-spans": "a film great brilliant lovely and the plot dull weak boring by that scene",
    "key-value": "a 3 b 5 c 7 d 1 e 0 f 2 ? c",
}
_LOCAL = ("127.0.0.1", "localhost", "::1")
_MODELS = typer.Option(
    "--model",
    metavar="MODEL",
    help="A model of images, as for `relprop explain`; may be repeated. The bundled ones are there "
    "in any case.",
)
_TEXTS = typer.Option(
    "--text",
    metavar="FOLDER",
    help="A language model of Hugging Face on disk, as for `relprop explain-text`; may be "
    "repeated.",
)
_STORES = typer.Option(
    "--store",
    metavar="STORE",
    help="What `relprop explain FOLDER --out STORE` wrote, to be browsed; may be repeated.",
)


def app_in_browser(
    ctx: typer.Context,
    model: Annotated[list[str] | None, _MODELS] = None,
    text: Annotated[list[Path] | None, _TEXTS] = None,
    store: Annotated[list[Path] | None, _STORES] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen. Others than 127.0.0.1 let other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default a free one from 7860 on.")
    ] = None,
) -> None:
    """Show a page in the browser: explain images and text by clicks, browse stores."""
    from relprop import app, tokens, truth
    from relprop.app import ImageExplainer, TextExplainer

    images = {}
    for name in [*(model or ()), *zoo.names()]:
        loaded = load_model(name)
        for note in loaded.notes:
            said(note)
        images.setdefault(loaded.name, ImageExplainer(loaded))
    texts = {}
    for folder in text or ():
        loaded_text = tokens.from_pretrained(folder)
        _add(texts, visible(folder.name), TextExplainer(visible(folder.name), loaded_text))
    for name, example in EXAMPLES.items():
        texts.setdefault(name, TextExplainer(name, truth.load_text(name), example))
    stores: dict[str, Path] = {}
    for place in store or ():
        jobs.load(place)
        _add(stores, visible(place.name), place.resolve())
    if host not in _LOCAL:
        said(
            f"Whoever can reach {host} can use this page: there is no password. "
            "127.0.0.1 is for this machine alone."
        )
    page = app.build(images, texts, stores)
    app.serve(page, host, port, ready=lambda address: typer.echo(f"{address}\nCtrl-C ends it."))


def _add(found: dict, name: str, value: object) -> None:
    if name in found:
        raise InputError(f"Two folders are called {name!r}: rename one of them.")
    found[name] = value
