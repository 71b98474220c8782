"""The vision transformer of the reference, which is that of timm: ViT and DeiT of any size."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from numbers import Integral
from typing import Any, ClassVar

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
    number,
    one_of,
    one_or_both,
    whole,
)
from relprop._errors import InputError
from relprop.chefer import weights
from relprop.chefer.functional import (
    clone,
    conv2d,
    first,
    gelu,
    layer_norm,
    linear,
    pair,
)
from relprop.places import named

_CHECKS = {
    "img_size": one_or_both(whole(1, MOST_PIXELS)),
    "patch_size": one_or_both(whole(1, MOST_PIXELS)),
    "in_chans": whole(1, MOST_FEATURES),
    "num_classes": whole(1, MOST_CLASSES),
    "embed_dim": whole(1, MOST_FEATURES),
    "depth": whole(1, MOST_LAYERS),
    "num_heads": whole(1, MOST_FEATURES),
    "mlp_ratio": number(0, MOST_FEATURES, excluded=True),
    "qkv_bias": flag,
    "norm_eps": number(0, 1),
    "final_norm_eps": either(one_of(None), number(0, 1)),
}


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes of a vision transformer, by the names of timm.

    Args:
        img_size: height and width of the images, or a number for both.
        patch_size: of the patches.
        in_chans: channels of the images.
        num_classes: classes.
        embed_dim: length of the tokens.
        depth: number of blocks.
        num_heads: attention heads per block.
        mlp_ratio: hidden size of the MLPs, in units of `embed_dim`.
        qkv_bias: whether queries, keys and values have a bias.
        norm_eps: of the layer normalisations in the blocks.
        final_norm_eps: of the last one. The reference has 1e-5 in the model that it takes
            relevance through and 1e-6 in the one for its baselines; so has None.
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    norm_eps: float = 1e-6
    final_norm_eps: float | None = None

    def __post_init__(self):
        weights.check_sizes("ViT", self, _CHECKS)
        for name in ("img_size", "patch_size"):
            size = getattr(self, name)
            object.__setattr__(self, name, size if isinstance(size, Integral) else tuple(size))
        if self.embed_dim % self.num_heads:
            raise InputError(
                f"embed_dim={self.embed_dim} is not divisible by num_heads={self.num_heads}."
            )
        if 0 in self.grid:
            raise InputError(
                f"Images of img_size={self.img_size} have no patch of patch_size={self.patch_size}."
            )

    @classmethod
    def of(cls, config: ViTConfig | Mapping[str, Any]) -> ViTConfig:
        """A configuration from a dict of its fields."""
        if isinstance(config, ViTConfig):
            return config
        return weights.configured("ViT", cls, config)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        (height, width), (rows, columns) = pair(self.img_size), pair(self.patch_size)
        return height // rows, width // columns

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors by their names."""
        d, hidden = self.embed_dim, int(self.embed_dim * self.mlp_ratio)
        tokens = self.grid[0] * self.grid[1] + 1
        layers: dict[str, tuple[int, ...]] = {
            "patch_embed.proj": (d, self.in_chans, *pair(self.patch_size))
        }
        found: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, d), "pos_embed": (1, tokens, d)}
        norms = ["norm"]
        for i in range(self.depth):
            block = f"blocks.{i}"
            norms += [f"{block}.norm1", f"{block}.norm2"]
            layers |= {
                f"{block}.attn.qkv": (3 * d, d),
                f"{block}.attn.proj": (d, d),
                f"{block}.mlp.fc1": (hidden, d),
                f"{block}.mlp.fc2": (d, hidden),
            }
        layers["head"] = (self.num_classes, d)
        for name, shape in layers.items():
            found[f"{name}.weight"] = shape
            if self.qkv_bias or not name.endswith("qkv"):
                found[f"{name}.bias"] = shape[:1]
        for name in norms:
            found |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
        return found


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True, eq=False)
class ViT:
    """A vision transformer: ``model(images)`` gives the logits of images (n, channels, h, w).

    Args:
        params: the weights by their names in timm.
        config: its sizes.

    >>> import jax, jax.numpy as jnp
    >>> config = {"img_size": 8, "patch_size": 4, "embed_dim": 6, "depth": 2, "num_heads": 2}
    >>> model = ViT.init(config, jax.random.key(0))
    >>> model(jnp.zeros((1, 3, 8, 8))).shape
    (1, 1000)

    Source: Dosovitskiy et al. 2021; ``baselines/ViT/ViT_LRP.py`` of the reference.
    """

    params: dict[str, Array]
    config: ViTConfig

    #: Attention rollout of the relevance adds the unit matrix and does not normalise.
    normalises_rollout: ClassVar[bool] = False
    #: Methods that look at one layer give the row of the first sample in the reference.
    flattens_layers: ClassVar[bool] = True

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Any], config: ViTConfig | Mapping[str, Any]
    ) -> ViT:
        """A model from arrays or tensors by their names in timm.

        Args:
            state_dict: the tensors.
            config: the sizes, as `ViTConfig` or a dict of its fields.

        Raises:
            InputError: with every tensor that is missing, not expected, or of the wrong shape.
        """
        config = ViTConfig.of(config)
        return cls(weights.checked("ViT", state_dict, config.shapes()), config)

    @classmethod
    def load(
        cls, path: str | pathlib.Path, config: ViTConfig | Mapping[str, Any] | None = None
    ) -> ViT:
        """A model from a file or folder, see `relprop.chefer.weights.read`.

        Args:
            path: of the weights.
            config: the sizes; without them ``config.json`` beside the weights is read.
        """
        config = weights.configuration(path) if config is None else config
        return cls.from_state_dict(weights.read(path), config)

    @classmethod
    def init(cls, config: ViTConfig | Mapping[str, Any], key: PRNGKeyArray) -> ViT:
        """A model with random weights, as one to be trained would begin."""
        config = ViTConfig.of(config)
        return cls(weights.random(config.shapes(), key), config)

    def __call__(self, images: Float[Array, "n c h w"]) -> Float[Array, "n classes"]:
        return self.forward(*self.primals(*self.arguments(images)), self)[0]

    @property
    def depth(self) -> int:
        return self.config.depth

    @property
    def classes(self) -> int:
        return self.config.num_classes

    @property
    def start_layer(self) -> int:
        """The block that attribution begins with where none is named."""
        return 0

    @property
    def maps(self) -> tuple[str, ...]:
        """The places of the attention maps, block by block."""
        return tuple(f"blocks.{i}.attn.map" for i in range(self.config.depth))

    def resized(self, img_size: int | tuple[int, int]) -> ViT:
        """The model for images of another size, its position embedding interpolated.

        Args:
            img_size: height and width, or a number for both.
        """
        config = dataclasses.replace(self.config, img_size=img_size)
        pos, d = self.params["pos_embed"], self.config.embed_dim
        grid = pos[:, 1:].reshape(1, *self.config.grid, d)
        grid = jax.image.resize(grid, (1, *config.grid, d), "cubic", antialias=False)
        pos = jnp.concatenate([pos[:, :1], grid.reshape(1, -1, d)], axis=1)
        return ViT({**self.params, "pos_embed": pos}, config)

    def for_baselines(self) -> ViT:
        """The model as the reference has it for its baselines: see `ViTConfig.final_norm_eps`."""
        if self.config.final_norm_eps is not None:
            return self
        return ViT(self.params, dataclasses.replace(self.config, final_norm_eps=1e-6))

    def arguments(self, images: Float[Array, "n c h w"]) -> tuple[Array]:
        """The images, checked."""
        self._check(images)
        return (jnp.asarray(images, self.params["pos_embed"].dtype),)

    def primals(self, images: Float[Array, "n c h w"]) -> tuple[Array, Array]:
        """What is explained: the images, and the positions that are added to their patches."""
        return images, self.params["pos_embed"]

    @staticmethod
    def forward(
        images: Float[Array, "n c h w"], positions: Float[Array, "1 t d"], model: ViT
    ) -> tuple[Float[Array, "n classes"], list[Float[Array, "n heads t t"]]]:
        """Logits and attention maps; what relevance is asked for at has a name."""
        p, config = model.params, model.config
        patches = conv2d(
            images, p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], config.patch_size
        )
        n, d = patches.shape[:2]
        patches = patches.reshape(n, d, -1).transpose(0, 2, 1)
        tokens = jnp.concatenate([jnp.broadcast_to(p["cls_token"], (n, 1, d)), patches], axis=1)
        x = named(tokens, "posadd.0") + named(positions, "posadd.1")
        maps = []
        for i in range(config.depth):
            x, attention = _block(x, p, f"blocks.{i}", config)
            maps.append(attention)
        eps = 1e-5 if config.final_norm_eps is None else config.final_norm_eps
        x = named(layer_norm(x, p["norm.weight"], p["norm.bias"], eps), "pool")
        return linear(named(first(x), "head"), p["head.weight"], p["head.bias"]), maps

    @staticmethod
    def row(matrix: Float[Array, "n t t"], method: str) -> Float[Array, "n patches"]:
        """What the class token has of each patch."""
        del method
        return matrix[:, 0, 1:]

    @staticmethod
    def whole(relevance: tuple[Array, ...]) -> Float[Array, "n h w"]:
        """Relevance of the images, summed over channels."""
        return jnp.sum(relevance[0], axis=1)

    def gradcam(self, attention: Array, gradient: Array) -> Float[Array, "n rows columns"]:
        """Attention of the class token times the mean of its gradient, not yet normalised."""
        cam, slope = (a[:, :, 0, 1:] for a in (attention, gradient))
        cam = jnp.mean(cam * jnp.mean(slope, axis=2, keepdims=True), axis=1)
        return jnp.maximum(cam, 0).reshape(-1, *self.config.grid)

    @staticmethod
    def shown(cam: Float[Array, "n rows columns"]) -> Float[Array, "n rows columns"]:
        """Of a normalised GradCAM, what is shown."""
        return cam

    def _check(self, images: Any) -> None:
        shape, config = jnp.shape(images), self.config
        expected = (config.in_chans, *pair(config.img_size))
        if len(shape) != 4:
            raise InputError(
                f"Images must be an array (n, {', '.join(map(str, expected))}), got {shape}."
            )
        if shape[1] != config.in_chans:
            raise InputError(
                f"The images have {shape[1]} channels, but the model takes {config.in_chans}: got "
                f"{shape}, expected (n, {', '.join(map(str, expected))}), channels before pixels."
            )
        if shape[2:] != expected[1:]:
            raise InputError(
                f"The images are {shape[2]} x {shape[3]}, but the position embedding is for "
                f"{expected[1]} x {expected[2]} (patches: {config.grid}). Scale the images, or "
                f"interpolate the position embedding with `model.resized({shape[2:]})`."
            )


def _block(
    x: Float[Array, "n t d"], p: Mapping[str, Array], at: str, config: ViTConfig
) -> tuple[Float[Array, "n t d"], Float[Array, "n heads t t"]]:
    """A block: attention and an MLP, each added to what goes past it."""
    past, x = clone(named(x, at))
    x = named(_norm(x, p, f"{at}.norm1", config.norm_eps), f"{at}.attn")
    x, attention = _attention(x, p, f"{at}.attn", config.num_heads)
    x = named(past, f"{at}.add1.0") + named(x, f"{at}.add1.1")
    past, x = clone(x)
    x = named(_norm(x, p, f"{at}.norm2", config.norm_eps), f"{at}.mlp")
    x = _linear(gelu(_linear(x, p, f"{at}.mlp.fc1")), p, f"{at}.mlp.fc2")
    return named(past, f"{at}.add2.0") + named(x, f"{at}.add2.1"), attention


def _attention(
    x: Float[Array, "n t d"], p: Mapping[str, Array], at: str, heads: int
) -> tuple[Float[Array, "n t d"], Float[Array, "n heads t t"]]:
    n, t, d = x.shape
    qkv = _linear(x, p, f"{at}.qkv").reshape(n, t, 3, heads, d // heads)
    query, key, value = jnp.moveaxis(qkv, (2, 3), (0, 2))
    scores = jnp.einsum("nhid,nhjd->nhij", query, key) * (d // heads) ** -0.5
    attention = named(jax.nn.softmax(scores, axis=-1), f"{at}.map")
    out = jnp.einsum("nhij,nhjd->nhid", attention, named(value, f"{at}.value"))
    return _linear(out.transpose(0, 2, 1, 3).reshape(n, t, d), p, f"{at}.proj"), attention


def _linear(x: Array, p: Mapping[str, Array], at: str) -> Array:
    return linear(x, p[f"{at}.weight"], p.get(f"{at}.bias"))


def _norm(x: Array, p: Mapping[str, Array], at: str, eps: float) -> Array:
    return layer_norm(x, p[f"{at}.weight"], p[f"{at}.bias"], eps)
