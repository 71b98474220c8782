"""Models of timm through torchax, with fewer blocks and smaller images than their names say."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from census.entry import Entry, Model, counts
from census.torch_modules import from_module, randomised

L = 2


def built(name: str, size: int, expected: Mapping[str, int], **settings: Any) -> Model:
    """A model of timm for one image."""
    with without_torchvision():
        import timm
    module = randomised(
        lambda: timm.create_model(name, pretrained=False, num_classes=10, **settings)
    )
    image = np.random.default_rng(1).normal(size=(1, 3, size, size)).astype(np.float32)
    return from_module(module, image, target=(0, 1), expected=expected)


def entry(name: str, expected: Mapping[str, int], size: int = 32, **settings: Any) -> Entry:
    """One line."""
    return Entry(name, "timm", functools.partial(built, name, size, expected, **settings))


@contextlib.contextmanager
def without_torchvision() -> Iterator[None]:
    """While this is open, timm finds what it imports from torchvision and never uses here.

    The torchvision of PyPI is built for CUDA and does not load beside a CPU build of torch.
    """
    stubs = {name: _Stub(name) for name in _IMPORTED}
    for name, stub in stubs.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(stubs[parent], child, stub)
    sys.modules.update(stubs)
    yield
    for name in stubs:
        del sys.modules[name]


class _Stub(types.ModuleType):
    """A module in which every name is a class of its own."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        modes = ("NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS")
        return type(name, (), {mode: mode for mode in modes})


_IMPORTED = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.models",
    "torchvision.models.feature_extraction",
    "torchvision.ops",
    "torchvision.ops.misc",
    "torchvision.transforms",
    "torchvision.transforms.functional",
)


def entries() -> Iterator[Entry]:
    """All of them."""
    vit = counts(attention=L, norm=2 * L + 1, activation=L)
    small = {"img_size": 32, "depth": L}
    yield entry("vit_tiny_patch16_224", vit, **small)
    yield entry("deit_tiny_patch16_224", vit, **small)
    yield entry("cait_xxs24_224", cait(), **small)
    # SwiGLU; a norm inside of the gated MLP; the last norm is that of the mean of the patches.
    eva = counts(attention=L, norm=2 * L + 1, activation=L, gate=L)
    yield entry("eva02_tiny_patch14_224", eva, 28, img_size=28, depth=L)
    # Eight blocks of two MLPs.
    yield entry("mixer_s32_224", counts(norm=17, activation=16), img_size=32)
    # Twelve blocks; affine maps in place of norms.
    yield entry("resmlp_12_224", counts(activation=12), img_size=32)
    # Thirty blocks of two norms, one of them in the spatial gating unit.
    yield entry("gmlp_s16_224", counts(norm=61, activation=30, gate=30), img_size=32)
    # Norms: patches, two per block, one per merging, a last one.
    swin = {"img_size": 32, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
    yield entry(
        "swin_tiny_patch4_window7_224",
        counts(attention=4, norm=11, activation=4),
        window_size=4,
        **swin,
    )
    # Norms: stem, one per block, three reductions, head.
    yield entry(
        "convnext_atto", counts(norm=9, activation=4), depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)
    )
    # ReLUs: the stem, two per block of eight.
    yield entry("resnet18", counts(activation=17))
    # Eight convolutions, and two layers as 7x7 and 1x1 convolutions.
    yield entry("vgg11", counts(activation=10))
    # The stem, two per layer of four, a transition, the last.
    yield entry("densenet121", counts(activation=11), block_config=(2, 2), growth_rate=8)
    # The stem, three per block of thirteen.
    yield entry("regnetx_002", counts(activation=40))
    # SiLU: stem, head, one block with one, fifteen with two. Sixteen squeezes with a sigmoid each.
    yield entry("efficientnet_b0", counts(activation=65, gate=16))
    # Stem, head and last layer; one, two or none per block; a squeeze in nine, with a sigmoid.
    yield entry("mobilenetv3_small_050", counts(activation=42, gate=9))


def cait() -> Mapping[str, int]:
    """Talking heads; two further blocks attend with the class token alone."""
    depth = L + 2
    return counts(attention=depth, norm=2 * depth + 1, activation=depth)
