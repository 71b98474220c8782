"""What the import of peers needs where their own requirements cannot be met."""

from __future__ import annotations

import contextlib
import re


def importable_torchvision() -> None:
    """torchvision of PyPI is made for CUDA, and without that its import stops at an operator.

    zennit and LXT import it for names of classes only, so that operators without code will do.
    """
    while True:
        try:
            import torch  # pyright: ignore[reportMissingImports]
            import torchvision  # pyright: ignore[reportMissingImports] # noqa: F401
        except ImportError:
            return  # whoever needs it says so
        except RuntimeError as error:
            absent = re.search(r"operator (torchvision::\w+) does not exist", str(error))
            if absent is None:
                raise
            torch.library.define(absent[1], "(Tensor dets, Tensor scores, float t) -> Tensor")
        else:
            return


@contextlib.contextmanager
def importable_lxt():
    """LXT 2.1 imports functions for BERT that transformers 5 no longer has; Llama needs none."""
    from transformers import pytorch_utils  # pyright: ignore[reportMissingImports]

    gone = [
        name
        for name in ("find_pruneable_heads_and_indices", "prune_linear_layer")
        if not hasattr(pytorch_utils, name)
    ]
    for name in gone:
        setattr(pytorch_utils, name, None)
    try:
        yield
    finally:
        for name in gone:
            delattr(pytorch_utils, name)


class AttentionFunctions(dict):
    """LXT 2.1 puts a plain dict where transformers 5 asks by this method."""

    def get_interface(self, name, default):
        return self.get(name, default)
