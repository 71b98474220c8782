"""Keras on JAX: its own layers, through `relprop.interop.from_keras`."""

from __future__ import annotations

import functools
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # Keras reads it once, when it is imported.

import jax
import numpy as np
import pytest

import relprop
from relprop.interop import from_keras
from tests.frameworks.checks import assert_gradient, assert_structure, broadcasting

keras = pytest.importorskip("keras")
layers = keras.layers

pytestmark = pytest.mark.frameworks
X = jax.random.normal(jax.random.key(1), (2, 6, 8))
NORM = {"normaliser": 1}
PROJECTIONS = ["query", "key", "value", "attention_output"]


def attention(kind):
    def apply(x):
        return kind(x, x)

    return apply


CASES = {
    "dense": (
        lambda: layers.Dense(4, "gelu", name="l"),
        {"dense": 1, "activation": 1},
        ["kernel"],
    ),
    "bfloat16": (
        lambda: layers.Dense(4, dtype="mixed_bfloat16", name="l"),
        {"dense": 1},
        ["kernel"],
    ),
    "conv": (lambda: layers.Conv1D(4, 3, name="l"), {"convolution": 1}, ["kernel"]),
    "spectral_norm": (
        lambda: layers.SpectralNormalization(layers.Dense(4, name="dense"), name="l"),
        {"dense": 1},
        ["dense/kernel"],
    ),
    "attention": (
        lambda: attention(layers.MultiHeadAttention(2, 4, name="l")),
        {"dense": 4, "softmax": 1, "product": 2},
        [f"{name}/kernel" for name in PROJECTIONS],
    ),
    "grouped_attention": (
        lambda: attention(layers.GroupQueryAttention(4, 4, 2, name="l")),
        {"dense": 4, "softmax": 1, "product": 2},
        [f"{name}/kernel" for name in PROJECTIONS],
    ),
    "layer_norm": (lambda: layers.LayerNormalization(), NORM, []),
    "rms_norm": (lambda: layers.RMSNormalization(), NORM, []),
    "group_norm": (lambda: layers.GroupNormalization(2), NORM, []),
    "instance_norm": (lambda: layers.GroupNormalization(-1), NORM, []),
    "unit_norm": (lambda: layers.UnitNormalization(), NORM, []),
    "batch_norm": (lambda: layers.BatchNormalization(), {}, []),
    "lstm": (
        lambda: layers.LSTM(4, name="l"),
        {"dense": 2, "activation": 5, "gate": 3},
        ["lstm_cell/kernel", "lstm_cell/recurrent_kernel"],
    ),
    "gru": (
        lambda: layers.GRU(4, name="l"),
        {"dense": 2, "activation": 4, "gate": 3},  # sigmoid twice, tanh, and 1 - z
        ["gru_cell/kernel", "gru_cell/recurrent_kernel"],
    ),
    "dropout": (
        lambda: keras.Sequential([layers.Dropout(0.5), layers.Activation("silu")]),
        {"activation": 1},
        [],
    ),
}


def model_of(build):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8))
    with broadcasting():
        return keras.Model(inputs, build()(inputs))


@functools.cache
def case(name):
    return from_keras(model_of(CASES[name][0]))


@pytest.mark.parametrize("name", CASES)
def test_structure(name):
    _, counts, paths = CASES[name]
    assert_structure(*case(name), X, counts, [f"params/l/{path}" for path in paths])


# In bfloat16 the two round differently.
@pytest.mark.parametrize("name", [name for name in CASES if name != "bfloat16"])
def test_gradient(name):
    assert_gradient(*case(name), X)


def test_outputs_are_those_of_the_model():
    model = model_of(lambda: layers.BatchNormalization(name="norm"))
    model.layers[-1].moving_mean.assign(np.arange(8.0))
    fn, params = from_keras(model)
    np.testing.assert_allclose(fn(params, X), model(X, training=False), rtol=1e-6)
    assert set(params) == {f"norm/{w}" for w in ("gamma", "beta", "moving_mean", "moving_variance")}


def test_parameters_are_arguments():
    model = model_of(lambda: layers.Dense(4, name="l"))
    fn, params = from_keras(model)
    doubled = {name: 2 * array for name, array in params.items()}
    np.testing.assert_allclose(fn(doubled, X), 2 * fn(params, X), rtol=1e-5)
    with broadcasting():
        np.testing.assert_allclose(model(X), fn(params, X), rtol=1e-5)  # The model is as it was.


def test_model_without_weights_is_refused():
    with pytest.raises(relprop.InputError, match="'late' has no weights yet"):
        from_keras(keras.Sequential([layers.Dense(3)], name="late"))


def test_layers_of_one_name_are_refused():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__(name="twins")
            self.one = layers.Dense(3, name="same")
            self.other = layers.Dense(3, name="same")

        def call(self, x):
            return self.one(x) + self.other(x)

    model = Twins()
    with broadcasting():
        model(X)
    with pytest.raises(relprop.InputError, match="twins/same/bias, twins/same/kernel"):
        from_keras(model)


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(relprop.InputError, match="'tensorflow'.*KERAS_BACKEND=jax"):
        from_keras(model_of(lambda: layers.Dense(4)))
