"""The command line: explain images or text with a model, list the rules, print a plan.

Whatever can be checked is checked before anything long starts. What is wrong with the call as a
whole is one message on stderr and exit code 2; Ctrl-C is 130. Images that cannot be explained are
left out, named with the reason, and make the exit code 1, as NaN or infinity in the relevance does.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

import relprop
from relprop import attribution, presets, zoo
from relprop._characters import visible
from relprop._errors import InputError, RelpropError, unknown_name
from relprop._files import replacing_all

try:
    import typer

    from relprop import report
    from relprop.cli import dataset, tables
    from relprop.cli.browser import app_in_browser
    from relprop.cli.cache import keep_compiled
    from relprop.cli.evaluation import evaluate
    from relprop.cli.inputs import (
        composites,
        listed,
        load_model,
        read_images,
        sample_image,
        writable,
    )
    from relprop.cli.job import Job, advised, best_first, plan
    from relprop.cli.said import said, saying_what_is_replaced, unexpected
    from relprop.cli.text import explain_text
except ImportError as error:
    raise ImportError(
        f"The command line needs {error.name!r}, which cannot be imported. Install what it needs "
        "with: pip install 'relprop[demo]'"
    ) from error

#: The rules of the demo. `relprop explain` takes those of `relprop.cli.defaults` if none are named.
RULES: Mapping[str, tuple[str, ...]] = {
    "digits-cnn": (
        "gradient_times_input",
        "epsilon",
        "gamma",
        "epsilon_plus",
        "alpha_beta",
        "epsilon_gamma_box",
    ),
    "digits-vit": ("gradient_times_input", "epsilon", "gamma", "attn_lrp", "cp_lrp"),
}
#: The method that goes by rules; the others are those of `relprop.transformer_attribution`.
RELEVANCE = "relevance"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_IMAGES = typer.Argument(metavar="IMAGE...", help="Files that Pillow can read.")
_MODEL = typer.Option(
    metavar="MODEL",
    help="A bundled model (digits-cnn, digits-vit); vit:FOLDER, a vision transformer on disk as "
    "Hugging Face saves it (config.json, model.safetensors, preprocessor_config.json), which needs "
    "no PyTorch; or package.module:function. The function takes "
    "nothing and returns (fn, params, preprocess): fn(params, images) gives class scores "
    "[batch, classes], and preprocess turns a PIL image into an array [height, width, channels]. "
    "The current folder is importable.",
)
_RULES = typer.Option(
    metavar="PRESET",
    help="A name that `relprop rules` lists; may be repeated. By default those that fit the kind "
    "of model, which are named. Also those of "
    f"{', '.join(attribution.methods_by_rules())}, which have their own by default. "
    "epsilon_gamma_box takes the range of pixels from the bundled model; for another one, it is "
    "what preprocess makes of black, of white and of your images.",
)
_METHOD = typer.Option(
    "--method",
    metavar="METHOD",
    help="relevance, which is a map of the pixels by each of --rules; or, for transformers, a map "
    f"of the patches: {', '.join(attribution.methods())}. May be repeated; by default relevance.",
)
_OUT = typer.Option(
    metavar="DIR", help="The folder for report.html and montage.png; made if need be."
)
_RESIZE = typer.Option(
    "--resize",
    help="Stretch or shrink each image to what the bundled model takes; with a model of your own, "
    "to the size of the first image.",
)


_STYLE = typer.Option(
    "--style",
    metavar="STYLE",
    help="How heatmaps are drawn: plain, beside the image; overlay or opacity, over the image in "
    "grey; contours, lines around what is strong.",
)
_OVERWRITE = typer.Option(
    "--overwrite", help="Replace the files of an earlier run without saying so."
)
#: What is written.
FILES = ("report.html", "montage.png")
_IMAGES_AT_ONCE = 64
_BATCH_SIZE = typer.Option(min=1, help="Images at once, for a store.")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"relprop {relprop.__version__}")
        raise typer.Exit


@app.callback()
def _relprop(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the code an error arose.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Layer-wise relevance propagation: what in an image or text adds to a score of a model."""


def _command(function: Callable[..., None], name: str | None = None) -> Callable[..., None]:
    """A command whose errors are messages."""

    @app.command(name)
    @functools.wraps(function)
    def run(ctx: typer.Context, *args: Any, **kwargs: Any) -> None:
        try:
            function(ctx, *args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt as error:
            said(f"relprop: {str(error) or 'Interrupted.'}")
            raise typer.Exit(130) from error
        except Exception as error:
            if ctx.find_root().params["traceback"]:
                raise
            known = isinstance(error, (RelpropError, OSError, ImportError))
            said(f"relprop: {error}" if known else f"relprop: {unexpected(error)}")
            raise typer.Exit(2) from error

    return run


@_command
def demo(
    ctx: typer.Context,
    out: Annotated[Path, _OUT] = Path("demo-report"),
    style: Annotated[str, _STYLE] = "plain",
) -> None:
    """Explain the bundled images with the bundled models, by several rules side by side."""
    report.check_style(style)
    folder = writable(out, FILES)
    sample_image()
    before = jax.config.read("jax_disable_most_optimizations")
    # Models this small run at once either way: nearly all of the time is the compiler's.
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        models = [load_model(name) for name in zoo.names()]
        jobs = [Job.prepare(m, read_images(m, zoo.samples()), RULES[m.name]) for m in models]
        again = ["demo", "--out", str(out), *_style(style)]
        _run(jobs, folder, "Handwritten digits, explained", again, sort=True, style=style)
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@_command
def explain(
    ctx: typer.Context,
    images: Annotated[list[Path], _IMAGES],
    model: Annotated[str, _MODEL],
    rules: Annotated[list[str] | None, _RULES] = None,
    method: Annotated[list[str] | None, _METHOD] = None,
    target: Annotated[
        int | None,
        typer.Option(help="The class to be explained, from 0; by default the predicted one."),
    ] = None,
    out: Annotated[Path, _OUT] = Path("relprop-report"),
    resize: Annotated[bool, _RESIZE] = False,
    style: Annotated[str, _STYLE] = "plain",
    overwrite: Annotated[bool, _OVERWRITE] = False,
    batch_size: Annotated[int, _BATCH_SIZE] = _IMAGES_AT_ONCE,
    quiet: Annotated[bool, typer.Option("--quiet", help="No bar, for a store.")] = False,
) -> None:
    """Explain images with a model: a table of the scores, an HTML report and a PNG montage.

    A folder of any number of images is explained into a store with --out NAME.zarr, which
    `relprop report` and `relprop show` read; the same command goes on where it was ended.
    """
    for name in rules or ():
        presets.by_name(name)  # a typo need not wait for the model
    report.check_style(style)
    chosen, maps = _methods(method, rules)
    loaded = load_model(model)
    for note in loaded.notes:
        said(note)
    if dataset.is_job(images, out):
        if maps or resize or style != "plain":
            raise InputError("A store is of relevance, without --method, --resize and --style.")
        names = rules or dataset.advised_rules(loaded, images[0])
        again = ["explain", "--model", model, *(p for name in names for p in ("--rules", name))]
        again += [] if target is None else ["--target", str(target)]
        again += [] if batch_size == _IMAGES_AT_ONCE else ["--batch-size", str(batch_size)]
        command = shlex.join(["relprop", *again, "--out", str(out), str(images[0])])
        dataset.explain_folder(
            loaded,
            images[0],
            names,
            target,
            out,
            batch_size=batch_size,
            quiet=quiet,
            command=command,
        )
        return
    folder = writable(out, FILES)
    read = read_images(loaded, images, resize)
    names: Sequence[str] = tuple(rules or ()) if RELEVANCE in chosen else ()
    if RELEVANCE in chosen and not rules:
        found = advised(loaded, read.pixels)
        names = found.rules
        said(found.reason)
    job = Job.prepare(loaded, read, names, target, maps, rules or ())
    # Rules that were not named are those of relevance, but not of the methods.
    repeated = names if not maps else rules or ()
    again = ["explain", "--model", model]
    again += [part for name in repeated for part in ("--rules", name)]
    again += [part for name in method or () for part in ("--method", name)]
    again += [] if target is None else ["--target", str(target)]
    again += ["--out", str(out), *["--resize"] * resize, *_style(style)]
    again += ["--"] * any(str(image).startswith("-") for image in images) + [*map(str, images)]
    _run([job], folder, f"Images explained: {loaded.name}", again, overwrite, style=style)


def _style(style: str) -> list[str]:
    """The option, where it is not the default."""
    return [] if style == "plain" else ["--style", style]


def _methods(
    given: Sequence[str] | None, rules: Sequence[str] | None
) -> tuple[Sequence[str], Sequence[str]]:
    """All methods, and those of them that are of `relprop.transformer_attribution`."""
    known = (RELEVANCE, *attribution.methods())
    chosen = tuple(dict.fromkeys(given or (RELEVANCE,)))
    for name in chosen:
        if name not in known:
            raise unknown_name("method", name, known)
    by_rules = (RELEVANCE, *attribution.methods_by_rules())
    if rules and not any(name in by_rules for name in chosen):
        raise InputError(
            f"--rules make no difference to --method {', '.join(chosen)}, only to "
            f"{', '.join(by_rules)}: add one of those, or leave out --rules."
        )
    return chosen, [name for name in chosen if name != RELEVANCE]


@_command
def rules(ctx: typer.Context) -> None:
    """List the rules and presets that --rules takes."""
    tables.show(tables.rules())


@_command
def inspect(
    ctx: typer.Context,
    model: Annotated[str, _MODEL],
    rules: Annotated[str, _RULES],
    image: Annotated[Path | None, typer.Option(help="By default a bundled image.")] = None,
) -> None:
    """Print the plan for one image: which operation gets which rule. Runs nothing."""
    presets.by_name(rules)
    loaded = load_model(model)
    pixels = read_images(loaded, [image or sample_image()]).pixels
    (composite,) = composites([rules], loaded, pixels).values()
    tables.show(plan(loaded, pixels[0], composite))


_command(explain_text)
_command(app_in_browser, "app")
_command(dataset.show)
_command(dataset.write_report, "report")
_command(evaluate)


def _run(
    jobs: Sequence[Job],
    folder: Path,
    title: str,
    again: Sequence[str],
    quiet: bool = True,
    sort: bool = False,
    style: str = "plain",
) -> None:
    """Does the work, prints the tables, writes the files and says where.

    Args:
        jobs: what is to be explained.
        folder: for the files.
        title: of the report.
        again: the command that makes it again.
        quiet: whether to replace files without a word.
        sort: whether the rules that behave better come first, and not as they were named.
        style: how heatmaps are drawn.
    """
    explanations, balances, left_out = [], {}, {}
    with tables.progress() as bar:
        tasks = [bar.add_task(job.model.name, start=False, total=job.steps) for job in jobs]
        for job, task in zip(jobs, tasks, strict=True):
            bar.start_task(task)
            found, of_model = job.run(functools.partial(tables.step, bar, task, job.model.name))
            found = best_first(found, of_model) if sort else found
            explanations += found
            balances |= {(job.model.name, name): balance for name, balance in of_model.items()}
            left_out |= job.images.left_out
    # Files first: a terminal may fail to show a table, and nothing should be lost by that.
    page, picture = (folder / name for name in FILES)
    text = report.html_text(
        explanations,
        title,
        balances=balances,
        rules={name: str(rules) for job in jobs for name, rules in job.rules.items()},
        left_out=left_out,
        plans={name: plan for job in jobs for name, plan in job.plans().items()},
        command=shlex.join(["relprop", *again]),
        versions=_versions(),
        style=style,
    )
    drawn = report.png_bytes(explanations, style)
    with saying_what_is_replaced([page, picture], quiet):
        replacing_all({page: text.encode("utf-8"), picture: drawn})
    tables.show(*tables.results(explanations, balances))
    if left_out:
        said("Left out:" + listed(left_out))
    typer.echo(f"{visible(str(page))}\n{visible(str(picture))}")
    finite = all(np.isfinite(m).all() for e in explanations for m in e.maps.values())
    if left_out or not finite or any(balance.fault for balance in balances.values()):
        raise typer.Exit(1)


def _versions() -> dict[str, str]:
    found = {"relprop": relprop.__version__, "Python": platform.python_version()}
    for package in ("jax", "jaxlib", "numpy", "flax"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: what follows the name of the program; by default that of the process.

    Raises:
        SystemExit: always; with 0, with 1 if images were left out or some relevance is NaN or
            infinite, with 2 if nothing was done, with 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no work is lost by what a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if args is None else args)
    if "--traceback" in given:  # It may stand anywhere, and belongs to no command.
        given.remove("--traceback")
        given.insert(0, "--traceback")
    keep_compiled()
    app(args=given, prog_name="relprop")
