"""The code of Chefer, Gur and Wolf, "Transformer Interpretability Beyond Attention Visualization".

The reference implementation of the CVPR 2021 paper, quirks and all. Its layer rules are functions
of arrays (`relprop.chefer.layers`) and a preset of the transform (`relprop.presets.chefer`).
"""

from __future__ import annotations

from jaxtyping import Array, Float

from relprop.chefer import layers as layers
from relprop.chefer.bert import Bert as Bert
from relprop.chefer.bert import BertConfig as BertConfig
from relprop.chefer.cnn import CNN as CNN
from relprop.chefer.cnn import VGG as VGG
from relprop.chefer.cnn import ResNet as ResNet
from relprop.chefer.cnn import ResNetConfig as ResNetConfig
from relprop.chefer.cnn import VGGConfig as VGGConfig
from relprop.chefer.generate import generate_gradcam as generate_gradcam
from relprop.chefer.generate import generate_lrp as generate_lrp
from relprop.chefer.generate import generate_rollout as generate_rollout
from relprop.chefer.layers import safe_divide as safe_divide
from relprop.chefer.vit import ViT as ViT
from relprop.chefer.vit import ViTConfig as ViTConfig

__all__ = [
    "Bert",
    "BertConfig",
    "CNN",
    "ResNet",
    "ResNetConfig",
    "VGG",
    "VGGConfig",
    "ViT",
    "ViTConfig",
    "generate_gradcam",
    "generate_lrp",
    "generate_rollout",
    "linear_relprop",
    "safe_divide",
]


def linear_relprop(
    R: Float[Array, "*batch out"],
    x: Float[Array, "*batch in"],
    weight: Float[Array, "out in"],
    alpha: float = 1.0,
) -> Float[Array, "*batch in"]:
    r"""Relevance of the input of a linear layer, by the rule of the reference.

    With :math:`\beta = \alpha - 1` and both products of one sign in one denominator,

    .. math::
        R_i = \alpha \sum_j \frac{(x_i w_{ji})^+}{\sum_k (x_k w_{jk})^+} R_j
            - \beta \sum_j \frac{(x_i w_{ji})^-}{\sum_k (x_k w_{jk})^-} R_j

    The bias takes no part.

    Args:
        R: relevance of the output.
        x: input of the layer.
        weight: its weight, as PyTorch keeps it.
        alpha: weight of the contributions that speak for the output.

    Returns:
        Relevance of the input, of the shape of x.

    >>> import jax.numpy as jnp
    >>> x, W = jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.5]])
    >>> print(linear_relprop(x @ W.T, x, W, alpha=1))
    [1. 1.]

    Source: ``Linear.relprop`` in ``modules/layers_ours.py``; eq. 3 and 4 of the paper.
    """
    return layers.linear(R, x, weight, alpha, "ours")
