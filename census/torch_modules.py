"""PyTorch modules in the census: random weights that mean something, and the torch reference."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

import relprop
from census.entry import Model

SEED = 0


def randomised(build: Callable[[], Any]) -> Any:
    """A module whose parameters are drawn anew, so that nothing is zero, one or almost so.

    Initialisations of 0.02, of one, or of layer scales near zero would make any test weak.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = build()
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if name.endswith("weight") and parameter.ndim > 1:
                parameter.copy_(noise / np.sqrt(parameter[0].numel()))
            else:
                parameter.add_(0.1 * noise)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.1, generator=generator)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=generator)
    return module.eval()


def from_module(
    module: Any,
    explained: Any,
    constants: Mapping[str, Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    target: tuple[int, ...] | None = None,
    expected: Mapping[str, int] | None = None,
) -> Model:
    """A model of a PyTorch module.

    Args:
        module: in evaluation mode.
        explained: the arrays to be explained, by keyword; or one array, the only argument.
        constants: the other keyword arguments.
        output: what of the module's output is looked at.
        target: as for `Model`.
        expected: as for `Model`.
    """
    import torch

    fn, params = relprop.interop.from_torch(module)

    def run(function: Callable[..., Any], x: Any, constants: Any) -> Any:
        out = function(**x, **constants) if isinstance(x, dict) else function(x, **constants)
        return output(out) if output else out

    def function(params: Any, x: Any) -> jax.Array:
        return run(functools.partial(fn, params), x, constants or {})

    with torch.no_grad():
        reference = run(module, *jax.tree.map(_tensor, (explained, constants or {}))).numpy()
    return Model(function, params, explained, reference, target, expected or {})


def transformers_model(
    kind: str,
    config: Mapping[str, Any],
    explained: Mapping[str, np.ndarray],
    constants: Mapping[str, Any],
    output: str,
    target: tuple[int, ...] | None,
    expected: Mapping[str, int],
    attention: str = "eager",
) -> Model:
    """A model of Hugging Face's transformers from its own configuration class.

    Args:
        kind: name of the model class.
        config: for its configuration class.
        explained: arrays to be explained, by keyword.
        constants: other keyword arguments.
        output: the part of the output that is looked at.
        target: as for `Model`.
        expected: as for `Model`.
        attention: ``"eager"`` or ``"sdpa"``.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    model_class = getattr(transformers, kind)
    settings = model_class.config_class(**config)
    # The documented way to choose this is an argument of `from_pretrained`.
    settings._attn_implementation = attention
    module = randomised(lambda: model_class(settings))
    pick = operator.itemgetter(output)
    return from_module(module, dict(explained), constants, pick, target, expected)


def _tensor(value: Any) -> Any:
    import torch

    # A copy, since some models scale their embeddings in place.
    return torch.tensor(value) if isinstance(value, np.ndarray) else value
