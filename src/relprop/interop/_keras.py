"""Keras models, on its JAX backend."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax

from relprop._errors import InputError

if TYPE_CHECKING:
    import keras  # pyright: ignore[reportMissingImports]


def from_keras(model: keras.Model) -> tuple[Callable[..., Any], dict[str, Any]]:
    r"""A Keras model as a JAX function and its parameters.

    The model keeps its weights in variables of its own, and its `stateless_call` takes them as two
    lists. Here they are one dictionary by their names, so that composites and plans know each
    layer by the path that Keras gives it. The model is not changed.

    Args:
        model: any built Keras model or layer.

    Returns:
        ``(fn, params)``: `params` maps the paths of `model.variables` to JAX arrays, and
        ``fn(params, *inputs, **kwargs)`` returns what the model returns in inference: dropout is
        off and batch norm uses its moving statistics.

    Raises:
        InputError: Keras runs on another backend, the model has no weights yet, or two of its
            variables have one path.

    >>> import jax, keras, relprop  # doctest: +SKIP
    >>> layer = keras.layers.Dense(2, name="last")  # doctest: +SKIP
    >>> layer.build((None, 3))  # doctest: +SKIP
    >>> fn, params = relprop.interop.from_keras(layer)  # doctest: +SKIP
    >>> sorted(params)  # doctest: +SKIP
    ['last/bias', 'last/kernel']
    >>> fn(params, jax.numpy.ones((1, 3))).shape  # doctest: +SKIP
    (1, 2)
    """
    try:
        import keras  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("from_keras needs Keras: pip install keras") from error
    if keras.backend.backend() != "jax":
        raise InputError(
            f"Keras runs on {keras.backend.backend()!r}. Set the environment variable "
            "KERAS_BACKEND=jax before keras is imported for the first time."
        )
    if not model.built:
        raise InputError(
            f"The {type(model).__name__} {model.name!r} has no weights yet. Call it once, or its "
            "`build` method with the shape of the input."
        )
    # Trained and other weights, in the order in which `stateless_call` wants them.
    groups = (model.trainable_variables, model.non_trainable_variables)
    names = [[variable.path for variable in group] for group in groups]
    _check_unique([name for group in names for name in group])
    params = {variable.path: variable.value for group in groups for variable in group}

    def fn(params: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        trained, others = ([params[name] for name in group] for group in names)
        # Keras broadcasts arrays of different rank, whatever its user has told JAX.
        with jax.numpy_rank_promotion("allow"):
            return model.stateless_call(trained, others, *args, training=False, **kwargs)[0]

    return fn, params


def _check_unique(names: list[str]) -> None:
    twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if twice:
        raise InputError(
            f"Several variables of the model have the same path: {', '.join(twice)}. Give its "
            "layers names of their own with `name=...`."
        )
