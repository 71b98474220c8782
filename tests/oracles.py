r"""The rules once more, in float64 NumPy, straight from their definitions and without speed.

A layer is the affine map :math:`z = x W + b` of flattened arrays, its matrix found by probing it
with unit vectors. Each rule says what contributions :math:`c_{ij}` the inputs and :math:`c_j` the
bias make to output j, and relevance is shared out in proportion to them:

.. math:: R_i = \sum_j \frac{c_{ij}}{\mathrm{stab}(\sum_k c_{kj} + c_j)} R_j

Nothing of relprop is imported here: an oracle that shares code with its subject proves nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

# --------------------------------------------------------------------------------- the layer


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer as a matrix, all arrays flattened.

    Attributes:
        weight: W, [inputs, outputs].
        bias: b, [outputs]; None where the layer has none.
        connected: which inputs an output looks at, whatever the weight, [inputs, outputs].
    """

    weight: np.ndarray
    bias: np.ndarray | None
    connected: np.ndarray


def as_matrix(function: Callable, shapes: Sequence[tuple[int, ...]]) -> jax.Array:
    """The matrix of a linear function of several arrays, [inputs, outputs].

    Row i is what the function makes of the i-th unit vector; one after the other, so that it is
    the layer that is asked and not what vmap makes of it. Call it in double precision.
    """
    sizes = [int(np.prod(shape)) for shape in shapes]

    def response(unit):
        parts = jax.numpy.split(unit, np.cumsum(sizes)[:-1])
        arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return function(arrays).reshape(-1)

    return jax.lax.map(response, np.eye(sum(sizes)))


# --------------------------------------------------------------------------------- sharing out


@dataclasses.dataclass(frozen=True)
class Shares:
    """Where the relevance of the outputs went.

    Attributes:
        inputs: relevance of each input.
        bias: relevance absorbed by the biases, summed.
        rounding: how far `inputs` moves if each contribution is off by 1 part in 1.
    """

    inputs: np.ndarray
    bias: float
    rounding: np.ndarray

    def __add__(self, other: Shares) -> Shares:
        return Shares(
            self.inputs + other.inputs, self.bias + other.bias, self.rounding + other.rounding
        )


def stabilise(z: float, epsilon: float, clip: bool = False) -> float:
    r"""Keeps z away from zero (Bach et al. 2015, eq. 58): :math:`z + \epsilon\, sign(z)`.

    The sign of 0 is +1. With clip (zennit 0.5): whatever is nearer to zero than epsilon becomes
    epsilon, nothing else is changed.
    """
    sign = -1.0 if z < 0 else 1.0
    if clip:
        return sign * max(abs(z), epsilon)
    return z + epsilon * sign


def share_out(
    inputs: np.ndarray, own: np.ndarray, relevance: np.ndarray, epsilon: float, clip: bool = False
) -> Shares:
    r"""Relevance in proportion to contributions, output by output.

    Args:
        inputs: :math:`c_{ij}`, [inputs, outputs].
        own: :math:`c_j`, contributions of the biases, [outputs].
        relevance: :math:`R_j`, [outputs].
        epsilon: of the stabiliser.
        clip: kind of stabiliser.
    """
    leaving, rounding, absorbed = np.zeros(len(inputs)), np.zeros(len(inputs)), 0.0
    for j, given in enumerate(relevance):
        denominator = stabilise(inputs[:, j].sum() + own[j], epsilon, clip)
        if denominator == 0:
            continue  # what cannot be divided is lost
        parts = inputs[:, j] / denominator * given
        leaving += parts
        absorbed += own[j] / denominator * given
        spread = (np.abs(inputs[:, j]).sum() + abs(own[j])) / abs(denominator)
        rounding += np.abs(parts) * (1 + spread)
    return Shares(leaving, float(absorbed), rounding)


def _contributions(x: np.ndarray, layer: Layer, bias: str) -> tuple[np.ndarray, np.ndarray]:
    """x_i w_ij and b_j; without b_j if biases are to be ignored."""
    own = np.zeros(layer.weight.shape[1])
    if bias == "absorb" and layer.bias is not None:
        own = layer.bias
    return x[:, None] * layer.weight, own


def _positive(c: np.ndarray) -> np.ndarray:
    return np.where(c > 0, c, 0.0)


def _negative(c: np.ndarray) -> np.ndarray:
    return np.where(c < 0, c, 0.0)


# ------------------------------------------------------------------------------------- rules


def zero(x, layer: Layer, relevance, bias: str = "absorb", *, diagonal: bool = False) -> Shares:
    r"""LRP-0: :math:`R_i = \sum_j x_i w_{ij} / z_j \, R_j` (Bach et al. 2015, eq. 56).

    With `diagonal`, every output has but one input: of its relevance that one gets all, the limit
    of the definition where x is zero. A weight of zero passes nothing on.
    """
    inputs, own = _contributions(x, layer, bias)
    if diagonal and not own.any():
        inputs = (layer.weight != 0).astype(np.float64)
    return share_out(inputs, own, relevance, epsilon=0.0)


def epsilon(x, layer: Layer, relevance, bias: str = "absorb", *, eps: float, clip=False) -> Shares:
    r"""Epsilon: :math:`R_i = \sum_j x_i w_{ij} / (z_j + \epsilon sign z_j) R_j` (Bach, eq. 58)."""
    return share_out(*_contributions(x, layer, bias), relevance, eps, clip)


def norm(x, layer: Layer, relevance, bias: str = "absorb", *, eps: float) -> Shares:
    r"""Norm: :math:`R_i = x_i / (z_j + \epsilon sign z_j) R_j`, :math:`z_j = \sum_i x_i` (zennit).

    For a layer with weights the x_i are what it sums up, which are the products with the weights.
    """
    return share_out(*_contributions(x, layer, bias), relevance, eps)


def gamma(x, layer: Layer, relevance, bias: str = "absorb", *, gamma: float, eps: float) -> Shares:
    r"""Generalised gamma, by the sign of the output (Montavon et al. 2019; Andéol et al. 2021).

    .. math:: c_{ij} = x_i w_{ij} + \gamma\,(x_i w_{ij})^+ \quad\text{where } z_j > 0

    and with the negative parts where :math:`z_j < 0`; the bias likewise. The sign is that of the
    real output, with bias. Where the output is 0, nothing passes.
    """
    plain, own = _contributions(x, layer, bias)
    z = plain.sum(axis=0) + (0.0 if layer.bias is None else layer.bias)
    part = {1: _positive, -1: _negative, 0: np.zeros_like}
    inputs = np.stack(
        [c + gamma * part[int(s)](c) for c, s in zip(plain.T, np.sign(z), strict=True)], axis=1
    )
    own = np.array([b + gamma * part[int(s)](b) for b, s in zip(own, np.sign(z), strict=True)])
    return share_out(inputs, own, np.where(z == 0, 0.0, relevance), eps)


def alpha_beta(
    x, layer: Layer, relevance, bias: str = "absorb", *, alpha: float, beta: float, eps: float
) -> Shares:
    r"""Alpha-beta (Bach et al. 2015, eq. 60), the bias among the contributions of its sign.

    .. math:: R_i = \sum_j \Big(\alpha \frac{(x_i w_{ij})^+}{z_j^+}
                                 - \beta \frac{(x_i w_{ij})^-}{z_j^-}\Big) R_j
    """
    inputs, own = _contributions(x, layer, bias)
    supporting = share_out(_positive(inputs), _positive(own), alpha * relevance, eps)
    opposing = share_out(_negative(inputs), _negative(own), -beta * relevance, eps)
    return supporting + opposing


def z_plus(x, layer: Layer, relevance, bias: str = "absorb", *, eps: float) -> Shares:
    r"""z+: :math:`R_i = \sum_j (x_i w_{ij})^+ / (\sum_k (x_k w_{kj})^+ + b_j^+) R_j`.

    Bach et al. 2015, eq. 60 with beta 0; Montavon et al. 2017, eq. 6 for positive inputs.
    """
    inputs, own = _contributions(x, layer, bias)
    return share_out(_positive(inputs), _positive(own), relevance, eps)


def z_box(x, layer: Layer, relevance, bias: str = "absorb", *, low, high, eps: float) -> Shares:
    r"""z-box (Montavon et al. 2017, eq. 7); the bias cancels.

    .. math:: c_{ij} = x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-
    """
    w = layer.weight
    low = np.broadcast_to(low, x.shape)[:, None]
    high = np.broadcast_to(high, x.shape)[:, None]
    inputs = x[:, None] * w - low * _positive(w) - high * _negative(w)
    return share_out(inputs, np.zeros(w.shape[1]), relevance, eps)


def w_square(x, layer: Layer, relevance, bias: str = "absorb", *, eps: float) -> Shares:
    r"""w-square: :math:`R_i = \sum_j w_{ij}^2 / (\sum_k w_{kj}^2 + b_j^2) R_j` (ibid., eq. 5)."""
    _, own = _contributions(x, layer, bias)
    return share_out(layer.weight**2, own**2, relevance, eps)


def flat(x, layer: Layer, relevance, bias: str = "absorb", *, eps: float) -> Shares:
    r"""Flat: in equal parts to the inputs that an output is connected to, no bias among them.

    Lapuschkin et al. 2019, supplementary note 1: as w-square with all weights 1.
    """
    inputs = layer.connected.astype(np.float64)
    return share_out(inputs, np.zeros(inputs.shape[1]), relevance, eps)


def gradient(x, layer: Layer, relevance, bias: str = "absorb") -> Shares:
    r"""Back-propagation: :math:`R_i = \sum_j w_{ij} R_j` (Simonyan et al. 2014)."""
    leaving = layer.weight @ relevance
    return Shares(leaving, 0.0, np.abs(layer.weight) @ np.abs(relevance))


# --------------------------------------------------------------------- rules without a layer


def passed(relevance):
    """Pass: :math:`R_i = R_j` (Bach et al. 2015, section 2.5)."""
    return np.array(relevance, np.float64)


def stopped(relevance):
    """Stop: :math:`R_i = 0`."""
    return np.zeros_like(relevance, np.float64)


def winner_takes_all(x: np.ndarray, windows: Sequence[np.ndarray], relevance) -> np.ndarray:
    """Maximum: all to the largest input of each window (Bach et al. 2015, section 2.5).

    Several largest ones share it in equal parts.

    Args:
        x: the inputs, flat.
        windows: per output, the positions of the inputs it is the maximum of.
        relevance: per output.
    """
    leaving = np.zeros(len(x))
    for window, given in zip(windows, relevance, strict=True):
        winners = [i for i in window if x[i] == max(x[k] for k in window)]
        for i in winners:
            leaving[i] += given / len(winners)
    return leaving


def half_of_matrix_product(
    a: np.ndarray, b: np.ndarray, relevance
) -> tuple[np.ndarray, np.ndarray]:
    r"""Uniform rule for :math:`z = a b` (Achtibat et al. 2024, proposition 3.3).

    .. math:: R_{ik} = R_{kj} = \tfrac12 \sum a_{ik} b_{kj} / z_{ij}\, R_{ij}

    summed over j for a and over i for b: half of LRP-0 with the other matrix as the weight.
    """
    z = a @ b
    to_a, to_b = np.zeros(a.shape), np.zeros(b.shape)
    for i, j in np.ndindex(*z.shape):
        for k in range(a.shape[1]):
            if z[i, j] != 0:
                part = a[i, k] * b[k, j] / z[i, j] * relevance[i, j] / 2
                to_a[i, k] += part
                to_b[k, j] += part
    return to_a, to_b
