"""Relevance of words, from that of the tokens which spell them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from relprop._errors import InputError

_BLANKS = b" \t\n\r"


def per_word(
    words: Sequence[str],
    tokens: Sequence[str],
    R: Float[np.ndarray, " tokens"],
    *,
    offsets: Sequence[tuple[int, int]] | Int[np.ndarray, "tokens 2"] | None = None,
) -> Float[np.ndarray, " words"]:
    """Relevance of words, from that of the tokens which spell them.

    A token that spells parts of two words is divided among them by characters. Tokens may be bytes
    of a character, and may have lost case, accents and the like, as tokenizers make them.

    Args:
        words: of the text.
        tokens: the text in parts, as `relprop.tokens.TokenRelevance` has them; of those that spell
            nothing but white space, relevance is left out.
        R: relevance of the tokens.
        offsets: where each token begins and ends in ``" ".join(words)``: ``offset_mapping`` of a
            tokenizer of transformers with ``return_offsets_mapping=True``. Then it does not matter
            what tokens spell, so that unknown ones have their words; of those without a place,
            which are special, relevance is left out.

    Raises:
        InputError: the tokens do not spell the words, or the offsets do not cover them; shows
            where. Or there is not one finite number per token.

    >>> per_word(["two", "cats"], ["tw", "o cat", "s"], np.array([1.0, 4.0, 2.0])).tolist()
    [2.0, 5.0]
    >>> places = [(0, 0), (0, 3), (3, 8)]
    >>> R = np.array([9.0, 1.0, 4.0])
    >>> per_word(["two", "cats"], ["[CLS]", "two", "[UNK]"], R, offsets=places).tolist()
    [1.0, 4.0]
    """
    amounts = _amounts(words, tokens, R)
    if offsets is None:
        owners, weights, spans = _spelled(words, tokens)
    else:
        owners, weights, spans = _placed(words, tokens, offsets)
    found = np.zeros(len(words))
    for amount, (start, end) in zip(amounts, spans, strict=True):
        whole = weights[start:end].sum()
        if whole > 0:
            np.add.at(found, owners[start:end], amount * weights[start:end] / whole)
    return found


def _amounts(words: Sequence[str], tokens: Sequence[str], R: Any) -> Float[np.ndarray, " tokens"]:
    amounts = np.asarray(R, np.float64)
    if amounts.shape != (len(tokens),):
        raise InputError(
            f"There are {len(tokens)} tokens of {_shown(words)}, and relevance of the shape "
            f"{list(amounts.shape)}: give one number per token."
        )
    wrong = np.flatnonzero(~np.isfinite(amounts))
    if len(wrong):
        raise InputError(
            f"Relevance of {len(wrong)} of the {len(tokens)} tokens of {_shown(words)} is NaN or "
            f"infinite, the first is that of {tokens[wrong[0]]!r}."
        )
    return amounts


# What follows returns, of a text as characters or bytes, the word that each belongs to and how much
# of a character it is, and which of them each token has.
_Aligned = tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"], list[tuple[int, int]]]


def _placed(words: Sequence[str], tokens: Sequence[str], offsets: Any) -> _Aligned:
    """By the places that a tokenizer tells."""
    text = " ".join(words)
    spans = np.asarray(offsets)
    if spans.shape != (len(tokens), 2) or spans.dtype.kind not in "iu":
        raise InputError(
            f"`offsets` must be a beginning and an end for each of the {len(tokens)} tokens, got "
            f"{spans.dtype}{list(spans.shape)}."
        )
    if ((spans < 0) | (spans > len(text))).any() or (spans[:, 0] > spans[:, 1]).any():
        raise InputError(
            f"`offsets` are not those of {_shown(words)}, which has {len(text)} characters: they "
            'must be of the words joined by spaces, `" ".join(words)`.'
        )
    end = int(spans[:, 1].max(initial=0))
    if text[end:].strip():
        raise InputError(_cut(words, text[end:].strip()))
    owners = np.repeat(np.arange(len(words)), [len(word) + 1 for word in words])[: len(text)]
    weights = np.array([not character.isspace() for character in text], float)
    return owners, weights, [(int(start), int(end)) for start, end in spans]


def _spelled(words: Sequence[str], tokens: Sequence[str]) -> _Aligned:
    """By what tokens spell, in the first form in which they spell the words."""
    failures = []
    for form in _FORMS:
        formed = [form(word) for word in words]
        text = "".join(formed).encode()
        found = _spans(text, [_spellings(token, form) for token in tokens])
        if isinstance(found, list):
            sizes = [[len(character.encode()) for character in word] for word in formed]
            owners = np.repeat(np.arange(len(words)), [sum(each) for each in sizes])
            counts = np.array([size for each in sizes for size in each], int)
            return owners, np.repeat(1 / counts, counts), found
        failures.append((found, text))
    (at, number), text = max(failures, key=lambda failure: failure[0])
    there = text[at:].decode(errors="ignore")[:20]
    if number == len(tokens):
        raise InputError(_cut(words, there))
    raise InputError(
        f"The tokens do not spell the words of {_shown(words)}: {tokens[number]!r} stands where "
        f"the text has {there!r}. Leave out special tokens and those of the query, or give "
        "`offsets`."
    )


def _spans(text: bytes, spellings: Sequence[set[bytes]]) -> list[tuple[int, int]] | tuple[int, int]:
    """Which part of the text each token spells, or how far and which token it went well.

    A token may be read in two ways, of which often only one lets the others spell the rest.
    """
    reached: list[dict[int, int]] = [{0: 0}]
    for number, options in enumerate(spellings):
        ends = {
            start + len(option): start
            for start in reached[-1]
            for option in options
            if text.startswith(option, start)
        }
        if not ends:
            return max(reached[-1]), number
        reached.append(ends)
    at, spans = len(text), []
    if at not in reached[-1]:
        return max(reached[-1]), len(spellings)
    for ends in reversed(reached[1:]):
        spans.append((ends[at], at))
        at = ends[at]
    return spans[::-1]


def _spellings(token: str, form: Callable[[str], str]) -> set[bytes]:
    """What a token may stand for: its characters, or bytes, as tokenizers write those."""
    text = form(token).encode()
    # What is not white space, and nothing in this form, is of no place.
    options = {text} if text or not token.strip() else set()
    if re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
        options.add(bytes.fromhex(token[3:5]))
    elif all(character in _BYTES for character in token):
        options.add(bytes(_BYTES[character] for character in token).translate(None, _BLANKS))
    return options


def _byte_alphabet() -> dict[str, int]:
    """Bytes by the characters that stand for them in tokens of byte-level tokenizers.

    Those that are printable in Latin-1 are themselves; the others follow from U+0100.

    Source: Radford et al. 2019 (GPT-2).
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + n): b for n, b in enumerate(others)}


_BYTES = _byte_alphabet()


def _plain(text: str) -> str:
    return "".join(character for character in text if character not in _BLANKS.decode())


def _composed(text: str) -> str:
    return _plain(unicodedata.normalize("NFC", text))


def _compatible(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


def _folded(text: str) -> str:
    return _compatible(text).casefold()


def _unaccented(text: str) -> str:
    """Without accents and characters that are not seen, as uncased BERT reads."""
    letters = unicodedata.normalize("NFKD", _folded(text))
    return "".join(c for c in letters if unicodedata.category(c) not in ("Mn", "Cc", "Cf"))


# From what keeps most to what keeps least.
_FORMS = (_plain, _composed, _compatible, _folded, _unaccented)


def _shown(words: Sequence[str]) -> str:
    text = " ".join(words)
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _cut(words: Sequence[str], rest: str) -> str:
    return (
        f"The tokens do not spell the words of {_shown(words)}: they end before {rest[:20]!r}. Was "
        "the text too long for the model?"
    )
