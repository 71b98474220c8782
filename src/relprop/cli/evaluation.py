"""The command that measures explanations of a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from relprop import evaluation, presets
from relprop._characters import visible
from relprop._errors import InputError
from relprop.cli import tables
from relprop.cli.inputs import Model, composites, listed, load_model, read_images, writable
from relprop.cli.job import advised
from relprop.cli.said import said, saying_what_is_replaced

_METHODS = typer.Option(
    "--methods",
    metavar="NAME",
    help="A name that `relprop rules` lists, a baseline (gradient, gradient_times_input, "
    "integrated_gradients, deeplift, feature_ablation), or one of the controls, random and edges, "
    "which are always there. May be repeated; by default what fits the kind of model.",
)
_METRICS = typer.Option(
    "--metrics",
    metavar="NAME",
    help=f"May be repeated; by default abpc. Known: {', '.join(evaluation.names())}.",
)
#: What is written.
FILES = ("evaluation.html", "evaluation.csv", "evaluation.json")
_DATA = typer.Option(metavar="FOLDER", help="A folder of images that Pillow can read.")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def evaluate(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(metavar="MODEL", help="As for `relprop explain`.")],
    data: Annotated[Path, _DATA],
    methods: Annotated[list[str] | None, _METHODS] = None,
    metrics: Annotated[list[str] | None, _METRICS] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the curves that are drawn.")] = 16,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder for evaluation.html, .csv and .json.")
    ] = Path("relprop-evaluation"),
    resize: Annotated[
        bool, typer.Option("--resize", help="Stretch or shrink images, as for `relprop explain`.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace files of an earlier run without a word."),
    ] = False,
) -> None:
    """Measure which explanation of a model is right: a table of methods and metrics."""
    if not data.is_dir():
        raise InputError(f"{data} is no folder.")
    files = sorted(p for p in data.iterdir() if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise InputError(f"There are no images in {data}: {', '.join(sorted(_SUFFIXES))}.")
    loaded = load_model(model)
    folder = writable(out, FILES)
    images = read_images(loaded, files, resize)
    if not methods:
        found = advised(loaded, images.pixels)
        methods = [*found.rules, "integrated_gradients"]
        typer.echo(found.reason, err=True)
    table = evaluation.evaluate(
        {loaded.name: (loaded.fn, loaded.params)},
        _methods(methods, loaded, images.pixels),
        images.pixels,
        metrics or ["abpc"],
        curves={"steps": min(steps, images.pixels[0].size)},
    )
    page, *others = (folder / name for name in FILES)
    with saying_what_is_replaced([page, *others], overwrite):
        table.write_html(page, f"Explanations of {loaded.name}, measured")
        table.write_csv(others[0])
        table.write_json(others[1])
    tables.show(table)
    if images.left_out:
        said("Left out:" + listed(images.left_out))
    typer.echo(visible(str(page)))
    if images.left_out:
        raise typer.Exit(1)


def _methods(names: Any, model: Model, pixels: Any) -> dict[str, Any]:
    """Methods by name; presets that need the range of the pixels are given it."""
    found: dict[str, Any] = {}
    for name in names:
        key = name.lower().replace("-", "_")
        found[key] = composites([key], model, pixels)[key] if key in presets.names() else key
    return found | {"random": "random", "edges": "edges"}
