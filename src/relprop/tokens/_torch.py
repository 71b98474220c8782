"""Models of Hugging Face, and other PyTorch modules that begin with an embedding."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from relprop import _folders
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


#: Options that are not the caller's to choose: nothing is fetched, run or left to chance.
_FIXED: Mapping[str, Any] = {
    "trust_remote_code": False,
    "local_files_only": True,
    "use_safetensors": True,
    "weights_only": True,
    "ignore_mismatched_sizes": True,  # so that they are in the report, which is then refused
    "output_loading_info": True,
}
_REFUSED = (
    "adapter_kwargs",
    "allow_all_kernels",
    "config",
    "gguf_file",
    "kernel_config",
    "state_dict",
    "subfolder",
    "use_kernels",
    "variant",
)
#: What a configuration counts, by the names that all configurations of transformers have.
_SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")


def from_pretrained(folder: str | Path, **options: Any) -> LanguageModel:
    """A Hugging Face model and its tokenizer from a folder on disk; nothing is downloaded.

    Nothing that the folder brings is run: only classes that transformers itself has are used, and
    weights are read from safetensors alone. Every weight comes from the files; what they hold
    beyond the model is named in a warning.

    Args:
        folder: holds `config.json`, the weights and, for text as strings, `tokenizer.json`. The
            class of the model is the one that its configuration names.
        **options: for `from_pretrained` of the model, such as `dtype`.

    Returns:
        The model.

    Raises:
        InputError: the folder holds no model, or one whose class transformers does not have; it
            brings code of its own; the weights are not in safetensors, damaged, or not all of
            those that the model has; a size in the configuration is 0.
        ImportError: torch, torchax or transformers is not installed.

    >>> model = from_pretrained("models/gpt2")  # doctest: +SKIP
    """
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("from_pretrained needs transformers: pip install transformers") from error
    folder = Path(folder)
    if not (folder / _folders.CONFIG).exists():
        held = f"which holds {_folders.held(folder)}" if folder.is_dir() else "which is no folder"
        raise InputError(
            f"There is no config.json in {str(folder)!r}, {held}. Nothing is downloaded."
        )
    given = _folders.read_json(folder / _folders.CONFIG)
    _folders.refuse_code(folder)
    options = _checked_options(options, _folders.attention_of(given))
    _folders.weight_files(folder)
    kind = _named_class(transformers, given, folder)
    _check_sizes(kind, given, folder)
    with _loading(folder):
        module, report = kind.from_pretrained(str(folder), **options)
    _check_report(report, type(module).__name__, folder)
    has_tokenizer = any((folder / f"tokenizer{end}.json").exists() for end in ("", "_config"))
    return from_torch(module.eval(), folder if has_tokenizer else None)


def _checked_options(options: Mapping[str, Any], attention: set[str]) -> dict[str, Any]:
    wrong = [name for name in _REFUSED if name in options]
    wrong += [name for name, value in _FIXED.items() if options.get(name, value) != value]
    chosen = options.get("attn_implementation", "eager")
    wrong += ["attn_implementation"] if chosen not in _folders.ATTENTION else []
    if wrong:
        settings = ", ".join(f"{name}={options[name]!r}" for name in wrong)
        raise InputError(
            f"Not possible here: {settings}. Models are read from safetensors on disk, with no "
            "code or kernels from elsewhere, and with an attn_implementation of torch, "
            f"{' or '.join(_folders.ATTENTION)}. Make the module yourself and use `from_torch`."
        )
    # Other implementations may be kernels that transformers fetches; "eager" is the same function.
    forced = {} if attention <= {*_folders.ATTENTION} else {"attn_implementation": "eager"}
    return {**forced, **options, **_FIXED}


def _named_class(transformers: Any, given: Mapping[str, Any], folder: Path) -> Any:
    """The class of transformers that a configuration names, if it is one of models like it."""
    named = given.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise InputError(
            f"The configuration in {str(folder)!r} names the architecture {name!r}, which "
            "transformers does not have. Make the module yourself and use `from_torch`."
        )
    config: Any = kind.config_class
    if given.get("model_type", config.model_type) != config.model_type:
        raise InputError(
            f"The configuration in {str(folder)!r} contradicts itself: its architecture {name} is "
            f"of model_type {config.model_type!r}, but it says {given['model_type']!r}."
        )
    return kind


@contextlib.contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """What goes wrong inside of transformers, as an error that names the folder."""
    try:
        yield
    except (InputError, ImportError):
        raise
    except Exception as error:  # it raises whatever a file that it did not expect leads to
        raise InputError(
            f"transformers cannot load what is in {str(folder)!r}: {type(error).__name__}: {error}"
        ) from error


def _check_sizes(kind: Any, given: Mapping[str, Any], folder: Path) -> None:
    """Whether there is anything in the model: without layers it would still give numbers."""
    named = dict(getattr(kind.config_class, "attribute_map", {}))  # names of its own, as n_layer
    parts = {"": given, "text_config.": given.get("text_config")}
    wrong = [
        f"{where}{name} is {part[name]}"
        for where, part in parts.items()
        if isinstance(part, Mapping)
        for size in _SIZES
        for name in dict.fromkeys((size, named.get(size, size)))
        if isinstance(part.get(name), int) and part[name] <= 0
    ]
    if wrong:
        raise InputError(
            f"The configuration in {str(folder)!r} is not that of a model: {', '.join(wrong)}."
        )


def _check_report(report: Mapping[str, Any], name: str, folder: Path) -> None:
    """Whether the files held the weights of the model, all of them, and what they held besides.

    transformers goes on with random numbers where they did not.
    """
    missing = sorted(report["missing_keys"])
    mismatched = sorted(
        f"{key} {list(found)} instead of {list(expected)}"
        for key, found, expected in report["mismatched_keys"]
    )
    surplus = sorted(report["unexpected_keys"])
    errors = [str(message) for message in report.get("error_msgs") or ()]
    problems = [
        f"  {what}, {len(keys)}: {_listed(keys)}"
        for what, keys in (
            ("missing", missing),
            ("of another shape", mismatched),
            ("not loaded", errors),
        )
        if keys
    ]
    if problems:
        also = [f"  without a use, {len(surplus)}: {_listed(surplus)}"] if surplus else []
        raise InputError(
            f"The weights in {str(folder)!r} are not those of the {name} that its configuration "
            "describes; without them it would have random numbers:\n"
            + "\n".join([*problems, *also])
            + "\nTake the weights that belong to config.json, or the other way round."
        )
    if surplus:
        warnings.warn(
            f"The weights in {str(folder)!r} hold {len(surplus)} tensor(s) that {name} has no use "
            f"for: {_listed(surplus)}. Is config.json that of these weights?",
            UserWarning,
            stacklevel=3,
        )


def _listed(keys: Iterable[str], most: int = 5) -> str:
    keys = [*keys]
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


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
