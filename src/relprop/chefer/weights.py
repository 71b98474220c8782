"""Weights by their names in PyTorch: read from files, and compared with what a model expects."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from relprop import _folders
from relprop._entries import Check
from relprop._entries import checked as checked_entries
from relprop._errors import InputError
from relprop._globs import glob

Shapes = Mapping[str, tuple[int, ...]]
_NAMED = 40  # tensors in a message at most


def checked(
    model: str, state_dict: Mapping[str, Any], shapes: Shapes, ignored: Iterable[str] = ()
) -> dict[str, Array]:
    """The tensors of a state dict as JAX arrays, if they are just those that a model needs.

    Args:
        model: its name, for the message.
        state_dict: arrays or tensors by name.
        shapes: what is expected.
        ignored: globs of names that may be there and are not used.

    Raises:
        InputError: with the tensors that are missing, not expected, or of the wrong shape.
    """
    surplus = [
        name
        for name in state_dict
        if name not in shapes and not any(glob(name, pattern) for pattern in ignored)
    ]
    problems = [f"  missing: {name} {shapes[name]}" for name in shapes if name not in state_dict]
    problems += [f"  not expected: {name} {_shape(state_dict[name])}" for name in surplus]
    problems += [
        f"  wrong shape: {name} {_shape(state_dict[name])}, expected {shape}"
        for name, shape in shapes.items()
        if name in state_dict and _shape(state_dict[name]) != shape
    ]
    if problems:
        raise InputError(
            f"{len(problems)} tensor(s) do not fit the configuration of this {model}:\n"
            + "\n".join(problems[:_NAMED])
            + (f"\n  and {len(problems) - _NAMED} more" if len(problems) > _NAMED else "")
        )
    integers = [name for name in shapes if np.asarray(_array(state_dict[name])).dtype.kind in "iu"]
    if integers:
        raise InputError(
            f"{len(integers)} tensor(s) of this {model} are integers, as of a quantised model, and "
            f"not numbers to compute with: {', '.join(integers[:5])}."
        )
    return {name: jnp.asarray(_array(state_dict[name])) for name in shapes}


def check_sizes(model: str, config: Any, checks: Mapping[str, Check]) -> None:
    """Whether the fields of a configuration are what they must be, before anything is made of them.

    Raises:
        InputError: some are not; lists all of them.
    """
    checked_entries(f"the configuration of this {model}", dataclasses.asdict(config), checks)


def configured(model: str, kind: type, fields: Mapping[str, Any]) -> Any:
    """A configuration from a dict of its fields.

    Raises:
        InputError: with every name that is no field.
    """
    known = sorted(field.name for field in dataclasses.fields(kind))
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise InputError(
            f"A {model} has no {', '.join(map(repr, unknown))} in its configuration; known are "
            f"{', '.join(known)}."
        )
    return kind(**fields)


def random(shapes: Shapes, key: PRNGKeyArray) -> dict[str, Array]:
    """Weights as those of a model to be trained begin, by their names."""

    @jax.jit  # one compilation instead of one for each shape
    def begin(key: PRNGKeyArray) -> dict[str, Array]:
        keys = jax.random.split(key, len(shapes))
        return {n: _begin(n, s, k) for (n, s), k in zip(shapes.items(), keys, strict=True)}

    return begin(key)


def _begin(name: str, shape: tuple[int, ...], key: PRNGKeyArray) -> Array:
    if name.endswith(("bias", "running_mean")):
        return jnp.zeros(shape)
    if len(shape) == 1:  # the scale of a normalisation, or its variance
        return jnp.ones(shape)
    return 0.02 * jax.random.truncated_normal(key, -2, 2, shape)


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors in a file, or in a folder of safetensors files.

    Args:
        path: a ``.safetensors`` file, a folder with such files, or a checkpoint of PyTorch, which
            may hold the state dict itself or under ``model`` or ``state_dict``. Nothing in it is
            run: torch reads it with ``weights_only=True``.

    Raises:
        InputError: there is no such file, it is damaged or holds more than tensors, or none.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
        if not files:
            raise InputError(
                f"{path} holds neither *.safetensors nor pytorch_model*.bin; it has "
                f"{', '.join(sorted(p.name for p in path.iterdir())) or 'nothing'}."
            )
        return {name: array for file in files for name, array in read(file).items()}
    if not path.exists():
        raise InputError(f"There is no file or folder {path}.")
    return _safetensors(path) if path.suffix == ".safetensors" else _checkpoint(path)


def configuration(path: str | pathlib.Path) -> dict[str, Any]:
    """What ``config.json`` says, in a folder or beside a file.

    Raises:
        InputError: there is none, it is damaged, or the model brings code of its own.
    """
    path = pathlib.Path(path)
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.exists():
        raise InputError(f"There is no {file}: give the configuration with `config=...`.")
    _folders.refuse_code(file.parent)
    return _folders.read_json(file)


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors import numpy

    _folders.check_safetensors(path)
    try:
        return numpy.load_file(path)
    except OSError:
        raise
    except Exception as error:  # such as for number formats that NumPy does not have
        raise InputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _checkpoint(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"{path} is read as a checkpoint of PyTorch, which is not installed; convert it to "
            "safetensors, or `pip install torch`."
        ) from error
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # pickle, zipfile and torch raise classes of their own
        raise InputError(
            f"{path} is damaged, or holds more than tensors, which could run code and is not read: "
            f"{type(error).__name__}. If you trust it, load it with torch yourself and use "
            "`from_state_dict`, or save its tensors with safetensors.torch.save_file."
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict):
        raise InputError(f"{path} holds a {type(held).__name__}, and no state dict.")
    try:
        return {str(name): _array(value) for name, value in held.items() if hasattr(value, "shape")}
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        # Sparse and quantised tensors, and those without numbers, are none that numpy has.
        raise InputError(f"{path} holds tensors that cannot be read: {error}") from error


def _array(value: Any) -> Any:
    """A NumPy or JAX array, of a tensor as well."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # which NumPy does not have
            value = value.float()
        return value.numpy()
    return value


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in np.shape(value))
