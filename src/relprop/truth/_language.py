"""The models of the planted texts as language models, so that texts can be typed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from relprop._errors import InputError
from relprop.tokens import LanguageModel
from relprop.truth import _models, _text

_OPINIONS = ("blame", "praise")
#: What the classes of a task are called.
_LABELS: Mapping[str, tuple[str, ...]] = {
    "key-value": tuple(map(str, range(10))),
    "multi-hop": _text.PLACES,
    "negation": _OPINIONS,
    "evidence-spans": _OPINIONS,
}


class Words:
    """A tokenizer of a few words, of which all others are the mask token.

    It has what `relprop.tokens` needs of a tokenizer of transformers.

    >>> words = Words(("[mask]", "[start]", "not", "great"))
    >>> words("Not so great", add_special_tokens=True)["input_ids"]
    [1, 2, 0, 3]
    """

    def __init__(self, vocabulary: Sequence[str]):
        self._words = tuple(vocabulary)
        self._numbers = {word.lower(): number for number, word in enumerate(self._words)}
        self.all_special_ids = [self._numbers[_text.START]]

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        found = re.findall(r"\[\w+\]|\w+|[^\w\s]", text.lower())
        unknown = self._numbers[_text.MASK]
        ids = [self._numbers.get(word, unknown) for word in found]
        return {"input_ids": [*self.all_special_ids, *ids] if add_special_tokens else ids}

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._words[i] if i in self.all_special_ids else f"▁{self._words[i]}" for i in ids]


def language_model(task: str, params: Mapping[str, Any]) -> LanguageModel:
    """The transformer of a task of `texts`, from its parameters with the embeddings in them."""
    vocabulary = _text.VOCABULARIES[task]
    length = params["positions"].shape[0]
    causal = task in ("key-value", "multi-hop")

    def logits(params: Any, embeds: Any, ids: Any, mask: Any) -> Any:
        # Shorter texts than those of the task have its first positions.
        known = {**params, "positions": params["positions"][: embeds.shape[1]]}
        return _models.transformer(known, embeds, mask, heads=4, causal=causal)

    return LanguageModel(
        embed=lambda params, ids: jnp.take(params["embedding"], ids, axis=0, mode="clip"),
        logits=logits,
        params=dict(params),
        tokenizer=Words(vocabulary),
        vocabulary=len(vocabulary),
        labels=_LABELS[task],
        bounds=(length,),
        positions=length,
    )


def check_text_task(task: str) -> None:
    """Whether there is a trained model of a task of texts.

    Raises:
        InputError: there is none; names those that there are.
    """
    if task not in _LABELS:
        raise InputError(
            f"{task!r} is no task of texts with a trained model: these are {', '.join(_LABELS)}."
        )
