"""What is evaluated: models and samples, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from relprop._errors import InputError

_PARTS = ("x", "target", "mask")


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model of one sample.

    Attributes:
        function: parameters and one sample -> scores of all classes, or one score.
        params: any pytree of arrays.
    """

    function: Callable[[Any, Any], Any]
    params: Any

    def score(self, params: Any, x: Any, target: Any) -> Any:
        """The score of a class; of a model with one score, that."""
        scores = self.function(params, x)
        return scores if scores.ndim == 0 else scores[target]


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Samples with the classes that are explained.

    Attributes:
        x: the samples.
        target: per sample, the explained class.
        mask: per sample, where its evidence is; None if that is not known.
        others: how many are explained for a class that the model does not predict.
        classes: how many there are; 0 where the model gives one score.
    """

    x: Float[np.ndarray, "n ..."]
    target: Int[np.ndarray, " n"]
    mask: Bool[np.ndarray, "n ..."] | None
    others: int
    classes: int

    def __len__(self) -> int:
        return len(self.x)

    def part(self, chosen: Any) -> Samples:
        """Some of them."""
        mask = None if self.mask is None else self.mask[chosen]
        return dataclasses.replace(self, x=self.x[chosen], target=self.target[chosen], mask=mask)


def models_of(given: Any) -> dict[str, Model]:
    """Names and models, from functions of one sample or ``(fn, params)`` of batches.

    Raises:
        InputError: something is neither.
    """
    if not isinstance(given, Mapping):
        name = getattr(given, "__name__", "model")
        given = {"model" if name == "<lambda>" else name: given}
    found = {}
    for name, one in given.items():
        if callable(one):
            found[name] = Model(lambda params, x, f=one: jnp.asarray(f(x)), None)
        elif isinstance(one, (tuple, list)) and len(one) in (2, 3) and callable(one[0]):
            found[name] = Model(_of_one(one[0]), one[1])
        else:
            raise InputError(
                f"The model {name!r} must be a function of one sample, or (fn, params) with "
                f"fn(params, samples), as `relprop.zoo.load` returns it; got {type(one).__name__}."
            )
    if not found:
        raise InputError("There is no model to evaluate.")
    return found


def _of_one(fn: Any) -> Callable[[Any, Any], Any]:
    """A model of batches as one of samples."""
    return lambda params, x: fn(params, x[None])[0]


def samples_of(model: Model, data: Any) -> Samples:
    """The samples of a model, with the classes that it predicts where none are given.

    Args:
        model: the model.
        data: an array of samples, a mapping with ``"x"`` and, if wanted, ``"target"`` and
            ``"mask"``, or anything with such attributes.

    Raises:
        InputError: it is nothing of that kind, or its parts are not as many, or a mask is empty.
    """
    if isinstance(data, Mapping):
        parts = [data.get(name) for name in _PARTS]
        unknown = sorted(set(data) - set(_PARTS))
        if unknown:
            raise InputError(f"Data has the parts {', '.join(_PARTS)}, and not {unknown}.")
    elif hasattr(data, "x"):
        parts = [getattr(data, name, None) for name in _PARTS]
    else:
        parts = [data, None, None]
    if parts[0] is None:
        raise InputError("Data needs the part 'x', an array of samples.")
    x = np.asarray(parts[0])
    if x.ndim < 2 or not len(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            f"Data must be real numbers [samples, ...], at least one, got {x.dtype}{[*x.shape]}."
        )
    predicted, classes = _predicted(model, x)
    target = predicted if parts[1] is None else np.asarray(parts[1])
    if target.shape != (len(x),) or not np.issubdtype(target.dtype, np.integer):
        raise InputError(f"'target' must be {len(x)} integers, got {target.dtype}{target.shape}.")
    if classes and not ((target >= 0) & (target < classes)).all():
        raise InputError(f"'target' must name classes from 0 to {classes - 1}.")
    mask = None if parts[2] is None else _masks(parts[2], x.shape)
    others = int((target != predicted).sum()) if classes else 0
    return Samples(x, target.astype(np.int32), mask, others, classes)


def _predicted(model: Model, x: np.ndarray) -> tuple[np.ndarray, int]:
    shape = jax.eval_shape(model.function, model.params, x[0]).shape
    if len(shape) > 1:
        raise InputError(f"A model must give scores [classes], or one, for a sample; got {shape}.")
    if not shape:
        return np.zeros(len(x), np.int32), 0
    look = jax.jit(lambda p, x: jnp.argmax(jax.vmap(model.function, (None, 0))(p, x), axis=-1))
    size = min(32, len(x))
    starts = range(0, len(x), size)
    found = [np.asarray(look(model.params, filled(x[i : i + size], size))) for i in starts]
    return np.concatenate(found)[: len(x)], shape[0]


def _masks(given: Any, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.asarray(given)
    if mask.dtype != bool:
        mask = mask > 0
    if mask.shape != shape:
        raise InputError(f"'mask' must have the shape of the samples, {shape}, not {mask.shape}.")
    empty = np.flatnonzero(~mask.reshape(len(mask), -1).any(axis=1))
    if len(empty):
        raise InputError(
            f"The masks of the samples {empty[:9].tolist()} have no positive ({len(empty)} in "
            "all): nothing can be measured there. Leave them out."
        )
    return mask


def filled(array: np.ndarray, size: int) -> np.ndarray:
    """An array of a size, filled up by copies of its last entry."""
    short = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], short, axis=0)]) if short else array
