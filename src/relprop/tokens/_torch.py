"""Models of Hugging Face, and other PyTorch modules that begin with an embedding."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from relprop import _compat, _folders
from relprop._errors import InputError
from relprop.interop import from_torch as module_from_torch
from relprop.tokens import _config
from relprop.tokens._encoder_decoder import from_encoder_decoder
from relprop.tokens._model import LanguageModel
from relprop.tokens._stored import stored
from relprop.tokens._text import load_tokenizer

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]


def from_torch(
    module: torch.nn.Module,
    tokenizer: Any = None,
    *,
    embedding: str | None = None,
    release: bool = False,
) -> LanguageModel:
    r"""A PyTorch module of token ids as a `LanguageModel`, through torchax.

    The module runs its own code on the ids. Only what its embedding layer returns is what
    relevance is computed for, so scaled embeddings, positions, and heads that look for the end of
    the text work as they do in PyTorch.

    Of a model with an encoder and a decoder, such as T5 or BART, the text is the source; see
    `from_encoder_decoder` for what is explained then.

    Args:
        module: takes token ids first, and `attention_mask` if it can; returns logits, as a tensor
            or under the key ``"logits"``. In evaluation mode.
        tokenizer: a tokenizer of transformers, or the folder of one; for text as strings.
        embedding: name of the submodule that looks embeddings up; by default what
            `get_input_embeddings` of transformers returns, or the only `torch.nn.Embedding`.
        release: JAX takes the weights over, and the module is left empty; see
            `relprop.interop.from_torch`.

    Returns:
        The model. Its `params` are those of `module.state_dict()`, by their names.

    Raises:
        InputError: the module is in training mode, its embedding layer is not known, or its weights
            are quantised for kernels of others.
        ImportError: torch or torchax is not installed.

    >>> import transformers  # doctest: +SKIP
    >>> gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config())  # doctest: +SKIP
    >>> model = from_torch(gpt2.eval())  # doctest: +SKIP
    """
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_dict"):
        _folders.refuse_quantised(config.to_dict(), type(module).__name__)
    if getattr(config, "is_encoder_decoder", False):
        if embedding is not None:
            raise InputError(
                f"{type(module).__name__} has an encoder and a decoder with embeddings of "
                "their own: `embedding` is for modules with one."
            )
        return _with_encoder(module, tokenizer, release)
    name = embedding or embedding_name(module)
    layer = module.get_submodule(name)
    tokenizer = load_tokenizer(tokenizer)
    fn, params = module_from_torch(split(module, name), release=release)
    pad_id = getattr(config, "pad_token_id", None)
    names = getattr(config, "id2label", None) or {}
    bounds = tuple(sorted(_bounds(config.to_dict()))) if hasattr(config, "to_dict") else ()

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
        bounds=bounds,
        positions=_positions(module, [layer], bounds),
    )


def _with_encoder(module: Any, tokenizer: Any, release: bool) -> LanguageModel:
    """A model of transformers that has an encoder and a decoder."""
    config = module.config
    wanted = {"input_ids", "decoder_input_ids", "attention_mask"}
    missing = sorted(wanted - {*inspect.signature(module.forward).parameters})
    if missing or module.get_output_embeddings() is None:
        raise InputError(
            f"{type(module).__name__} has an encoder and a decoder, but "
            + (f"takes no {', '.join(missing)}" if missing else "no head over the vocabulary")
            + ". Use `relprop.interop.from_torch` and explain its embeddings or features with "
            "`relprop.relevance`."
        )
    tables = [part.get_input_embeddings() for part in (module.get_encoder(), module.get_decoder())]
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = getattr(module.generation_config, "decoder_start_token_id", None)
    if start is None:
        raise InputError(
            f"The configuration of {type(module).__name__} does not say what its decoder begins "
            "with: set `config.decoder_start_token_id`."
        )
    fn, params = module_from_torch(_halves(module), release=release)
    bounds = tuple(sorted(_bounds(config.to_dict())))
    pad = getattr(config, "pad_token_id", None)

    def logits(params: Any, source: Any, mask: Any, prefix: Any) -> Any:
        # Some models count positions by the ids that are no padding; else these are not read.
        read, written = (jnp.full(x.shape[:2], int(pad == 0), jnp.int32) for x in (source, prefix))
        return fn(params, read, written, source, mask.astype(jnp.int32), prefix)

    return from_encoder_decoder(
        embed=fn,
        logits=logits,
        params=params,
        tokenizer=tokenizer,
        start_id=start,
        vocabulary=max(table.num_embeddings for table in tables),
        pad_id=pad,
        bounds=bounds,
        positions=_positions(module, tables, bounds),
    )


def _positions(module: Any, words: Sequence[Any], bounds: Sequence[int]) -> int | None:
    """How many positions have an embedding: rotary models have none, and so no limit here.

    Tables may begin with rows of no position, as those of RoBERTa and OPT do.
    """
    import torch  # pyright: ignore[reportMissingImports]

    found = []
    for part in module.modules():
        if isinstance(part, torch.nn.Embedding) and not any(part is table for table in words):
            first = getattr(part, "offset", 0)
            first += 0 if part.padding_idx is None else part.padding_idx + 1
            if {part.num_embeddings, part.num_embeddings - first}.intersection(bounds):
                found.append(part.num_embeddings - first)
    return min(found, default=None)


#: What configurations call the lengths at which a model ends, or scales its positions anew.
_BOUNDS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "original_max_position_embeddings",
)


def _bounds(config: Mapping[str, Any]) -> set[int]:
    """Lengths that padding must not cross, from a configuration and the parts of it."""
    own = {config[name] for name in _BOUNDS if isinstance(config.get(name), int)}
    parts = [value for value in config.values() if isinstance(value, Mapping)]
    return own.union(*map(_bounds, parts))


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
            brings code of its own; the weights are quantised for kernels of others, not in
            safetensors, damaged, or not all of those that the model has; an entry of the
            configuration is not what it must be.
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
    _folders.refuse_quantised(given, str(folder))
    options = _checked_options(options, _folders.attention_of(given))
    files = _folders.weight_files(folder)
    kind = _named_class(transformers, given, folder)
    names = getattr(kind.config_class, "attribute_map", {})
    _config.check_entries(given, names, folder / _folders.CONFIG)
    _config.check_size(lambda: _numbers(kind, folder), files, folder)
    with _loading(folder):
        module, report = _loaded(kind, folder, files, options)
    _check_report(report, type(module).__name__, folder)
    has_tokenizer = any((folder / f"tokenizer{end}.json").exists() for end in ("", "_config"))
    return from_torch(module.eval(), folder if has_tokenizer else None, release=True)


def _loaded(kind: Any, folder: Path, files: Sequence[Path], options: Any) -> tuple[Any, Any]:
    """The module of a class that a folder describes, and what transformers reports of weights."""
    more = (folder / name for name in getattr(kind.config_class, "extra_files", ()))
    weights = stored([*files, *(file for file in more if file.exists())])
    if kind.can_generate():  # as transformers looks for it, which is not told of the folder
        options = {"generation_config": _generation(folder), **options}
    return kind.from_pretrained(None, config=str(folder), state_dict=weights, **options)


def _generation(folder: Path) -> Any:
    """What a folder says of generation, such as the token that a decoder begins with."""
    from transformers import GenerationConfig  # pyright: ignore[reportMissingImports]

    try:
        return GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    except OSError:  # there is no such file: older configurations of models have its entries
        name = _folders.CONFIG
        return GenerationConfig.from_pretrained(str(folder), name, local_files_only=True)


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


def _numbers(kind: Any, folder: Path) -> int:
    """How many numbers a model has, which is made without memory for them."""
    import torch  # pyright: ignore[reportMissingImports]

    with _loading(folder), torch.device("meta"):
        config = kind.config_class.from_pretrained(str(folder), local_files_only=True)
        config._attn_implementation = "eager"
        module = kind(config)
    return sum(parameter.numel() for parameter in module.parameters())


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


def embedding_name(module: Any) -> str:
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


def _halves(module: Any) -> Any:
    """The module again: of ids it looks both embeddings up, of embeddings it gives logits.

    Embeddings take the place of what the layers look up, as some models scale that further on.
    """

    class Halves(type(module)):
        def forward(
            self,
            source_ids: Any,
            prefix_ids: Any,
            source: Any = None,
            mask: Any = None,
            prefix: Any = None,
        ) -> Any:
            read = self.get_encoder().get_input_embeddings()
            written = self.get_decoder().get_input_embeddings()
            if source is None:
                return read(source_ids), written(prefix_ids)
            waiting = [source, prefix]
            tables = {id(table): table for table in (read, written)}.values()
            hooks = [
                table.register_forward_hook(lambda *_: waiting.pop(0) if waiting else None)
                for table in tables
            ]
            try:
                out = super().forward(
                    input_ids=source_ids,
                    attention_mask=mask,
                    decoder_input_ids=prefix_ids,
                    use_cache=False,
                )
            finally:
                for hook in hooks:
                    hook.remove()
            if waiting:
                raise InputError(
                    f"{type(module).__name__} does not look up the embeddings of its encoder and "
                    "its decoder once each. Use `relprop.interop.from_torch` and explain them with "
                    "`relprop.relevance`."
                )
            return out.logits

    return _again_as(module, Halves)


def split(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """The module again, as both halves: without embeddings it looks them up, with them it goes on.

    It is of a class of its own and shares all parameters and submodules, whose names stay.
    """
    accepted = inspect.signature(module.forward).parameters

    class Split(type(module)):
        def forward(
            self, ids: Any, embeds: Any = None, mask: Any = None, images: Any = None
        ) -> Any:
            layer: Any = self.get_submodule(name)
            if embeds is None:
                return layer(ids)
            known = {key: _on_cpu(value) for key, value in (images or {}).items()}
            options = {"attention_mask": mask, "use_cache": False, **known}
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

    return _again_as(module, Split)


def _on_cpu(tensor: Any) -> Any:
    """Whole numbers that are known, such as sizes of images, as torch has them: code reads them."""
    import torch  # pyright: ignore[reportMissingImports]

    array = tensor.jax()
    if _compat.is_traced(array) or tensor.is_floating_point():
        return tensor
    return torch.as_tensor(np.array(array))


def _again_as(module: Any, kind: type) -> Any:
    """A module of another class, which shares all parameters and submodules with the first."""
    kind.__name__ = type(module).__name__  # for messages
    again = copy.copy(module)
    again.__class__ = kind
    return again
