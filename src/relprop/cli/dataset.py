"""Folders of images, explained by jobs into stores, and what reads those."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import typer
from PIL import Image

from relprop import jobs, report
from relprop._characters import visible
from relprop._errors import InputError
from relprop._files import write_text
from relprop._images import eight_bit, upright
from relprop.cli import texts
from relprop.cli.inputs import Model, composites, listed, preprocessed, writable
from relprop.cli.job import advised
from relprop.cli.said import said, saying_what_is_replaced

STORE = ".zarr"
_STORE = typer.Argument(metavar="STORE", help="What `relprop explain` or `explain-text` wrote.")
_SHOWN = 5  # errors that are named


def is_job(images: Sequence[Path], out: Path) -> bool:
    """Whether a dataset is meant: a folder, and a store for what is found.

    Raises:
        InputError: only one of the two.
    """
    folders = [path for path in images if path.is_dir()]
    if out.suffix == STORE and (len(images) != 1 or not folders):
        raise InputError(f"For a store ({out}) name one folder of images.")
    return out.suffix == STORE


def explain_folder(
    model: Model,
    folder: Path,
    names: Sequence[str],
    target: int | None,
    out: Path,
    *,
    batch_size: int,
    quiet: bool,
    command: str,
) -> None:
    """Explains all images of a folder into a store, and says what came out."""
    rules = composites(names, model, _first(model, folder))

    def score(params: Any, pixels: Any) -> Any:
        logits = model.fn(params, pixels[None])[0]
        predicted = jnp.argmax(logits)
        chosen = predicted if target is None else target
        return logits[chosen], {"class": predicted, "explained": jnp.asarray(chosen)}

    found = jobs.explain(
        score,
        rules,
        folder,
        out,
        batch_size,
        progress=not quiet,
        params=model.params,
        has_aux=True,
        prepare=functools.partial(_prepared, model),
        description={"command": command, "model": model.name, "folder": str(folder.resolve())},
    )
    tell(found, out)


def tell(found: jobs.Explained, out: Path) -> None:
    """Says what came out of a job, and ends with exit code 1 if something was left out."""
    typer.echo(visible_lines(repr(found)))
    if found.errors:
        some = dict(list(found.errors.items())[:_SHOWN])
        more = len(found.errors) - len(some)
        said(
            "Left out:"
            + listed({str(found.ids[n]): text for n, text in some.items()})
            + (f"\n  and {more} more: relprop.load({str(out)!r}).errors" if more else "")
        )
        raise typer.Exit(1)


def advised_rules(model: Model, folder: Path) -> Sequence[str]:
    """Rules for a model whose user names none, and a word on why."""
    found = advised(model, _first(model, folder))
    said(found.reason)
    return found.rules


def show(
    ctx: typer.Context,
    store: Annotated[Path, _STORE],
    index: Annotated[int, typer.Option(help="Which sample, from 0; negative from the end.")] = 0,
) -> None:
    """Show what a store holds of one sample: its score, and where that went by each method."""
    found = jobs.load(store)
    number = _number(found, index)
    typer.echo(visible(f"sample {number} of {len(found)}: {found.ids[number]}"))
    if texts.of_texts(found):
        texts.show(found, number)
        return
    for method in found.methods:
        one = found[method]
        typer.echo(visible(f"{method}: {one.line(number)}"))
        if number in one.errors:
            continue
        relevance = one.relevance if not isinstance(one.relevance, dict) else {}
        if isinstance(relevance, jobs.Lazy):
            values = np.asarray(relevance[number])
            best = np.unravel_index(np.argmax(np.abs(values)), values.shape)
            where = ", ".join(map(str, best))
            typer.echo(f"  strongest at [{where}]: {values[best]:+.4g}")


def write_report(
    ctx: typer.Context,
    store: Annotated[Path, _STORE],
    first: Annotated[int, typer.Option(min=0, help="The first sample.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 24,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder for report.html; made if need be.")
    ] = Path("relprop-report"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of an earlier run without a word.")
    ] = False,
) -> None:
    """Make an HTML report of a part of a store of explained images or texts."""
    found = jobs.load(store)
    folder = writable(out, ["report.html"])
    numbers = [n for n in range(first, min(first + count, len(found))) if found.done[n]]
    good = [n for n in numbers if n not in found.errors]
    if not good:
        raise InputError(f"{store} has no explained samples from {first} on, of {len(found)}.")
    left_out = {str(found.ids[n]): found.errors[n] for n in numbers if n in found.errors}
    page = folder / "report.html"
    title = f"Samples {good[0]} to {good[-1]} of {store.name}"
    if texts.of_texts(found):
        text = texts.page(found, numbers, title)
        with saying_what_is_replaced([page], overwrite):
            write_text(page, text)
        typer.echo(visible(str(page)))
        return
    explanations = [explanation_of(found, number) for number in good]
    with saying_what_is_replaced([page], overwrite):
        report.write_html(
            explanations,
            page,
            title,
            rules=found.header["methods"],
            left_out=left_out,
            command=str(found.header["description"].get("command", "")),
        )
    typer.echo(visible(str(page)))


def explanation_of(found: jobs.Explained, number: int) -> report.Explanation:
    """A sample of a store of explained images, for a report.

    Raises:
        InputError: the store is not of images, or names one that is not in its folder.
    """
    rules = {}
    for method in found.methods:
        one = found[method]
        values = np.asarray(one.relevance[number])
        if values.ndim not in (2, 3):
            raise InputError("Only stores of explained images can be reported.")
        seed = 1.0 if found.header["seeds"][method] == "one" else float(one.score[number])
        sums = {"handed out": seed, "explained": float(one.explained[number])}
        rules[method] = (values, sums)
    aux = found.aux if isinstance(found.aux, dict) else {}
    label, target = (
        str(int(aux[name][number])) if name in aux else "" for name in ("class", "explained")
    )
    values = next(iter(rules.values()))[0]
    image = _seen(_file_of(found, number), values.shape)
    name = visible(str(found.ids[number]))
    model = str(found.header["description"].get("model", "model"))
    return report.Explanation(model, name, image, label, target, float(found.score[number]), rules)


def _file_of(found: jobs.Explained, number: int) -> Path:
    """The image that a store names, in the folder that it names: a store may be from anybody."""
    name = Path(str(found.ids[number]))
    if name.anchor or ".." in name.parts:
        raise InputError(
            f"The store {found.place} calls sample {number} {str(name)!r}, which is not inside of "
            "its folder of images: it was not written by relprop, and is not shown."
        )
    return Path(found.header["description"].get("folder", "")) / name


def _seen(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The image in the size of its relevance; grey where it is not there any more."""
    with contextlib.suppress(Exception):
        image = eight_bit(upright(jobs.read_image(file)))
        image = image.convert("L" if shape[2:] in ((), (1,)) else "RGB")
        pixels = (
            np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BOX), np.float32) / 255
        )
        return pixels.reshape(shape)
    return np.full(shape, 0.5, np.float32)


def _prepared(model: Model, image: Image.Image) -> np.ndarray:
    return np.asarray(preprocessed(model, eight_bit(upright(image))), np.float32)


def _first(model: Model, folder: Path) -> np.ndarray:
    """The pixels of the first image that can be read, from which rules take their range."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in jobs.IMAGES)
    for file in files:
        with contextlib.suppress(InputError, OSError):
            return _prepared(model, jobs.read_image(file))[None]
    raise InputError(f"There are no images that can be explained in {folder}.")


def _number(found: jobs.Explained, index: int) -> int:
    if not -len(found) <= index < len(found):
        raise InputError(f"There are {len(found)} samples, so there is no number {index}.")
    number = index % len(found)
    if not found.done[number]:
        raise InputError(f"Sample {number} is not explained yet.")
    return number


def visible_lines(text: str) -> str:
    """Lines without characters that a terminal would obey."""
    return "\n".join(map(visible, text.splitlines()))
