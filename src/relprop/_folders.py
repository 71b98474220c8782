"""Model folders of Hugging Face: what they say is read, code that they bring is never run.

A folder can name Python files of its own (`auto_map`), a kernel to be fetched as its attention, or
hold its weights as a pickle, which is a program. Everything here happens before another package
reads the folder, and imports nothing that it names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from relprop._errors import InputError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

#: Ways to compute attention that torch has itself.
ATTENTION = ("eager", "sdpa")
#: The same numbers by other means, which "eager" can stand for.
_LIKE_EAGER = ("flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
#: Entries that name an implementation -> those that are not fetched from elsewhere.
_IMPLEMENTATIONS = {
    "attn_implementation": (*ATTENTION, *_LIKE_EAGER),
    "experts_implementation": ("eager", "batched_mm", "grouped_mm"),
}
_CODE = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")
#: Formats of weights that are not read: most are pickles, which run code when they are loaded.
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".gguf")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"There is no {file}: the folder holds {held(file.parent)}. Nothing is downloaded."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} must hold an object, got {type(found).__name__}.")
    return found


def refuse_code(folder: Path) -> None:
    """Whether a model can be read without running anything that comes with it.

    Raises:
        InputError: the folder brings or names code; lists every place that does.
    """
    found = []
    for file in sorted(folder.glob("*config*.json")):
        for key, value in _entries(_parsed(file)):
            if value and key in _CODE:
                found.append(f"{file.name}: {key} is {_short(value)}")
            known = _IMPLEMENTATIONS.get(key.strip("_").removesuffix("_internal"))
            if known is not None:
                unknown = sorted({*_names(value)} - {*known})
                found += [f"{file.name}: {key} names {_short(name)}" for name in unknown]
    if (folder / "custom_generate").exists():
        found.append("custom_generate: a folder of code for generation")
    if found:
        raise InputError(
            f"The model in {folder} brings its own code, or names code to be fetched, and relprop "
            "does not run it:\n  " + "\n  ".join(found) + "\nIf its weights fit a class of "
            "transformers, take these entries out of the folder. Otherwise make the model "
            "yourself, from code that you have read, and give its module or function to relprop."
        )


def refuse_quantised(config: Mapping[str, Any], name: str) -> None:
    """Whether weights are numbers, and not codes of a package of its own.

    Args:
        config: of the model.
        name: what has it, for the message.

    Raises:
        InputError: names how the weights are quantised, and what to do.
    """
    given = config.get("quantization_config")
    if not given:
        return
    own = dict(given) if isinstance(given, Mapping) else vars(given)
    bits = [n for n in ("4", "8") if own.get(f"load_in_{n}bit") or own.get("bits") == int(n)]
    how = str(own.get("quant_method") or ("bitsandbytes" if bits else "an unknown method"))
    width = f" with {bits[0]} bits" if bits else ""
    raise InputError(
        f"The weights of {name} are quantised by {_short(how)}{width}: they are codes for kernels "
        "that JAX does not have. Explain the model that they stand for: load it where those run, "
        "call model.dequantize(), and save the result with model.save_pretrained(folder). "
        "Products of int8 with scales in JAX itself need nothing of this."
    )


def _parsed(file: Path) -> Any:
    """What is in a JSON file; nothing if it is none, which nobody else can read then either."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None


def attention_of(config: Mapping[str, Any]) -> set[str]:
    """The implementations of attention that a configuration names, at whatever depth."""
    keys = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
    return {name for key, value in _entries(config) if key in keys for name in _names(value)}


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights: `model.safetensors`, or what its index names.

    Args:
        folder: whose `config.json` could be read.

    Raises:
        InputError: there are none, some are missing or damaged, or they are in another format.
    """
    whole, index = folder / WEIGHTS, folder / INDEX
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{folder} holds an adapter, which belongs to a model elsewhere: merge it into that, "
            "with merge_and_unload() of peft, and save the result with save_pretrained."
        )
    other = [path.name for path in folder.glob("shard-*-model-*.safetensors")]
    named = _parsed(folder / CONFIG).get("transformers_weights") if not other else other[0]
    if named not in (None, WEIGHTS, INDEX):
        raise InputError(
            f"The weights in {folder} must be in {WEIGHTS} or in the files of {INDEX}; "
            f"transformers would read {named!r}."
        )
    if whole.exists():
        files = [whole]
    elif index.exists():
        files = _shards(index)
    else:
        raise InputError(no_weights(folder))
    for file in files:
        check_safetensors(file)
    return files


def no_weights(folder: Path) -> str:
    """What to say of a folder without weights in safetensors."""
    others = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER_WEIGHTS)
    if not others:
        return f"There is no {folder / WEIGHTS}: the folder holds {held(folder)}."
    return (
        f"There is no {folder / WEIGHTS}, but {', '.join(others)}. Only safetensors are read: "
        "other formats can run code while they are loaded. If you trust the file, convert it by "
        "loading it with transformers (gguf_file=... for GGUF) and calling "
        "model.save_pretrained(folder)."
    )


def held(folder: Path, most: int = 20) -> str:
    """The names of the files in a folder, for messages."""
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "nothing"


def _shards(index: Path) -> list[Path]:
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise InputError(f"{index} must have a weight_map from names of tensors to files.")
    names = sorted(set(named.values()))
    wrong = [n for n in names if Path(n).name != n or not n.endswith(".safetensors")]
    if wrong:
        raise InputError(
            f"{index} must name safetensors files beside it, but has {', '.join(map(repr, wrong))}."
        )
    files = [index.parent / name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise InputError(
            f"Of the weights that {index} names, there are no {', '.join(missing) or 'files'}: "
            f"the folder holds {held(index.parent)}."
        )
    return files


def check_safetensors(file: Path) -> None:
    """Whether a file is whole, by its header.

    Raises:
        InputError: it is damaged, or holds no tensors.
    """
    import safetensors

    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            empty = not opened.keys()
    except OSError:
        raise
    except Exception as error:  # safetensors raises classes of its own, of several modules
        raise InputError(
            f"{file} is damaged or no safetensors file: {error}. Was it copied to its end?"
        ) from error
    if empty:
        raise InputError(f"{file} holds no tensors: the weights of the model are missing.")


def numbers_in(file: Path) -> int:
    """How many numbers the tensors of a safetensors file have, by its header."""
    import safetensors

    with safetensors.safe_open(file, framework="numpy") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())


def _entries(found: Any) -> Iterator[tuple[str, Any]]:
    """All keys of nested objects with their values."""
    waiting = [found]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield from part.items()
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def _names(value: Any) -> Iterator[str]:
    """The names in an entry, which may have one for each part of the model."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _names(part)
    elif value is not None and value != "":
        yield str(value)


def _short(value: Any, most: int = 100) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
