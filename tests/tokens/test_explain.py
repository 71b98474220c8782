"""Explanations of text, on models in plain JAX: what is explained, and what is refused."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relprop
from relprop import tokens
from relprop.tokens import AtPosition, ClassTarget, Continuation, NextToken
from tests.tokens.models import (
    BIDIRECTIONAL,
    CAUSAL,
    CLASSIFIER,
    PAD,
    VOCABULARY,
    Words,
    causal,
    causal_logits,
    class_scores,
    classifier,
    embed,
    masked_logits,
    parameters,
)

TEXT = [1, 2, 3, 4, 1]
OTHER = [5, 9, 10]
RULES = relprop.presets.attn_lrp()


def by_hand(logits, ids, entry, rules=RULES, outputs=VOCABULARY):
    """Relevance for one logit, without `relprop.tokens`."""
    params, ids = parameters(outputs), jnp.asarray([ids])
    mask = jnp.ones(ids.shape, bool)

    def score(embeds):
        return logits(params, embeds, ids, mask)[0][entry]

    explain = jax.jit(relprop.value_and_relevance(score, rules))
    value, found = explain(embed(params, ids))
    return value, found[0].sum(-1)


def close(a, b, tolerance=2e-6):
    scale = max(float(np.abs(b).max()), 1.0)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("rules", [RULES, relprop.presets.gradient()])
def test_next_token_is_what_relevance_gives(rules):
    result = tokens.explain(CAUSAL, TEXT, NextToken(7), rules=rules)
    value, expected = by_hand(causal_logits, TEXT, (-1, 7), rules)
    close(result.relevance, expected)
    close(result.score, value)
    assert result.relevance.shape == (5,)
    assert (result.target, result.contrast) == (7, None)


def test_the_predicted_token_is_the_default():
    result = tokens.explain(CAUSAL, TEXT)
    logits = causal_logits(parameters(), embed(parameters(), jnp.array([TEXT])), None, None)
    assert result.target == np.argmax(logits[0, -1])
    close(result.score, np.max(logits[0, -1]))


def test_positions():
    result = tokens.explain(CAUSAL, [TEXT, TEXT], NextToken(7, position=[1, -4]))
    _, expected = by_hand(causal_logits, TEXT, (1, 7))
    close(result.relevance, [expected, expected])


def test_masked_word():
    result = tokens.explain(BIDIRECTIONAL, TEXT, AtPosition(2, 7))
    close(result.relevance, by_hand(masked_logits, TEXT, (2, 7))[1])


def test_class():
    result = tokens.explain(classifier(labels=("bad", "good", "so-so")), TEXT, ClassTarget("good"))
    close(result.relevance, by_hand(class_scores, TEXT, (1,), outputs=3)[1])
    predicted = tokens.explain(CLASSIFIER, TEXT)
    scores = [by_hand(class_scores, TEXT, (i,), outputs=3)[0] for i in range(3)]
    assert predicted.target == np.argmax(scores)


def test_contrast_is_the_difference():
    pair = tokens.explain(CAUSAL, TEXT, NextToken(7), contrast=3)
    this, that = (tokens.explain(CAUSAL, TEXT, NextToken(i)) for i in (7, 3))
    close(pair.relevance, this.relevance - that.relevance)
    close(pair.score, this.score - that.score)
    of_class = tokens.explain(CLASSIFIER, TEXT, ClassTarget(0), contrast=2)
    parts = [tokens.explain(CLASSIFIER, TEXT, ClassTarget(i)).relevance for i in (0, 2)]
    close(of_class.relevance, parts[0] - parts[1])


@pytest.mark.parametrize(
    ("model", "seed"), [(CAUSAL, "score"), (CAUSAL, "one"), (CLASSIFIER, "score")]
)
def test_a_batch_is_each_text_alone(model, seed):
    kind = ClassTarget if model.logits is class_scores else NextToken
    rules = dataclasses.replace(RULES, seed=seed)
    both = tokens.explain(model, [TEXT, OTHER], kind([2, 1]), rules=rules)
    assert both.relevance.shape == (2, 5)
    assert len(both) == 2
    for row, ids, index in zip(both, (TEXT, OTHER), (2, 1), strict=True):
        alone = tokens.explain(model, ids, kind(index), rules=rules)
        close(row.relevance[: len(ids)], alone.relevance)
        close(row.score, alone.score)


@pytest.mark.parametrize(
    ("model", "side"), [(CAUSAL, "left"), (CAUSAL, "right"), (BIDIRECTIONAL, "both")]
)
def test_padding_changes_nothing(model, side):
    target = NextToken(1)
    before, after = {"left": (3, 0), "right": (0, 3), "both": (1, 2)}[side]
    ids = np.pad(TEXT, (before, after), constant_values=PAD)
    mask = np.pad(np.ones(len(TEXT)), (before, after))
    padded = tokens.explain(model, ids, target, mask=mask)
    alone = tokens.explain(model, TEXT, target)
    close(padded.relevance[mask == 1], alone.relevance)
    np.testing.assert_array_equal(padded.relevance[mask == 0], 0.0)
    np.testing.assert_array_equal(padded.ids, ids)
    assert alone.top(2) == [(i - before, name, pytest.approx(r)) for i, name, r in padded.top(2)]


def test_continuation_is_the_next_token_of_each_prefix():
    added = [7, 2, 5]
    result = tokens.explain(CAUSAL, TEXT, Continuation(added), contrast=[3, 3, 4])
    assert result.relevance.shape == (3, 8)
    np.testing.assert_array_equal(result.ids, TEXT + added)
    for k, (row, other) in enumerate(zip(result, [3, 3, 4], strict=True)):
        prefix = TEXT + added[:k]
        expected = tokens.explain(CAUSAL, prefix, NextToken(added[k]), contrast=other)
        close(row.relevance[: len(prefix)], expected.relevance)
        np.testing.assert_array_equal(row.relevance[len(prefix) :], 0.0)
        close(row.score, expected.score)


@pytest.mark.parametrize("rows_at_once", [1, 2])
def test_rows_at_once_changes_nothing(rows_at_once):
    result = tokens.explain(CAUSAL, TEXT, Continuation([7, 2, 5]), rows_at_once=rows_at_once)
    close(result.relevance, tokens.explain(CAUSAL, TEXT, Continuation([7, 2, 5])).relevance)


@pytest.mark.parametrize("left", [True, False])
def test_continuation_of_padded_texts(left):
    pad = [PAD, PAD]
    ids = np.array([TEXT, pad + OTHER if left else OTHER + pad])
    result = tokens.explain(CAUSAL, ids, Continuation([[7, 2], [3, 4]]), mask=ids != PAD)
    assert result.relevance.shape == (2, 2, 7)
    alone = tokens.explain(CAUSAL, OTHER, Continuation([3, 4]))
    text = result.mask[1]
    close(result[1].relevance[:, text], alone.relevance)
    np.testing.assert_array_equal(result[1].relevance[:, ~text], 0.0)
    np.testing.assert_array_equal(result[1].ids[-2:], [3, 4])
    assert result[1][0].target == 3


def test_greedy_generation():
    ids = list(TEXT)
    params = parameters()
    for _ in range(4):
        logits = causal_logits(params, embed(params, jnp.array([ids])), None, None)
        ids.append(int(np.argmax(logits[0, -1])))
    result = tokens.explain(CAUSAL, [TEXT, OTHER], Continuation(length=4))
    np.testing.assert_array_equal(result[0].ids, ids)
    np.testing.assert_array_equal(result[0].target, ids[5:])
    given = tokens.explain(CAUSAL, TEXT, Continuation(ids[5:]))
    close(result[0].relevance, given.relevance)


def test_relevance_per_dimension():
    result = tokens.explain(CAUSAL, [TEXT, OTHER], NextToken(1), per_dimension=True)
    assert result.per_dimension.shape == (2, 5, 8)
    close(result.per_dimension.sum(-1), result.relevance)


def test_places_inside():
    params = parameters()

    def logits(params, embeds, ids, mask):
        return causal_logits(params, relprop.places.named(2 * embeds, "twice"), ids, mask)

    model = tokens.LanguageModel(embed, logits, params)
    where = ["twice", relprop.Where(structure="softmax")]
    result = tokens.explain(model, [TEXT, TEXT], NextToken(7), places=where)
    twice = result.inside["twice"]
    assert twice.relevance.shape == (2, 1, 5, 8)
    close(twice.relevance[:, 0].sum(-1), result.relevance)
    close(twice.value[0, 0], 2 * params["embed"][jnp.array(TEXT)])
    assert result.inside["softmax"].relevance.shape == (2, 1, 5, 5)
    rows = tokens.explain(model, TEXT, Continuation([7, 2]), places="twice")
    close(rows[0].inside["twice"].relevance[0].sum(-1), rows[0].relevance)


def test_paths_of_parameters_select_rules():
    stop = relprop.Composite().at(path="params/value").use(relprop.rules.Stop())
    result = tokens.explain(CAUSAL, TEXT, NextToken(7), rules=stop)
    assert np.abs(result.relevance - tokens.explain(CAUSAL, TEXT, NextToken(7)).relevance).max() > 0


def test_text_needs_a_tokenizer_and_names_tokens_by_it():
    model = causal(tokenizer=Words())
    result = tokens.explain(model, "the cat sat", NextToken("mat"), contrast="on")
    close(result.relevance, tokens.explain(model, [0, 1, 2, 3], NextToken(5), contrast=4).relevance)
    assert "".join(result.tokens) == " [CLS] the cat sat" or result.tokens[0] == "[CLS]"
    batch = tokens.explain(model, ["the cat sat", "a mat"], Continuation("on"))
    assert batch.relevance.shape == (2, 1, 5)
    np.testing.assert_array_equal(batch.mask, [[1, 1, 1, 1, 1], [1, 1, 1, 0, 1]])
    mapping = {"input_ids": [[0, 9, 5]], "attention_mask": [[1, 1, 1]]}
    close(
        tokens.explain(model, mapping, NextToken(4)).relevance[0],
        tokens.explain(model, "a mat", NextToken(4)).relevance,
    )


def test_special_tokens_are_left_out_on_request():
    model = causal(tokenizer=Words())
    for skip in (True, False):
        result = tokens.explain(model, "the cat", NextToken(4), skip_special=skip)
        assert ("[CLS]" in str(result)) != skip
        assert (0 in [i for i, *_ in result.top(3)]) != skip
        assert result.relevance[0] != 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_other_precisions(dtype):
    with jax.enable_x64(dtype is jnp.float64):
        model = causal(params=parameters(dtype=dtype))
        result = tokens.explain(model, TEXT, NextToken(7), contrast=3)
        assert result.relevance.dtype == (np.float64 if dtype is jnp.float64 else np.float32)
        if dtype is not jnp.float64:
            single = parameters(dtype=dtype)
            single = jax.tree.map(lambda x: x.astype(jnp.float32), single)
            expected = tokens.explain(causal(params=single), TEXT, NextToken(7), contrast=3)
            close(result.relevance, expected.relevance, 0.05)


def test_the_result_is_a_pytree():
    result = tokens.explain(CAUSAL, [TEXT, OTHER], NextToken(1))
    doubled = jax.tree.map(lambda x: 2 * x, result)
    np.testing.assert_array_equal(doubled.relevance, 2 * result.relevance)
    assert doubled.tokens == result.tokens


def test_a_model_compiles_once_per_shape():
    traced = []

    def logits(params, embeds, ids, mask):
        traced.append(embeds.shape)
        return causal_logits(params, embeds, ids, mask)

    model = tokens.LanguageModel(embed, logits, parameters())
    tokens.explain(model, TEXT, NextToken(1))
    count = len(traced)
    tokens.explain(model, TEXT[::-1], NextToken(2), rules=relprop.presets.attn_lrp())
    assert len(traced) == count


def wrong_embed(params, ids):
    return params["embed"][ids].sum(-1)


REFUSED = {
    "embeddings": (CAUSAL, jnp.ones((5, 8)), {}, r"embedded here.*float32\[5, 8\]"),
    "no text": (CAUSAL, [], {}, "Token ids have the shape"),
    "objects": (CAUSAL, [None, None], {}, "Expected a text"),
    "no tokenizer": (CAUSAL, "the cat", {}, "no tokenizer"),
    "padding without mask": (
        CAUSAL,
        [[1, 2, PAD], [1, 2, 3]],
        {},
        r"padding token 11 at \(sample, position\) \(0, 2\)",
    ),
    "mask hides all": (
        CAUSAL,
        [[1, 2], [1, 2]],
        {"mask": [[1, 1], [0, 0]]},
        "Sample 1 has no tokens, or a mask",
    ),
    "mask of another shape": (CAUSAL, [1, 2], {"mask": [1]}, "of the shape of the ids"),
    "mask of scores": (CAUSAL, [1, 2], {"mask": [0.0, -9.0]}, "must be 1"),
    "mask for text": (CAUSAL, [[1, 2], [3]], {"mask": [[1, 1]]}, "A mask goes with an array"),
    "id too large": (CAUSAL, [1, 99], {}, "from 0 to 11.*found 99"),
    "id negative": (CAUSAL, [1, -1], {}, "found -1"),
    "target too large": (CAUSAL, TEXT, {"target": NextToken(99)}, r"outputs, 0 to 11.*\[99\]"),
    "contrast too large": (CAUSAL, TEXT, {"contrast": 99}, r"the contrast names \[99\]"),
    "contrast is target": (CAUSAL, TEXT, {"target": NextToken(1), "contrast": 1}, "must differ"),
    "position outside": (
        CAUSAL,
        [TEXT, OTHER],
        {"target": NextToken(1, position=3)},
        "Position 3 is outside of the text: sample 1 has 3 tokens",
    ),
    "position no integer": (CAUSAL, TEXT, {"target": NextToken(1, position=0.5)}, "an integer"),
    "too few targets": (CAUSAL, [TEXT, OTHER], {"target": NextToken([1, 2, 3])}, "one per sample"),
    "no target": (CAUSAL, TEXT, {"target": 3}, "The target must be NextToken"),
    "class of a language model": (CAUSAL, TEXT, {"target": ClassTarget(0)}, "use NextToken"),
    "token of a classifier": (CLASSIFIER, TEXT, {"target": NextToken(0)}, "use ClassTarget"),
    "continuations that differ": (
        CAUSAL,
        [TEXT, OTHER],
        {"target": Continuation([[1], [1, 2]])},
        "the same number of tokens",
    ),
    "continuation of a model that looks ahead": (
        BIDIRECTIONAL,
        TEXT,
        {"target": Continuation([1, 2])},
        "looks ahead",
    ),
    "no rows": (CAUSAL, TEXT, {"rows_at_once": 0}, "at least 1"),
    "mapping without ids": (CAUSAL, {"text": "a"}, {}, "'input_ids'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    model, text, options, message = REFUSED[case]
    with pytest.raises(relprop.InputError, match=message):
        tokens.explain(model, text, **options)


def test_a_model_that_ignores_its_mask_is_refused():
    def logits(params, embeds, ids, mask):
        return masked_logits(params, embeds, ids, jnp.ones_like(mask))

    model = tokens.LanguageModel(embed, logits, parameters())
    with pytest.raises(relprop.InputError, match="Padding has relevance"):
        tokens.explain(model, [TEXT, OTHER], NextToken(1))


def test_halves_that_do_not_fit_are_refused():
    with pytest.raises(relprop.InputError, match="`embed` must return real embeddings"):
        tokens.explain(tokens.LanguageModel(wrong_embed, causal_logits, parameters()), TEXT)
    integers = tokens.LanguageModel(lambda p, ids: ids[..., None], causal_logits, parameters())
    with pytest.raises(relprop.InputError, match="int32"):
        tokens.explain(integers, TEXT)
    no_logits = tokens.LanguageModel(embed, lambda p, e, ids, mask: e.sum(), parameters())
    with pytest.raises(relprop.InputError, match="`logits` must return"):
        tokens.explain(no_logits, TEXT)


def test_scores_that_are_no_numbers_are_refused():
    params = parameters()
    params["head"] = params["head"].at[0, 1].set(jnp.nan)
    with pytest.raises(relprop.InputError, match="not finite"):
        tokens.explain(causal(params=params), TEXT, NextToken(1))


def test_unknown_names():
    with pytest.raises(relprop.UnknownNameError, match="Did you mean 'good'"):
        tokens.explain(classifier(labels=("bad", "good", "so")), TEXT, ClassTarget("god"))
    with pytest.raises(relprop.InputError, match="'the cat' is 2 tokens"):
        tokens.explain(causal(tokenizer=Words()), "the", NextToken("the cat"))


def test_a_continuation_is_given_or_generated():
    with pytest.raises(ValueError, match="either `tokens` or a `length`"):
        Continuation()
    with pytest.raises(ValueError, match="at least 1"):
        Continuation(length=0)
