"""Convolutional networks with the names of torchvision: VGG and ResNet."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from relprop._entries import (
    MOST_CLASSES,
    MOST_FEATURES,
    MOST_LAYERS,
    MOST_PIXELS,
    either,
    flag,
    one_of,
    several,
    whole,
)
from relprop._errors import InputError
from relprop.chefer import weights
from relprop.chefer.functional import (
    adaptive_avg_pool2d,
    batch_norm,
    clone,
    conv2d,
    linear,
    max_pool2d,
)

_Model = TypeVar("_Model", bound="CNN")
_NORM = ("weight", "bias", "running_mean", "running_var")
_FEATURES = whole(1, MOST_FEATURES)
_OUTSIDE = {"num_classes": whole(1, MOST_CLASSES), "in_chans": _FEATURES}
_CHECKS_OF_VGG = _OUTSIDE | {
    "features": several(either(_FEATURES, one_of("M")), MOST_LAYERS, least=1),
    "batch_norm": flag,
    "pool": whole(1, MOST_PIXELS),
    "hidden": several(_FEATURES, MOST_LAYERS),
}
_CHECKS_OF_RESNET = _OUTSIDE | {
    "layers": several(whole(1, MOST_LAYERS), 8, least=1),
    "bottleneck": flag,
    "width": _FEATURES,
}


@dataclasses.dataclass(frozen=True)
class VGGConfig:
    """Sizes of a VGG.

    Args:
        features: channels of each convolution in turn; ``"M"`` is a maximum pooling. The default is
            VGG-16.
        batch_norm: whether each convolution has a batch normalisation.
        pool: size of the features before the classifier.
        hidden: sizes of the hidden layers of the classifier.
        num_classes: classes.
        in_chans: channels of the images.
    """

    features: tuple[int | str, ...] = (
        *(64, 64, "M", 128, 128, "M", 256, 256, 256, "M"),
        *(512, 512, 512, "M", 512, 512, 512, "M"),
    )
    batch_norm: bool = False
    pool: int = 7
    hidden: tuple[int, ...] = (4096, 4096)
    num_classes: int = 1000
    in_chans: int = 3

    def __post_init__(self):
        weights.check_sizes("VGG", self, _CHECKS_OF_VGG)

    def layers(self) -> Iterator[tuple[str, int, int]]:
        """What follows what in the features: name, number in the sequence, channels."""
        number = 0
        for entry in self.features:
            if entry == "M":
                yield "pool", number, 0
                number += 1
            else:
                yield "conv", number, int(entry)
                number += 3 if self.batch_norm else 2

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors by their names."""
        found: dict[str, tuple[int, ...]] = {}
        channels = self.in_chans
        for kind, number, out in self.layers():
            if kind == "conv":
                found |= _layer(f"features.{number}", (out, channels, 3, 3))
                if self.batch_norm:
                    found |= _norm(f"features.{number + 1}", out)
                channels = out
        sizes = (channels * self.pool**2, *self.hidden, self.num_classes)
        for i, (size, out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            found |= _layer(f"classifier.{3 * i}", (out, size))
        return found


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a ResNet.

    Args:
        layers: number of blocks in each of the layers. The default is ResNet-18.
        bottleneck: whether the blocks have three convolutions, as in ResNet-50, or two.
        width: channels after the first convolution; each layer has twice those of the one before.
        num_classes: classes.
        in_chans: channels of the images.
    """

    layers: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: int = 64
    num_classes: int = 1000
    in_chans: int = 3

    def __post_init__(self):
        weights.check_sizes("ResNet", self, _CHECKS_OF_RESNET)

    @property
    def expansion(self) -> int:
        return 4 if self.bottleneck else 1

    def blocks(self) -> Iterator[tuple[str, int, int, int]]:
        """Each block: its name, channels before, channels inside, stride."""
        channels = self.width
        for i, count in enumerate(self.layers):
            for j in range(count):
                width = self.width * 2**i
                yield f"layer{i + 1}.{j}", channels, width, 2 if i and not j else 1
                channels = width * self.expansion

    def convolutions(self, channels: int, width: int, stride: int) -> list[tuple[int, ...]]:
        """The convolutions of a block: channels in and out, size, stride."""
        if self.bottleneck:
            out = width * self.expansion
            return [(channels, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        return [(channels, width, 3, stride), (width, width, 3, 1)]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors by their names."""
        found: dict[str, tuple[int, ...]] = {"conv1.weight": (self.width, self.in_chans, 7, 7)}
        found |= _norm("bn1", self.width)
        out = self.width
        for name, channels, width, stride in self.blocks():
            for i, (before, after, size, _) in enumerate(
                self.convolutions(channels, width, stride), start=1
            ):
                found[f"{name}.conv{i}.weight"] = (after, before, size, size)
                found |= _norm(f"{name}.bn{i}", after)
            out = width * self.expansion
            if stride > 1 or channels != out:
                found[f"{name}.downsample.0.weight"] = (out, channels, 1, 1)
                found |= _norm(f"{name}.downsample.1", out)
        return found | _layer("fc", (self.num_classes, out))


@dataclasses.dataclass(frozen=True, eq=False)
class CNN:
    """What the convolutional networks have in common; see `VGG` and `ResNet`.

    Args:
        params: the weights by their names in torchvision.
        config: sizes.
    """

    params: dict[str, Array]
    config: Any

    config_class: ClassVar[type]
    #: There are no attention maps: `relprop.chefer.generate_lrp` has the method ``full`` only.
    maps: ClassVar[tuple[str, ...]] = ()
    depth: ClassVar[int] = 0
    start_layer: ClassVar[int] = 0

    @classmethod
    def from_state_dict(cls: type[_Model], state_dict: Mapping[str, Any], config: Any) -> _Model:
        """A model from arrays or tensors by their names in torchvision.

        Args:
            state_dict: the tensors.
            config: the sizes, or a dict of their fields.

        Raises:
            InputError: with every tensor that is missing, not expected, or of the wrong shape.
        """
        config = cls._configured(config)
        ignored = ("*.num_batches_tracked",)
        params = weights.checked(cls.__name__, state_dict, config.shapes(), ignored)
        return cls(params, config)

    @classmethod
    def load(cls: type[_Model], path: str | pathlib.Path, config: Any = None) -> _Model:
        """A model from a file or folder, see `relprop.chefer.weights.read`."""
        config = weights.configuration(path) if config is None else config
        return cls.from_state_dict(weights.read(path), config)

    @classmethod
    def init(cls: type[_Model], config: Any, key: PRNGKeyArray) -> _Model:
        """A model with random weights, as one to be trained would begin."""
        config = cls._configured(config)
        return cls(weights.random(config.shapes(), key), config)

    @classmethod
    def _configured(cls, config: Any) -> Any:
        if isinstance(config, cls.config_class):
            return config
        # JSON has lists, and static fields have to be hashable.
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        return weights.configured(cls.__name__, cls.config_class, fields)

    def __call__(self, images: Float[Array, "n c h w"]) -> Float[Array, "n classes"]:
        return self.forward(*self.primals(*self.arguments(images)), self)[0]

    @property
    def classes(self) -> int:
        return self.config.num_classes

    def arguments(self, images: Float[Array, "n c h w"]) -> tuple[Array]:
        """The images, checked."""
        shape, channels = jnp.shape(images), self.config.in_chans
        if len(shape) != 4 or shape[1] != channels:
            raise InputError(
                f"Images must be an array (n, {channels}, height, width), channels before "
                f"pixels, got {shape}."
            )
        return (jnp.asarray(images, next(iter(self.params.values())).dtype),)

    def primals(self, images: Float[Array, "n c h w"]) -> tuple[Array]:
        """What is explained: the images."""
        return (images,)

    @staticmethod
    def forward(images: Float[Array, "n c h w"], model: Any) -> tuple[Array, list[Array]]:
        """Logits, and no attention maps."""
        raise NotImplementedError

    @staticmethod
    def whole(relevance: tuple[Array, ...]) -> Float[Array, "n h w"]:
        """Relevance of the images, summed over channels."""
        return jnp.sum(relevance[0], axis=1)


_registered = functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"]
)


@_registered
@dataclasses.dataclass(frozen=True, eq=False)
class VGG(CNN):
    """A VGG: ``model(images)`` gives the logits of images (n, channels, h, w).

    Args:
        params: the weights by their names in torchvision.
        config: its sizes.

    >>> import jax, jax.numpy as jnp
    >>> config = {"features": (4, "M"), "pool": 2, "hidden": (5,), "num_classes": 3}
    >>> VGG.init(config, jax.random.key(0))(jnp.zeros((1, 3, 8, 8))).shape
    (1, 3)

    Source: Simonyan and Zisserman 2015.
    """

    config: VGGConfig
    config_class: ClassVar[type] = VGGConfig

    @staticmethod
    def forward(images: Float[Array, "n c h w"], model: VGG) -> tuple[Array, list[Array]]:
        p, config, x = model.params, model.config, images
        for kind, number, _ in config.layers():
            if kind == "pool":
                x = max_pool2d(x, 2)
                continue
            at = f"features.{number}"
            x = conv2d(x, p[f"{at}.weight"], p[f"{at}.bias"], 1, 1)
            if config.batch_norm:
                weight, bias, mean, variance = (p[f"features.{number + 1}.{n}"] for n in _NORM)
                x = batch_norm(x, weight, bias, mean, variance)
            x = jax.nn.relu(x)
        x = adaptive_avg_pool2d(x, config.pool).reshape(x.shape[0], -1)
        for i in range(len(config.hidden) + 1):
            x = jax.nn.relu(x) if i else x
            x = linear(x, p[f"classifier.{3 * i}.weight"], p[f"classifier.{3 * i}.bias"])
        return x, []


@_registered
@dataclasses.dataclass(frozen=True, eq=False)
class ResNet(CNN):
    """A ResNet: ``model(images)`` gives the logits of images (n, channels, h, w).

    Args:
        params: the weights by their names in torchvision.
        config: its sizes.

    >>> import jax, jax.numpy as jnp
    >>> config = {"layers": (1, 1), "width": 4, "num_classes": 3}
    >>> ResNet.init(config, jax.random.key(0))(jnp.zeros((1, 3, 16, 16))).shape
    (1, 3)

    Source: He et al. 2016.
    """

    config: ResNetConfig
    config_class: ClassVar[type] = ResNetConfig

    @staticmethod
    def forward(images: Float[Array, "n c h w"], model: ResNet) -> tuple[Array, list[Array]]:
        p, config = model.params, model.config

        x = conv2d(images, p["conv1.weight"], None, 2, 3)
        x = jax.nn.relu(_normalised(x, p, "bn1"))
        x = max_pool2d(x, 3, 2, 1)
        for name, channels, width, stride in config.blocks():
            x, past = clone(x)
            for i, (_, _, size, step) in enumerate(
                config.convolutions(channels, width, stride), start=1
            ):
                x = jax.nn.relu(x) if i > 1 else x
                x = conv2d(x, p[f"{name}.conv{i}.weight"], None, step, size // 2)
                x = _normalised(x, p, f"{name}.bn{i}")
            if f"{name}.downsample.0.weight" in p:
                past = conv2d(past, p[f"{name}.downsample.0.weight"], None, stride)
                past = _normalised(past, p, f"{name}.downsample.1")
            x = jax.nn.relu(x + past)
        x = adaptive_avg_pool2d(x, 1).reshape(x.shape[0], -1)
        return linear(x, p["fc.weight"], p["fc.bias"]), []


def _normalised(x: Array, p: Mapping[str, Array], at: str) -> Array:
    weight, bias, mean, variance = (p[f"{at}.{name}"] for name in _NORM)
    return batch_norm(x, weight, bias, mean, variance)


def _layer(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{n}": (channels,) for n in _NORM}
