"""Which differences are no mistake, and why.

A row says that some spellings of a piece are another network to their author than the reference
is, under some rules. `test_sample` fails where a row is not needed: where all the pairs that it
names are equal under one of its rules.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .networks import Network


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of difference.

    Attributes:
        piece: name of the piece, or a glob.
        spelling: name of the spelling, or a glob; several are separated by a bar.
        explainers: the rules and presets under which it makes a difference.
        reason: why the two are not one network there.
    """

    piece: str
    spelling: str
    explainers: tuple[str, ...]
    reason: str

    @property
    def id(self) -> str:
        return f"{self.piece}: {self.spelling}"

    def matches(self, network: Network, explainer: str) -> bool:
        """Whether the row is about a network under an explainer."""
        return (
            explainer in self.explainers
            and _any(network.piece, self.piece)
            and _any(network.spelling, self.spelling)
        )


def _any(name: str, patterns: str) -> bool:
    return any(_glob(name, pattern.strip()) for pattern in patterns.split(" | "))


def _glob(name: str, pattern: str) -> bool:
    # Names hold brackets that mean themselves.
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


# Rules under which a sum of layers shares relevance as one layer of all of their weights would.
_LINEAR = ("zero", "attn_lrp", "cp_lrp", "relp")
# All the others: they look at the signs of contributions, at their sizes, or at outputs.
_SHARP = ("epsilon", "gamma", "alpha_beta", "z_plus", "w_square", "epsilon_plus_flat", "gamma_vit",
          "chefer", "lstm")  # fmt: skip
_BY_POSITION = ("w_square", "epsilon_plus_flat")
_CONVOLUTIONS_APART = (
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_gamma_box",
    "gamma_vit",
    "chefer",
)
# Rules under which both factors of a gate get relevance: all but those of signals.
_HALVED = ("zero", "epsilon", "gamma", "alpha_beta", "z_plus", "w_square", "epsilon_plus",
           "epsilon_plus_flat", "epsilon_gamma_box", "attn_lrp", "relp", "gamma_vit",
           "chefer")  # fmt: skip
_ALL = (*_LINEAR, *_SHARP, "epsilon_plus", "epsilon_gamma_box")

DIFFERENCES: tuple[Row, ...] = (
    # Layers.
    Row("product", "rows apart", _SHARP,
        "a layer split by rows: signs and stabilisers are those of each part"),
    Row("product", "low rank", tuple(n for n in _SHARP if n != "epsilon_plus_flat"),
        "W = U V is two layers, with contributions of either sign between them"),
    Row("product", "convolution of width 1", _CONVOLUTIONS_APART,
        "the preset has a rule for convolutions and another one for dense layers"),
    Row("low_rank_update", "x @ w + *", _SHARP,
        "two layers are added, which have signs and stabilisers of their own"),
    Row("two_layers_one_bias", "concatenated", tuple(n for n in _SHARP if n != "epsilon_plus_flat"),
        "a layer split by rows"),
    Row("two_layers_one_bias", "x @ w + h @ u + b", _SHARP,
        "nothing says which of the two layers the bias belongs to"),
    Row("scaled_layer", "(x @ w + b/s)*s", ("epsilon", "gamma", "gamma_vit", "z_plus", "lstm"),
        "the stabiliser is in units of what the layer returns, before it is scaled"),
    Row("weighted_mean", "(a @ w)/sum", ("epsilon", "z_plus", "lstm"),
        "the stabiliser is in units of what the layer returns, before it is divided"),
    Row("integer_weights", "(x @ q)*s + b | einsum | vmap", ("gamma_vit", "lstm"),
        "a batch norm behind a layer, which the preset declines to merge"),
    Row("scaled_layer", "(x*s) @ w + b", ("w_square",),
        "squares of unscaled weights stand beside the square of the bias"),
    Row("scaled_channels", "(x @ w)*g + b | (x @ w)/(1/g) + b | vmap | einsum* | (x @ w) @ *",
        ("gamma_vit", "lstm"), "a batch norm behind a layer, which the preset declines to merge"),
    Row("scaled_channels", "g*(x @ w + b/g) | ((x @ w) + b/g)*g + 0", ("lstm",),
        "the stabiliser is in units of what the layer returns, before it is scaled"),
    Row("batch_norm_behind", "merged by hand | no bias, m - b", ("gamma_vit", "lstm"),
        "the preset declines to merge batch norms: the layer is another one"),
    Row("batch_norm_in_front", "merged by hand", ("gamma_vit", "chefer"),
        "the preset declines to merge batch norms: the layer is another one"),
    Row("layers_in_a_row", "scan | scan, unroll=3 | scan of checkpoint | scan, product in jit"
        " | fori_loop | a scan, then the last", _BY_POSITION,
        "the first layer is in a loop: its rule is that of all rounds"),
    Row("layers_in_a_row", "scan, bias next", _SHARP,
        "the bias is added in another round of the loop than the product"),
    # Gates.
    Row("glu | gated_tanh", "c - c*(1 - g)", _HALVED,
        "the halves are those of c and of 1 - g, and c is read once more"),
    Row("glu | gated_tanh", "softmax of two",
        ("zero", "epsilon", "gamma", "alpha_beta", "z_plus", "w_square", "epsilon_plus",
         "epsilon_plus_flat", "epsilon_gamma_box", "attn_lrp", "relp", "gamma_vit", "lstm"),
        "a softmax over two logits, of which one is a constant, has the rule of a softmax"),
    Row("gate_of_a_constant", "softmax of two",
        ("zero", "epsilon", "gamma", "alpha_beta", "z_plus", "w_square", "epsilon_plus",
         "epsilon_plus_flat", "epsilon_gamma_box", "attn_lrp", "relp", "gamma_vit", "chefer",
         "lstm"),
        "a softmax over two logits, of which one is a constant, has the rule of a softmax"),
    Row("softmax_of_two", "sigmoid", _ALL,
        "a sigmoid of a difference of two logits is an activation, and no softmax over them"),
    Row("interpolating_gate", "n + z*(h - n) | n - z*n + z*h", _HALVED,
        "the halves are those of z and of h - n, and n is read once more"),
    # Attention.
    Row("many_heads", "scale in weights", ("epsilon", "gamma", "z_plus", "lstm"),
        "the stabiliser is in units of what the layer returns, which is scaled here"),
    Row("rotary_attention", "halves | stacked | complex numbers", ("chefer",),
        "the reference scales both shares of each sum to conserve relevance over all entries"),
    # Convolutions.
    Row("patches", "convolution | convolution, NCHW", _CONVOLUTIONS_APART,
        "the preset has a rule for convolutions and another one for dense layers"),
    Row("convolution_and_batch_norm", "merged by hand", ("gamma_vit", "lstm"),
        "the preset declines to merge batch norms: the layer is another one"),
    # Sums.
    Row("sum_of_three", "x + (f + g) | (f + g) + x | (x + g) + f | x - (-f) - (-g)", ("chefer",),
        "the reference scales both shares of each sum to conserve relevance over all entries"),
    Row("sum_of_three | residual_block", "sum of stack | 3*mean | einsum | ones @ stack",
        ("chefer",),
        "the reference has a rule of its own for the sum of two values"),
    Row("mixture_of_experts", "listed | scan", ("chefer",),
        "the reference scales both shares of each sum to conserve relevance over all entries"),
    # Norms.
    Row("layer_norm", "centring matrix", ("chefer",),
        "a mean that is taken away by a matrix is a linear map by itself, before the norm"),
    # Recurrences.
    Row("lstm", "fused", ("chefer",),
        "the reference scales both shares of each sum to conserve relevance over all entries, here"
        " of all gates at once"),
    Row("state_space", "associative_scan",
        ("zero", "epsilon", "z_plus", "w_square", "epsilon_plus_flat", "attn_lrp", "cp_lrp",
         "relp", "chefer", "lstm"),
        "decays are multiplied with each other first: other factors, and halves of halves"),
    Row("lstm", "scan, x @ w + h @ u + b", _SHARP,
        "nothing says which of the two layers the bias belongs to"),
    Row("lstm", "scan, x @ w + (h @ u + b)", _SHARP,
        "the bias belongs to the other layer"),
    Row("lstm", "scan, concatenated", _SHARP,
        "a layer split by rows"),
    Row("gru", "scan, n + z*(h - n)", _HALVED,
        "the halves are those of z and of h - n, and n is read once more"),
    Row("lstm | gru | simple_recurrence", "scan | scan, unroll=2 | all states, the last"
        " | scan of checkpoint | fori_loop | in reverse, twice | scan of scans | fused | scan, *"
        " | sigmoid by *", _BY_POSITION,
        "the first layer is in a loop: its rule is that of all rounds"),
    Row("gru", "scan | scan, unroll=2 | all states, the last | scan of checkpoint | fori_loop"
        " | in reverse, twice | scan of scans | scan, (1 - z)*n + z*h | scan, z*h + (1 - z)*n"
        " | scan, sigmoid by tanh",
        tuple(name for name in _HALVED if name not in _BY_POSITION),
        "in a loop the first state is a factor like the later ones, with a half of its own; in the"
        " first turn by itself it is a constant"),
    Row("state_space", "(delta*x)*b", tuple(n for n in _ALL if n not in ("cp_lrp", "lstm")),
        "nested halves: a factor of a product of products gets a half or a quarter"),
)  # fmt: skip
REFUSALS: tuple[Row, ...] = (
    Row("attention", "the heaviest of all", ("transformer_attribution",),
        "the keys stand in another order for each query: there is no one map"),
    Row("attention", "two blocks *", ("transformer_attribution",),
        "the blocks are weighed by numbers of their own: there is no one map"),
    Row("attention", "halves*", ("transformer_attribution",),
        "the map comes in two halves: there is no one map"),
    Row("attention", "flash*", ("transformer_attribution",),
        "the keys come block by block: there is no one map"),
    Row("attention", "blocks by * | online by two keys", ("transformer_attribution",),
        "the keys come block by block: there is no one map"),
    Row("attention", "chunks of queries by map | query by query", ("transformer_attribution",),
        "the queries come in parts: there is no one map"),
    Row("causal_attention", "with a cache", ("transformer_attribution",),
        "each query has a map of its own length"),
    Row("softmax_of_the_largest", "largest of a softmax | the same, sorted | looked up",
        ("chefer",),
        "the largest of a softmax have not the shape of what it is taken of, which the reference"
        " passes"),
    Row("softmax | attention", "halves side by side", ("chefer",),
        "half of a softmax has not the shape of what it is taken of, which the reference passes"),
    Row("product", "linear_call", _ALL,
        "a function with a transpose of the user's own has no rule, and says so"),
)  # fmt: skip
