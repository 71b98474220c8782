"""Text becomes token ids, and token ids become text again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from relprop import _folders
from relprop._coloured_text import visible
from relprop._errors import InputError
from relprop.tokens._model import LanguageModel


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """A batch of texts, laid out as the caller gave them.

    Attributes:
        ids: token ids.
        mask: which of them are text, the others being padding.
        single: whether it was one text and no batch.
    """

    ids: Int[np.ndarray, "b t"]
    mask: Bool[np.ndarray, "b t"]
    single: bool

    @property
    def lengths(self) -> Int[np.ndarray, " b"]:
        return self.mask.sum(1)

    @property
    def columns(self) -> Int[np.ndarray, "b t"]:
        """Where each token was before padding was moved to the end."""
        return np.argsort(~self.mask, axis=1, kind="stable")

    def packed(self, fill: int) -> Int[np.ndarray, "b t"]:
        """The ids with all padding at the end, where it changes no position."""
        ids = np.where(self.mask, self.ids, fill)
        longest = int(self.lengths.max())
        return np.take_along_axis(ids, self.columns, axis=1)[:, :longest]


def read(model: LanguageModel, text: Any, mask: Any = None) -> Texts:
    """Token ids and mask of whatever a caller may have.

    Args:
        model: whose tokenizer is used for strings.
        text: a string, token ids ``[tokens]``, what a tokenizer of transformers returns, or a batch
            of these; lists of ids may differ in length.
        mask: True (or 1) at tokens; needed where ids hold padding.

    Raises:
        InputError: what was given cannot be read, and why.
    """
    if isinstance(text, Mapping):
        if "input_ids" not in text:
            raise InputError(f"A mapping needs the key 'input_ids'; it has {sorted(text)}.")
        found = text.get("attention_mask") if mask is None else mask
        return read(model, text["input_ids"], found)
    if isinstance(text, str):
        ids = encoded(model.tokenizer, text, special=True)
        _no_mask_for_text(mask)
        return _checked(model, [ids], [[True] * len(ids)], single=True)
    if _is_sequence(text) and len(text) and all(isinstance(part, str) for part in text):
        _no_mask_for_text(mask)
        return _ragged(model, [encoded(model.tokenizer, part, special=True) for part in text])
    if _is_sequence(text) and len({np.shape(part) for part in text}) > 1:
        _no_mask_for_text(mask)
        return _ragged(model, [_integers(part) for part in text])
    ids = _integers(text)
    if ids.ndim not in (1, 2) or not ids.size:
        raise InputError(
            f"Token ids have the shape [tokens] or [batch, tokens]; got {list(ids.shape)}."
        )
    if mask is None:
        _no_padding(model, np.atleast_2d(ids))
        mask = np.ones(ids.shape, bool)
    mask = np.asarray(mask)
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all():
        raise InputError(
            "The mask must be 1 (or True) at tokens and 0 at padding, and of the shape of the ids, "
            f"{list(ids.shape)}; got {mask.dtype}{list(mask.shape)}."
        )
    return _checked(model, np.atleast_2d(ids), np.atleast_2d(mask), single=ids.ndim == 1)


def encoded(tokenizer: Any, text: str, special: bool = False) -> Int[np.ndarray, " t"]:
    """The ids of a text."""
    if tokenizer is None:
        raise InputError(
            f"The model has no tokenizer for {shortened(text)!r}: give token ids, or a tokenizer "
            "when the model is made."
        )
    ids = tokenizer(text, add_special_tokens=special)["input_ids"]
    if not len(ids):
        raise InputError(f"{text!r} has no tokens.")
    return np.asarray(ids, np.int64)


def single_token(tokenizer: Any, token: int | str) -> int:
    """The id of a token that is given as id or text."""
    if not isinstance(token, str):
        return _integer(token)
    ids = encoded(tokenizer, token)
    if len(ids) > 1:
        parts = ", ".join(
            f"{p!r} ({i})" for p, i in zip(_pieces(tokenizer, ids.tolist()), ids, strict=True)
        )
        raise InputError(
            f"{token!r} is {len(ids)} tokens: {parts}. Name one of them by its id, or explain all "
            "of them with `Continuation`."
        )
    return int(ids[0])


def pieces(
    tokenizer: Any, ids: Sequence[int] | np.ndarray, start: int | None = None
) -> tuple[str, ...]:
    """Tokens as parts of a text: joined, they are the text, spaces included.

    Args:
        tokenizer: of the text, if there is one.
        ids: its tokens.
        start: the mark between source and prefix, if there can be one.
    """
    numbers = [int(i) for i in ids]
    if start not in numbers:
        return _pieces(tokenizer, numbers)
    at = numbers.index(start)
    return *pieces(tokenizer, numbers[:at]), " <start>", *pieces(tokenizer, numbers[at + 1 :])


def _pieces(tokenizer: Any, numbers: Sequence[int]) -> tuple[str, ...]:
    if tokenizer is None:
        return tuple(f" {i}" for i in numbers)
    special = special_ids(tokenizer)
    raw = tokenizer.convert_ids_to_tokens(numbers)
    continuing = _continuing_prefix(tokenizer)
    return tuple(
        # Ids beyond the vocabulary of the tokenizer are those of padded embedding tables.
        f" <{i}>" if token is None else _piece(tokenizer, i, token, i in special, continuing)
        for i, token in zip(numbers, raw, strict=True)
    )


def term_name(tokenizer: Any, labels: Sequence[str] | None, terms: Sequence[int]) -> str:
    """What is explained, by name: a class, or tokens that are taken together."""
    if labels is not None:
        return f"class {visible(labels[terms[0]])}"
    numbers = ", ".join(map(str, terms))
    if tokenizer is None:
        return f"token{'s' * (len(terms) > 1)} {numbers}"
    return f"'{visible(''.join(pieces(tokenizer, terms)).strip(' '))}' ({numbers})"


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that stand for no text: beginnings, ends, separators, padding."""
    if tokenizer is None:
        return frozenset()
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(tokenizer.all_special_ids) | {i for i, t in added.items() if t.special}


def shortened(text: str, most: int = 40) -> str:
    """The beginning of a text, for messages."""
    return text if len(text) <= most else text[: most - 1] + "…"


def load_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer: itself, or from a folder or a `tokenizer.json`.

    Raises:
        InputError: there is none, it cannot be read, or it brings code of its own.
        ImportError: transformers is not installed.
    """
    if not isinstance(tokenizer, (str, Path)):
        return tokenizer
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("Tokenizers need transformers: pip install transformers") from error
    path = Path(tokenizer)
    file = path / "tokenizer.json" if path.is_dir() else path
    of_folder = (path / "tokenizer_config.json").exists()
    if not (of_folder or file.is_file()):
        raise InputError(f"There is no tokenizer.json at {str(path)!r}. Nothing is downloaded.")
    if of_folder:
        _folders.refuse_code(path)
    try:
        if of_folder:
            found = transformers.AutoTokenizer.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=False
            )
        else:
            found = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file))
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged file leads to in transformers and tokenizers
        raise InputError(
            f"The tokenizer at {str(path)!r} cannot be read: {type(error).__name__}: {error}"
        ) from error
    if not len(found):
        raise InputError(
            f"The tokenizer at {str(path)!r} has no tokens: its vocabulary is missing."
        )
    return found


def _piece(tokenizer: Any, number: int, raw: str, special: bool, continuing: str | None) -> str:
    if special:
        return raw
    if "▁" in raw:
        return raw.replace("▁", " ")
    if continuing is not None:
        return raw.removeprefix(continuing) if raw.startswith(continuing) else f" {raw}"
    # Byte-level tokens: their strings are bytes in disguise.
    text = tokenizer.decode([number], clean_up_tokenization_spaces=False)
    return raw if not text or "\ufffd" in text else text


def _continuing_prefix(tokenizer: Any) -> str | None:
    """What marks the inside of words in WordPiece, as ``##``; None for other kinds."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return getattr(getattr(backend, "model", None), "continuing_subword_prefix", None) or None


def _checked(model: LanguageModel, ids: Any, mask: Any, single: bool) -> Texts:
    texts = _started(model, Texts(np.asarray(ids, np.int64), np.asarray(mask, bool), single))
    empty = np.flatnonzero(texts.lengths == 0).tolist()
    if empty:
        raise InputError(
            f"Sample {_listed(empty)} has no tokens, or a mask that hides every token of it."
        )
    known = texts.ids[texts.mask]
    check_ids(model, known[known != model.start])
    check_length(model, texts)
    return texts


def _started(model: LanguageModel, texts: Texts) -> Texts:
    """Texts with the mark of a model that has an encoder and a decoder, once each."""
    if model.start is None:
        return texts
    marks = ((texts.ids == model.start) & texts.mask).sum(1)
    if (marks == 0).all():
        column = np.full((len(texts.ids), 1), model.start)
        ids = np.concatenate([texts.ids, column], axis=1)
        mask = np.concatenate([texts.mask, column == model.start], axis=1)
        texts = dataclasses.replace(texts, ids=ids, mask=mask)
    elif (marks != 1).any():
        raise InputError(
            f"The mark {model.start} between source and prefix stands once in each text or in "
            f"none, where it is put at the end; found {marks.tolist()}."
        )
    packed = texts.packed(0)
    if (packed[:, 0] == model.start).any():
        raise InputError("A source has at least one token: the mark comes first in a text.")
    return texts


def sources(model: LanguageModel, texts: Texts) -> Int[np.ndarray, " b"]:
    """How many tokens of each text are read by an encoder; 0 where there is none."""
    if model.start is None:
        return np.zeros(len(texts.ids), np.int64)
    return np.argmax(texts.packed(0) == model.start, axis=1)


def check_length(model: LanguageModel, texts: Texts, added: int = 0) -> None:
    """Whether all tokens of a text have positions.

    Raises:
        InputError: says how many there are.
    """
    before = sources(model, texts)
    source, length = int(before.max()), int((texts.lengths - before).max())
    if source > length + added:  # read by an encoder, which generates nothing
        length, added = source, 0
    if model.positions is not None and length + added > model.positions:
        more = f" and {added} more to be generated" if added else ""
        raise InputError(
            f"A text has {length} tokens{more}, but the model has embeddings of "
            f"{model.positions} positions: give it a shorter text, or a part of it."
        )


def check_ids(model: Any, ids: np.ndarray) -> None:
    """Whether all ids have embeddings.

    Raises:
        InputError: names those that have none.
    """
    size = np.iinfo(np.int32).max if model.vocabulary is None else model.vocabulary
    wrong = np.unique(ids[(ids < 0) | (ids >= size)]).tolist()
    if wrong:
        raise InputError(
            f"Token ids must be from 0 to {size - 1}, as the model has {size} embeddings; found "
            f"{_listed(wrong)}. Do tokenizer and model belong together?"
        )


def _no_padding(model: LanguageModel, ids: np.ndarray) -> None:
    if model.pad_id is None:
        return
    found = np.argwhere(ids == model.pad_id).tolist()
    if found:
        where = _listed([tuple(place) for place in found])
        raise InputError(
            f"The ids hold the padding token {model.pad_id} at (sample, position) {where}, but "
            "there is no mask. Pass mask=ids != pad_id if that is padding, and a mask of ones if "
            "it is text."
        )


def _ragged(model: LanguageModel, rows: Sequence[Any]) -> Texts:
    longest = max(map(len, rows))
    fill = model.pad_id or 0
    ids = [np.pad(row, (0, longest - len(row)), constant_values=fill) for row in rows]
    mask = [np.arange(longest) < len(row) for row in rows]
    return _checked(model, ids, mask, single=False)


def _no_mask_for_text(mask: Any) -> None:
    if mask is not None:
        raise InputError(
            "A mask goes with an array of ids; texts and lists of different lengths are padded "
            "and masked here."
        )


def _integers(text: Any) -> np.ndarray:
    ids = np.asarray(text)
    if ids.dtype.kind in "iu" or not ids.size:
        return ids
    if ids.dtype.kind in "fc" or ids.ndim == 3:
        raise InputError(
            "Token ids are integers: they are embedded here, and the relevance is that of their "
            f"embeddings. Got {ids.dtype}{list(ids.shape)}; to explain embeddings that you have, "
            "use `relprop.relevance`."
        )
    raise InputError(
        f"Expected a text, token ids or a batch of these; got {shortened(repr(text))}."
    )


def _integer(number: Any) -> int:
    if isinstance(number, (bool, np.bool_)) or np.ndim(number) or not _is_integer(number):
        raise InputError(f"Expected a token or class as an integer or text, got {number!r}.")
    return int(number)


def _is_integer(number: Any) -> bool:
    return np.asarray(number).dtype.kind in "iu"


def _is_sequence(x: Any) -> bool:
    return isinstance(x, Sequence) and not isinstance(x, str)


def _listed(items: Sequence[Any], most: int = 8) -> str:
    text = ", ".join(map(str, items[:most]))
    return text + (f" and {len(items) - most} more" if len(items) > most else "")
