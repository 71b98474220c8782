"""A convolutional network and a vision transformer for scikit-learn's 8x8 digits.

Flax NNX puts no names into a jaxpr, so the models name their parts with ``jax.named_scope``, after
the paths of the parameters but more coarsely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from relprop._errors import InputError

try:
    from flax import nnx
    from PIL import Image

    from relprop._images import eight_bit
    from relprop._weights import read_weights
except ImportError as error:
    raise ImportError(
        f"The models of relprop.zoo need Flax, safetensors and Pillow, but {error.name!r} cannot "
        "be imported. Install them with: pip install relprop[demo]"
    ) from error

SIZE = 8
WEIGHTS = Path(__file__).parent / "weights"


class DigitsCNN(nnx.Module):
    """Three convolutions with batch norm and ReLU, a max pool, an average pool, a linear head.

    >>> images = jnp.zeros((2, 8, 8, 1))
    >>> jax.eval_shape(lambda x: DigitsCNN(rngs=nnx.Rngs(0))(x), images).shape
    (2, 10)
    """

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        # No biases: batch norm would subtract them again.
        self.conv1 = nnx.Conv(1, 32, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(32, 32, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.conv3 = nnx.Conv(32, 64, (3, 3), use_bias=False, rngs=rngs)
        self.norm3 = nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(2 * 2 * 64, 10, rngs=rngs)

    def __call__(self, images: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch 10"]:
        x = images
        with jax.named_scope("conv1"):
            x = jax.nn.relu(self.norm1(self.conv1(x)))
        with jax.named_scope("conv2"):
            x = jax.nn.relu(self.norm2(self.conv2(x)))
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        with jax.named_scope("conv3"):
            x = jax.nn.relu(self.norm3(self.conv3(x)))
            x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        with jax.named_scope("head"):
            return self.head(x.reshape(x.shape[0], self.head.in_features))


class DigitsViT(nnx.Module):
    """A vision transformer: 16 patches of 2x2 and a class token, two pre-norm blocks.

    >>> images = jnp.zeros((2, 8, 8, 1))
    >>> jax.eval_shape(lambda x: DigitsViT(rngs=nnx.Rngs(0))(x), images).shape
    (2, 10)
    """

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        width, patch = 48, 2
        tokens = (SIZE // patch) ** 2 + 1
        init = nnx.initializers.normal(0.02)
        self.patches = nnx.Conv(1, width, (patch, patch), strides=(patch, patch), rngs=rngs)
        self.class_token = nnx.Param(init(rngs.params(), (1, 1, width)))
        self.positions = nnx.Param(init(rngs.params(), (1, tokens, width)))
        self.block1 = Block(width, heads=4, rngs=rngs)
        self.block2 = Block(width, heads=4, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, images: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch 10"]:
        with jax.named_scope("patches"):
            x = self.patches(images)
            batch, rows, columns, width = x.shape
            x = x.reshape(batch, rows * columns, width)
            first = jnp.broadcast_to(self.class_token[...], (batch, 1, width))
            x = jnp.concatenate([first, x], axis=1) + self.positions[...]
        with jax.named_scope("block1"):
            x = self.block1(x)
        with jax.named_scope("block2"):
            x = self.block2(x)
        with jax.named_scope("norm"):
            x = self.norm(x)
        with jax.named_scope("head"):
            return self.head(x[:, 0])


class Block(nnx.Module):
    """A pre-norm transformer block; keeps the shape ``[batch, tokens, width]``."""

    def __init__(self, width: int, *, heads: int, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads=heads, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.mlp = MLP(width, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        with jax.named_scope("attention"):
            x = x + self.attention(self.norm1(x))
        with jax.named_scope("mlp"):
            return x + self.mlp(self.norm2(x))


class Attention(nnx.Module):
    """Multi-head self-attention; keeps the shape ``[batch, tokens, width]``."""

    def __init__(self, width: int, *, heads: int, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        split = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        query = self.query(x).reshape(split)
        key = self.key(x).reshape(split)
        value = self.value(x).reshape(split)
        return self.out(jax.nn.dot_product_attention(query, key, value).reshape(x.shape))


class MLP(nnx.Module):
    """Two linear layers with a GELU between; keeps the shape ``[batch, tokens, width]``."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        return self.down(jax.nn.gelu(self.up(x)))


MODELS: Mapping[str, type[DigitsCNN] | type[DigitsViT]] = {
    "digits-cnn": DigitsCNN,
    "digits-vit": DigitsViT,
}


def preprocess(image: Image.Image) -> Float[np.ndarray, "8 8 1"]:
    """Turns an 8x8 image, of any mode, into the float32 array in [0, 1] that the models take.

    Arguments:
        image: white on black, as in scikit-learn's data set; colours are reduced to their luma.

    Returns:
        The image, its one channel last.

    Raises:
        InputError: the image is not 8x8, transparent, or of numbers whose range is not known (a
            ValueError).

    >>> preprocess(Image.new("L", (8, 8), 255)).max()
    np.float32(1.0)
    """
    if image.size != (SIZE, SIZE):
        width, height = image.size
        raise InputError(
            f"The digits models take images of {SIZE}x{SIZE} pixels, but this one is "
            f"{width}x{height} (width x height). Crop it to the digit and shrink it, for "
            f"instance with image.resize(({SIZE}, {SIZE}), PIL.Image.Resampling.BOX), or take "
            "one of relprop.zoo.samples()."
        )
    try:
        grey = eight_bit(image).convert("L")
    except InputError as error:
        raise InputError(f"The image {error}.") from error
    return np.asarray(grey, dtype=np.float32)[..., np.newaxis] / 255


def load(name: str) -> tuple[Callable[[Any, Any], Any], dict[str, Any]]:
    """Builds a model of ``MODELS`` as a pure function, and reads its trained parameters.

    Arguments:
        name: a key of ``MODELS``.

    Returns:
        ``fn(params, images)``, from images ``[batch, 8, 8, 1]`` to logits ``[batch, 10]``, and
        ``params``, nested dicts of arrays.

    Raises:
        InputError: the weights file does not fit the model.

    >>> fn, params = load("digits-vit")
    >>> fn(params, jnp.zeros((2, 8, 8, 1))).shape
    (2, 10)
    """
    model = nnx.eval_shape(lambda: MODELS[name](rngs=nnx.Rngs(0)))
    model.eval()  # batch norm with its running statistics
    graph, state = nnx.split(model)

    def fn(params: dict[str, Any], images: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch 10"]:
        return nnx.merge(graph, params)(images)

    return fn, read_weights(weights_file(name), nnx.to_pure_dict(state))


def weights_file(name: str, folder: Path = WEIGHTS) -> Path:
    """The file in a folder that holds the weights of a model.

    Arguments:
        name: a key of ``MODELS``.
        folder: where it lies.

    Returns:
        Its path, whether or not there is such a file.

    >>> weights_file("digits-cnn").name
    'digits_cnn.safetensors'
    """
    return folder / f"{name.replace('-', '_')}.safetensors"
