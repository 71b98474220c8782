"""The explanations of the reference: transformer attribution, and what it is compared with."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from relprop import _compat
from relprop._errors import InputError, unknown_name
from relprop.chefer.aggregate import min_max, positive_mean, rollout
from relprop.chefer.explain import Batch, ModelRun, explain, gradients, over_samples
from relprop.chefer.layers import Variant

METHODS = (
    "transformer_attribution",
    "grad",
    "rollout",
    "full",
    "last_layer",
    "last_layer_attn",
    "second_layer",
)
_OF_ONE_LAYER = {"last_layer": -1, "last_layer_attn": -1, "second_layer": 1}


def generate_lrp(
    model: Any,
    *inputs: Any,
    index: Any = None,
    method: str = "transformer_attribution",
    start_layer: int | None = None,
    is_ablation: bool = False,
    variant: Variant = "ours",
    alpha: float = 1.0,
    batch: Batch = "per_sample",
    quirks: bool = False,
    double: bool = False,
) -> Float[Array, "n ..."] | None:
    r"""Which parts of the input speak for a class, by relevance that starts with 1 there.

    With R the relevance of a layer's attention map and G its gradient,

    .. math:: C = \hat A^{(L)} \cdots \hat A^{(s)}, \qquad
              \hat A = I + \mathbb{E}_h[(G \odot R)^+],

    and the explanation is the row of the class token in C. One compiled call computes logits,
    gradients and relevance.

    ==========================  =============================================================
    method                      the explanation is from
    ==========================  =============================================================
    transformer_attribution     C above; ``grad`` is its old name
    rollout                     C with R alone, not multiplied by G
    full                        relevance of the input itself
    last_layer, second_layer    R of that layer alone; with `is_ablation` multiplied by G
    last_layer_attn             the attention of the last layer, without relevance
    ==========================  =============================================================

    A vision transformer gives a number per patch, ``full`` one per pixel. BERT gives a number per
    token; its first token, which all others end in, has 0, or in transformer attribution the
    least of all. In rollouts of BERT the rows of :math:`\hat A` are normalised.

    Args:
        model: a `ViT`, a `Bert` or, for the method ``full``, a `CNN`.
        *inputs: images; or token ids, the attention mask and token types.
        index: the class, or one for each sample; None explains the likeliest.
        method: see above.
        start_layer: s, the first layer that counts; None is the reference's default, 0 for a
            `ViT` and 11 for a `Bert`, or its last layer if it has fewer.
        is_ablation: whether methods of one layer multiply by the gradient.
        variant: the rules, ``"ours"`` or ``"orig"``: see `relprop.presets.chefer`.
        alpha: of the rules.
        batch: ``"per_sample"`` explains each sample by itself. ``"reference"`` does as the
            reference: the rules of sums mix samples, each is explained for the classes of all,
            and most methods return the first sample alone.
        quirks: whether to return None where the reference does: transformer attribution by that
            name and the rules ``"orig"``, which know it only as ``grad``.
        double: whether to compute in float64, whatever the precision of the model, which is that
            of the result. The rules divide by sums that are nearly zero: in float32 the first
            blocks of a `ViT` may be off by 1 % of the largest relevance. Not inside of `jax.jit`.

    Returns:
        An array (n, patches), (n, tokens), or for ``full`` (n, height, width).

    Raises:
        UnknownNameError: there is no such method.
        InputError: the inputs don't fit the model, there is no such class or layer, or the model
            has no attention.

    >>> import jax, jax.numpy as jnp, relprop
    >>> config = {"img_size": 8, "patch_size": 4, "embed_dim": 6, "depth": 2, "num_heads": 2}
    >>> model = relprop.chefer.ViT.init(config, jax.random.key(0))
    >>> relprop.chefer.generate_lrp(model, jnp.ones((1, 3, 8, 8)), index=3).shape
    (1, 4)

    Source: Chefer et al. 2021 (CVPR), section 3; ``ViT_explanation_generator.py`` and
    ``ExplanationGenerator.py`` of the reference.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    _check_choices(variant, batch)
    arrays = model.arguments(*inputs)
    if method != "full":
        _check_attention(model)
    start = _start_layer(model, start_layer)
    if method == "second_layer" and model.depth < 2:
        raise InputError("The model has one layer, and no second one to look at.")
    if quirks and variant == "orig" and method == "transformer_attribution":
        return None
    method = "transformer_attribution" if method == "grad" else method
    index = _checked_index(model, arrays, index)
    compute = _in_double if double else _generate
    return compute(
        model, arrays, index, method, start, bool(is_ablation), variant, float(alpha), batch
    )


def generate_rollout(
    model: Any, *inputs: Any, start_layer: int = 0
) -> Float[Array, "n patches_or_tokens"]:
    r"""Attention rollout, a baseline that knows no class.

    .. math:: C = \hat A^{(L)} \cdots \hat A^{(s)}, \qquad \hat A = I + \mathbb{E}_h[A],

    the rows of :math:`\hat A` divided by their sums; the explanation is the row of the class token.

    Args:
        model: a `ViT` or a `Bert`.
        *inputs: as for `generate_lrp`.
        start_layer: s, the first layer that counts.

    Raises:
        InputError: as for `generate_lrp`.

    Source: Abnar and Zuidema 2020; ``Baselines.generate_rollout`` of the reference.
    """
    _check_attention(model)
    return _rollout(model, model.arguments(*inputs), _start_layer(model, start_layer))


def generate_gradcam(
    model: Any,
    *inputs: Any,
    index: Any = None,
    batch: Batch = "per_sample",
    quirks: bool = False,
) -> Float[Array, "n ..."]:
    r"""GradCAM of the last attention map, a baseline.

    .. math:: C = \mathbb{E}_h[A_h\, \mathbb{E}[G_h]]^+

    scaled to the range from 0 to 1. The mean of the gradient G is over the row of the class token
    in a `ViT` and over the whole map in a `Bert`.

    Args:
        model: a `ViT` or a `Bert`.
        *inputs: as for `generate_lrp`.
        index: the class, or one for each sample; None explains the likeliest.
        batch: as for `generate_lrp`.
        quirks: whether an explanation that is constant, mostly because nothing in it is positive,
            is NaN as in the reference, and not 0.

    Returns:
        An array (n, rows, columns) of patches, or (n, tokens).

    Raises:
        InputError: as for `generate_lrp`.

    Source: Selvaraju et al. 2017; ``Baselines.generate_cam_attn`` of the reference.
    """
    _check_choices("ours", batch)
    _check_attention(model)
    arrays = model.arguments(*inputs)
    index = _checked_index(model, arrays, index)
    return _gradcam(model.for_baselines(), arrays, index, batch, float("nan") if quirks else 0.0)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6, 7, 8))
def _generate(
    model: Any,
    arrays: tuple[Array, ...],
    index: Array | None,
    method: str,
    start_layer: int,
    is_ablation: bool,
    variant: Variant,
    alpha: float,
    batch: Batch,
) -> Array:
    run = explain(model, arrays, index, variant, alpha, batch)
    return attribution(model, run, method, start_layer, is_ablation, batch)


def _in_double(model: Any, arrays: tuple[Array, ...], *options: Any) -> Array:
    leaves = jax.tree.leaves((model, arrays))
    if any(_compat.is_traced(leaf) for leaf in leaves):
        raise InputError(
            "double=True is not for use inside of jax.jit or another transformation; there, give "
            "the model float64 weights under jax.enable_x64(True)."
        )

    def wide(leaf: Array) -> Array:
        return leaf.astype("float64") if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    with jax.enable_x64(True):
        result = _generate(*jax.tree.map(wide, (model, arrays)), *options)
        return result.astype(leaves[0].dtype)


def attribution(
    model: Any,
    run: ModelRun,
    method: str,
    start_layer: int = 0,
    is_ablation: bool = False,
    batch: Batch = "per_sample",
) -> Float[Array, "n ..."]:
    """One of the explanations of `generate_lrp`, from a run of the model."""
    if method == "full":
        return model.whole(run.relevance)
    one_layer, first_only = method in _OF_ONE_LAYER, batch == "reference" and method != "rollout"
    maps = run.attention if method == "last_layer_attn" else run.attention_relevance
    ablation = is_ablation and method in ("last_layer", "second_layer")
    if ablation or method == "transformer_attribution":
        maps = [g * m for g, m in zip(run.attention_gradient, maps, strict=True)]
    means = [positive_mean(m[:1] if first_only else m) for m in maps]
    if one_layer:
        joint = means[_OF_ONE_LAYER[method]]
    else:
        joint = rollout(means, start_layer, model.normalises_rollout)
    row = model.row(joint, method)
    return row[0] if first_only and one_layer and model.flattens_layers else row


@functools.partial(jax.jit, static_argnums=2)
def _rollout(model: Any, arrays: tuple[Array, ...], start_layer: int) -> Array:
    _, maps = model.forward(*model.primals(*arrays), model)
    means = [jnp.mean(a, axis=1) for a in maps]
    return model.row(rollout(means, start_layer, normalise=True), "rollout")


@functools.partial(jax.jit, static_argnums=(3, 4))
def _gradcam(
    model: Any, arrays: tuple[Array, ...], index: Array | None, batch: Batch, constant: float
) -> Array:
    run = functools.partial(gradients, model)
    maps, slopes = over_samples(run, arrays, index, batch)
    count = 1 if batch == "reference" else None
    cam = model.gradcam(maps[-1][:count], slopes[-1][:count])
    return model.shown(min_max(cam, constant))


def _check_choices(variant: str, batch: str) -> None:
    if variant not in ("ours", "orig"):
        raise InputError(f"variant must be 'ours' or 'orig', got {variant!r}.")
    if batch not in ("per_sample", "reference"):
        raise InputError(f"batch must be 'per_sample' or 'reference', got {batch!r}.")


def _check_attention(model: Any) -> None:
    if not model.maps:
        raise InputError(
            f"A {type(model).__name__} has no attention; explain it with "
            "generate_lrp(..., method='full')."
        )


def _start_layer(model: Any, start_layer: int | None) -> int:
    if start_layer is None or not model.maps:
        return model.start_layer
    number = operator.index(start_layer)
    if not 0 <= number < model.depth:
        raise InputError(
            f"start_layer={number}, but the model has the layers 0 to {model.depth - 1}."
        )
    return number


def _checked_index(model: Any, arrays: tuple[Array, ...], index: Any) -> Array | None:
    if index is None:
        return None
    count, classes = arrays[0].shape[0], model.classes
    shape = jnp.shape(index)
    if shape not in ((), (count,)) or not jnp.issubdtype(jnp.result_type(index), jnp.integer):
        raise InputError(
            f"index must be one class or one for each of {count} sample(s), got "
            f"{jnp.result_type(index)}{list(shape)}."
        )
    if not _compat.is_traced(index):
        wrong = [int(i) for i in np.ravel(np.asarray(index)) if not 0 <= i < classes]
        if wrong:
            raise InputError(
                f"There is no class {', '.join(map(str, wrong))}: the model has the classes 0 to "
                f"{classes - 1}."
            )
    return jnp.asarray(index)
