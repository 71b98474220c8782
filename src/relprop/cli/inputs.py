"""What the command line is given, checked: a model, images, names of rules, a folder."""

from __future__ import annotations

import collections
import dataclasses
import importlib
import inspect
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError

from relprop import presets, zoo
from relprop._characters import visible
from relprop._errors import InputError, RelpropError, UnknownNameError, unknown_name
from relprop._files import refuse_links
from relprop._images import FORMATS, eight_bit
from relprop.cli import vit
from relprop.composites import Composite

VIT = "vit:"  # before the folder of a vision transformer


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model and what it makes of an image.

    Attributes:
        name: what the user called it.
        fn: parameters and a batch of images -> scores ``[batch, classes]``.
        params: any pytree of arrays.
        preprocess: PIL image, in mode L or RGB -> array ``[h, w, c]``.
        bundled: whether it is one of `relprop.zoo`.
        labels: of the classes; none where only their numbers are known.
        grid: rows and columns of patches after a class token; None where that is not known.
        notes: what the user should be told.
    """

    name: str
    fn: Callable[[Any, Any], Any]
    params: Any
    preprocess: Callable[[Image.Image], Any]
    bundled: bool
    labels: Sequence[str] = ()
    grid: tuple[int, int] | None = None
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The images that could be read, and those that could not.

    Attributes:
        names: of the images that could be read.
        pixels: what ``preprocess`` made of them.
        left_out: name of an image -> why it could not be read.
    """

    names: tuple[str, ...]
    pixels: Float[np.ndarray, "n h w c"]
    left_out: dict[str, str]

    def without(self, reasons: dict[int, str]) -> Images:
        """Leaves out more of them: the number of an image -> the reason."""
        kept = [i for i in range(len(self.names)) if i not in reasons]
        more = {self.names[i]: reason for i, reason in reasons.items()}
        names = tuple(self.names[i] for i in kept)
        return Images(names, self.pixels[kept], self.left_out | more)


def load_model(name: str) -> Model:
    """A bundled model, ``vit:FOLDER``, or what ``package.module:function`` returns.

    Raises:
        UnknownNameError: there is no such model; names the near matches.
        InputError: it cannot be loaded, or is not ``(fn, params, preprocess)``.
    """
    if ":" not in name:
        try:
            parts = zoo.load(name)
            return Model(name.replace("_", "-"), *parts, bundled=True, labels=zoo.classes(name))
        except UnknownNameError as error:
            hint = "A model of your own is named as package.module:function or vit:FOLDER."
            raise UnknownNameError(f"{error} {hint}") from error
    if name.startswith(VIT):
        of = vit.load(Path(name.removeprefix(VIT)).expanduser())
        return Model(name, of.fn, of.params, of.preprocess, False, of.labels, of.grid, of.notes)
    module, _, function = name.partition(":")
    found = _attribute(module, function)
    try:
        result = found()
    except Exception as error:
        raise InputError(f"{name} failed: {described(error)}") from error
    if not (isinstance(result, tuple | list) and len(result) == 3):
        raise InputError(
            f"{name} must return (fn, params, preprocess), got {type(result).__name__}."
        )
    for part, what in ((result[0], "fn"), (result[2], "preprocess")):
        if not callable(part):
            raise InputError(f"{name}: {what} must be a function, got {type(part).__name__}.")
    return Model(name, *result, bundled=False)


def _attribute(module: str, function: str) -> Callable[[], Any]:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except Exception as error:
        # A broken module may raise anything.
        raise InputError(f"Cannot import {module!r}: {described(error)}") from error
    if not callable(getattr(found, function, None)):
        functions = [n for n, f in vars(found).items() if inspect.isroutine(f) and n[0] != "_"]
        raise unknown_name(f"function of {module}", function, functions)
    return getattr(found, function)


def read_images(model: Model, paths: Sequence[Path], resize: bool = False) -> Images:
    """Reads and preprocesses images; what cannot be read is left out.

    Args:
        model: whose ``preprocess`` to use.
        paths: of the files; the names of the images, without the folder where that is enough to
            tell them apart.
        resize: whether to bring all images to one size first: that of the bundled images for a
            bundled model, else that of the first image that can be opened.

    Raises:
        InputError: none can be read; lists all with the reasons.
    """
    size = _size(sample_image()) if resize and model.bundled else None
    paths = list(dict.fromkeys(paths))
    short = len({path.name for path in paths}) == len(paths)
    arrays: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for path in paths:
        name = visible(path.name if short else str(path))
        try:
            image, frames = opened(path)
            name += f", frame 1 of {frames}" if frames > 1 else ""
            size = size or (image.size if resize else None)
            image = image.resize(size, Image.Resampling.BOX) if size else image
            arrays[name] = preprocessed(model, image)
        except InputError as error:
            left_out[name] = visible(str(error))
    if arrays:
        # The model takes one size, which is not known: most images are supposed to have it.
        shapes = collections.Counter(array.shape for array in arrays.values())
        shape = shapes.most_common(1)[0][0]
        for name, array in list(arrays.items()):
            if array.shape != shape:
                left_out[name] = (
                    f"preprocess gave {_shape(array.shape)}, not {_shape(shape)} as for most "
                    "images (--resize makes the images equal first)"
                )
                del arrays[name]
    if not arrays:
        raise InputError("None of the images can be explained:" + listed(left_out))
    return Images(tuple(arrays), np.stack(list(arrays.values())), left_out)


def opened(path: Path) -> tuple[Image.Image, int]:
    """The image, upright and with 8 bits per channel, and how many frames the file has."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError("is no file: a pipe or device could make one wait forever")
        with warnings.catch_warnings():
            # So many pixels that Pillow suspects the file of being made to fill the memory.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as file:
                # A second image in a photo (MPO) is a preview, or another view of the same.
                frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
                file.seek(0)
                upright = ImageOps.exif_transpose(file)  # reads all of it
                upright.format = file.format
                return eight_bit(upright), frames
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"has too many pixels, more than {Image.MAX_IMAGE_PIXELS}: shrink it first"
        ) from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise InputError(
            f"is not an image of a format that Pillow knows and relprop opens: {known}"
        ) from error
    except FileNotFoundError as error:
        raise InputError("no such file") from error
    except IsADirectoryError as error:
        raise InputError("is a folder: name the images in it") from error
    except Exception as error:
        # Pillow raises SyntaxError, ValueError and others for damaged files.
        raise InputError(f"cannot be read: {described(error)}") from error


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def preprocessed(model: Model, image: Image.Image) -> np.ndarray:
    """What a model makes of an image, in mode L or RGB.

    Raises:
        InputError: that fails, or is no array ``[h, w, c]`` of finite numbers.
    """
    try:
        array = np.asarray(model.preprocess(image))
    except RelpropError as error:
        raise InputError(f"{error} Or give --resize." if model.bundled else str(error)) from error
    except Exception as error:
        raise InputError(f"preprocess failed: {described(error)}") from error
    # The last is meant for arrays whose channels come first.
    if array.ndim != 3 or 0 in array.shape or array.shape[2] > array.shape[0] in (1, 3):
        wanted = "[height, width, channels]"
        raise InputError(f"preprocess must return {wanted}, gave {_shape(array.shape)}")
    if array.dtype.kind in "biucOSU":
        raise InputError(f"preprocess must return floating point numbers, gave {array.dtype}")
    if not np.isfinite(array.astype(np.float32)).all():
        raise InputError("preprocess gave NaN or infinity")
    return array


def value_range(model: Model, pixels: Float[np.ndarray, "n h w c"]) -> tuple[float, float]:
    """The least and the greatest value that an input of the model can have.

    For a model of the user: what ``preprocess`` makes of black, of white and of the images.
    """
    if model.bundled:
        return zoo.pixel_range(model.name)
    height, width = pixels.shape[1:3]
    arrays = [pixels]
    for colour in ("black", "white"):
        try:
            arrays.append(preprocessed(model, Image.new("RGB", (width, height), colour)))
        except InputError:
            pass  # It need not take images like ours.
    return float(min(a.min() for a in arrays)), float(max(a.max() for a in arrays))


def composites(
    names: Sequence[str], model: Model, pixels: Float[np.ndarray, "n h w c"]
) -> dict[str, Composite]:
    """The rules of each name; those that need the range of the pixels are given it.

    Raises:
        UnknownNameError: with the near matches.
    """
    found = {}
    for name in names:
        composite = presets.by_name(name)
        preset = getattr(presets, composite.name, None)
        if preset is not None and "low" in inspect.signature(preset).parameters:
            low, high = value_range(model, pixels)
            composite = presets.by_name(name, low=low, high=high)
        found[composite.name] = composite
    return found


def writable(folder: Path, files: Sequence[str] = ()) -> Path:
    """The folder, which is made if need be, as an absolute path.

    Args:
        folder: the folder.
        files: those that will be written into it.

    Raises:
        InputError: it cannot be made, or nothing can be written into it.
        FileExistsError: there is a link in the place of a file.
    """
    paths = [folder / name for name in files]
    refuse_links(paths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise InputError(f"Cannot write to the folder {folder}: {reason}.") from error
    return folder.resolve()


def sample_image() -> Path:
    """One of the bundled images.

    Raises:
        InputError: there are none.
    """
    samples = zoo.samples()
    if not samples:
        raise InputError("The bundled images are missing: reinstall relprop.")
    return samples[0]


def described(error: BaseException) -> str:
    """An exception of foreign code in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def listed(reasons: dict[str, str]) -> str:
    """Names with reasons, one a line."""
    return "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
