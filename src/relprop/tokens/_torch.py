"""Models of Hugging Face, and other PyTorch modules that begin with an embedding."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from relprop._errors import InputError
from relprop.interop import from_torch as module_from_torch
from relprop.tokens._model import LanguageModel
from relprop.tokens._text import load_tokenizer

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]


def from_torch(
    module: torch.nn.Module, tokenizer: Any = None, *, embedding: str | None = None
) -> LanguageModel:
    r"""A PyTorch module of token ids as a `LanguageModel`, through torchax.

    The module runs its own code on the ids. Only what its embedding layer returns is what
    relevance is computed for, so scaled embeddings, positions, and heads that look for the end of
    the text work as they do in PyTorch.

    Args:
        module: takes token ids first, and `attention_mask` if it can; returns logits, as a tensor
            or under the key ``"logits"``. In evaluation mode.
        tokenizer: a tokenizer of transformers, or the folder of one; for text as strings.
        embedding: name of the submodule that looks embeddings up; by default what
            `get_input_embeddings` of transformers returns, or the only `torch.nn.Embedding`.

    Returns:
        The model. Its `params` are those of `module.state_dict()`, by their names.

    Raises:
        InputError: the module is in training mode, or its embedding layer is not known.
        ImportError: torch or torchax is not installed.

    >>> import transformers  # doctest: +SKIP
    >>> gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config())  # doctest: +SKIP
    >>> model = from_torch(gpt2.eval())  # doctest: +SKIP
    """
    config = getattr(module, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{type(module).__name__} has an encoder and a decoder, which is not supported here. "
            "Use `relprop.interop.from_torch` and explain `inputs_embeds` with `relprop.relevance`."
        )
    name = embedding or _embedding_name(module)
    layer = module.get_submodule(name)
    tokenizer = load_tokenizer(tokenizer)
    fn, params = module_from_torch(_split(module, name))
    pad_id = getattr(config, "pad_token_id", None)
    names = getattr(config, "id2label", None) or {}

    def logits(params: Any, embeds: Any, ids: Any, mask: Any) -> Any:
        found = fn(params, ids, embeds, mask.astype(jnp.int32))
        if isinstance(found, dict):
            if "logits" not in found:
                raise InputError(
                    f"{type(module).__name__} returns {', '.join(found)} but no logits: take the "
                    "class with a head, such as AutoModelForCausalLM."
                )
            return found["logits"]
        return found[0] if isinstance(found, tuple) else found

    return LanguageModel(
        embed=fn,
        logits=logits,
        params=params,
        tokenizer=tokenizer,
        pad_id=getattr(tokenizer, "pad_token_id", None) if pad_id is None else pad_id,
        vocabulary=getattr(layer, "num_embeddings", None),
        labels=tuple(names[i] for i in sorted(names)) or None,
    )


def from_pretrained(folder: str | Path, **options: Any) -> LanguageModel:
    """A Hugging Face model and its tokenizer from a folder on disk; nothing is downloaded.

    Args:
        folder: holds `config.json`, the weights and, for text as strings, `tokenizer.json`. The
            class of the model is the one that its configuration names.
        **options: for `from_pretrained` of the model, such as `dtype`.

    Returns:
        The model.

    Raises:
        InputError: the folder holds no model, or one whose class transformers does not have.
        ImportError: torch, torchax or transformers is not installed.

    >>> model = from_pretrained("models/gpt2")  # doctest: +SKIP
    """
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("from_pretrained needs transformers: pip install transformers") from error
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise InputError(f"There is no config.json in {str(folder)!r}. Nothing is downloaded.")
    config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    names = config.architectures or [None]
    kind = getattr(transformers, names[0] or "", None)
    if kind is None:
        raise InputError(
            f"The configuration in {str(folder)!r} names the architecture {names[0]!r}, which "
            "transformers does not have. Make the module yourself and use `from_torch`."
        )
    module = kind.from_pretrained(str(folder), local_files_only=True, **options).eval()
    has_tokenizer = any((folder / f"tokenizer{end}.json").exists() for end in ("", "_config"))
    return from_torch(module, folder if has_tokenizer else None)


def _embedding_name(module: Any) -> str:
    import torch  # pyright: ignore[reportMissingImports]

    wanted = None
    if hasattr(module, "get_input_embeddings"):
        wanted = module.get_input_embeddings()
    tables = {n: m for n, m in module.named_modules() if isinstance(m, torch.nn.Embedding)}
    if wanted is None and len(tables) == 1:
        return next(iter(tables))
    names = [name for name, part in module.named_modules() if part is wanted]
    if wanted is None or not names:
        raise InputError(
            f"Which submodule of {type(module).__name__} looks token embeddings up? Name it with "
            f"`embedding`; its tables are {', '.join(tables) or 'none'}."
        )
    return names[0]


def _split(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """The module again, as both halves: without embeddings it looks them up, with them it goes on.

    It is of a class of its own and shares all parameters and submodules, whose names stay.
    """
    accepted = inspect.signature(module.forward).parameters

    class Split(type(module)):
        def forward(self, ids: Any, embeds: Any = None, mask: Any = None) -> Any:
            layer: Any = self.get_submodule(name)
            if embeds is None:
                return layer(ids)
            options = {"attention_mask": mask, "use_cache": False}
            options = {key: value for key, value in options.items() if key in accepted}
            replaced = []
            hook = layer.register_forward_hook(lambda *_: replaced.append(True) or embeds)
            try:
                out = super().forward(ids, **options)
            finally:
                hook.remove()
            if not replaced:
                raise InputError(f"The module does not call {name!r}: name another `embedding`.")
            return out

    Split.__name__ = type(module).__name__  # for messages
    split = copy.copy(module)
    split.__class__ = Split
    return split
