"""The preset of transformer attribution."""

from __future__ import annotations

from relprop.chefer.layers import Variant
from relprop.chefer.rules import Add, BatchNorm, Clone, ConvolutionRule, DenseRule, InProportion
from relprop.composites import Composite
from relprop.rules import Pass
from relprop.rules.parameters import Number


def chefer(variant: Variant = "ours", alpha: Number = 1.0) -> Composite:
    """The layer rules of the reference implementation of transformer attribution.

    ==========================  =================================================================
    layer                       rule
    ==========================  =================================================================
    linear                      alpha-beta; the set ``"orig"`` has one denominator per product
    convolution                 alpha-beta; with three channels, wherever its dimension numbers put
                                them, the z-box of the image itself
    sum                         in proportion; the set ``"ours"`` scales it to conserve relevance
    product                     in proportion, half to each
    pooling, mean               in proportion
    activation, softmax, norms  relevance unchanged
    ==========================  =================================================================

    No bias takes relevance, and nothing that a mask of minus infinity, or of the least number,
    hides: infinite numbers count as the largest that there are.

    A copy of a value that several layers read, and the choice of a token, have rules of their own
    in the reference, which matter where a value is zero or very small: `relprop.region` marks them,
    as the models of `relprop.chefer` do, with the names ``clone``,
    ``index_select``, ``layer_norm``, ``batch_norm`` and ``adaptive_avg_pool``.

    Args:
        variant: ``"ours"``, the rules of the paper, or ``"orig"``, what they call LRP.
        alpha: weight of the contributions that speak for an output; beta is alpha - 1.

    >>> import jax.numpy as jnp, relprop
    >>> f = lambda x: x @ jnp.array([1.0, -1.0, 2.0])
    >>> relprop.relevance(f, chefer())(jnp.array([1.0, 1.0, 0.5])).tolist()
    [0.5, 0.0, 0.5]

    Source: Chefer et al. 2021 (CVPR), section 3; quirks as in their code.
    """
    if variant not in ("ours", "orig"):
        raise ValueError(f"variant must be 'ours' or 'orig', got {variant!r}.")
    composite = Composite(
        name=f"chefer_{variant}", seed="one", references=("chefer2021",), canonizers=()
    )
    for selected, rule in (
        ({"region": "clone"}, Clone()),
        ({"region": "index_select"}, InProportion()),
        ({"region": "layer_norm"}, Pass()),
        ({"region": "batch_norm"}, BatchNorm()),
        ({"region": "adaptive_avg_pool"}, InProportion()),
        ({"structure": ("norm", "batch_norm")}, Pass()),
        ({"structure": "dense"}, DenseRule(alpha, variant)),
        ({"structure": "convolution"}, ConvolutionRule(alpha)),
        ({"structure": ("sum", "offset"), "primitive": "add*"}, Add(variant)),
        ({"structure": ("sum", "offset"), "primitive": "sub"}, Add(variant)),
        ({"structure": ("sum", "average", "linear", "maximum")}, InProportion()),
        ({"structure": ("product", "gate")}, InProportion(0.5)),
        ({"structure": "softmax"}, Pass()),
    ):
        composite = composite.at(optional=True, **selected).use(rule)
    return composite
