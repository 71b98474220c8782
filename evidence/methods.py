"""Which methods a kind of network is explained by: at least fourteen, with the controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relprop import baselines, presets, transformer_attribution
from relprop.metrics import features
from relprop.rules import AlphaBeta, Epsilon, Gamma
from relprop.truth import Planted, Task

EPSILON = 1e-6
PATCH = 2  # of the vision transformer of `relprop.truth`


def methods(task: Task, data: Planted) -> dict[str, Any]:
    """All methods for a task by name, as `relprop.evaluate` takes them."""
    rules = RULES[task.kind](data)
    # Where tokens are mixed before attention, its maps do not tell which of them count.
    attends = task.kind in ("vit", "encoder", "decoder", "compiled") and "before" not in task.params
    of_tokens = transformers(task, data) if attends else {}
    return {**rules, **of_tokens, **gradients(data), **controls(task, data)}


def classical(data: Planted) -> dict[str, Any]:
    return {
        "epsilon": Epsilon(EPSILON),
        "gamma": Gamma(0.25),
        "alpha1_beta0": AlphaBeta(1.0, 0.0),
        "alpha2_beta1": AlphaBeta(2.0, 1.0),
        "epsilon_plus": presets.epsilon_plus(),
    }


def of_images(data: Planted) -> dict[str, Any]:
    low, high = float(data.x.min()), float(data.x.max())
    return classical(data) | {
        "epsilon_gamma_box": presets.epsilon_gamma_box(low=low, high=high),
        "epsilon_alpha2_beta1": presets.epsilon_alpha2_beta1(),
        "guided_backprop": presets.guided_backprop(),
    }


def of_attention(data: Planted) -> dict[str, Any]:
    return classical(data) | {
        "attn_lrp": presets.attn_lrp(),
        "cp_lrp": presets.cp_lrp(),
        "relp": presets.relp(),
        "gamma_vit": presets.gamma_vit(),
    }


RULES: Mapping[str, Callable[[Planted], dict[str, Any]]] = {
    "cnn": of_images,
    "vit": of_attention,
    "encoder": of_attention,
    "decoder": of_attention,
    "compiled": of_attention,
    "lstm": lambda data: (
        classical(data) | {f"lstm ({gates})": presets.lstm(gates) for gates in ("all", "half")}
    ),
    "state space": lambda data: (
        classical(data) | {"mamba_lrp": presets.mamba_lrp(), "attn_lrp": presets.attn_lrp()}
    ),
    "mlp": classical,
}


def transformers(task: Task, data: Planted) -> dict[str, Any]:
    """Those that multiply attention maps; a number per token is spread over its entries."""
    shape = data.x.shape[1:]
    labels = data.features
    if task.kind == "vit":  # its tokens are patches, after that of the class
        labels = features.patches(shape, PATCH)
    tokens = int(labels.max()) + 1
    shares = np.bincount(labels.ravel(), minlength=tokens)
    query = tokens - 1 if task.kind in ("decoder", "compiled") else 0

    def spread(R: Any) -> Any:
        R = R[1:] if task.kind == "vit" else R
        return (R / shares)[labels].reshape(shape)

    def method(name: str) -> Any:
        asked = {} if name == "full_lrp" else {"query": query}
        return lambda f: lambda x: spread(transformer_attribution(f, method=name, **asked)(x))

    chosen = ("transformer_attribution", "generic", "rollout")
    return {name: method(name) for name in chosen}


def gradients(data: Planted) -> dict[str, Any]:
    """Gradients and removal; what they compare with is what metrics fill with."""
    fill = jnp.broadcast_to(jnp.asarray(data.fill, jnp.float32), data.x.shape[1:])

    def smooth(f: Any) -> Any:
        return baselines.smooth_grad(f, key=jax.random.key(0), samples=8)

    def times_input(of: Any) -> Any:
        return lambda f: lambda x: (x - fill) * of(f)(x)

    return {
        "gradient (size)": lambda f: baselines.gradient(f, abs=True),
        "gradient_times_input": times_input(baselines.gradient),
        "smooth_grad_times_input": times_input(smooth),
        "integrated_gradients": lambda f: baselines.integrated_gradients(
            f, baseline=fill, steps=16
        ),
        "deeplift": lambda f: baselines.deeplift(f, baseline=fill),
        "removal": lambda f: removal(f, data, fill),
    }


def removal(f: Any, data: Planted, fill: Any) -> Any:
    """What the score loses without a feature, spread over its entries."""
    count = int(data.features.max()) + 1
    labels = jnp.asarray(data.features)
    shares = jnp.asarray(np.bincount(data.features.ravel()), jnp.float32)

    def explain(x: Any) -> Any:
        lost = jax.vmap(lambda i: f(x) - f(jnp.where(labels == i, fill, x)))(jnp.arange(count))
        return (lost / shares)[labels]

    return explain


def controls(task: Task, data: Planted) -> dict[str, Any]:
    """What knows nothing of the network; `relprop.evaluate` marks what they beat."""
    sizes = {"size of the input": lambda f: lambda x: jnp.abs(x - jnp.asarray(data.fill))}
    found = {"random": "random", "edges": "edges", **sizes}
    if task.kind in ("encoder", "decoder", "compiled", "lstm", "state space"):
        late = jnp.broadcast_to(jnp.arange(1.0, data.x.shape[1] + 1)[:, None], data.x.shape[1:])
        found["late tokens first"] = lambda f: lambda x: late
    return found


CONTROLS = ("random", "edges", "size of the input", "late tokens first")
