"""Turns of a chat as groups of tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import tokens

TURNS = [{"role": "user", "content": [3, 4]}, {"role": "bot", "content": [5]}]


class Template:
    """A role, the content, an end; before all of them a mark, and a role to be answered in."""

    def __init__(self, first_only=False):
        self.first_only = first_only

    def apply_chat_template(self, messages, add_generation_prompt, tokenize, return_dict):
        assert tokenize and not return_dict
        ids = [0]
        for number, message in enumerate(messages):
            end = [4] if self.first_only and number < len(messages) - 1 else [1]
            ids += [2 if message["role"] == "user" else 6, *message["content"], *end]
        return ids + [6] * add_generation_prompt


def model(tokenizer):
    return tokens.LanguageModel(
        embed=lambda params, ids: params[ids],
        logits=lambda params, embeds, ids, mask: jnp.cumsum(embeds, 1) @ params.T,
        params=jnp.eye(7),
        tokenizer=tokenizer,
    )


def test_each_token_has_its_turn():
    ids, turns = tokens.chat(model(Template()), TURNS)
    assert ids.tolist() == [0, 2, 3, 4, 1, 6, 5, 1, 6]
    assert turns.tolist() == [0] * 5 + [1] * 3 + [-1]
    result = tokens.explain(model(None), ids, tokens.NextToken(1))
    np.testing.assert_allclose(result.grouped(turns), [1, 1])


@pytest.mark.parametrize(
    ("tokenizer", "messages", "message"),
    [
        (None, TURNS, "a chat template"),
        (Template(), [], "at least one message"),
        (Template(first_only=True), TURNS, "message 0 in another way"),
    ],
)
def test_refused(tokenizer, messages, message):
    with pytest.raises(relprop.InputError, match=message):
        tokens.chat(model(tokenizer), messages)
