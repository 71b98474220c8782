"""Results that last: arrays as safetensors, all else as JSON beside it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relprop import jobs
from relprop._errors import InputError
from relprop._files import replacing_all
from relprop._hash import hashed
from relprop.saving._codec import Encoder, Printed, decode

__all__ = ["Printed", "about", "load", "save"]

FORMAT = "relprop-result"
#: A change of the first number means that older relprops cannot read it.
VERSION = (1, 0)
_PACKAGES = ("relprop", "jax", "numpy")
_JSON, _ARRAYS = ".json", ".safetensors"


def save(
    result: Any,
    path: str | Path,
    *,
    rules: Any = None,
    model: str = "",
    params: Any = None,
    seed: int | None = None,
    command: str = "",
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Writes a result to two files, ``path.json`` and ``path.safetensors``.

    Args:
        result: a relevance tree of dicts, lists, tuples and arrays, or what a function of relprop
            returns: `relprop.tokens.TokenRelevance`, `relprop.attribution.Attribution`,
            `relprop.places.Inside`, `relprop.Ledger`, `relprop.Inspection`,
            `relprop.concepts.References`, `relprop.evaluation.Evaluation`, a rule, a composite; or
            dicts, lists and tuples of those.
        path: without ending, or with one of the two.
        rules: those that it was made by, kept as they print.
        model: the name of the model, kept with it.
        params: its parameters, of which a hash is kept.
        seed: of what was random, kept with it.
        command: how it was made, kept with it.
        overwrite: whether files that are there may be replaced.

    Returns:
        The two files. Both are whole and belong together, or are as they were.

    Raises:
        InputError: it holds something that cannot be saved, or there are such files.
        FileExistsError: there is a link in the place of one, which is not followed.

    >>> import tempfile, numpy as np, relprop
    >>> path = Path(tempfile.mkdtemp()) / "r"
    >>> files = save({"x": np.ones(2)}, path, rules=relprop.rules.Epsilon(0.1))
    >>> load(path), about(path)["rules"]
    ({'x': array([1., 1.])}, "Epsilon(epsilon=0.1, bias='absorb')")
    """
    import safetensors.numpy

    files = _files(path)
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        raise InputError(
            f"There is {' and '.join(map(str, there))} already: save with overwrite=True, or to "
            "another path."
        )
    encoder = Encoder()
    value = encoder.encode(result)
    arrays = safetensors.numpy.save(encoder.arrays)
    told = {
        "format": FORMAT,
        "version": VERSION,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "kind": type(result).__name__,
        "rules": None if rules is None else repr(rules),
        "model": model,
        "params": None if params is None else hashed(params),
        "seed": seed,
        "command": command,
        "arrays": hashlib.sha256(arrays).hexdigest(),
        "value": value,
    }
    text = json.dumps(told, indent=1, allow_nan=False)
    replacing_all({files[0]: text.encode("ascii"), files[1]: arrays})
    return files


def load(path: str | Path) -> Any:
    """What `save` has written, or a store of `relprop.jobs.explain`.

    Nothing that comes with the files is run. Arrays come back as those of numpy.

    Args:
        path: as it was given to `save`; or the folder or URL of a store.

    Returns:
        The result; of a store, a `relprop.jobs.Explained`.

    Raises:
        InputError: there is no such thing, it is damaged, or was written by a relprop of another
            major version of the format.
    """
    if (isinstance(path, str) and "://" in path) or Path(path).is_dir():
        return jobs.load(path)
    import safetensors.numpy

    file, arrays = _files(path)
    told = about(path)
    try:
        data = arrays.read_bytes()
    except OSError as error:
        raise InputError(f"{arrays}, which belongs to {file}, cannot be read: {error}.") from error
    if hashlib.sha256(data).hexdigest() != told.get("arrays"):
        raise InputError(f"{arrays} is damaged, or does not belong to {file}.")
    try:
        return decode(told["value"], safetensors.numpy.load(data))
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} is damaged: {type(error).__name__}: {error}.") from error


def about(path: str | Path) -> Mapping[str, Any]:
    """What was kept with a result: versions, rules, model, hash of parameters, seed, command.

    Raises:
        InputError: as for `load`.
    """
    file, _ = _files(path)
    try:
        told = json.loads(file.read_bytes())
        known = isinstance(told, dict) and told.get("format") == FORMAT
        major, minor = told["version"] if known else (0, 0)
    except OSError as error:
        raise InputError(f"There is no result {file}: {error.strerror}.") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{file} is damaged: {error}.") from error
    if not known:
        raise InputError(f"{file} is no result that relprop has saved.")
    if major != VERSION[0]:
        raise InputError(
            f"{file} has version {major}.{minor} of the format; this relprop reads {VERSION[0]}.x. "
            f"It was written by {told.get('versions')}."
        )
    return told


def _files(path: str | Path) -> tuple[Path, Path]:
    path = Path(path)
    stem = path.name
    for ending in (_JSON, _ARRAYS):
        stem = stem.removesuffix(ending)
    return path.with_name(stem + _JSON), path.with_name(stem + _ARRAYS)
