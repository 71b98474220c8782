"""GradCAM: maps of the places in an image that a layer's channels speak for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from relprop._core.relevance import safe_divide
from relprop._errors import InputError
from relprop.baselines._places import gradients_at


def gradcam(
    f: Callable[..., Any],
    at: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    channel_axis: int = -1,
    spatial_axes: Sequence[int] = (-3, -2),
    relu: bool = True,
    resize: Sequence[int] | None = None,
) -> Callable[..., Any]:
    r"""GradCAM: the channels of a layer, weighted by their mean gradients.

    .. math:: R_p = \mathrm{ReLU}\Big( \sum_c \alpha_c A_{pc} \Big), \qquad
              \alpha_c = \frac{1}{|P|} \sum_p \frac{\partial f}{\partial A_{pc}}

    Args:
        f: as for `gradient`. Samples of a batch are explained apart if the score is a sum of
            theirs, for the axes that are named neither channel nor spatial stay apart.
        at: the layer: one place inside of f, as for `relprop.relevance`.
        argnums: the arguments that the layer depends on.
        has_aux: as for `gradient`.
        channel_axis: which axis of the layer's output holds the channels.
        spatial_axes: the axes p of the map. Of an array (channels, height, width), as in PyTorch,
            ``channel_axis=-3, spatial_axes=(-2, -1)``.
        relu: whether only positive evidence is kept.
        resize: lengths along the spatial axes to interpolate to, such as those of the image.

    Returns:
        A function with the arguments of f that returns the map: the layer's output without its
        channels, in units of the score.

    Raises:
        InputError: as for `gradient`, or `at` means several places, or one that has no such axes.
        NothingMatchedError: there is no such place.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.mean(relprop.named(2 * x, "layer") @ jnp.array([1.0, -1.0]))
    >>> gradcam(f, "layer")(jnp.ones((2, 3, 2)).at[0, 0].set(jnp.array([3.0, 1.0]))).shape
    (2, 3)

    Source: Selvaraju et al. 2017, eq. 1 and 2.
    """

    def weights(gradient: Array, value: Array, spatial: tuple[int, ...]) -> Array:
        del value
        return jnp.mean(gradient, axis=spatial, keepdims=True)

    axes = (channel_axis, tuple(spatial_axes))
    return _class_activation_map(f, at, argnums, has_aux, axes, weights, relu, resize)


def gradcam_plus_plus(
    f: Callable[..., Any],
    at: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    channel_axis: int = -1,
    spatial_axes: Sequence[int] = (-3, -2),
    relu: bool = True,
    resize: Sequence[int] | None = None,
) -> Callable[..., Any]:
    r"""Grad-CAM++: positive gradients, weighted so that each of several objects counts.

    .. math:: \alpha_{pc} = \frac{g_{pc}^2}{2 g_{pc}^2 + \sum_q A_{qc}\, g_{pc}^3}, \qquad
              w_c = \sum_p \alpha_{pc} \,\mathrm{ReLU}(g_{pc}), \qquad
              R_p = \mathrm{ReLU}\Big( \sum_c w_c A_{pc} \Big)

    with the gradient g of f. The paper explains :math:`\exp f`, whose gradient has one more factor
    :math:`\exp f`, the same for all of the map; it is left out.

    Args:
        f: as for `gradcam`.
        at: as for `gradcam`.
        argnums: as for `gradcam`.
        has_aux: as for `gradcam`.
        channel_axis: as for `gradcam`.
        spatial_axes: as for `gradcam`.
        relu: as for `gradcam`.
        resize: as for `gradcam`.

    Returns:
        As `gradcam`.

    Raises:
        InputError, NothingMatchedError: as for `gradcam`.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: jnp.mean(relprop.named(2 * x, "layer") @ jnp.array([1.0, -1.0]))
    >>> gradcam_plus_plus(f, "layer")(jnp.ones((2, 3, 2))).shape
    (2, 3)

    Source: Chattopadhay et al. 2018, eq. 19 (alpha), 5 (weights) and 1 (map).
    """

    def weights(gradient: Array, value: Array, spatial: tuple[int, ...]) -> Array:
        square = gradient**2
        total = jnp.sum(value, axis=spatial, keepdims=True)
        alpha = safe_divide(square, 2 * square + total * gradient * square)
        return jnp.sum(alpha * jnp.maximum(gradient, 0), axis=spatial, keepdims=True)

    axes = (channel_axis, tuple(spatial_axes))
    return _class_activation_map(f, at, argnums, has_aux, axes, weights, relu, resize)


def _class_activation_map(f, at, argnums, has_aux, axes, weights, relu, resize):
    """Weights channels at the one place that is meant."""
    channels, spatial = axes

    def make(gradient: Array, value: Array) -> Array:
        along = [axis % value.ndim for axis in (channels, *spatial) if _has(value, axis)]
        if len(set(along)) != 1 + len(spatial):
            raise InputError(
                f"The layer has the shape {value.shape}, which has no channels along axis "
                f"{channels} and positions along {spatial}. Name its axes with `channel_axis` and "
                "`spatial_axes`."
            )
        shares = weights(gradient, value, spatial) * value
        found = jnp.sum(shares, axis=channels, keepdims=True)
        found = jnp.maximum(found, 0) if relu else found
        if resize is not None:
            shape = list(found.shape)
            for axis, length in zip(spatial, resize, strict=True):
                shape[axis] = length
            found = jax.image.resize(found, shape, "linear")
        return jnp.squeeze(found, axis=channels)

    explain = gradients_at(f, argnums, has_aux, at, make)

    @functools.wraps(f)
    def map_of(*args: Any, **kwargs: Any) -> Any:
        out = explain(*args, **kwargs)
        inside, *aux = out if has_aux else (out,)
        if len(inside) != 1:
            raise InputError(f"GradCAM is of one layer, but {at!r} means {', '.join(inside)}.")
        (place,) = inside.values()
        found: Float[Array, "..."] = place.relevance
        return (found, *aux) if has_aux else found

    return map_of


def _has(value: Array, axis: int) -> bool:
    return -value.ndim <= axis < value.ndim
