"""Models of transformers that look for empty images among their pixels: SmolVLM and Idefics.

A batch has images of zeros where a text has fewer than others. The model leaves these out, which
is a choice by numbers that are not known while JAX traces. Here it is made beforehand.
"""

from __future__ import annotations

import copy
from typing import Any

#: Those whose `get_image_features` begins with that choice, by the types in their configurations.
SEARCHING = ("idefics2", "idefics3", "smolvlm")


def images_as_given(module: Any) -> tuple[Any, bool]:
    """The module again, which takes all images for real ones; and whether it is another.

    It shares all parameters and submodules with the first, which stays as it is.
    """
    inner: Any = getattr(module, "model", None)
    if getattr(getattr(module, "config", None), "model_type", None) not in SEARCHING:
        return module, False
    if not (hasattr(inner, "vision_model") and hasattr(inner, "connector")):
        return module, False

    class AsGiven(type(inner)):
        def get_image_features(self, pixel_values: Any, pixel_attention_mask: Any = None, **_: Any):
            import torch  # pyright: ignore[reportMissingImports]

            images = pixel_values.flatten(0, 1).to(self.dtype)
            seen = torch.ones_like(images[:, 0], dtype=torch.bool)
            if pixel_attention_mask is not None:
                seen = pixel_attention_mask.flatten(0, 1).bool()
            side = self.config.vision_config.patch_size
            patches = seen.unfold(1, side, side).unfold(2, side, side).flatten(3)
            whole = self.config.model_type == "idefics2"  # which sees no part of a patch
            patches = patches.all(-1) if whole else patches.any(-1)
            out = self.vision_model(pixel_values=images, patch_attention_mask=patches)
            options = {"attention_mask": patches.flatten(1)} if whole else {}
            features = self.connector(out.last_hidden_state, **options)
            out.pooler_output = [features.flatten(0, 1)]
            return out

    AsGiven.__name__ = type(inner).__name__  # for messages
    changed = copy.copy(inner)
    changed.__class__ = AsGiven
    again = copy.copy(module)
    again._modules = {**module._modules, "model": changed}
    return again, True
