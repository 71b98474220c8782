"""Models of transformers that see images, such as LLaVA, PaliGemma and Qwen-VL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relprop import _folders
from relprop._errors import InputError
from relprop.interop import from_torch as module_from_torch
from relprop.tokens._image_padding import images_as_given
from relprop.tokens._images import ImageTextModel
from relprop.tokens._text import load_tokenizer
from relprop.tokens._torch import embedding_name, split

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]


def from_image_text(
    module: torch.nn.Module,
    tokenizer: Any = None,
    *,
    embedding: str | None = None,
    patch: int | None = None,
    release: bool = False,
) -> ImageTextModel:
    """A PyTorch module of images and text as an `ImageTextModel`, through torchax.

    The module runs its own code on ids and pixels: where features of the image go is its business.

    Args:
        module: takes ``input_ids``, ``pixel_values`` and what else its processor returns, by name;
            returns logits, as a tensor or under the key ``"logits"``. In evaluation mode.
        tokenizer: a tokenizer of transformers, or the folder of one.
        embedding: name of the submodule that looks embeddings up, as for `from_torch`.
        patch: pixels of a patch along a side; by default that of the module's configuration.
        release: JAX takes the weights over, and the module is left empty.

    Returns:
        The model, for `explain_images`.

    Raises:
        InputError: the module is in training mode, its embedding layer or the size of its patches
            is not known, or its weights are quantised for kernels of others.
        ImportError: torch or torchax is not installed.

    >>> import transformers  # doctest: +SKIP
    >>> llava = transformers.LlavaForConditionalGeneration.from_pretrained(".")  # doctest: +SKIP
    >>> model = from_image_text(llava.eval())  # doctest: +SKIP
    """
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_dict"):
        _folders.refuse_quantised(config.to_dict(), type(module).__name__)
    vision = getattr(config, "vision_config", None)
    patch = patch or getattr(vision, "patch_size", None)
    if not isinstance(patch, int):
        raise InputError(
            f"The configuration of {type(module).__name__} does not say how large patches are: "
            f"`vision_config.patch_size` is {patch!r}. Give `patch`."
        )
    module, leaves_out_empty = images_as_given(module)
    name = embedding or embedding_name(module)
    fn, params = module_from_torch(split(module, name), release=release)
    image_id = getattr(config, "image_token_id", None)

    def logits(params: Any, embeds: Any, ids: Any, mask: Any, images: Any) -> Any:
        del mask  # There is no padding, and code of models chooses by a mask that it gets.
        found = fn(params, ids, embeds, None, images)
        return found["logits"] if isinstance(found, dict) else found

    return ImageTextModel(
        embed=fn,
        logits=logits,
        patch=patch,
        params=params,
        tokenizer=load_tokenizer(tokenizer),
        image_id=getattr(config, "image_token_index", None) if image_id is None else image_id,
        merged=getattr(vision, "spatial_merge_size", 1),
        vocabulary=getattr(module.get_submodule(name), "num_embeddings", None),
        leaves_out_empty=leaves_out_empty,
    )
