"""Sparse autoencoders in the files of SAELens, as an encoder and a decoder."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from relprop._errors import InputError
from relprop._folders import check_safetensors

_CONFIG, _WEIGHTS = "cfg.json", "sae_weights.safetensors"
#: What is known of each architecture, and which arrays it has beside those of all.
_ARCHITECTURES = {
    "standard": (),
    "jumprelu": ("threshold",),
    "topk": (),
    "transcoder": (),
    "jumprelu_transcoder": ("threshold",),
}

Encode = Callable[[Float[Array, "*b inputs"]], Float[Array, "*b features"]]
Decode = Callable[[Float[Array, "*b features"]], Float[Array, "*b outputs"]]


def from_saelens(folder: str | pathlib.Path) -> tuple[Encode, Decode]:
    r"""A sparse autoencoder or transcoder of SAELens, for `relprop.splice`.

    .. math:: a = \sigma\big((v - b_{dec}) W_{enc} + b_{enc}\big), \qquad
              \hat v = a W_{dec} + b_{dec}

    with ReLU, JumpReLU or the k largest for the activation; the decoder's bias is taken off before
    only where the configuration says ``apply_b_dec_to_input``.

    Args:
        folder: with ``cfg.json`` and ``sae_weights.safetensors``, as SAELens saves them.

    Returns:
        Functions from values to features and back, along the last axis.

    Raises:
        InputError: a file is missing or damaged, arrays are missing or do not fit each other, or
            the architecture or its normalisation of activations is none of those above.

    Source: Cunningham et al. 2024; Rajamanoharan et al. 2024 (JumpReLU); Gao et al. 2024 (top k).
    """
    folder = pathlib.Path(folder)
    config, weights = _read(folder)
    architecture = config.get("architecture", "standard")
    activation = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    if activation == "topk":
        architecture = "topk"
    problems = [
        f"{key} is {config[key]!r}"
        for key, known in (("normalize_activations", ("none", None)),)
        if config.get(key) not in known
    ]
    if architecture not in _ARCHITECTURES or activation not in ("relu", "topk"):
        problems.append(f"the architecture is {architecture!r}, its activation {activation!r}")
    if problems:
        raise InputError(
            f"{folder / _CONFIG} is of another kind of features than are known here: "
            f"{'; '.join(problems)}. Known: {', '.join(_ARCHITECTURES)}, without normalisation. "
            "Write `encode` and `decode` of it as functions."
        )
    _check(folder, weights, _ARCHITECTURES[architecture])
    shift = weights["b_dec"] if config.get("apply_b_dec_to_input", False) else None
    active = _activation(architecture, config, weights, folder)

    def encode(value: Float[Array, "*b inputs"]) -> Float[Array, "*b features"]:
        value = value if shift is None else value - _along(shift, value)
        before = value @ weights["W_enc"]
        return active(before + _along(weights["b_enc"], before))

    def decode(features: Float[Array, "*b features"]) -> Float[Array, "*b outputs"]:
        out = features @ weights["W_dec"]
        return out + _along(weights["b_dec"], out)

    return encode, decode


def _read(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Array]]:
    missing = [name for name in (_CONFIG, _WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"There is no {' and no '.join(missing)} in {folder}, as SAELens saves.")
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / _CONFIG} is no JSON: {error}.") from error
    check_safetensors(folder / _WEIGHTS)
    from safetensors.flax import load_file

    return config, load_file(folder / _WEIGHTS)


def _check(folder: pathlib.Path, weights: dict[str, Array], more: tuple[str, ...]) -> None:
    """Refuses weights that are not there, do not fit each other or are not finite."""
    needed = ("W_enc", "b_enc", "W_dec", "b_dec", *more)
    missing = [name for name in needed if name not in weights]
    if missing:
        raise InputError(
            f"{folder / _WEIGHTS} has no {', '.join(missing)}; it has {', '.join(sorted(weights))}."
        )
    features, outputs = weights["W_dec"].shape
    expected = {
        "W_enc": (weights["W_enc"].shape[0], features),
        "b_enc": (features,),
        "b_dec": (outputs,),
        "threshold": (features,),
    }
    wrong = [
        f"{name} {weights[name].shape} instead of {expected[name]}"
        for name in needed
        if name in expected and weights[name].shape != expected[name]
    ]
    wrong += [f"{n} is not finite" for n in needed if not bool(jnp.isfinite(weights[n]).all())]
    if wrong:
        raise InputError(f"The arrays in {folder / _WEIGHTS} are no features: {'; '.join(wrong)}.")


def _activation(
    architecture: str, config: dict[str, Any], weights: dict[str, Array], folder: pathlib.Path
) -> Callable[[Array], Array]:
    if architecture.startswith("jumprelu"):
        threshold = weights["threshold"]
        return lambda a: jnp.where(a > _along(threshold, a), jax.nn.relu(a), jnp.zeros_like(a))
    if architecture == "topk":
        kwargs = config.get("activation_fn_kwargs") or {}
        count = config.get("k", kwargs.get("k"))
        if not isinstance(count, int) or not 0 < count <= weights["b_enc"].shape[0]:
            raise InputError(f"{folder / _CONFIG} needs the number k of features, got {count!r}.")

        def largest(a: Array) -> Array:
            least = lax.top_k(a, count)[0][..., -1:]
            return jnp.where(a >= least, jax.nn.relu(a), jnp.zeros_like(a))

        return largest
    return jax.nn.relu


def _along(vector: Array, like: Array) -> Array:
    """A vector along the last axis, for what forbids promotion of ranks."""
    return vector.reshape(*[1] * (like.ndim - 1), -1)
