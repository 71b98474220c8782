"""A chat as token ids, and which tokens belong to which turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from relprop._errors import InputError
from relprop.tokens._model import LanguageModel


def chat(
    model: LanguageModel, messages: Sequence[Mapping[str, Any]], **template: Any
) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " t"]]:
    """The ids of a chat by the template of the model's tokenizer, and the turn of each token.

    Args:
        model: with a tokenizer of transformers that has a chat template.
        messages: the turns, dicts of ``role`` and ``content``.
        **template: for ``apply_chat_template``, such as ``tools``; what it returns and where it
            ends is not for them to say.

    Returns:
        The ids, with the mark after which the model answers; and per token the number of its
        message, -1 for that mark, as `TokenRelevance.grouped` takes them. What a template writes
        around a message belongs to it, and what it writes before all of them to the first.

    Raises:
        InputError: there is no such tokenizer, no template, no message, or the template writes
            earlier turns in another way when later ones follow, so that their tokens cannot be told
            apart.

    >>> ids, turns = chat(model, [{"role": "user", "content": "Hello!"}])  # doctest: +SKIP
    >>> tokens.explain(model, ids).grouped(turns)  # doctest: +SKIP
    """
    render = getattr(model.tokenizer, "apply_chat_template", None)
    # None, or not there where a tokenizer of somebody's own has the method alone.
    unset = (
        getattr(model.tokenizer, "chat_template", "") is None and "chat_template" not in template
    )
    if render is None or unset or not messages:
        raise InputError("A chat needs a tokenizer with a chat template, and at least one message.")
    own = {"add_generation_prompt", "tokenize", "return_dict"} & template.keys()
    if own:
        raise InputError(f"{', '.join(sorted(own))}: `chat` says that itself.")

    def ids_of(count: int, prompt: bool) -> np.ndarray:
        options = {"tokenize": True, "return_dict": False} | template
        given = render([*messages[:count]], add_generation_prompt=prompt, **options)
        return np.asarray(given, np.int64)

    whole = ids_of(len(messages), True)
    turns = np.full(whole.shape, -1)
    begin = 0
    for number in range(len(messages)):
        ids = ids_of(number + 1, False)
        if len(ids) < begin or not np.array_equal(ids, whole[: len(ids)]):
            raise InputError(
                f"The chat template writes message {number} in another way when others follow, so "
                "that its tokens cannot be told. Number the turns yourself, for `grouped`."
            )
        turns[begin : len(ids)] = number
        begin = len(ids)
    return whole, turns
