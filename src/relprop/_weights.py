"""Weights of bundled models: nested parameters in a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from relprop._errors import InputError
from relprop._files import replacing


def read_weights(
    path: Path, like: dict[str, Any], script: str = "scripts/train_digits.py"
) -> dict[str, Any]:
    """Reads nested parameters from a safetensors file whose keys are paths joined by slashes.

    Arguments:
        path: the file.
        like: nested dicts of arrays, or of ``jax.ShapeDtypeStruct``: what the file has to hold.
        script: what wrote the file, for the error.

    Raises:
        InputError: the file is damaged, or its tensors are not those of ``like``; lists every
            tensor that is missing, surplus or of another shape or dtype.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "weights.safetensors"
    >>> write_weights(path, {"bias": jnp.ones(3)}, {})
    >>> read_weights(path, {"bias": jnp.zeros(4)})
    Traceback (most recent call last):
    relprop.InputError: The weights in ...
    """
    try:
        found = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path} is not a readable safetensors file: {error}. Reinstall relprop, or write "
            f"the file anew with {script}."
        ) from error
    wanted = _flatten(like)
    faults = [f"missing: {key}, {_describe(wanted[key])}" for key in wanted.keys() - found.keys()]
    faults += [f"surplus: {key}, {_describe(found[key])}" for key in found.keys() - wanted.keys()]
    faults += [
        f"misshaped: {key}, {_describe(found[key])} instead of {_describe(wanted[key])}"
        for key in wanted.keys() & found.keys()
        if _describe(found[key]) != _describe(wanted[key])
    ]
    if faults:
        raise InputError(
            f"The weights in {path} are not those of the model:\n  "
            + "\n  ".join(sorted(faults))
            + f"\nReinstall relprop, or write the file anew with {script}."
        )
    return _nest({key: jnp.asarray(found[key]) for key in wanted})


def write_weights(path: Path, params: dict[str, Any], metadata: dict[str, str]) -> None:
    """Writes nested parameters to a safetensors file whose keys are paths joined by slashes.

    Arguments:
        path: the file, which is replaced if it exists.
        params: nested dicts of arrays.
        metadata: what the header of the file shall say about them.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "weights.safetensors"
    >>> write_weights(path, {"head": {"bias": jnp.ones(3)}}, {"seed": "0"})
    >>> read_weights(path, {"head": {"bias": jnp.zeros(3)}})
    {'head': {'bias': Array([1., 1., 1.], dtype=float32)}}
    """
    # In rows: safetensors takes the memory of an array as it lies, whatever its strides.
    tensors = {key: np.asarray(value, order="C") for key, value in _flatten(params).items()}
    # save_file would leave the file unreadable to other users, whatever the umask.
    with replacing(path) as file:
        file.write(safetensors.numpy.save(tensors, metadata))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, key = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = value
    return tree


def _describe(array: Any) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"
