r"""FlashTrace, written from the equations of its paper, for the decoders of `evidence.chains`.

What a part :math:`z` adds to a sum :math:`y` of the residual stream is its proximity,

.. math:: \max(0, \|y\|_1 - \|y - z\|_1),

as a share of that of all parts: what each head brings from each token,
:math:`\alpha_{ij} v_j W_O`, and the residual. Many targets :math:`i` are one, by weights: the
parts and the sum are added up first, :math:`\sum_i w_i \alpha_{ij} v_j W_O`, so that a layer takes
time in proportion to the tokens, however many targets there are. The shares that the tokens of the
reasoning get are the weights of the next hop.

Of the paper, its abstract, the proximity and what others say of it were at hand; what is left open
makes a difference, and all readings of that are here (`READINGS`):

- ``direct``: what tokens bring to the targets in each layer counts as theirs, and what stays in the
  residual goes on to the layer below; or else shares go down through the layers, token by token, as
  those of the information flow routes that the method builds on;
- ``before``: a target is the position that predicts its token, or else that of the token;
- ``summed``: the shares of all hops are added up, or else those of the last hop count.

Source: Pan et al. 2026, Towards Long-Horizon Interpretability, arXiv 2602.01914; Ferrando and Voita
2024, Information Flow Routes, arXiv 2403.00824.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from evidence import chains

#: Each as (direct, before, summed).
READINGS = tuple(itertools.product((True, False), repeat=3))


class Layer(NamedTuple):
    """What a layer reads and what its heads bring: nothing here depends on a target."""

    residual: Float[np.ndarray, "t width"]
    maps: Float[np.ndarray, "heads t t"]
    brought: Float[np.ndarray, "heads t width"]


def layers(params: Any, ids: Int[np.ndarray, " t"]) -> list[Layer]:
    """One forward pass of a decoder, with what is looked at in it."""
    x = params["table"][ids][None]
    found = []
    for number in range(chains.LAYERS):
        block = params[f"block{number}"]
        maps, values = chains.attention(block, chains.normed(block["norm1"], x))
        out = np.asarray(block["out"]).reshape(chains.HEADS, -1, chains.WIDTH)
        brought = np.einsum("thd,hdw->htw", values[0], out)
        found.append(Layer(np.asarray(x[0]), np.asarray(maps[0]), brought))
        x = x + np.einsum("hqk,hkw->qw", maps[0], brought)[None]
        x = x + chains.hidden(block, chains.normed(block["norm2"], x))
    return found


def flashtrace(
    run: Sequence[Layer],
    target: tuple[int, int],
    reasoning: tuple[int, int],
    hops: int,
    direct: bool = True,
    before: bool = True,
) -> Float[np.ndarray, "hops t"]:
    """Shares of all tokens, hop by hop; the first row is that of the target itself.

    Args:
        run: what `layers` found.
        target: the span to be explained: its first position and that after its last.
        reasoning: likewise, the tokens whose shares are handed on.
        hops: how many times.
        direct: see above.
        before: see above.
    """
    length = len(run[0].residual)
    weights = np.zeros(length)
    weights[target[0] - before : target[1] - before] = 1 / (target[1] - target[0])
    rows = [of_targets(run, weights, direct)]
    for _ in range(hops):
        weights = np.zeros(length)
        inside = rows[-1][slice(*reasoning)]
        weights[reasoning[0] - before : reasoning[1] - before] = inside
        rows.append(of_targets(run, weights, direct))  # its sum is that of the shares handed on
    return np.stack(rows)


def of_targets(
    run: Sequence[Layer], weights: Float[np.ndarray, " t"], direct: bool
) -> Float[np.ndarray, " t"]:
    """Shares of all tokens in weighted positions of the residual stream; they add up to these."""
    total = weights.sum()
    found = np.zeros(len(weights))
    if not total:
        return found
    if direct:
        left = total
        for layer in reversed(run):
            of_tokens, kept = _shares(layer, weights / total, whole=True)
            found += left * of_tokens
            left *= kept.sum()
        return found + left * weights / total
    shares = weights / total
    for layer in reversed(run):
        of_tokens, kept = _shares(layer, shares, whole=False)
        shares = of_tokens + kept
    return total * shares


def _shares(layer: Layer, weights: Any, whole: bool) -> tuple[Any, Any]:
    """Of a weighted sum of positions after attention: shares of tokens, and of the residual.

    The residual is one part, or one for each position.
    """
    brought = np.einsum("q,hqk->hk", weights, layer.maps)[..., None] * layer.brought
    stays = weights[:, None] * layer.residual
    stays = stays.sum(0, keepdims=True) if whole else stays
    sum_of_all = brought.sum((0, 1)) + stays.sum(0)
    by_tokens, kept = (_proximity(part, sum_of_all) for part in (brought, stays))
    total = by_tokens.sum() + kept.sum()
    return by_tokens.sum(0) / total, kept / total


def _proximity(part: Any, whole: Any) -> Any:
    return np.maximum(0, np.abs(whole).sum() - np.abs(whole - part).sum(-1))
