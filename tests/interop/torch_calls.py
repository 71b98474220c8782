"""What PyTorch can be asked for: modules and functions over a grid of their arguments.

`GROUPS` maps a name to a function that yields rows: a name, what makes a module, and its arguments,
where a shape stands for an array of normal numbers. `made` makes a module and its arguments.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Row = tuple[str, Callable[[], nn.Module], tuple[Any, ...]]


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def grid(**choices: list[Any]) -> Iterator[dict[str, Any]]:
    """Half of all combinations: of three arguments and more, each pair of choices is in it."""
    for places in itertools.product(*(range(len(values)) for values in choices.values())):
        if sum(places) % 2 == 0:
            chosen = zip(choices.items(), places, strict=True)
            yield {name: values[at] for (name, values), at in chosen}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def convolutions():
    for rank in (1, 2, 3):
        plain, turned = getattr(nn, f"Conv{rank}d"), getattr(nn, f"ConvTranspose{rank}d")
        image = (2, 4, *(5, 4, 3)[:rank])
        for kw in (
            {"stride": 2},
            {"groups": 2, "padding": 1},
            {"groups": 4, "dilation": 2, "padding": 2, "bias": False},
            {"padding": "same", "dilation": 2},
            {"padding": "valid"},
            {"padding": 1, "padding_mode": "reflect"},
            {"padding": 2, "padding_mode": "circular"},
            {"padding": 1, "padding_mode": "replicate", "stride": 2},
        ):
            size = 3 if rank < 3 else 2
            yield "conv", lambda p=plain, k=kw, s=size: p(4, 8, s, **k), (image,)
        for kw in (
            {},
            {"stride": 2, "output_padding": 1, "bias": False},
            {"groups": 2},
            {"groups": 4, "stride": 2, "padding": 1, "output_padding": 1},
            {"groups": 2, "dilation": 2, "stride": 3, "output_padding": 2, "padding": 1},
            {"dilation": 2, "padding": 2, "output_padding": 1},
            {"padding": 2, "stride": 2},
        ):
            yield "turned conv", lambda t=turned, k=kw: t(4, 8, 3, **k), (image,)
        yield "turned unbatched", lambda t=turned: t(4, 6, 2, 2, groups=2), (image[1:],)
        yield "unbatched", lambda p=plain: p(4, 6, 2, groups=2), (image[1:],)
    yield (
        "turned uneven",
        lambda: nn.ConvTranspose2d(4, 6, (2, 3), (2, 1), (0, 2), (1, 0), 2, dilation=(1, 2)),
        ((2, 4, 3, 5),),
    )
    yield "uneven", lambda: nn.Conv2d(4, 6, (2, 3), (2, 1), (0, 2), (1, 2), 2), ((2, 4, 5, 7),)

    class Sized(nn.ConvTranspose2d):
        def forward(self, x):
            return super().forward(x, output_size=[8, 10])

    yield "turned, output_size", lambda: Sized(4, 4, 3, 2, 1, groups=2), ((1, 4, 4, 5),)
    weight = (4, 3, 3)
    yield (
        "F.conv_transpose1d",
        lambda: Calls(lambda x, w: F.conv_transpose1d(x, w, None, 2, 1, 1, 2)),
        ((2, 4, 5), weight),
    )


def poolings():
    for kw in grid(
        kernel_size=[3], stride=[2, 3], padding=[0, 1], dilation=[1, 2], ceil_mode=[False, True]
    ):
        yield "max_pool1d", lambda k=kw: nn.MaxPool1d(**k), ((2, 3, 10),)
        yield "max_pool2d", lambda k=kw: nn.MaxPool2d(**k), ((2, 3, 7, 10),)
    for kw in grid(
        kernel_size=[3], stride=[2, 4], padding=[0, 1], ceil_mode=[False, True],
        count_include_pad=[False, True],
    ):  # fmt: skip
        yield "avg_pool1d", lambda k=kw: nn.AvgPool1d(**k), ((2, 3, 10),)
        yield "avg_pool2d", lambda k=kw: nn.AvgPool2d(**k), ((2, 3, 7, 10),)
    yield "max_pool2d, uneven", lambda: nn.MaxPool2d((2, 3), (1, 2), (1, 0)), ((1, 2, 5, 7),)
    yield "max_pool3d", lambda: nn.MaxPool3d(2, ceil_mode=True), ((2, 2, 5, 4, 3),)
    yield "max_pool3d", lambda: nn.MaxPool3d(3, 2, 1, 1), ((1, 2, 5, 4, 3),)
    yield "max_pool2d, unbatched", lambda: nn.MaxPool2d(2), ((3, 5, 6),)
    yield "avg_pool3d", lambda: nn.AvgPool3d(2, 1, 1, True, False), ((2, 2, 5, 4, 3),)
    yield "avg_pool2d, unbatched", lambda: nn.AvgPool2d(2, 1), ((3, 5, 6),)
    yield "avg_pool2d, divisor", lambda: nn.AvgPool2d(2, divisor_override=3), ((1, 2, 5, 6),)
    yield "avg_pool2d, uneven", lambda: nn.AvgPool2d((2, 3), (1, 2), (1, 0)), ((1, 2, 5, 7),)
    for size in (1, 2, 3, 4, (3, 5), (None, 2), 7):
        for kind in (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d):
            yield "adaptive 2d", lambda k=kind, s=size: k(s), ((2, 2, 7, 6),)
    for size in (1, 2, 3, 5):
        for kind in (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d):
            yield "adaptive 1d", lambda k=kind, s=size: k(s), ((2, 2, 7),)
        for kind in (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d):
            yield "adaptive 3d", lambda k=kind, s=size: k(s), ((1, 2, 5, 5, 4),)
    yield "adaptive unbatched", lambda: nn.AdaptiveAvgPool2d((2, 3)), ((2, 5, 5),)
    yield "lp_pool", lambda: nn.LPPool1d(3, 2), ((2, 2, 6),)
    yield "lp_pool", lambda: nn.LPPool2d(2, 2, ceil_mode=True), ((2, 2, 5, 5),)

    def unpooled(x):
        y, places = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y, places, 2), places

    yield "max_unpool2d", lambda: Calls(unpooled), ((1, 2, 6, 4),)
    yield (
        "max_pool, indices",
        lambda: nn.MaxPool2d(3, 2, 1, return_indices=True),
        ((1, 2, 6, 5),),
    )
    yield "max_pool1d, indices", lambda: nn.MaxPool1d(2, return_indices=True), ((1, 2, 6),)
    yield (
        "fractional",
        lambda: nn.FractionalMaxPool2d(2, (2, 2), _random_samples=torch.full((1, 2, 2), 0.3)),
        ((1, 2, 6, 5),),
    )


def paddings():
    for kind, pads in (
        ("ReflectionPad", (2, 1)), ("ReplicationPad", (2, 3)), ("CircularPad", (1, 2)),
        ("ConstantPad", (1, -1)), ("ZeroPad", (-1, 2)),
    ):  # fmt: skip
        extra = (3.0,) if kind == "ConstantPad" else ()
        for rank in (1, 2, 3):
            given = (*pads, 0, 1, 1, 0)[: 2 * rank]
            module = getattr(nn, f"{kind}{rank}d")
            yield kind, lambda m=module, g=given, e=extra: m(g, *e), ((2, 3, 4, 5, 4)[: rank + 2],)
    for mode in ("reflect", "replicate", "circular"):
        if mode != "circular":
            yield (
                f"pad {mode}, unbatched",
                lambda m=mode: Calls(lambda x: F.pad(x, (1, 1), mode=m)),
                ((3, 4),),
            )
        yield (
            f"pad {mode}, negative",
            lambda m=mode: Calls(lambda x: F.pad(x, (-1, 2), mode=m)),
            ((2, 3, 6),),
        )


def resizings():
    for mode, shape in (
        ("nearest", (1, 2, 5, 6)), ("nearest-exact", (1, 2, 5, 6)), ("bilinear", (1, 2, 5, 6)),
        ("bicubic", (1, 2, 5, 6)), ("area", (1, 2, 5, 6)), ("linear", (1, 2, 6)),
        ("trilinear", (1, 2, 3, 4, 3)), ("nearest", (1, 2, 5)), ("nearest", (1, 2, 3, 2, 4)),
    ):  # fmt: skip
        rank = len(shape) - 2
        sizes = [{"scale_factor": 2}, {"scale_factor": 1.7}, {"size": (3, 4, 5)[:rank]}]
        sizes.append({"size": (8, 7, 4)[:rank]})
        sizes.append({"scale_factor": 1.7, "recompute_scale_factor": True})
        for number, size in enumerate(sizes):
            yield (
                f"resize {mode}",
                lambda m=mode, s=size: Calls(lambda x: F.interpolate(x, mode=m, **s)),
                (shape,),
            )
            if ("linear" in mode or mode == "bicubic") and number % 2 == 0:
                yield (
                    f"resize {mode}, corners",
                    lambda m=mode, s=size: Calls(
                        lambda x: F.interpolate(x, mode=m, align_corners=True, **s)
                    ),
                    (shape,),
                )
            if mode in ("bilinear", "bicubic") and number % 2:
                yield (
                    f"resize {mode}, antialias",
                    lambda m=mode, s=size: Calls(
                        lambda x: F.interpolate(x, mode=m, antialias=True, **s)
                    ),
                    (shape,),
                )
    yield "Upsample", lambda: nn.Upsample(scale_factor=(2, 3), mode="bilinear"), ((1, 2, 3, 4),)
    yield "UpsamplingNearest2d", lambda: nn.UpsamplingNearest2d(scale_factor=3), ((1, 2, 3, 4),)
    yield "UpsamplingBilinear2d", lambda: nn.UpsamplingBilinear2d((5, 3)), ((1, 2, 3, 4),)
    for kw in grid(
        mode=["bilinear", "nearest", "bicubic"],
        padding_mode=["zeros", "border", "reflection"],
        align_corners=[False, True],
    ):
        yield (
            f"grid_sample {kw}",
            lambda k=kw: Calls(lambda x, g: F.grid_sample(x, 0.6 * g, **k)),
            ((2, 2, 4, 5), (2, 3, 3, 2)),
        )
    for corners in (False, True):
        yield (
            "affine_grid",
            lambda c=corners: Calls(lambda t: F.affine_grid(t, [2, 1, 3, 4], align_corners=c)),
            ((2, 2, 3),),
        )


def norms():
    for kind, shape in (
        ("BatchNorm1d", (3, 4)), ("BatchNorm1d", (2, 4, 5)), ("BatchNorm2d", (2, 4, 3, 2)),
        ("BatchNorm3d", (2, 4, 3, 2, 2)), ("InstanceNorm1d", (2, 4, 5)),
        ("InstanceNorm2d", (2, 4, 3, 2)), ("InstanceNorm3d", (2, 4, 3, 2, 2)),
        ("InstanceNorm2d", (4, 3, 2)),
    ):  # fmt: skip
        for kw in grid(affine=[False, True], track_running_stats=[False, True]):
            module = getattr(nn, kind)
            yield f"{kind} {kw}", lambda m=module, k=kw: m(4, **k), (shape,)
    for groups in (1, 2, 4):
        for affine in (False, True):
            yield (
                "GroupNorm",
                lambda g=groups, a=affine: nn.GroupNorm(g, 4, 1e-3, a),
                ((2, 4, 3, 2),),
            )
    yield "GroupNorm", lambda: nn.GroupNorm(2, 4), ((3, 4),)
    for kw in ({}, {"elementwise_affine": False}, {"bias": False}, {"eps": 0.1}):
        yield f"LayerNorm {kw}", lambda k=kw: nn.LayerNorm(5, **k), ((2, 3, 5),)
        yield f"LayerNorm {kw}", lambda k=kw: nn.LayerNorm((3, 5), **k), ((2, 3, 5),)
    for kw in ({}, {"elementwise_affine": False}, {"eps": 0.1}):
        yield f"RMSNorm {kw}", lambda k=kw: nn.RMSNorm(5, **k), ((2, 3, 5),)
        yield f"RMSNorm {kw}", lambda k=kw: nn.RMSNorm((3, 5), **k), ((2, 3, 5),)
    for size in (2, 3):
        for shape in ((2, 5, 3), (2, 5, 3, 4), (1, 5, 2, 2, 2)):
            yield (
                "LocalResponseNorm",
                lambda s=size: nn.LocalResponseNorm(s, 0.5, 0.6, 2.0),
                (shape,),
            )
    yield "CrossMapLRN2d", lambda: nn.CrossMapLRN2d(3), ((2, 5, 3, 4),)
    for p, dim in itertools.product((1, 2, 3.5, float("inf")), (0, 1, -1)):
        yield "normalize", lambda p=p, d=dim: Calls(lambda x: F.normalize(x, p, d)), ((2, 3, 4),)
    made = torch.nn.utils.parametrizations
    yield "weight_norm", lambda: made.weight_norm(nn.Linear(3, 4)), ((2, 3),)
    yield "spectral_norm", lambda: made.spectral_norm(nn.Linear(3, 4)), ((2, 3),)
    yield "orthogonal", lambda: made.orthogonal(nn.Linear(4, 4)), ((2, 4),)


def activations():
    for module in (
        nn.ELU(0.7), nn.Hardshrink(0.3), nn.Hardsigmoid(), nn.Hardtanh(-0.5, 0.7), nn.Hardswish(),
        nn.LeakyReLU(0.2), nn.LeakyReLU(0.2, inplace=True), nn.LogSigmoid(), nn.PReLU(),
        nn.PReLU(4, 0.2), nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.RReLU(), nn.SELU(),
        nn.CELU(1.3), nn.GELU(), nn.GELU("tanh"), nn.Sigmoid(), nn.SiLU(), nn.Mish(),
        nn.Softplus(2, 1), nn.Softplus(), nn.Softshrink(0.2), nn.Softsign(), nn.Tanh(),
        nn.Tanhshrink(), nn.Threshold(0.1, 20), nn.GLU(), nn.GLU(1), nn.Softmin(1), nn.Softmax(2),
        nn.Softmax2d(), nn.LogSoftmax(1), nn.Softmax(-1), nn.Dropout(), nn.Dropout2d(),
        nn.AlphaDropout(), nn.FeatureAlphaDropout(), nn.Identity(), nn.Flatten(), nn.Flatten(2, 3),
        nn.Unflatten(1, (2, 2)), nn.ChannelShuffle(2), nn.PixelShuffle(2), nn.PixelUnshuffle(2),
    ):  # fmt: skip
        yield f"{module}", lambda m=module: m, ((2, 4, 4, 6),)
    yield "PReLU", lambda: nn.PReLU(3), ((2, 3),)
    yield "Softmax2d, unbatched", lambda: nn.Softmax2d(), ((3, 2, 2),)
    yield (
        "AdaptiveLogSoftmax",
        lambda: Calls(nn.AdaptiveLogSoftmaxWithLoss(5, 12, [3, 6], 2.0).eval().log_prob),
        ((4, 5),),
    )
    yield "softmax, dtype", lambda: Calls(lambda x: F.softmax(x, 0, dtype=torch.float32)), ((3, 4),)


def recurrences():
    for kind in ("RNN", "GRU", "LSTM"):
        for kw in (
            {}, {"bidirectional": True}, {"num_layers": 2, "batch_first": True}, {"bias": False},
            {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5},
        ):  # fmt: skip
            module = getattr(nn, kind)
            yield f"{kind} {kw}", lambda m=module, k=kw: m(3, 4, **k), ((2, 4, 3),)
        yield f"{kind}, unbatched", lambda m=module: m(3, 4), ((4, 3),)
        state = (1, 2, 4)
        if kind == "LSTM":
            yield "LSTM, state", lambda: Stated(nn.LSTM(3, 4)), ((4, 2, 3), state, state)
        else:
            yield f"{kind}, state", lambda m=module: m(3, 4), ((4, 2, 3), state)
    yield "RNN, relu", lambda: nn.RNN(3, 4, nonlinearity="relu"), ((4, 2, 3),)
    for kw in ({}, {"bidirectional": True, "num_layers": 2}, {"batch_first": True}):
        yield "LSTM, proj_size", lambda k=kw: nn.LSTM(3, 4, proj_size=2, **k), ((3, 2, 3),)
    yield "LSTMCell", lambda: nn.LSTMCell(3, 4), ((2, 3),)
    yield "GRUCell", lambda: nn.GRUCell(3, 4), ((2, 3),)
    yield "RNNCell", lambda: nn.RNNCell(3, 4, nonlinearity="relu"), ((2, 3),)

    class Packed(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.rnn = getattr(nn, kind)(3, 4, batch_first=True, bidirectional=True)

        def forward(self, x):
            lengths = torch.tensor([4, 2])
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            out, _ = self.rnn(packed)
            return nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0]

    for kind in ("GRU", "LSTM"):
        yield f"{kind}, packed", lambda k=kind: Packed(k), ((2, 4, 3),)


class Stated(nn.Module):
    """An LSTM with its two states as arguments of their own."""

    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm

    def forward(self, x, h, c):
        return self.lstm(x, (h, c))


class Attends(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, attention, **kwargs):
        super().__init__()
        self.attention, self.kwargs = attention, kwargs

    def forward(self, x):
        return self.attention(x, x, x, **self.kwargs)


def attentions():
    heads = nn.MultiheadAttention
    causal = torch.ones(4, 4).triu(1).bool()
    added = torch.zeros(4, 4).masked_fill(causal, float("-inf"))
    keys = torch.tensor([[False, False, False, True], [False, False, True, True]])
    for kw in ({}, {"batch_first": True}, {"bias": False}, {"add_bias_kv": True},
               {"add_zero_attn": True}):  # fmt: skip
        yield f"MHA {kw}", lambda k=kw: Attends(heads(8, 2, **k)), ((2, 4, 8),)
    for kw in (
        {"attn_mask": causal}, {"attn_mask": added}, {"key_padding_mask": keys},
        {"attn_mask": causal, "key_padding_mask": keys}, {"need_weights": False},
        {"average_attn_weights": False}, {"attn_mask": causal, "is_causal": True},
        {"attn_mask": causal, "is_causal": True, "need_weights": False},
        {"attn_mask": torch.randn(4, 4, 4)}, {"key_padding_mask": keys, "need_weights": False},
    ):  # fmt: skip
        yield (
            f"MHA {list(kw)}",
            lambda k=kw: Attends(heads(8, 2, batch_first=True), **k),
            ((2, 4, 8),),
        )
    yield "MHA, kdim", lambda: heads(8, 2, kdim=4, vdim=6, batch_first=True), (
        (2, 5, 8), (2, 3, 4), (2, 3, 6),
    )  # fmt: skip
    yield "MHA, unbatched", lambda: Attends(heads(8, 2)), ((4, 8),)
    encoder, decoder = nn.TransformerEncoderLayer, nn.TransformerDecoderLayer
    for kw in grid(batch_first=[False, True], norm_first=[False, True], activation=["gelu"]):
        yield f"encoder {kw}", lambda k=kw: encoder(8, 2, 12, **k), ((2, 4, 8),)
        yield f"decoder {kw}", lambda k=kw: decoder(8, 2, 12, **k), ((2, 4, 8), (2, 4, 8))
    first = {"batch_first": True}

    class Masked(nn.Module):
        def __init__(self, module, **kwargs):
            super().__init__()
            self.module, self.kwargs = module, kwargs

        def forward(self, *xs):
            return self.module(*xs, **self.kwargs)

    yield (
        "encoder, masked",
        lambda: Masked(
            nn.TransformerEncoder(encoder(8, 2, 12, **first), 2),
            mask=causal,
            src_key_padding_mask=keys,
        ),
        ((2, 4, 8),),
    )
    yield (
        "encoder, padded",
        lambda: Masked(
            nn.TransformerEncoder(encoder(8, 2, 12, **first), 2), src_key_padding_mask=keys
        ),
        ((2, 4, 8),),
    )
    yield (
        "decoder, masked",
        lambda: Masked(
            decoder(8, 2, 12, **first),
            tgt_mask=added,
            memory_key_padding_mask=keys,
            tgt_is_causal=True,
        ),
        ((2, 4, 8), (2, 4, 8)),
    )
    yield "Transformer", lambda: nn.Transformer(8, 2, 1, 1, 12, **first), ((2, 4, 8), (2, 3, 8))
    sdpa = F.scaled_dot_product_attention
    for kw in (
        {}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": causal.logical_not()},
        {"attn_mask": added}, {"attn_mask": torch.randn(2, 1, 4, 4), "scale": 2.0},
        {"attn_mask": torch.ones(4, 4, dtype=torch.bool).tril(-1)},
    ):  # fmt: skip
        yield (
            f"sdpa {list(kw)}",
            lambda k=kw: Calls(lambda q, k_, v: sdpa(q, k_, v, **k)),
            ((2, 4, 4, 3),) * 3,
        )
    yield (
        "sdpa, causal, other length",
        lambda: Calls(lambda q, k, v: sdpa(q, k, v, is_causal=True)),
        ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 6)),
    )
    for kw in ({}, {"is_causal": True}, {"attn_mask": causal.logical_not(), "scale": 0.4}):
        yield (
            f"sdpa, gqa {list(kw)}",
            lambda k=kw: Calls(lambda q, k_, v: sdpa(q, k_, v, enable_gqa=True, **k)),
            ((2, 6, 4, 3), (2, 3, 4, 3), (2, 3, 4, 3)),
        )


def layers():
    tokens = torch.tensor([[1, 2, 4, 0], [4, 3, 9, 0]])
    yield "Linear", lambda: nn.Linear(3, 4, bias=False), ((3,),)
    yield "Bilinear", lambda: nn.Bilinear(3, 4, 5), ((2, 3), (2, 4))
    yield "Bilinear", lambda: nn.Bilinear(3, 4, 5, bias=False), ((2, 2, 3), (2, 2, 4))
    for dim in (0, 1, -1):
        yield "CosineSimilarity", lambda d=dim: nn.CosineSimilarity(d), ((2, 3, 4), (2, 3, 4))
    for p in (1.0, 2.0, 3.0):
        yield "PairwiseDistance", lambda p=p: nn.PairwiseDistance(p, keepdim=p > 1), ((2, 3),) * 2
        yield "cdist", lambda p=p: Calls(lambda a, b: torch.cdist(a, b, p)), ((2, 3, 4), (2, 5, 4))
        yield "pdist", lambda p=p: Calls(lambda a: F.pdist(a, p)), ((4, 3),)
    for kw in ({}, {"padding_idx": 0}, {"max_norm": 0.5}):
        yield f"Embedding {kw}", lambda k=kw: nn.Embedding(10, 3, **k), (tokens,)
    for kw in grid(mode=["sum", "mean", "max"], padding_idx=[None, 0]):
        yield f"EmbeddingBag {kw}", lambda k=kw: nn.EmbeddingBag(10, 3, **k), (tokens,)
        yield f"EmbeddingBag, offsets {kw}", lambda k=kw: nn.EmbeddingBag(10, 3, **k), (
            tokens.reshape(-1), torch.tensor([0, 3, 3, 6]),
        )  # fmt: skip
    yield (
        "EmbeddingBag, last offset",
        lambda: nn.EmbeddingBag(10, 3, mode="sum", include_last_offset=True),
        (tokens.reshape(-1), torch.tensor([0, 3, 8])),
    )

    class Weighted(nn.EmbeddingBag):
        def forward(self, tokens, weights):
            return super().forward(tokens, per_sample_weights=weights)

    yield "EmbeddingBag, weights", lambda: Weighted(10, 3, mode="sum"), (tokens, (2, 4))
    for kw in (
        {"kernel_size": (2, 3)}, {"kernel_size": 2, "stride": 2}, {"kernel_size": 2, "padding": 1},
        {"kernel_size": (2, 3), "dilation": (2, 1), "padding": (1, 0), "stride": (1, 2)},
    ):  # fmt: skip
        unfold = nn.Unfold(**kw)
        yield f"Unfold {kw}", lambda u=unfold: u, ((2, 3, 5, 6),)
        shape = tuple(unfold(torch.zeros(2, 3, 5, 6)).shape)
        yield f"Fold {kw}", lambda k=kw: nn.Fold((5, 6), **k), (shape,)
    yield "Unfold, unbatched", lambda: nn.Unfold(2), ((3, 5, 6),)
    for loss in (nn.L1Loss, nn.MSELoss, nn.SmoothL1Loss, nn.HuberLoss, nn.SoftMarginLoss):
        for reduction in ("mean", "none"):
            yield loss.__name__, lambda k=loss, r=reduction: k(reduction=r), ((2, 3), (2, 3))
    targets = torch.tensor([1, 0, 3])
    for kw in ({}, {"reduction": "none"}, {"label_smoothing": 0.2}, {"ignore_index": 0},
               {"weight": torch.tensor([0.1, 1.0, 2.0, 0.5])}):  # fmt: skip
        yield f"CrossEntropyLoss {kw}", lambda k=kw: nn.CrossEntropyLoss(**k), ((3, 4), targets)
    yield "NLLLoss", lambda: nn.NLLLoss(), ((3, 4), targets)
    yield "NLLLoss, 2d", lambda: nn.NLLLoss(), ((2, 4, 3), torch.tensor([[1, 0, 3], [2, 2, 1]]))
    yield "BCEWithLogits", lambda: nn.BCEWithLogitsLoss(), ((3, 4), torch.rand(3, 4))
    yield "BCE", lambda: nn.BCELoss(), (torch.rand(3, 4), torch.rand(3, 4))
    yield "KLDiv", lambda: nn.KLDivLoss(reduction="batchmean"), ((3, 4), torch.rand(3, 4))
    yield "GaussianNLL", lambda: nn.GaussianNLLLoss(), ((3, 4), (3, 4), torch.rand(3, 4) + 0.1)
    yield "PoissonNLL", lambda: nn.PoissonNLLLoss(full=True), ((3, 4), torch.rand(3, 4) + 1)
    yield "TripletMargin", lambda: nn.TripletMarginLoss(), ((3, 4),) * 3
    signs = torch.tensor([1, -1, 1])
    yield "CosineEmbedding", lambda: nn.CosineEmbeddingLoss(), ((3, 4), (3, 4), signs)
    yield "MarginRanking", lambda: nn.MarginRankingLoss(0.1), ((3,), (3,), signs)
    yield "MultiMargin", lambda: nn.MultiMarginLoss(), ((3, 4), targets)


def functions():
    index = torch.tensor([[[0, 2, 1, 0]], [[1, 0, 2, 2]]])
    some = torch.tensor([2, 0, 2])
    table: dict[str, Callable[..., Any]] = {
        "std": lambda x: x.std(-1),
        "std, biased": lambda x: x.std((0, 2), unbiased=False, keepdim=True),
        "var": lambda x: x.var((1, 2), correction=0),
        "var, all": lambda x: x.var(),
        "var_mean": lambda x: torch.var_mean(x, 1, correction=2),
        "std_mean": lambda x: torch.std_mean(x, (0, 1)),
        "mean": lambda x: x.mean((0, 2), keepdim=True),
        "mean, dtype": lambda x: x.mean(-1, dtype=torch.float32),
        "sum": lambda x: x.sum((0, -1)),
        "nansum": lambda x: x.nansum(-1),
        "norm": lambda x: x.norm(dim=-1),
        "norm 1": lambda x: x.norm(p=1, dim=(0, 1)),
        "norm inf": lambda x: torch.linalg.vector_norm(x, float("inf"), (0, 2)),
        "norm 3": lambda x: torch.linalg.vector_norm(x, 3, -1, keepdim=True),
        "norm 0": lambda x: torch.linalg.vector_norm(x, 0, -1),
        "matrix_norm": lambda x: torch.linalg.matrix_norm(x),
        "amax": lambda x: x.amax((1, 2)),
        "aminmax": lambda x: torch.aminmax(x, dim=1),
        "max": lambda x: (x.max(), *x.max(-1), *x.min(1, keepdim=True)),
        "median": lambda x: (x.median(), *x.median(1)),
        "quantile": lambda x: torch.quantile(x, 0.3, -1),
        "sort": lambda x: x.sort(-1, descending=True),
        "argsort": lambda x: x.argsort(0),
        "topk": lambda x: (*x.topk(2, 1), *x.topk(2, -1, largest=False)),
        "kthvalue": lambda x: x.kthvalue(2, -1),
        "cumsum": lambda x: x.cumsum(1),
        "cumprod": lambda x: x.cumprod(-1),
        "cummax": lambda x: (*x.cummax(-1), *x.cummin(1)),
        "logcumsumexp": lambda x: torch.logcumsumexp(x, 1),
        "logsumexp": lambda x: (torch.logsumexp(x, -1), torch.logsumexp(x, (0, 1), True)),
        "prod": lambda x: (x.prod(), x.prod(1, keepdim=True)),
        "argmax": lambda x: (x.argmax(), x.argmax(1), x.argmin(-1, keepdim=True)),
        "all": lambda x: ((x > -1).all(-1), (x > 1).any(), (x > 0).all()),
        "roll": lambda x: (x.roll((1, 2), (1, 2)), x.roll(-3)),
        "flip": lambda x: (x.flip(-1, 0), x.fliplr(), x.flipud()),
        "rot90": lambda x: (torch.rot90(x, 1, (1, 2)), torch.rot90(x, -1, (0, 2))),
        "diff": lambda x: (x.diff(), x.diff(2, 1)),
        "trapezoid": lambda x: torch.trapezoid(x, dim=1),
        "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x),
        "einsum, three": lambda x: torch.einsum("bij,bkj,bkl->il", x, x, x),
        "einsum, trace": lambda x: torch.einsum("...ii->...", x[..., :3]),
        "einsum, implicit": lambda x: torch.einsum("ba,bc", x[0], x[1]),
        "einsum, ellipsis": lambda x: torch.einsum("...ij,...kj->...ik", x, x),
        "tensordot": lambda x: torch.tensordot(x, x, ([0, 2], [0, 2])),
        "bmm": lambda x: torch.bmm(x, x.transpose(1, 2)),
        "baddbmm": lambda x: torch.baddbmm(x @ x.mT, x, x.mT, beta=0.5, alpha=2.0),
        "baddbmm, whole": lambda x: torch.baddbmm(x @ x.mT, x, x.mT, beta=2, alpha=3),
        "addmm": lambda x: torch.addmm(x[0] @ x[0].T, x[0], x[0].T, beta=2, alpha=0.5),
        "addmm, row": lambda x: torch.addmm(x[0, :, 0], x[0], x[0].T),
        "addbmm": lambda x: torch.addbmm(x[0] @ x[0].T, x, x.mT, beta=0.5, alpha=2.0),
        "addmv": lambda x: torch.addmv(x[0, :, 0], x[0], x[0, 0], beta=0.5, alpha=2.0),
        "addr": lambda x: torch.addr(x[0], x[0, :, 0], x[0, 0], beta=0.5, alpha=2.0),
        "matmul": lambda x: (x @ x[0].T, x[0] @ x[1, 0], x[0, 0] @ x[0].T, x @ x[0, 0]),
        "outer": lambda x: (torch.outer(x[0, 0], x[0, 1]), torch.kron(x[0], x[1])),
        "dot": lambda x: (torch.dot(x[0, 0], x[0, 1]), torch.mv(x[0], x[0, 1])),
        "chain_matmul": lambda x: torch.linalg.multi_dot([x[0], x[0].T, x[1]]),
        "cross": lambda x: torch.cross(x, x.roll(1, 0), dim=1),
        "tril": lambda x: (x.tril(-1), x.triu(1)),
        "diagonal": lambda x: (x.diagonal(1, 1, 2), torch.diag_embed(x[0], 1), x[0, 0].diag()),
        "trace": lambda x: x[0].trace(),
        "gather": lambda x: x.gather(1, index),
        "take_along_dim": lambda x: torch.take_along_dim(x, index, 1),
        "take": lambda x: torch.take(x, torch.tensor([[0, 5], [7, -1]])),
        "index_select": lambda x: x.index_select(1, some),
        "index": lambda x: (x[:, some], x[0, some, [0, 1, 3]], x[:, some, 1:], x[..., some]),
        "index, separated": lambda x: x[torch.tensor([0, 1, 1]), :, some],
        "index, negative": lambda x: (x[torch.tensor([-1])], x[:, -1], x[-1, ..., -2]),
        "index, mask": lambda x: x * (x > 0),
        "index, none": lambda x: (x[:, None], x[None, ..., 0], x[..., ::2]),
        "index_add": lambda x: torch.zeros(2, 4, 4).to(x).index_add(1, some, x, alpha=0.5),
        "index_add, method": lambda x: x.index_add(2, some, x[:, :, :3]),
        "index_copy": lambda x: x.index_copy(1, torch.tensor([2, 0]), x[:, :2]),
        "index_fill": lambda x: x.index_fill(1, some, 3.0),
        "index_put": lambda x: (
            x.index_put((torch.tensor([0, 1]), torch.tensor([2, 2])), x[0, :2]),
            x.index_put((torch.tensor([0, 0]),), x, accumulate=True),
        ),
        "set": assigned,
        "scatter": lambda x: (x.scatter(1, index, x), x.scatter(1, index, 2.0)),
        "scatter_add": lambda x: x.scatter_add(1, index, x),
        "scatter_add, more": lambda x: x.scatter_add(1, index[:, :, :2], x[:, :1, 1:]),
        "scatter, reduce": lambda x: (
            x.scatter(1, index, x, reduce="add"),
            x.scatter(1, index, x, reduce="multiply"),
        ),
        "slice_scatter": lambda x: x.slice_scatter(x[:, :1] + 1, 1, 1, 2),
        "select_scatter": lambda x: x.select_scatter(x[:, 0] + 1, 1, 2),
        "masked_fill": lambda x: (x.masked_fill(x > 0, -1.0), x.masked_fill(x > 0, x.sum())),
        "masked_scatter": lambda x: x.masked_scatter(x > 0, x.flip(0)),
        "masked_select": lambda x: x.masked_select(torch.ones(3, 1, dtype=torch.bool)),
        "where": lambda x: (torch.where(x > 0, x, 2 * x), torch.where(x > 0, x, 0.0)),
        "where, scalar": lambda x: torch.where(x > 0, 1.0, -2.0),
        "clamp": lambda x: (x.clamp(-0.5, 0.5), x.clamp(min=0.1), x.clamp(max=x.mean())),
        "clamp, crossed": lambda x: x.clamp(0.5, -0.5),
        "maximum": lambda x: (torch.maximum(x, -x), torch.fmin(x, -x), torch.min(x, x * 2)),
        "remainder": lambda x: (x.remainder(0.7), x.fmod(0.7), x % -0.4, x // 0.3),
        "div": lambda x: (
            torch.div(x, 0.3, rounding_mode="floor"),
            torch.div(x, 0.3, rounding_mode="trunc"),
            torch.div(x, x + 3),
        ),
        "add": lambda x: (
            torch.add(x, x, alpha=2),
            torch.sub(x, x + 1, alpha=0.5),
            torch.rsub(x, 1, alpha=3),
        ),
        "rsub": lambda x: (1 - x, 2 / x, 2**x, x**2, x.abs() ** 0.5, x.abs().pow(x)),
        "addcmul": lambda x: (
            torch.addcmul(x, x, x, value=0.5),
            torch.addcdiv(x, x, x + 3, value=0.5),
        ),
        "lerp": lambda x: (torch.lerp(x, 2 * x, 0.3), torch.lerp(x, 2 * x, x)),
        "unary": lambda x: tuple(
            getattr(torch, name)(x)
            for name in (
                "abs",
                "sign",
                "neg",
                "exp",
                "expm1",
                "exp2",
                "sin",
                "cos",
                "tan",
                "sinh",
                "cosh",
                "tanh",
                "asinh",
                "atan",
                "sigmoid",
                "erf",
                "erfc",
                "floor",
                "ceil",
                "round",
                "trunc",
                "frac",
                "square",
                "reciprocal",
                "sinc",
                "nan_to_num",
                "signbit",
                "relu",
                "isnan",
                "isfinite",
                "rad2deg",
                "positive",
                "selu",
                "sgn",
            )
        ),
        "unary, positive": lambda x: tuple(
            getattr(torch, name)(x.abs() + 1.1)
            for name in (
                "log",
                "log1p",
                "log2",
                "log10",
                "sqrt",
                "rsqrt",
                "lgamma",
                "digamma",
                "acosh",
                "i0",
            )
        ),
        "unary, bounded": lambda x: tuple(
            getattr(torch, name)(x.tanh() * 0.5 + (name == "logit") * 0.5)
            for name in ("asin", "acos", "atanh", "erfinv", "logit")
        ),
        "binary": lambda x: tuple(
            getattr(torch, name)(x, x.roll(1))
            for name in (
                "atan2",
                "hypot",
                "logaddexp",
                "logaddexp2",
                "copysign",
                "fmax",
                "heaviside",
                "gt",
                "le",
                "ne",
                "eq",
            )
        ),
        "xlogy": lambda x: torch.xlogy(x.abs(), x.abs() + 1),
        "round, decimals": lambda x: torch.round(x, decimals=1),
        "float_power": lambda x: torch.float_power(x.abs(), 1.5).to(x.dtype),
        "unfold": lambda x: (x.unfold(1, 2, 1), x.unfold(2, 3, 1)),
        "as_strided": lambda x: torch.as_strided(x, (2, 2, 2), (12, 4, 1), 1),
        "repeat": lambda x: (x.repeat(2, 1, 3), x.tile(2), x.repeat(1, 1, 1, 2)),
        "repeat_interleave": lambda x: (x.repeat_interleave(2, 1), x.repeat_interleave(2)),
        "repeat_interleave, each": lambda x: x.repeat_interleave(torch.tensor([1, 0, 2]), 1),
        "split": lambda x: (*x.split([1, 2], 1), *x.split(2, -1), *x.chunk(3, 2), *x.unbind(1)),
        "tensor_split": lambda x: (*x.tensor_split(3, 2), *x.tensor_split((1, 2), 1)),
        "narrow": lambda x: (x.narrow(1, 1, 2), x.select(2, -1)),
        "cat": lambda x: (torch.cat((x, x), -1), torch.hstack((x, x)), torch.dstack((x, x))),
        "stack": lambda x: (
            torch.stack((x, x), -1),
            torch.vstack((x, x)),
            torch.column_stack((x,)),
        ),
        "movedim": lambda x: (x.movedim(0, 2), x.permute(2, 0, 1), x.swapaxes(0, 1), x.mT),
        "view": lambda x: (x.view(2, -1), x.reshape(-1, 2), x.flatten(1), x.unflatten(2, (2, 2))),
        "squeeze": lambda x: (x[:1].squeeze(), x[:, :1].squeeze(1), x.unsqueeze(-2), x.ravel()),
        "expand": lambda x: (
            x[:, :1].expand(2, 3, 4),
            x[:, :1].expand_as(x),
            x.expand(5, -1, -1, -1),
        ),
        "broadcast": lambda x: (
            *torch.broadcast_tensors(x[:1], x[:, :1]),
            x[0].broadcast_to(2, 3, 4),
        ),
        "meshgrid": lambda x: torch.meshgrid(x[0, 0], x[0, :, 0], indexing="xy"),
        "cartesian": lambda x: torch.cartesian_prod(x[0, 0], x[0, 1]),
        "one_hot": lambda x: F.one_hot(x.argmax(-1), 4),
        "bucketize": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
        "bucketize, right": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0]), right=True),
        "searchsorted": lambda x: torch.searchsorted(x.sort(-1)[0], x),
        "histc": lambda x: torch.histc(x, 4, -2, 2),
        "bincount": lambda x: torch.bincount(torch.tensor([0, 2, 2]), x[0, 0, :3]),
        "cov": lambda x: (torch.cov(x[0]), torch.corrcoef(x[0])),
        "renorm": lambda x: torch.renorm(x, 2, 0, 1.0),
        "cosine_similarity": lambda x: F.cosine_similarity(x[:, None], x[None], dim=-1),
        "det": lambda x: torch.linalg.det(x @ x.mT),
        "inverse": lambda x: torch.linalg.inv(x @ x.mT + 3 * torch.eye(3)),
        "solve": lambda x: torch.linalg.solve(x @ x.mT + 3 * torch.eye(3), x),
        "cholesky": lambda x: torch.linalg.cholesky(x @ x.mT + 3 * torch.eye(3)),
        "svdvals": lambda x: torch.linalg.svdvals(x),
        "eigvalsh": lambda x: torch.linalg.eigvalsh(x @ x.mT),
        "matrix_exp": lambda x: torch.matrix_exp(x[:, :, :3]),
        "matrix_power": lambda x: torch.linalg.matrix_power(x[:, :, :3], 3),
        "slogdet": lambda x: torch.linalg.slogdet(x @ x.mT + torch.eye(3)),
        "pinv": lambda x: torch.linalg.pinv(x),
        "triangular": lambda x: torch.linalg.solve_triangular(
            (x @ x.mT).tril() + 3 * torch.eye(3), x, upper=False
        ),
        "fake_quantize": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
        "quantised by hand": lambda x: (
            torch.clamp(torch.round(x / 0.1), -8, 7).to(torch.int8) * 0.1
        ),
        "casts": lambda x: (x.int(), x.bool(), x.half().float(), x.to(torch.bfloat16).float()),
        "new": lambda x: (x.new_zeros(2) + x.sum(), torch.full_like(x, 3), x.new_full((2,), 4.0)),
        "make": lambda x: (
            x[0, 0] + torch.linspace(0, 1, 4) + torch.logspace(0, 1, 4) + torch.arange(4)
        ),
        "inplace": changed,
        "no grad": lambda x: x.detach() + x,
        "norm, detached": lambda x: x / x.detach().norm(),
        "vander": lambda x: torch.vander(x[0, 0], 3),
        "polygamma": lambda x: torch.special.polygamma(1, x.abs() + 1),
        "gammainc": lambda x: torch.special.gammainc(x.abs() + 1, x.abs()),
        "count": lambda x: (torch.count_nonzero(x, 1), x.numel() + x.sum(), x.size(1) * x),
        "complex": lambda x: torch.view_as_real(torch.view_as_complex(x.reshape(2, 3, 2, 2)) ** 2),
        "polar": lambda x: torch.view_as_real(torch.polar(x.abs(), x)),
    }
    for name, function in table.items():
        yield name, lambda f=function: Calls(f), ((2, 3, 4),)
    for include in (False, True):
        for reduce in ("sum", "prod", "mean", "amax", "amin"):
            yield (
                f"scatter_reduce {reduce} {include}",
                lambda r=reduce, i=include: Calls(
                    lambda x: x.scatter_reduce(1, index, x[:, :1] * 2, r, include_self=i)
                ),
                ((2, 3, 4),),
            )
            if reduce != "sum":
                yield (
                    f"index_reduce {reduce} {include}",
                    lambda r=reduce, i=include: Calls(
                        lambda x: x.index_reduce(1, some, x * 2, r, include_self=i)
                    ),
                    ((2, 3, 4),),
                )


def assigned(x):
    y = torch.zeros(2, 3, 4)
    y[:, 1] = x[:, 0]
    y[..., -1] += 2.0
    y[0, torch.tensor([0, 2])] = x[1, :2]
    y[x > 1] = 0.5
    return y


def changed(x):
    y = x.clone()
    y[:, :2].mul_(2.0)
    y.add_(1.0, alpha=2).clamp_(min=0.1)
    y.select(1, 2).zero_()
    y.masked_fill_(y > 2, 0.3)
    y.transpose(0, 1)[0].copy_(x[:, 1])
    y += x
    return y


def views():
    """Functions that change tensors through other tensors."""

    def all_of(function):
        def run(x):
            y = x.clone()
            out = function(y)
            return (y, *out) if isinstance(out, tuple) else (y, out)

        return run

    written: dict[str, Callable[..., Any]] = {
        "select": lambda y: y.select(1, 2).zero_(),
        "indexed": lambda y: y[:, :2].mul_(2.0),
        "view": lambda y: y.view(2, 12)[:, 0].add_(1.0),
        "transposed": lambda y: y.transpose(0, 1)[0].copy_(y[:, 1].clone()),
        "permuted": lambda y: y.permute(1, 0, 2)[0].mul_(5.0),
        "unsqueezed": lambda y: y.unsqueeze(1).add_(3.0),
        "squeezed": lambda y: y[:1].squeeze(0)[1].zero_(),
        "unbound": lambda y: y.unbind(1)[0].add_(3.0),
        "split": lambda y: [y.split([1, 3], -1)[0].mul_(3.0), y.chunk(2, -1)[1].neg_()][1],
        "reshaped": lambda y: y.reshape(6, 4).mul_(2),
        "reshaped copy": lambda y: y.transpose(0, 1).reshape(-1).mul_(2),
        "contiguous": lambda y: y.contiguous().mul_(2),
        "contiguous copy": lambda y: y.transpose(0, 1).contiguous().mul_(2),
        "flattened": lambda y: y.flatten(1).mul_(2),
        "flattened copy": lambda y: y.transpose(0, 1).flatten().mul_(2),
        "matrices": lambda y: y.mT[:, 0].fill_(2.0),
        "diagonal": lambda y: y.diagonal(0, 1, 2).fill_(2.0),
        "narrowed": lambda y: y.narrow(1, 0, 1).zero_(),
        "expanded": lambda y: y.expand(2, 3, 4)[0].zero_(),
        "moved": lambda y: y.swapaxes(0, 1)[1].zero_() + y.movedim(0, 2)[0].exp_().sum(),
        "strided": lambda y: y.as_strided((2, 2), (12, 1)).add_(1.0),
        "in two steps": lambda y: y[:, 1].view(2, 2, 2)[:, 0].fill_(3.0),
        "the tensor afterwards": lambda y: [w := y.view(2, 12), v := y[0], y.add_(1.0)] and (w, v),
        "the tensor made anew": lambda y: [w := y.view(2, 12), z := y + 1, w.add_(1)] and (w, z),
        "both": lambda y: (
            [
                parts := y.unbind(1),
                parts[0].view(2, 2, 2)[0].fill_(5.0),
                y.mul_(2),
                parts[1].copy_(parts[2]),
            ]
            and parts
        ),
        "expanded before": lambda y: [y.expand(3, 2, 3, 4), y.add_(1)][0],
        "repeated": lambda y: y.repeat(1, 1, 1).add_(2),
        "shape changed": lambda y: y.unsqueeze_(0).transpose_(1, 2).add_(1),
        "activations": lambda y: F.relu_(y[0]) + F.hardtanh(y[1], inplace=True),
        "scattered": lambda y: [
            y.view(-1).index_fill_(0, torch.tensor([1, 3]), 5.0),
            y.view(6, 4).scatter_(1, torch.zeros(6, 1, dtype=torch.long), -1.0),
            y.index_add_(0, torch.tensor([1, 1]), y.clone()),
        ][2],
        "assigned": lambda y: [
            flat := y.view(-1),
            flat.__setitem__(torch.tensor([0, 2]), 3.0),
            flat.__setitem__(flat > 1, 1.0),
        ][0],
        "in a buffer": lambda y: [b := torch.zeros(2, 3, 4), b[:, 1].add_(y[:, 0])][0] + y,
        "in a buffer, set": lambda y: [b := torch.empty(2, 4), b.copy_(2 * y[:, 0])][0],
        "broadcast": lambda y: (
            y.copy_(y[0, 0].clone()) + y.view(-1).copy_(y[0, 0, 0].clone()).sum()
        ),
        "out": lambda y: torch.add(y, 1.0, out=torch.empty_like(y)),
        "out, of a view": lambda y: torch.cumprod(y, 1, out=y[:1].expand(1, 3, 4).repeat(2, 1, 1)),
        "out, a view": lambda y: torch.mul(y[0], 2.0, out=y[1]),
        "out, in a view": lambda y: torch.exp(y[:, 0], out=y.transpose(0, 1)[2]),
        "outs": lambda y: torch.sort(y, 1, out=(torch.empty_like(y), y.long())),
    }
    for name, function in written.items():
        yield name, lambda f=function: Calls(all_of(f)), ((2, 3, 4),)


def signals():
    real: dict[str, Callable[..., Any]] = {}
    for norm in ("backward", "ortho", "forward"):
        real |= {
            f"fft {norm}": lambda x, n=norm: torch.fft.fft(x, norm=n),
            f"rfft {norm}": lambda x, n=norm: torch.fft.rfft(x, dim=1, norm=n),
            f"irfft {norm}": lambda x, n=norm: torch.fft.irfft(torch.fft.rfft(x), n=7, norm=n),
            f"fft2 {norm}": lambda x, n=norm: torch.fft.ifft2(torch.fft.fft2(x) * 2, norm=n),
            f"rfft2 {norm}": lambda x, n=norm: torch.fft.rfft2(x, norm=n),
            f"rfftn {norm}": lambda x, n=norm: torch.fft.irfftn(torch.fft.rfftn(x), norm=n),
        }
    real |= {
        "fft, n": lambda x: (torch.fft.fft(x, 5), torch.fft.fft(x, 3, 1), torch.fft.ifft(x, 8)),
        "fftn, dim": lambda x: torch.fft.fftn(x, s=(4, 5), dim=(0, 1)),
        "hfft": lambda x: (torch.fft.hfft(x, 6), torch.fft.ihfft(x)),
        "fftshift": lambda x: (torch.fft.fftshift(x), torch.fft.ifftshift(x, dim=(1, 2))),
        "fftfreq": lambda x: torch.fft.fftfreq(6) * x,
    }
    for name, function in real.items():

        def parts(x, f=function):
            out = f(x)
            return tuple(
                torch.view_as_real(y.resolve_conj()) if y.is_complex() else y
                for y in (out if isinstance(out, tuple) else (out,))
            )

        yield name, lambda p=parts: Calls(p), ((2, 3, 6),)
    window = torch.hann_window(8)
    for kw in grid(center=[False, True], normalized=[False, True], onesided=[True, False]):
        yield (
            f"stft {kw}",
            lambda k=kw: Calls(
                lambda x: torch.view_as_real(
                    torch.stft(x, 8, 4, window=window, return_complex=True, **k)
                )
            ),
            ((2, 24),),
        )
    yield (
        "istft",
        lambda: Calls(
            lambda x: torch.istft(
                torch.stft(x, 8, 4, window=window, return_complex=True), 8, 4, window=window
            )
        ),
        ((2, 24),),
    )


def made(make: Callable[[], nn.Module], arguments: tuple[Any, ...]) -> tuple[nn.Module, tuple]:
    torch.manual_seed(0)
    module = make().eval()
    for part in module.modules():
        if getattr(part, "running_mean", None) is not None:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
    given = (normal(*a) if isinstance(a, tuple) else a for a in arguments)
    return module, tuple(given)


GROUPS: dict[str, Callable[[], Iterator[Row]]] = {
    function.__name__: function
    for function in (
        convolutions, poolings, paddings, resizings, norms, activations, recurrences, attentions,
        layers, functions, views, signals,
    )
}  # fmt: skip
