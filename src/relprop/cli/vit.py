"""A vision transformer on disk, in the folder layout of Hugging Face; read without PyTorch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from relprop import _folders
from relprop._characters import visible
from relprop._entries import (
    MOST_CLASSES,
    MOST_FEATURES,
    MOST_LAYERS,
    MOST_PIXELS,
    Check,
    checked,
    flag,
    number,
    one_or_both,
    per_channel,
    sides,
    whole,
)
from relprop._errors import InputError
from relprop._images import eight_bit
from relprop.chefer import weights
from relprop.chefer.functional import pair
from relprop.chefer.vit import ViT, ViTConfig

#: What transformers' ViTConfig and ViTImageProcessor have where a file does not say.
CONFIG: Mapping[str, Any] = {
    "model_type": "vit",
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "layer_norm_eps": 1e-12,
    "num_labels": 2,
}
PREPROCESSOR: Mapping[str, Any] = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": Image.Resampling.BILINEAR.value,
    "do_center_crop": False,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": 0.5,
    "image_std": 0.5,
}
_CHECKS: Mapping[str, Check] = {
    "image_size": one_or_both(whole(1, MOST_PIXELS)),
    "patch_size": one_or_both(whole(1, MOST_PIXELS)),
    "hidden_size": whole(1, MOST_FEATURES),
    "num_hidden_layers": whole(1, MOST_LAYERS),
    "num_attention_heads": whole(1, MOST_FEATURES),
    "intermediate_size": whole(1, MOST_FEATURES),
    "classes": whole(1, MOST_CLASSES),
    "qkv_bias": flag,
    "layer_norm_eps": number(0, 1),
}
_CHECKS_OF_IMAGES: Mapping[str, Check] = {
    "do_resize": flag,
    "do_center_crop": flag,
    "do_rescale": flag,
    "do_normalize": flag,
    "size": sides(MOST_PIXELS),
    "crop_size": sides(MOST_PIXELS),
    "resample": whole(0, 255),
    "rescale_factor": number(0, 1e6, excluded=True),
    "image_mean": per_channel(number(-1e6, 1e6)),
    "image_std": per_channel(number(0, 1e6, excluded=True)),
}
_MODES = {1: "L", 3: "RGB"}  # channels -> what Pillow calls such an image
_UNUSED = ("vit.pooler.*", "vit.embeddings.mask_token")  # a classifier has them at most as ballast

#: Names of timm -> those of Hugging Face; three for the matrix that timm has in one.
_OUTSIDE = {
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "head": "classifier",
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
}
_NORMS = {"norm1": ("layernorm_before",), "norm2": ("layernorm_after",)}
_BLOCK_BEFORE_5 = {
    "attn.qkv": tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
    "attn.proj": ("attention.output.dense",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
} | _NORMS
_BLOCK = {
    "attn.qkv": tuple(f"attention.{part}_proj" for part in "qkv"),
    "attn.proj": ("attention.o_proj",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
} | _NORMS


@dataclasses.dataclass(frozen=True, eq=False)
class OnDisk:
    """A model from a folder.

    Attributes:
        fn: parameters and images ``[n, h, w, c]`` -> logits.
        params: the weights by their names in timm.
        preprocess: PIL image -> array ``[h, w, c]``.
        labels: of the classes.
        grid: rows and columns of patches, whose tokens follow that of the class.
        notes: what the user should know about the files.
    """

    fn: Callable[[Any, Any], Any]
    params: dict[str, Array]
    preprocess: Callable[[Image.Image], Any]
    labels: tuple[str, ...]
    grid: tuple[int, int]
    notes: tuple[str, ...]


def load(folder: Path) -> OnDisk:
    """Loads a ViTForImageClassification.

    Args:
        folder: with ``config.json``, ``model.safetensors`` (or its shards) and
            ``preprocessor_config.json``. Without the last, images are preprocessed as by
            `PREPROCESSOR`, to the size that the model takes.

    Raises:
        InputError: a file is missing or damaged, the tensors do not fit the configuration, or it
            has something that is not supported; says which. Or the folder brings code.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} with a vision transformer.")
    file, of_images = folder / _folders.CONFIG, folder / "preprocessor_config.json"
    given = _folders.read_json(file)
    _folders.refuse_code(folder)
    with _entries_of(file):
        labels = _labels(given)
        config = _config(given, len(labels))
    with _entries_of(of_images):
        preprocess, notes = _preprocess(of_images, config)

    def fn(params: dict[str, Array], images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        return ViT(params, config)(jnp.moveaxis(images, -1, 1))

    return OnDisk(fn, _params(folder, config), preprocess, labels, config.grid, notes)


@contextlib.contextmanager
def _entries_of(file: Path) -> Iterator[None]:
    """Entries that are not what they should be, as an error that names the file."""
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} has an entry of the wrong kind: {type(error).__name__}: {error}"
        ) from error


def _labels(given: Mapping[str, Any]) -> tuple[str, ...]:
    named = given.get("id2label")
    if not named:
        count = given.get("num_labels", CONFIG["num_labels"])
        checked(Path("config.json"), {"classes": count}, {"classes": whole(1, MOST_CLASSES)})
        return tuple(map(str, range(count)))
    if not isinstance(named, dict) or len(named) > MOST_CLASSES:
        raise InputError("id2label in config.json must be an object of numbers and names.")
    if set(named) != set(map(str, range(len(named)))):
        raise InputError(
            f"id2label in config.json must number the classes from 0 to {len(named) - 1}, got "
            f"{', '.join(sorted(named)[:5])}, ..."
        )
    return tuple(visible(str(named[str(i)])) for i in range(len(named)))


def _config(given: Mapping[str, Any], classes: int) -> ViTConfig:
    c = {**CONFIG, **given}
    own = "A model of your own is named as package.module:function."
    if c["model_type"] != "vit":
        raise InputError(
            f"config.json has model_type {c['model_type']!r}; only 'vit' can be read from a "
            f"folder. {own}"
        )
    if c["hidden_act"] not in ("gelu", "gelu_python"):
        raise InputError(
            f"config.json has hidden_act {c['hidden_act']!r}; only the exact 'gelu' is supported "
            f"for models from a folder. {own}"
        )
    if c["num_channels"] not in _MODES:
        raise InputError(
            f"config.json has num_channels {c['num_channels']}; images have 1 channel (grey) or 3 "
            f"(RGB). {own}"
        )
    checked(Path("config.json"), c | {"classes": classes}, _CHECKS)
    width, hidden = c["hidden_size"], c["intermediate_size"]
    return ViTConfig(
        img_size=c["image_size"],
        patch_size=c["patch_size"],
        in_chans=c["num_channels"],
        num_classes=classes,
        embed_dim=width,
        depth=c["num_hidden_layers"],
        num_heads=c["num_attention_heads"],
        # A ViTConfig rounds width * ratio down: without the half, to hidden - 1 for some sizes.
        mlp_ratio=(hidden + 0.5) / width,
        qkv_bias=c["qkv_bias"],
        norm_eps=c["layer_norm_eps"],
        final_norm_eps=c["layer_norm_eps"],
    )


# Weights


def _params(folder: Path, config: ViTConfig) -> dict[str, Array]:
    files = [folder / "model.safetensors"]
    if not files[0].exists():
        files = sorted(folder.glob("model-*-of-*.safetensors"))
    if not files:
        raise InputError(_folders.no_weights(folder))
    tensors = {name: array for file in files for name, array in weights.read(file).items()}
    before_5 = not any(name.startswith("vit.layers.") for name in tensors)
    shapes = config.shapes()
    sources = {name: _sources(name, before_5) for name in shapes}
    expected = {
        source: (shapes[name][0] // len(named), *shapes[name][1:])
        for name, named in sources.items()
        for source in named
    }
    integers = [name for name, x in tensors.items() if name in expected and x.dtype.kind in "biu"]
    if integers:
        raise InputError(
            f"The weights in {folder} must be floating point numbers, but these are integers, as "
            f"of a quantised model: {', '.join(integers[:5])}."
        )
    found = weights.checked("ViT", tensors, expected, _UNUSED)
    return {
        name: jnp.concatenate([found[source] for source in named]).astype(jnp.float32)
        for name, named in sources.items()
    }


def _sources(name: str, before_5: bool) -> tuple[str, ...]:
    """The names in Hugging Face of a tensor of timm."""
    if name in _OUTSIDE:
        return (_OUTSIDE[name],)
    module, _, kind = name.rpartition(".")
    if module in _OUTSIDE:
        return (f"{_OUTSIDE[module]}.{kind}",)
    _, number, part = module.split(".", 2)
    prefix, parts = ("vit.encoder.layer", _BLOCK_BEFORE_5) if before_5 else ("vit.layers", _BLOCK)
    return tuple(f"{prefix}.{number}.{source}.{kind}" for source in parts[part])


# Images


def _preprocess(
    file: Path, config: ViTConfig
) -> tuple[Callable[[Image.Image], np.ndarray], tuple[str, ...]]:
    """What transformers' ViTImageProcessor does, and notes for the user."""
    height, width = pair(config.img_size)
    if file.exists():
        p, notes = {**PREPROCESSOR, **_folders.read_json(file)}, ()
    else:
        p = {**PREPROCESSOR, "size": {"height": height, "width": width}}
        note = (
            f"There is no {file}: images are scaled to {height}x{width} (bilinear), and pixels "
            "from [0, 1] to [-1, 1]."
        )
        notes = (note,)
    checked(file, p, _CHECKS_OF_IMAGES)
    scaled, cropped = _sized(p["size"]), _sized(p["crop_size"])
    scale = p["rescale_factor"] if p["do_rescale"] else 1.0
    mean, std = (
        np.broadcast_to(np.asarray(value, np.float32), config.in_chans)
        if np.size(value) in (1, config.in_chans)
        else _wrong_channels(file, name, value, config.in_chans)
        for name, value in ((n, p[n]) for n in ("image_mean", "image_std"))
    )

    def preprocess(image: Image.Image) -> Float[np.ndarray, "h w c"]:
        image = eight_bit(image).convert(_MODES[config.in_chans])
        if p["do_resize"]:
            image = image.resize(_target(image.size, scaled), Image.Resampling(p["resample"]))
        if p["do_center_crop"]:
            image = _middle(image, cropped)
        if image.size != (width, height):
            raise InputError(
                f"{file.name} makes it {image.height}x{image.width}, but the model takes "
                f"{height}x{width}"
            )
        pixels = np.asarray(image, np.float32).reshape(height, width, -1) * np.float32(scale)
        return (pixels - mean) / std if p["do_normalize"] else pixels

    return preprocess, notes


def _wrong_channels(file: Path, name: str, value: Any, channels: int) -> np.ndarray:
    raise InputError(
        f"{file} has {name} {value}, {np.size(value)} numbers, but the model takes {channels} "
        "channel(s)."
    )


def _sized(size: Any) -> dict[str, int]:
    """A size in the ways that Hugging Face writes it: a number, or a dict."""
    return {"height": size, "width": size} if isinstance(size, int) else size


def _target(size: tuple[int, int], wanted: Mapping[str, int]) -> tuple[int, int]:
    """Width and height that an image is scaled to."""
    if "shortest_edge" not in wanted:
        return wanted["width"], wanted["height"]
    width, height = (int(wanted["shortest_edge"] * side / min(size)) for side in size)
    if max(width, height) > 4 * MOST_PIXELS:
        raise InputError(f"is so long and narrow that it would be scaled to {height}x{width}")
    return width, height


def _middle(image: Image.Image, wanted: Mapping[str, int]) -> Image.Image:
    width, height = (wanted.get(k, wanted.get("shortest_edge", 0)) for k in ("width", "height"))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if left < 0 or top < 0:
        raise InputError(
            f"preprocessor_config.json cuts {height}x{width} out of {image.height}x{image.width}"
        )
    return image.crop((left, top, left + width, top + height))
