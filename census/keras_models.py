"""Keras applications and KerasHub, on Keras's JAX backend.

For applications, the expectations are counted in the list of layers that their authors wrote.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from census.entry import Entry, Model, counts

L = 2
SIZE = 64
APPLICATIONS = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "Xception": 71,
}


def keras() -> Any:
    """Keras, on JAX."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    return keras


def randomise(model: Any) -> None:
    """Draws all weights anew, as `census.torch_modules.randomised` does."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "seed" in variable.path or not np.issubdtype(np.dtype(variable.dtype), np.floating):
            continue
        noise = rng.normal(size=variable.shape)
        if variable.path.endswith("variance"):
            value = rng.uniform(0.5, 2.0, size=variable.shape)
        elif len(variable.shape) > 1:
            value = noise / np.sqrt(np.prod(variable.shape[:-1]))
        else:
            value = np.asarray(variable) + 0.1 * noise
        variable.assign(value.astype(variable.dtype))


def application(name: str, size: int) -> Model:
    """A network for images."""
    build = getattr(keras().applications, name)
    shape = (size, size, 3)
    model = build(weights=None, input_shape=shape, classes=10, classifier_activation=None)
    randomise(model)
    names, values = zip(*((v.path, v.value) for v in model.variables), strict=True)

    def function(params: Mapping[str, Any], image: Any) -> Any:
        state = dict(zip(names, (params[name] for name in names), strict=True))
        trainable = [state[v.path] for v in model.trainable_variables]
        others = [state[v.path] for v in model.non_trainable_variables]
        return model.stateless_call(trainable, others, image, training=False)[0]

    image = np.random.default_rng(1).uniform(0, 255, size=(1, *shape)).astype(np.float32)
    params = dict(zip(names, values, strict=True))
    return Model(function, params, image, target=(0, 1), expected=authored(model))


def authored(model: Any) -> Mapping[str, int]:
    """The structures in a model as the names of its layers tell."""
    layers = list(model._flatten_layers(include_self=False))
    kinds = [type(layer).__name__ for layer in layers]
    activations = [getattr(layer, "activation", None) for layer in layers]
    nonlinear = sum(a is not None and a.__name__ not in ("linear", "softmax") for a in activations)
    return counts(
        norm=kinds.count("LayerNormalization"),
        activation=nonlinear + kinds.count("ReLU"),
        # The product with what squeeze-and-excitation computed.
        gate=kinds.count("Multiply"),
    )


def backbone(name: str, settings: Mapping[str, Any], expected: Mapping[str, int]) -> Model:
    """A backbone of KerasHub on tokens; explained is its table of embeddings."""
    keras()
    import keras_hub

    model = getattr(keras_hub.models, name)(**settings)
    randomise(model)
    ids = np.array([[3, 5, 7, 2, 9]], np.int32)
    inputs = {
        key: np.ones_like(ids) if key.endswith("mask") else 0 * ids if "segment" in key else ids
        for key in model.input
    }
    table = next(v.path for v in model.variables if "embedding" in v.path and v.shape[0] == 64)

    def function(params: Mapping[str, Any], embeddings: Any) -> Any:
        state = {**params, table: embeddings}
        trainable = [state[v.path] for v in model.trainable_variables]
        others = [state[v.path] for v in model.non_trainable_variables]
        output, _ = model.stateless_call(trainable, others, inputs, training=False)
        if not isinstance(output, Mapping):
            return output
        return output.get("sequence_output", output.get("decoder_sequence_output"))

    params = {v.path: v.value for v in model.variables}
    explained = params.pop(table)
    return Model(function, params, explained, expected=expected)


def entries() -> Iterator[Entry]:
    """All of them."""
    for name, size in APPLICATIONS.items():
        yield Entry(name, "keras", functools.partial(application, name, size))
    for name, settings, expected in backbones():
        build = functools.partial(backbone, f"{name}Backbone", settings, expected)
        yield Entry(name, "keras_hub", build)


def backbones() -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, int]]]:
    """Name, settings and expectations of each backbone."""
    sizes = {
        "vocabulary_size": 64,
        "num_layers": L,
        "hidden_dim": 32,
        "intermediate_dim": 48,
    }
    heads = {"num_heads": 4}
    long = {"max_sequence_length": 16}
    encoder = counts(attention=L, norm=2 * L + 1, activation=L)
    # The sequence is looked at, not what BERT pools.
    yield "Bert", {**sizes, **heads, **long}, encoder
    yield "Roberta", {**sizes, **heads, **long}, encoder
    yield "DistilBert", {**sizes, **heads, **long}, encoder
    yield "GPT2", {**sizes, **heads, **long}, encoder
    yield "OPT", {**sizes, **heads, **long}, encoder
    yield "GPTNeoX", {**sizes, **heads, **long}, encoder
    grouped = {**sizes, "num_query_heads": 4, "num_key_value_heads": 2}
    gated = counts(attention=L, norm=2 * L + 1, activation=L, gate=L)
    yield "Llama", grouped, gated
    yield "Mistral", {**grouped, "sliding_window": 4}, gated
    yield "Qwen", grouped, gated
    yield "Qwen3", {**grouped, "head_dim": 8}, counts(L, 4 * L + 1, L, L)
    yield "Gemma", {**grouped, "head_dim": 8}, gated
    experts = {"num_experts": 4, "top_k": 2}
    # All experts at once.
    yield "Mixtral", {**grouped, **experts}, counts(L, 2 * L + 1, L, L, router=L)
    yield "Phi3", grouped, gated
    # Encoder and decoder; the decoder's attention is to both.
    t5 = {**sizes, **heads, "key_value_dim": 8}
    yield (
        "T5",
        {**t5, "activation": "relu", "use_gated_activation": False},
        counts(3 * L, 5 * L + 2, 2 * L),
    )
    yield "Albert", {**sizes, **heads, **long, "embedding_dim": 16}, encoder
    yield "FNet", {**sizes, **long}, counts(norm=2 * L + 1, activation=L)
