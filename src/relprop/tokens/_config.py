"""What a configuration of Hugging Face says of the sizes of a model, checked before it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from relprop import _folders
from relprop._entries import (
    MOST_CLASSES,
    MOST_FEATURES,
    MOST_LAYERS,
    MOST_TOKENS,
    Check,
    checked,
    either,
    number,
    several,
    whole,
)
from relprop._errors import InputError

#: By the names that all configurations of transformers have; models have others of their own.
_SIZES: Mapping[str, Check] = {
    "num_hidden_layers": whole(1, MOST_LAYERS),
    "num_attention_heads": whole(1, MOST_FEATURES),
    "num_key_value_heads": whole(1, MOST_FEATURES),
    "hidden_size": whole(1, MOST_FEATURES),
    "head_dim": whole(1, MOST_FEATURES),
    "intermediate_size": whole(1, 16 * MOST_FEATURES),
    "vocab_size": whole(1, MOST_TOKENS),
    "type_vocab_size": whole(0, MOST_TOKENS),
    "max_position_embeddings": whole(1, 2**31 - 1),
    "num_labels": whole(1, MOST_CLASSES),
}
_PARTS = ("", "text_config")  # where models of texts and images have sizes
#: A model has so many times as many numbers as its files at most, and so many in any case: what
#: files lack is filled up by transformers, which then says so.
_TIMES, _FREE = 2, 10**7


def check_entries(given: Mapping[str, Any], names: Mapping[str, str], file: Path) -> None:
    """Whether sizes, and what is named as a share or a small number, are such.

    Args:
        given: the configuration.
        names: common name -> that of this kind of model, as in its `attribute_map`.
        file: for messages.

    Raises:
        InputError: some are not; lists all of them.
    """
    entries: dict[str, Any] = {}
    checks: dict[str, Check] = {}
    for part in _PARTS:
        own = given.get(part) if part else given
        if not isinstance(own, Mapping):
            continue
        for name, check in _own(names, own):
            if own[name] is not None:  # which stands for a default in many models
                entries[f"{part}.{name}" if part else name] = own[name]
                checks[f"{part}.{name}" if part else name] = check
    checked(file, entries, checks)


def _own(names: Mapping[str, str], entries: Mapping[str, Any]) -> Iterable[tuple[str, Check]]:
    """The entries that there are of those that are checked."""
    for common, check in _SIZES.items():
        for name in {common, names.get(common, common)}:
            if name in entries:
                # Some models have one for each layer.
                yield name, either(check, several(check, MOST_LAYERS, least=1))
    for name in entries:
        if name.endswith(("_eps", "_epsilon")):
            yield name, number(0, 1)
        if name.endswith(("dropout", "_pdrop", "dropout_prob")):
            yield name, number(0, 1)


def check_size(numbers: Callable[[], int], files: Iterable[Path], folder: Path) -> None:
    """Whether files hold about as many numbers as the model of a configuration has.

    Args:
        numbers: how many those are; makes nothing that takes memory.
        files: of the weights.
        folder: for messages.

    Raises:
        InputError: the model has many more, which would be allocated and be random.
    """
    there, needed = sum(map(_folders.numbers_in, files)), numbers()
    if needed > max(_TIMES * there, _FREE):
        raise InputError(
            f"The configuration in {str(folder)!r} is of a model of {needed:,} numbers, and its "
            f"weights are {there:,}: take the weights that belong to config.json, or the other way "
            "round."
        )
