"""The models of captum.npz, and small ones of any shape."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from ..golden import torch_layers as tl

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "data" / "captum.npz")


def cnn(x, sd):
    h = jax.nn.relu(tl.batch_norm(tl.conv(x, *tl.layer(sd, "conv1"), padding=1), sd, "bn1"))
    h = jax.nn.relu(tl.batch_norm(tl.conv(h, *tl.layer(sd, "conv2"), padding=1), sd, "bn2"))
    h = tl.avg_pool(tl.max_pool(h, 2), 2).reshape(x.shape[0], -1)
    return tl.linear(jax.nn.relu(tl.linear(h, *tl.layer(sd, "fc1"))), *tl.layer(sd, "fc2"))


def golden_model(name: str, dtype=jnp.float64):
    """Score of a target for a batch (a sum of independent samples), its input and baseline."""
    start = f"{name}/sd/"
    sd = {
        k.removeprefix(start): jnp.asarray(GOLDEN[k], dtype) for k in GOLDEN if k.startswith(start)
    }
    forward = {"cnn": cnn, "mlp": tl.mlp}[name]
    x, baseline = (jnp.asarray(GOLDEN[f"{name}/{k}"], dtype) for k in ("input", "baseline"))

    def score(x, target):
        return jnp.take_along_axis(forward(x, sd), target[:, None], axis=1).sum()

    return score, x, baseline


def golden_explained(model: str, methods):
    """All methods on a model, for both targets, from one compilation."""
    score, x, baseline = golden_model(model)

    @jax.jit
    def explain(x, target):
        return {name: make(score, baseline)(x, target) for name, make in methods.items()}

    return {
        tag: explain(x, jnp.asarray(GOLDEN[f"{model}/target_{tag}"])) for tag in ("argmax", "other")
    }


def cases(*methods: str) -> list[tuple[str, str]]:
    """Model and method."""
    return [(model, method) for model in ("cnn", "mlp") for method in methods]


def golden(model: str, method: str, tag: str):
    return GOLDEN[f"{model}/{method}/{tag}_f64"]
